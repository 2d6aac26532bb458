import io
import json
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locavore.server.simulation.lamp import iter_json_array, read_lamp, read_longlamp
from locavore.shared.errors import BadInputError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=12,
)
PROMPTS = {
    "LaMP-1": 'For an author who has written the paper with the title "T", which reference is '
    'related? Just answer with [1] or [2] without explanation. [1]: "On "A"" [2]: "B, or "C""',
    "LaMP-2": "Which tag? tags: [sci-fi, comedy] description: A robot.",
    "LaMP-2N": "Which category? categories: [women, sports] article: A match.",
    "LaMP-3": "What is the score? just answer with 1, 2, 3, 4, or 5. review: Fine review: yes.",
    "LaMP-4": "Generate a headline for the following article: An article.",
    "LaMP-5": "Generate a title for the following abstract of a paper: An abstract.",
    "LaMP-6": "Generate a subject for the following email: An email.",
    "LaMP-7": "Paraphrase the following tweet without any explanation before or after it: A tweet.",
}
QUERIES = {
    "LaMP-1": 'On "A" B, or "C"',
    "LaMP-2": "A robot.",
    "LaMP-2N": "A match.",
    "LaMP-3": "Fine review: yes.",
    "LaMP-4": "An article.",
    "LaMP-5": "An abstract.",
    "LaMP-6": "An email.",
    "LaMP-7": "A tweet.",
}
ITEMS: dict[str, dict[str, Any]] = {
    "LaMP-1": {"title": "short", "abstract": "long", "citation": ["x"]},
    "LaMP-2": {"tag": "short", "description": "long"},
    "LaMP-2N": {"category": "short", "text": "long", "title": "other"},
    "LaMP-3": {"score": "5", "text": "long"},
    "LaMP-4": {"title": "short", "text": "long"},
    "LaMP-5": {"title": "short", "abstract": "long"},
    "LaMP-6": {"title": "short", "text": "long"},
    "LaMP-7": {"text": "long"},
}
TITLES = dict.fromkeys(ITEMS, "short") | {"LaMP-3": "5", "LaMP-7": ""}


def write(path: Path, value: object) -> Path:
    path.write_text(json.dumps(value), encoding="utf-8")
    return path


def question(number: int, task: str = "LaMP-4", **item: object) -> dict[str, Any]:
    profile = [{"id": f"{number}0", **ITEMS[task], **item}]
    return {"id": str(number), "input": PROMPTS[task], "profile": profile}


def golds(*numbers: int) -> dict[str, Any]:
    return {"task": "LaMP_4", "golds": [{"id": str(n), "output": f"gold {n}"} for n in numbers]}


@given(st.lists(JSON, max_size=6), st.integers(1, 40), st.sampled_from([None, 1]), st.booleans())
def test_the_stream_reader_equals_json_for_any_chunk(
    values: list[Any], chunk: int, indent: int | None, ascii_only: bool
) -> None:
    text = json.dumps(values, indent=indent, ensure_ascii=ascii_only)
    data = text.encode()
    assert list(iter_json_array(io.BytesIO(data), "x", chunk=chunk)) == json.loads(text)
    data = b'{"task": "t", "golds": ' + data + b', "more": []}'
    assert list(iter_json_array(io.BytesIO(data), "x", chunk=chunk)) == json.loads(text)


@given(st.lists(JSON, min_size=1, max_size=4), st.integers(1, 40), st.data())
def test_a_file_that_is_cut_off_is_refused(
    values: list[Any], chunk: int, data: st.DataObject
) -> None:
    text = json.dumps(values)
    cut = text[: data.draw(st.integers(0, len(text) - 1))]
    with pytest.raises(BadInputError):
        list(iter_json_array(io.BytesIO(cut.encode()), "x", chunk=chunk))


@pytest.mark.parametrize(
    "text", ["[1 2]", "[1,]", "[1, nope, 2]", '[{"a" 1}]', "[1] [2]", "7", '{"a": [1]}', "", "[,1]"]
)
@pytest.mark.parametrize("padding", [0, 100])
def test_what_is_not_an_array_is_refused(text: str, padding: int) -> None:
    data = (text[:-1] + " " * padding + text[-1:]).encode()
    with pytest.raises(BadInputError):
        list(iter_json_array(io.BytesIO(data), "x", chunk=8))


class _Endless(io.RawIOBase):
    """An array without an end that counts what was read of it."""

    def __init__(self, element: bytes) -> None:
        self.element, self.consumed = element, 0

    def read(self, size: int = -1) -> bytes:
        start = b"[" if self.consumed == 0 else b""
        self.consumed += size
        return start + self.element * (size // len(self.element))


def test_reading_stops_where_the_caller_stops_and_where_it_is_broken() -> None:
    endless = _Endless(b'{"a": 1},')
    values: Iterator[object] = iter_json_array(endless, "x", chunk=900)  # type: ignore[arg-type]
    assert [next(values) for _ in range(250)] == [{"a": 1}] * 250
    assert endless.consumed < 900 * 6
    broken = _Endless(b'{"a"; 1},')
    with pytest.raises(BadInputError, match="x, entry 0: Expecting ':'"):
        next(iter_json_array(broken, "x", chunk=900))  # type: ignore[arg-type]
    assert broken.consumed < 900 * 6


def test_bytes_that_are_not_utf8_are_located() -> None:
    data = b'["caf\xc3\xa9", "caf\xe9"]'
    with pytest.raises(BadInputError, match="x is not UTF-8 at byte 14"):
        list(iter_json_array(io.BytesIO(data), "x", chunk=3))


@pytest.mark.parametrize("task", sorted(PROMPTS))
def test_every_lamp_task_is_read(task: str, tmp_path: Path) -> None:
    questions = write(tmp_path / "q.json", [question(4, task), question(5, task)])
    samples = list(read_lamp(task, questions, write(tmp_path / "o.json", golds(5, 4))))
    first = samples[0]
    assert [sample.target for sample in samples] == ["gold 4", "gold 5"]
    assert (first.id, first.task, first.query) == ("4", task, QUERIES[task])
    assert (first.instruction.text, first.instruction.mode) == (PROMPTS[task], "chat")
    (document,) = first.profile
    assert (document.title, document.body) == (TITLES[task], "long")
    assert document.id == "4/40"


def test_withheld_outputs_leave_no_target(tmp_path: Path) -> None:
    questions = write(tmp_path / "q.json", [question(4)])
    assert [sample.target for sample in read_lamp("LaMP-4", questions, None)] == [None]


@pytest.mark.parametrize(
    ("date", "time"),
    [("2013-5-31", (2013, 5, 31)), ("2013-05", (2013, 5, 1)), (2013, (2013, 1, 1))],
)
def test_the_date_of_the_time_split_is_the_records_time(
    tmp_path: Path, date: str | int, time: tuple[int, int, int]
) -> None:
    questions = write(tmp_path / "q.json", [question(4, date=date)])
    (sample,) = read_lamp("LaMP-4", questions, None)
    assert sample.profile[0].time == datetime(*time, tzinfo=UTC)


def test_undated_records_do_not_depend_on_the_clock(tmp_path: Path) -> None:
    questions = write(tmp_path / "q.json", [question(4)])
    (sample,) = read_lamp("LaMP-4", questions, None)
    assert sample.profile[0].time == datetime(1970, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"id": None}, r"q\.json, entry 1: 'id' must be text, got 'None'"),
        ({"input": "no marker"}, r"q\.json, entry 1: 'input' of LaMP-4 must contain"),
        ({"profile": "none"}, r"q\.json, entry 1: 'profile' must be an array, got none"),
        ({"profile": [{"id": "9", "text": "t"}]}, "entry 1, profile item 0: has no field 'title'"),
        ({"profile": [7]}, "entry 1, profile item 0: must be an object, got 7"),
        (
            {"profile": [{"title": "t", "text": "t", "date": "May 2013"}]},
            "profile item 0: date must be .* got 'May 2013'",
        ),
        ({"id": "6"}, r"entry 1: id '6' has no output in .*o\.json"),
    ],
)
def test_a_malformed_entry_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    questions = write(tmp_path / "q.json", [question(4), question(5) | change])
    samples = read_lamp("LaMP-4", questions, write(tmp_path / "o.json", golds(4, 5)))
    assert next(samples).id == "4"
    with pytest.raises(BadInputError, match=message):
        next(samples)


def test_an_output_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    questions = write(tmp_path / "q.json", [question(4)])
    with pytest.raises(BadInputError, match=r"o\.json, entry 1: id '4' is there twice"):
        list(read_lamp("LaMP-4", questions, write(tmp_path / "o.json", golds(4, 4))))


def test_an_unknown_task_or_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="'LaMP-8'; there are LaMP-1, "):
        read_lamp("LaMP-8", tmp_path / "q.json", None)
    with pytest.raises(BadInputError, match="'email_user'; there are abstract_generation_user"):
        read_longlamp("email_user", tmp_path / "x.json")
    with pytest.raises(BadInputError, match=r"cannot read .*q\.json"):
        list(read_lamp("LaMP-4", tmp_path / "q.json", None))


LONG: dict[str, dict[str, Any]] = {
    "abstract_generation_user": {
        "name": "Ann",
        "input": 'Generate an abstract for the title "T" using the following items: a, b.',
        "profile": [{"id": "1", "title": "short", "abstract": "long", "year": 2009}],
    },
    "product_review_temporal": {
        "reviewerId": "Ann",
        "input": 'Generate the review text for a product with description "D".',
        "profile": [{"overall": 5.0, "summary": "short", "reviewText": "long", "description": "d"}],
    },
    "topic_writing_user": {
        "author": "Ann",
        "input": "Generate the content for a reddit post On tea.",
        "profile": [{"author": "Ann", "id": "1", "summary": "short", "content": "long"}],
    },
}
LONG_QUERIES = {
    "abstract_generation_user": "a, b.",
    "product_review_temporal": '"D".',
    "topic_writing_user": "On tea.",
}


@pytest.mark.parametrize("config", sorted(LONG))
@pytest.mark.parametrize("lines", [False, True])
@pytest.mark.parametrize("generic", [False, True])
def test_longlamp_is_read_in_every_spelling(
    tmp_path: Path, config: str, lines: bool, generic: bool
) -> None:
    entry = LONG[config] | {"output": "gold"}
    if generic:
        entry["profile"] = [{"input": "short", "output": "long"}]
    path = tmp_path / "x.json"
    if lines:
        path.write_text(f"\n{json.dumps(entry)}\n{json.dumps(entry)}\n")
    else:
        write(path, [entry, entry])
    first, second = read_longlamp(config, path)
    assert (first.id, second.id) == ("Ann/0", "Ann/1")
    assert (first.task, first.query, first.target) == (config, LONG_QUERIES[config], "gold")
    assert (first.profile[0].title, first.profile[0].body) == ("short", "long")


def test_longlamp_takes_years_other_prompts_and_withheld_outputs(tmp_path: Path) -> None:
    entry = LONG["abstract_generation_user"] | {"input": "Another prompt", "output": None}
    (sample,) = read_longlamp("abstract_generation_user", write(tmp_path / "x.json", [entry]))
    assert (sample.query, sample.target) == ("Another prompt", None)
    assert sample.profile[0].time == datetime(2009, 1, 1, tzinfo=UTC)


def test_a_broken_json_line_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(LONG["topic_writing_user"]) + "\n{broken\n")
    with pytest.raises(BadInputError, match=r"x\.jsonl, entry 1: Expecting"):
        list(read_longlamp("topic_writing_user", path))
