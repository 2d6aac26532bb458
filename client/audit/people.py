"""Made-up people for audits: notes that each of them could have written, and secrets of theirs.

Everything is drawn from an ``rng``; nothing is anybody's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ...shared.errors import BadInputError

__all__ = ["DIGITS", "TOPICS", "Secret", "Topic", "code", "notes", "secrets"]

DIGITS = 4  # of a secret code

Topic = Literal["sea", "garden"]
TOPICS: tuple[Topic, ...] = ("sea", "garden")

_WHO = ("my brother", "the captain", "our neighbour", "a friend", "Ida", "Sven", "the nurse", "Ann")
_WHEN = ("on Monday", "before noon", "at dusk", "last night", "in the rain", "after lunch")
_THINGS: dict[Topic, tuple[str, ...]] = {
    "sea": ("anchor", "sail", "canoe", "harbour rope", "fishing net", "lighthouse lamp", "oar"),
    "garden": ("apple tree", "compost heap", "tomato bed", "hedge", "rake", "greenhouse", "rose"),
}
_DID: dict[Topic, tuple[str, ...]] = {
    "sea": ("hauled in", "tarred", "rowed past", "mended", "lost", "stowed"),
    "garden": ("watered", "pruned", "planted", "dug around", "covered", "weeded"),
}
_HOW = ("it took the whole day", "nobody helped", "the dog watched", "that was cold work")
_FORMS = (
    "{when} {who} and I {did} the {thing}; {how}.",
    "I {did} the {thing} {when}, and {who} laughed.",
    "Tell {who} that the {thing} is done: we {did} it {when}.",
    "{when} we {did} the old {thing}. I wrote to {who} about it.",
)
_ONSETS, _VOWELS = ("b", "d", "f", "g", "k", "l", "m", "n", "r", "s", "t", "v"), "aeiou"
_PREFIX = "The code of {name} is"


@dataclass(frozen=True)
class Secret:
    """A canary's text: what an attacker knows, and the digits that were drawn."""

    prefix: str
    code: str

    @property
    def text(self) -> str:
        """The record."""
        return self.prefix + self.code


def notes(count: int, rng: np.random.Generator, *, topic: Topic | None = None) -> list[str]:
    """Short notes, on one topic or on either."""
    return [_note(rng, topic or TOPICS[int(rng.integers(2))]) for _ in range(count)]


def secrets(count: int, rng: np.random.Generator) -> list[Secret]:
    """Secrets of people with names of their own: 10⁴ codes, each as likely.

    Raises:
        BadInputError: there are not so many names.
    """
    names: dict[str, None] = {}
    most = (len(_ONSETS) * len(_VOWELS)) ** 2
    if not 0 <= count <= most // 2:
        raise BadInputError(f"secrets must be 0..{most // 2}, got {count}")
    while len(names) < count:
        names["".join(_syllable(rng) for _ in range(2)).capitalize()] = None
    return [Secret(_PREFIX.format(name=name), code(rng)) for name in names]


def code(rng: np.random.Generator) -> str:
    """A secret code, such as `` 4 9 1 3``."""
    return "".join(f" {digit}" for digit in rng.integers(10, size=DIGITS))


def _note(rng: np.random.Generator, topic: Topic) -> str:
    def one(among: tuple[str, ...]) -> str:
        return among[int(rng.integers(len(among)))]

    said = one(_FORMS).format(
        when=one(_WHEN),
        who=one(_WHO),
        did=one(_DID[topic]),
        thing=one(_THINGS[topic]),
        how=one(_HOW),
    )
    return said[0].upper() + said[1:]


def _syllable(rng: np.random.Generator) -> str:
    return _ONSETS[int(rng.integers(len(_ONSETS)))] + _VOWELS[int(rng.integers(len(_VOWELS)))]
