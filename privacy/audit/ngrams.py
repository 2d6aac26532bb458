"""A small model of token sequences: how much a text looks like others, without any network."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence

__all__ = ["NgramModel"]

_LONGEST = 3  # tokens of a gram


class NgramModel:
    """Tokens after the two before them, each order smoothed by the one below.

    Counts are mixed with ``strength`` imagined ones of the shorter context (MacKay and Peto, "A
    Hierarchical Dirichlet Language Model", 1995): a rare context speaks softly.

    Args:
        texts: token ids of each.
        vocabulary: number of different tokens that there can be.
        strength: imagined counts.
    """

    def __init__(
        self, texts: Sequence[Sequence[int]], vocabulary: int, strength: float = 20.0
    ) -> None:
        self._vocabulary, self._strength = vocabulary, strength
        self._grams: Counter[tuple[int, ...]] = Counter()
        self._contexts: Counter[tuple[int, ...]] = Counter()
        for text in texts:
            for gram in _grams(text):
                self._grams[gram] += 1
                self._contexts[len(gram), *gram[:-1]] += 1

    def log_likelihood(self, text: Sequence[int]) -> float:
        """Mean log probability (nats) of the tokens of a text; 0 of none."""
        found = [math.log(self._probability(text, at)) for at in range(len(text))]
        return sum(found) / max(1, len(found))

    def _probability(self, text: Sequence[int], at: int) -> float:
        likely = 1 / self._vocabulary
        for size in range(1, min(_LONGEST, at + 1) + 1):
            gram = tuple(text[at - size + 1 : at + 1])
            seen = self._contexts[size, *gram[:-1]]
            likely = (self._grams[gram] + self._strength * likely) / (seen + self._strength)
        return likely


def _grams(text: Sequence[int]) -> Iterator[tuple[int, ...]]:
    for size in range(1, _LONGEST + 1):
        for first in range(len(text) - size + 1):
            yield tuple(text[first : first + size])
