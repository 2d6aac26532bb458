"""How much of a record stands, word by word, in a text that was not meant to hold it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet

from ..retrieval import words

__all__ = ["LEAST", "Runs", "longest_run", "quotable", "share_in", "unheard"]

LEAST = 6  # words in a row that two texts do not share by chance
_QUOTED = 3  # words in a row that count as a quotation of what is known

Runs = AbstractSet[tuple[str, ...]]


def quotable(texts: Iterable[str]) -> Runs:
    """What is known anyway, such as what an attacker typed, for the other functions here."""
    return {run for text in texts for run in _runs(words(text), _QUOTED)}


def unheard(record: str, *known: Runs) -> list[list[str]]:
    """The stretches of a record's words that are no quotation of what is known.

    Args:
        record: a text.
        known: of :func:`quotable`.
    """
    own = words(record)
    heard = {place for runs in known for place in _places(own, runs, _QUOTED)}
    stretches: list[list[str]] = [[]]
    for place, word in enumerate(own):
        if place in heard:
            stretches.append([])
        else:
            stretches[-1].append(word)
    return [stretch for stretch in stretches if stretch]


def longest_run(found: str, record: str, *known: Runs) -> int:
    """Words of the longest run that a text and a record share, beyond what is known.

    Args:
        found: such as a prompt or a generated text.
        record: whose words are looked for.
        known: of :func:`quotable`.
    """
    there = words(found)
    longest = 0
    for stretch in unheard(record, *known):
        while _runs(stretch, longest + 1) & _runs(there, longest + 1):
            longest += 1
    return longest


def share_in(found: str, record: str, *known: Runs, least: int = LEAST) -> float:
    """Share of a record's words, beyond what is known, that a text repeats in runs, 0 to 1."""
    runs = _runs(words(found), least)
    stretches = unheard(record, *known)
    whole = sum(map(len, stretches))
    held = sum(len(_places(stretch, runs, least)) for stretch in stretches)
    return held / whole if whole else 0.0


def _runs(text: Sequence[str], length: int) -> set[tuple[str, ...]]:
    return {tuple(text[at : at + length]) for at in range(len(text) - length + 1)}


def _places(text: Sequence[str], runs: Runs, length: int) -> set[int]:
    """Places of a text's words that lie in one of the runs."""
    starts = [at for at in range(len(text) - length + 1) if tuple(text[at : at + length]) in runs]
    return {at + step for at in starts for step in range(length)}
