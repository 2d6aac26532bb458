"""Cutting a text into passages of a bounded length.

A text is a row of *atoms*: words, or pieces of four characters where words are not set apart by
spaces. Between two atoms is a break of some strength: none, space, clause, sentence, paragraph.
A passage takes between ``min_words`` and ``max_words`` atoms and ends at the strongest break in
that window; the latest of equals. Passages are slices of the text, so nothing is lost or changed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import IntEnum
from itertools import islice
from typing import NamedTuple

from .errors import BadInputError

__all__ = ["cut_passages"]

_PIECE = 4  # characters that count as one word in scripts written without spaces
_LONGEST_WORD = 20  # characters; a longer run is not one word

_ENDS = "。！？｡؟۔।॥።។။"  # sentence ends of other scripts: no space need follow
_COMMAS = "，、；：،؛၊"
_CLOSERS = "\"'”’»)]}」』）】"
_TOKEN = re.compile(rf"(?=\S)[^\s{_ENDS}{_COMMAS}]*+[{_ENDS}{_COMMAS}]*+[{re.escape(_CLOSERS)}]*+")
_PARAGRAPH = re.compile(r"\n[^\S\n]*\n")
_MARKS = (
    "\u0300-\u036f\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u200d\ufe00-\ufe0f"  # stay with their letter
)
_PIECES = re.compile(rf".{{1,{_PIECE}}}[{_MARKS}]*", re.DOTALL)
_UNSPACED = re.compile(
    r"[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Tibetan, Burmese, Khmer
    r"\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff\uff66-\uff9f\U00020000-\U000323af]"  # kana, Han
)
_ABBREVIATION = re.compile(
    r"(?:[^\W\d]\.)+|(?:mr|mrs|ms|dr|st|gen|sen|rep|hon|gov|col|capt|lieut|messrs|vs|jr)\.",
    re.IGNORECASE,
)


class _Break(IntEnum):
    """How good a place is for the end of a passage."""

    NONE = 0
    SPACE = 1
    CLAUSE = 2
    SENTENCE = 3
    PARAGRAPH = 4


class _Atom(NamedTuple):
    """One word's worth of text: where it starts and ends, and the break after it."""

    start: int
    end: int
    after: _Break


def cut_passages(text: str, *, max_words: int, min_words: int = 1) -> Iterator[str]:
    """Cut ``text`` into passages that end at paragraphs, else sentences, else clauses, else words.

    Every passage has ``min_words`` to ``max_words`` words, except that a text of fewer than
    ``min_words`` is one passage. Without its white space, the text is the passages joined. Where
    words are not set apart by spaces (Chinese, Thai, ...), four characters count as a word.

    Args:
        text: any Unicode text; may be long, since atoms are read only as far as needed.
        max_words: the most words in a passage.
        min_words: the fewest words in a passage; at most half of ``max_words``.

    Yields:
        Slices of ``text`` without surrounding white space.

    Raises:
        BadInputError: the bounds do not fit together.
    """
    if not 1 <= min_words <= max(1, max_words // 2) or max_words < 1:
        raise BadInputError(
            f"min_words must be 1..max_words/2, got min_words={min_words}, max_words={max_words}"
        )
    return _cut(text, max_words, min_words)


def _cut(text: str, max_words: int, min_words: int) -> Iterator[str]:
    atoms = _atoms(text)
    ahead: list[_Atom] = []
    while True:
        ahead += islice(atoms, max_words + min_words - len(ahead))
        if len(ahead) <= max_words:
            break
        last = min(max_words, len(ahead) - min_words)  # leave enough for another passage
        count = max(range(min_words, last + 1), key=lambda n: (ahead[n - 1].after, n))
        yield text[ahead[0].start : ahead[count - 1].end]
        del ahead[:count]
    if ahead:
        yield text[ahead[0].start : ahead[-1].end]


def _atoms(text: str) -> Iterator[_Atom]:
    """The atoms of ``text`` in order."""
    tokens = _TOKEN.finditer(text)
    token = next(tokens, None)
    while token is not None:
        following = next(tokens, None)
        *inner, (start, end) = _pieces(token)
        yield from (_Atom(piece_start, piece_end, _Break.NONE) for piece_start, piece_end in inner)
        yield _Atom(start, end, _break_after(text, token, following))
        token = following


def _pieces(token: re.Match[str]) -> list[tuple[int, int]]:
    """The spans of a token that each count as one word."""
    start, end = token.span()
    if end - start <= _LONGEST_WORD and not _UNSPACED.search(token.string, start, end):
        return [(start, end)]
    return [piece.span() for piece in _PIECES.finditer(token.string, start, end)]


def _break_after(text: str, token: re.Match[str], following: re.Match[str] | None) -> _Break:
    """How good a place the end of ``token`` is for the end of a passage."""
    if following is None or _PARAGRAPH.search(text, token.end(), following.start()):
        return _Break.PARAGRAPH
    word = token.group().rstrip(_CLOSERS)
    if word.endswith(tuple(_ENDS)):
        return _Break.SENTENCE
    if word.endswith(tuple(_COMMAS)):
        return _Break.CLAUSE
    if following.start() == token.end():
        return _Break.NONE
    if word.endswith((".", "!", "?", "…")):
        starts_new = not following.group().lstrip("\"'“‘«([")[:1].islower()
        return _Break.SENTENCE if starts_new and not _is_abbreviation(word) else _Break.SPACE
    return _Break.CLAUSE if word.endswith((",", ";", ":", "—", "–")) else _Break.SPACE


def _is_abbreviation(word: str) -> bool:
    return _ABBREVIATION.fullmatch(word.lstrip("\"'“‘«([")) is not None
