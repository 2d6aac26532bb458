"""Readers of the LaMP and LongLaMP benchmarks' files, for users who have downloaded them.

Files may be hundreds of megabytes: entries are read one at a time. Every profile item becomes a
:class:`UserDocument` whose ``title`` is the short part that the author chose (headline, tag,
score) and whose ``body`` is the long part.

Sources: Salemi et al., "LaMP", arXiv:2304.11406, §2; Kumar et al., "LongLaMP", arXiv:2407.11016.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO

from ...shared.contexts import Consent, Instruction, Provenance, UserDocument
from ...shared.errors import BadInputError

__all__ = ["LampSample", "iter_json_array", "read_lamp", "read_longlamp"]

_CHUNK = 2**20  # bytes read at a time
_LARGEST_ENTRY = 2**28  # characters; longer, and the file is taken to be malformed
_LONGEST_LITERAL = 16  # characters of a number, name or escape that a chunk may cut in two
_ARRAY = re.compile(r'\ufeff?\s*(?:\{[^[\]]*?"golds"\s*:\s*)?\[')
_SPACE = re.compile(r"\s*")
_UNDATED = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class LampSample:
    """One example of the benchmark.

    Args:
        id: the benchmark's id; in LongLaMP the author and the number of the entry.
        task: such as ``LaMP-4`` or ``product_review_user``.
        instruction: the benchmark's prompt.
        query: the part of the prompt that says what to retrieve for.
        profile: the author's earlier texts; undated ones carry 1970-01-01.
        target: what the author wrote, or None where it is withheld.
    """

    id: str
    task: str
    instruction: Instruction
    query: str
    profile: tuple[UserDocument, ...]
    target: str | None


@dataclass(frozen=True)
class _Format:
    """Where a task keeps what: ``marker`` is followed by the query; names are alternatives."""

    marker: str
    title: tuple[str, ...]
    body: tuple[str, ...]
    owner: tuple[str, ...] = ("id",)


_LAMP: Mapping[str, _Format] = {
    "LaMP-1": _Format(' [1]: "', ("title",), ("abstract",)),
    "LaMP-2": _Format("description: ", ("tag",), ("description",)),
    "LaMP-2N": _Format("article: ", ("category",), ("text",)),
    "LaMP-3": _Format("review: ", ("score",), ("text",)),
    "LaMP-4": _Format("Generate a headline for the following article: ", ("title",), ("text",)),
    "LaMP-5": _Format(
        "Generate a title for the following abstract of a paper: ", ("title",), ("abstract",)
    ),
    "LaMP-6": _Format("Generate a subject for the following email: ", ("title",), ("text",)),
    "LaMP-7": _Format(
        "Paraphrase the following tweet without any explanation before or after it: ",
        (),
        ("text",),
    ),
}
_LAMP_1_SECOND = '" [2]: "'

_LONGLAMP: Mapping[str, _Format] = {
    "abstract_generation": _Format(
        "items: ", ("title", "input"), ("abstract", "output"), ("name", "author")
    ),
    "product_review": _Format(
        "product with description ",
        ("summary", "input"),
        ("reviewText", "output"),
        ("reviewerId", "reviewerID"),
    ),
    "topic_writing": _Format(
        "for a reddit post ", ("summary", "input"), ("content", "output"), ("author", "name")
    ),
}
_SPLITS = ("user", "temporal")


@dataclass(frozen=True)
class _Entry:
    """One JSON object of a file, which knows where it stands to say what is wrong with it."""

    where: str
    fields: Mapping[str, Any]

    @classmethod
    def of(cls, value: object, where: str) -> _Entry:
        if not isinstance(value, dict):
            raise BadInputError(f"{where}: must be an object, got {json.dumps(value)[:80]}")
        return cls(where, value)

    def text(self, *names: str) -> str:
        """The first of the fields ``names`` that is there; numbers become text."""
        name = next((name for name in names if name in self.fields), None)
        if name is None:
            raise BadInputError(f"{self.where}: has no field {' or '.join(map(repr, names))}")
        value = self.fields[name]
        if isinstance(value, bool) or not isinstance(value, str | int | float):
            raise BadInputError(f"{self.where}: {name!r} must be text, got {str(value)[:80]!r}")
        return str(value)

    def items(self, name: str) -> list[_Entry]:
        """The objects of the array ``name``."""
        values = self.fields.get(name)
        if not isinstance(values, list):
            raise BadInputError(f"{self.where}: {name!r} must be an array, got {str(values)[:80]}")
        return [_Entry.of(v, f"{self.where}, {name} item {i}") for i, v in enumerate(values)]


def read_lamp(task: str, questions: Path, outputs: Path | None) -> Iterator[LampSample]:
    """Read one split of a LaMP task.

    Args:
        task: ``LaMP-1`` to ``LaMP-7``; ``LaMP-2`` is movie tagging, ``LaMP-2N`` the news
            categories of the first release.
        questions: the file ``*_questions.json``.
        outputs: the file ``*_outputs.json``, or None for a split whose outputs are withheld.

    Yields:
        The samples in the order of ``questions``.

    Raises:
        BadInputError: no such task, or a file or an entry is malformed, or an output is missing.
    """
    if task not in _LAMP:
        raise BadInputError(f"no LaMP task {task!r}; there are {', '.join(_LAMP)}")
    return _read_lamp(task, questions, outputs)


def _read_lamp(task: str, questions: Path, outputs: Path | None) -> Iterator[LampSample]:
    golds = None if outputs is None else _read_golds(outputs)
    for entry in _entries(questions):
        name = entry.text("id")
        if golds is not None and name not in golds:
            raise BadInputError(f"{entry.where}: id {name!r} has no output in {outputs}")
        prompt = entry.text("input")
        yield LampSample(
            id=name,
            task=task,
            instruction=Instruction(text=prompt, mode="chat"),
            query=_query(task, prompt, entry.where),
            profile=_profile(task, _LAMP[task], name, entry),
            target=None if golds is None else golds[name],
        )


def _read_golds(outputs: Path) -> dict[str, str]:
    golds: dict[str, str] = {}
    for entry in _entries(outputs):
        name = entry.text("id")
        if name in golds:
            raise BadInputError(f"{entry.where}: id {name!r} is there twice")
        golds[name] = entry.text("output")
    return golds


def _query(task: str, prompt: str, where: str) -> str:
    _, found, query = prompt.partition(_LAMP[task].marker)
    if not found:
        raise BadInputError(f"{where}: 'input' of {task} must contain {_LAMP[task].marker!r}")
    if task != "LaMP-1":
        return query
    first, found, second = query.partition(_LAMP_1_SECOND)  # titles themselves contain quotes
    if not found:
        raise BadInputError(f"{where}: 'input' of {task} must contain {_LAMP_1_SECOND!r}")
    return first + " " + second.removesuffix('"')


def read_longlamp(config: str, path: Path) -> Iterator[LampSample]:
    """Read one split of a LongLaMP task, saved as a JSON array or as JSON lines.

    Args:
        config: ``abstract_generation``, ``product_review`` or ``topic_writing``, followed by
            ``_user`` or ``_temporal``.
        path: the file.

    Yields:
        The samples in the order of the file.

    Raises:
        BadInputError: no such task, or the file or an entry is malformed.
    """
    task, _, split = config.rpartition("_")
    if task not in _LONGLAMP or split not in _SPLITS:
        names = ", ".join(f"{task}_{split}" for task in _LONGLAMP for split in _SPLITS)
        raise BadInputError(f"no LongLaMP task {config!r}; there are {names}")
    return _read_longlamp(config, _LONGLAMP[task], path)


def _read_longlamp(config: str, layout: _Format, path: Path) -> Iterator[LampSample]:
    for index, entry in enumerate(_entries(path, may_be_lines=True)):
        name = f"{entry.text(*layout.owner)}/{index}"
        prompt = entry.text("input")
        yield LampSample(
            id=name,
            task=config,
            instruction=Instruction(text=prompt, mode="chat"),
            query=_after(layout.marker, prompt),
            profile=_profile(config, layout, name, entry),
            target=entry.text("output") if entry.fields.get("output") is not None else None,
        )


def _after(marker: str, prompt: str) -> str:
    """What follows the marker, or everything: releases word their prompts differently."""
    _, found, rest = prompt.partition(marker)
    return rest if found else prompt


def _profile(task: str, layout: _Format, sample: str, entry: _Entry) -> tuple[UserDocument, ...]:
    return tuple(
        UserDocument(
            id=f"{sample}/{item.text('id') if 'id' in item.fields else index}",
            time=_time(item),
            consent=Consent.full(),
            provenance=Provenance(source=task, uri=f"{sample}/{index}"),
            title=item.text(*layout.title) if layout.title else "",
            body=item.text(*layout.body),
        )
        for index, item in enumerate(entry.items("profile"))
    )


def _time(item: _Entry) -> datetime:
    """The item's ``date`` (year, month, day joined by ``-``) or ``year``."""
    if "date" not in item.fields and "year" not in item.fields:
        return _UNDATED
    date = item.text("date", "year")
    try:
        year, month, day = (*(int(part) for part in date.split("-")), 1, 1)[:3]
        return datetime(year, month, day, tzinfo=UTC)
    except ValueError:
        raise BadInputError(
            f"{item.where}: date must be year-month-day, such as 2013-05-31, got {date!r}"
        ) from None


def _entries(path: Path, *, may_be_lines: bool = False) -> Iterator[_Entry]:
    """The objects of an array, of the array ``golds`` of an object, or of JSON lines."""
    try:
        with path.open("rb") as file:
            begins_with = file.read(_CHUNK).removeprefix(codecs.BOM_UTF8).lstrip()[:1]
            file.seek(0)
            is_lines = may_be_lines and begins_with != b"["
            values = (_iter_json_lines if is_lines else iter_json_array)(file, str(path))
            for index, value in enumerate(values):
                yield _Entry.of(value, f"{path}, entry {index}")
    except OSError as error:
        raise BadInputError(f"cannot read {path}: {error.strerror}") from error


def _iter_json_lines(file: BinaryIO, name: str) -> Iterator[object]:
    lines = (line for line in file if line.strip())
    for index, line in enumerate(lines):
        try:
            yield json.loads(line.decode("utf-8-sig"))
        except (ValueError, RecursionError) as error:
            raise BadInputError(f"{name}, entry {index}: {error}") from error


def iter_json_array(file: BinaryIO, name: str, *, chunk: int = _CHUNK) -> Iterator[object]:
    """Decode a JSON array element by element; memory holds one element and a chunk or two.

    The array is the whole file, or the value of ``golds`` in the object that is the file.

    Args:
        file: UTF-8 bytes.
        name: of the file, for messages.
        chunk: bytes to read at a time.

    Raises:
        BadInputError: the file is not such an array; the message names the element.
    """
    text = _JsonText(_decoded(file, name, chunk), name)
    is_whole_file = text.open_array()
    if text.next_character() != "]":
        yield text.value()
        while text.next_character() == ",":
            text.skip()
            yield text.value()
    text.skip()
    if is_whole_file and text.next_character():
        raise BadInputError(f"{name}: there is something after the end of the array")


def _decoded(file: BinaryIO, name: str, chunk: int) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8")()
    total = 0
    while data := file.read(chunk):
        total += len(data)
        try:
            yield decoder.decode(data)
        except UnicodeDecodeError as error:
            at = total - len(error.object) + error.start
            raise BadInputError(f"{name} is not UTF-8 at byte {at}; save it as UTF-8") from error


class _JsonText:
    """The text of a file, of which memory holds what is being decoded."""

    def __init__(self, chunks: Iterator[str], name: str) -> None:
        self._chunks = chunks
        self._name = name
        self._text = ""
        self._at = 0
        self._index = 0  # of the element that comes next
        self._decoder = json.JSONDecoder()

    def open_array(self) -> bool:
        """Go behind the ``[``; whether it is the first character of the file."""
        while (found := _ARRAY.match(self._text)) is None:
            if len(self._text) > _CHUNK or not self._grow():
                raise BadInputError(f"{self._name}: must be a JSON array of entries")
        self._at = found.end()
        return "{" not in found.group()

    def next_character(self) -> str:
        """The next character that is not white space, or nothing at the end of the file."""
        while True:
            self._at = _after_space(self._text, self._at)
            if self._at < len(self._text) or not self._grow():
                return self._text[self._at : self._at + 1]

    def skip(self) -> None:
        """Go over the next character."""
        self._at += 1

    def value(self) -> object:
        """Decode one element, up to the comma or bracket that follows it."""
        self.next_character()
        while True:
            try:
                value, end = self._decoder.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                problem, stop = error.msg, error.pos
                may_go_on = problem.startswith("Unterminated string")
            except RecursionError:
                raise self._malformed("is nested too deeply") from None
            else:
                stop = _after_space(self._text, end)
                if self._text[stop : stop + 1] in (",", "]"):
                    self._at, self._index = stop, self._index + 1
                    return value
                problem, may_go_on = "Expecting ',' or ']'", False
            cut_off = may_go_on or stop >= len(self._text) - _LONGEST_LITERAL
            if not cut_off or len(self._text) > _LARGEST_ENTRY or not self._grow():
                raise self._malformed(problem)

    def _malformed(self, problem: str) -> BadInputError:
        near = self._text[self._at : self._at + 40]
        return BadInputError(f"{self._name}, entry {self._index}: {problem}, in {near!r}...")

    def _grow(self) -> bool:
        """Forget what was decoded and at least double the rest; False at the end of the file."""
        parts = [self._text[self._at :]]
        goal, size = 2 * len(parts[0]), len(parts[0])
        for part in self._chunks:
            parts.append(part)
            size += len(part)
            if part and size >= goal:
                break
        self._text, self._at = "".join(parts), 0
        return len(parts) > 1


def _after_space(text: str, start: int) -> int:
    found = _SPACE.match(text, start)
    return start if found is None else found.end()
