"""Exact retrieval over a person's own records: BM25, recency and, optionally, embeddings.

A person's store is small, so every record is scored: nothing that was forgotten can linger in
an approximate index. Rankings are merged by reciprocal rank fusion (Cormack et al., SIGIR 2009).
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..shared.adapters import Array
from ..shared.contexts import Context
from ..shared.errors import BadInputError
from ..shared.passages import cut_passages

__all__ = ["Embedder", "Hit", "Retriever", "words"]

_K1, _B = 1.2, 0.75  # Okapi BM25's customary constants
_RRF = 60.0
_WEIGHTS = {"words": 1.0, "meaning": 1.0, "recency": 0.25}
_MAX_WORDS = 120  # longest passage that is retrieved as one item


class Embedder(Protocol):
    """Turns texts into unit vectors."""

    def embed(self, texts: Sequence[str]) -> Array:
        """``(n, d)`` float32 rows of norm one."""


@dataclass(frozen=True)
class Hit:
    """A retrieved passage.

    Args:
        record: the record that it comes from, with its provenance.
        text: the passage.
        score: fused score; higher is better, comparable within one retrieval only.
        why: rank per ranking, from 1: ``{"words": 1, "recency": 7}``.
    """

    record: Context
    text: str
    score: float
    why: dict[str, int]


class Retriever:
    """Searches the passages of records that consent to retrieval."""

    def __init__(self, records: Iterable[Context], embedder: Embedder | None = None) -> None:
        """Index ``records``; those without consent to retrieval are left out."""
        self._items = [
            (record, passage)
            for record in records
            if record.consent.retrieve
            for passage in cut_passages(record.text, max_words=_MAX_WORDS, min_words=1)
        ]
        self._embedder = embedder
        self._bags = [Counter(words(text)) for _, text in self._items]
        self._lengths = np.array([sum(bag.values()) for bag in self._bags], np.float64)
        self._holding = Counter(word for bag in self._bags for word in bag)
        texts = [text for _, text in self._items]
        self._vectors = embedder.embed(texts) if embedder and texts else None

    def __len__(self) -> int:
        """How many passages can be found."""
        return len(self._items)

    def retrieve(self, query: str, k: int = 4) -> list[Hit]:
        """The ``k`` best passages, best first; passages that share nothing with the query never.

        Raises:
            BadInputError: ``k`` is below 1.
        """
        if k < 1:
            raise BadInputError(f"k must be at least 1, got {k}")
        rankings = self._rankings(query)
        candidates = set().union(*(r for name, r in rankings.items() if name != "recency"))
        scored = []
        for index in candidates:
            why = {name: ranks[index] for name, ranks in rankings.items() if index in ranks}
            score = sum(_WEIGHTS[name] / (_RRF + rank) for name, rank in why.items())
            scored.append((score, index, why))
        scored.sort(key=lambda entry: (-entry[0], entry[1]))
        return [Hit(*self._items[index], score, why) for score, index, why in scored[:k]]

    def _rankings(self, query: str) -> dict[str, dict[int, int]]:
        by_words = self._bm25(query)
        rankings = {"words": _ranks(by_words, np.flatnonzero(by_words > 0))}
        if self._vectors is not None and self._embedder is not None:
            closeness = self._vectors @ self._embedder.embed([query])[0]
            rankings["meaning"] = _ranks(closeness, np.flatnonzero(closeness > 0))
        times = np.array([record.time.timestamp() for record, _ in self._items])
        rankings["recency"] = _ranks(times, np.arange(len(self._items)))
        return rankings

    def _bm25(self, query: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        scores = np.zeros(len(self._items))
        if not self._items:
            return scores
        norm = _K1 * (1 - _B + _B * self._lengths / max(self._lengths.mean(), 1e-9))
        for word in set(words(query)):
            held = self._holding[word]
            if not held:
                continue
            rarity = math.log(1 + (len(self._items) - held + 0.5) / (held + 0.5))
            counts = np.array([bag[word] for bag in self._bags], np.float64)
            scores += rarity * counts * (_K1 + 1) / (counts + norm)
        return scores


def _ranks(
    scores: np.ndarray[tuple[int], np.dtype[np.float64]],
    among: np.ndarray[tuple[int], np.dtype[np.int64]],
) -> dict[int, int]:
    """Rank from 1 by falling score; equals share a rank, so that other rankings decide."""
    order = among[np.argsort(-scores[among], kind="stable")]
    before = np.searchsorted(-scores[order], -scores[order])
    return {int(index): int(rank) for index, rank in zip(order, before + 1, strict=True)}


# Combining marks are no \w to Python, but part of the words of Indic, Thai and Arabic scripts.
_WORD = re.compile(
    r"[\w\u0300-\u036f\u0610-\u061a\u064b-\u065f\u0900-\u0963\u0966-\u0df3"
    r"\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1-\u0ebc\u0ec8-\u0ece\u0f71-\u0f84"
    r"\u102b-\u103e\u17b4-\u17d3]+"
)


def words(text: str) -> list[str]:
    """Case-folded words; scripts written without spaces are cut into character pairs."""
    found: list[str] = []
    for word in _WORD.findall(unicodedata.normalize("NFKC", text).casefold()):
        if len(word) > 1 and _unspaced(word):
            found.extend(word[i : i + 2] for i in range(len(word) - 1))
        else:
            found.append(word)
    return found


def _unspaced(word: str) -> bool:
    """Whether most letters are of a script without spaces (Han, Kana, Thai, Lao, Khmer)."""
    count = sum(
        "\u3040" <= c <= "\u30ff"
        or "\u3400" <= c <= "\u9fff"
        or "\u0e00" <= c <= "\u0eff"
        or "\u1780" <= c <= "\u17ff"
        for c in word
    )
    return count * 2 > len(word)
