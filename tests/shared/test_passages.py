import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locavore.shared.errors import BadInputError
from locavore.shared.passages import cut_passages

WORDS = st.sampled_from(
    [
        "The",
        "ship",
        "sailed.",
        "Why?",
        "Mr.",
        "ago,",
        "\n\n",
        "\n",
        "今日は晴れ。",
        "x" * 90,
        "สวัสดี",
        "é",
    ]
)
BOUNDS = st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.integers(2 * n, 40)))


def without_space(text: str) -> str:
    return re.sub(r"\s", "", text)


@given(st.one_of(st.text(), st.lists(WORDS, max_size=120).map(" ".join)), BOUNDS)
def test_nothing_is_lost_and_nothing_is_reordered(text: str, bounds: tuple[int, int]) -> None:
    passages = list(cut_passages(text, min_words=bounds[0], max_words=bounds[1]))
    assert without_space("".join(passages)) == without_space(text)
    assert all(passage == passage.strip() and passage in text for passage in passages)


@given(st.lists(st.sampled_from(["one", "two.", "Three,", "four\n\n"]), max_size=200), BOUNDS)
def test_every_passage_keeps_to_the_bounds(words: list[str], bounds: tuple[int, int]) -> None:
    smallest, largest = bounds
    passages = list(cut_passages(" ".join(words), min_words=smallest, max_words=largest))
    lengths = [len(passage.split()) for passage in passages]
    assert all(length <= largest for length in lengths)
    if len(words) >= smallest:
        assert all(length >= smallest for length in lengths)


def test_a_paragraph_end_is_better_than_a_sentence_end() -> None:
    text = "One two three.\n\nFour five. Six seven. Eight nine ten."
    assert next(cut_passages(text, max_words=8, min_words=2)) == "One two three."


def test_a_sentence_end_is_better_than_a_clause_end() -> None:
    text = "One two three. Four five, six seven eight nine ten eleven."
    assert next(cut_passages(text, max_words=6, min_words=2)) == "One two three."


def test_a_long_sentence_is_cut_at_a_clause() -> None:
    text = "one two three four, five six seven eight nine ten"
    assert list(cut_passages(text, max_words=6, min_words=2)) == [
        "one two three four,",
        "five six seven eight nine ten",
    ]


@pytest.mark.parametrize("title", ["Mr.", "J.", "U.S.", "Dr."])
def test_an_abbreviation_ends_no_sentence(title: str) -> None:
    text = f"It was late. Then {title} Smith came in again and again"
    assert next(cut_passages(text, max_words=6, min_words=2)) == "It was late."


def test_a_quotation_mark_belongs_to_its_sentence() -> None:
    text = 'He said "Stop now." She did not stop at all then'
    assert next(cut_passages(text, max_words=7, min_words=2)) == 'He said "Stop now."'


@pytest.mark.parametrize(
    ("sentence", "end"),
    [
        ("今日は天気が良いので散歩に行きます。", "。"),
        ("我们明天去北京看朋友！", "！"),
        ("هل ذهبت إلى المدرسة اليوم مع صديقك؟ ", "؟"),
        ("मैं आज बाज़ार जा रहा हूँ। ", "।"),
    ],
)
def test_other_scripts_are_cut_at_their_sentence_ends(sentence: str, end: str) -> None:
    passages = list(cut_passages(sentence * 24, max_words=20, min_words=4))
    assert len(passages) > 2
    assert all(passage.endswith(end) for passage in passages)


def test_text_without_spaces_is_bounded_in_characters() -> None:
    passages = list(cut_passages("字" * 5000, max_words=50, min_words=10))
    assert max(map(len, passages)) == 4 * 50


def test_a_combining_mark_stays_with_its_letter() -> None:
    text = "e\N{COMBINING ACUTE ACCENT}" * 100
    passages = cut_passages(text, max_words=5, min_words=1)
    assert all(passage.startswith("e") for passage in passages)


def test_no_text_is_no_passage() -> None:
    assert list(cut_passages(" \n\t ", max_words=10)) == []


@pytest.mark.parametrize(("smallest", "largest"), [(0, 10), (6, 10), (1, 0), (-1, -1)])
def test_bounds_that_do_not_fit_are_refused_at_the_call(smallest: int, largest: int) -> None:
    with pytest.raises(BadInputError, match=f"min_words={smallest}, max_words={largest}"):
        cut_passages("text", min_words=smallest, max_words=largest)
