"""A searchable piece of a store: postings and vectors of a few thousand passages, as arrays.

A segment never changes. What is added makes another one; what is forgotten makes a copy without it.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load, save

from ...shared.adapters import Array
from ...shared.contexts import Context
from ...shared.passages import cut_passages
from .words import words

__all__ = ["Embedder", "Facets", "Segment", "Vectors", "passages_of"]

_MAX_WORDS = 120  # longest passage that is retrieved as one item
_BLOCK = 512  # vectors that are scored together: they stay in the processor's cache
Integers = npt.NDArray[np.int32]


class Embedder(Protocol):
    """Turns texts into unit vectors."""

    @property
    def name(self) -> str:
        """Names the space: vectors of different names cannot be compared."""
        ...

    def embed(self, texts: Sequence[str]) -> Array:
        """``(n, d)`` float32 rows of norm one."""
        ...


class Facets(NamedTuple):
    """What a record can be filtered by."""

    id: str
    kind: str
    source: str
    time: float
    train: bool
    federate: bool


@dataclass(frozen=True)
class Vectors:
    """Passages' unit vectors, a byte a number.

    Args:
        embedder: name of the space.
        codes: ``(n, d)`` int8.
        scales: ``(n,)`` float32; a vector is its codes times its scale.
    """

    embedder: str
    codes: npt.NDArray[np.int8]
    scales: Array

    @classmethod
    def of(cls, embedder: str, rows: Array) -> Vectors:
        """Quantize ``(n, d)`` float32 rows, each to its own scale."""
        scales = np.maximum(np.abs(rows).max(axis=1, initial=0), 1e-12) / 127
        codes = np.round(rows / scales[:, None]).astype(np.int8)
        return cls(embedder, codes, scales.astype(np.float32))

    def scores(self, query: Array) -> Array:
        """``(n,)`` cosines with a unit vector ``(d,)``."""
        found = np.empty(len(self.codes), np.float32)
        block = np.empty((_BLOCK, len(query)), np.float32)
        for start in range(0, len(found), _BLOCK):
            codes = self.codes[start : start + _BLOCK]
            np.copyto(block[: len(codes)], codes)
            np.dot(block[: len(codes)], query, out=found[start : start + _BLOCK])
        return found * self.scales

    def take(self, kept: npt.NDArray[np.bool_]) -> Vectors:
        """Some of the vectors."""
        return Vectors(self.embedder, self.codes[kept], self.scales[kept])

    def to_bytes(self) -> bytes:
        """The vectors as one piece."""
        return save(
            {"codes": np.ascontiguousarray(self.codes), "scales": self.scales},
            metadata={"embedder": self.embedder},
        )

    @classmethod
    def from_bytes(cls, raw: bytes) -> Vectors:
        """Read what :meth:`to_bytes` wrote."""
        arrays = load(raw)
        return cls(_metadata(raw)["embedder"], arrays["codes"], arrays["scales"])


@dataclass(frozen=True)
class Segment:
    """Passages of some records.

    Args:
        records: what the records can be filtered by.
        owners: ``(n,)`` index of each passage's record.
        ordinals: ``(n,)`` number of the passage within its record.
        lengths: ``(n,)`` words of each passage.
        vocabulary: distinct words.
        starts: ``(v + 1,)`` where each word's postings begin.
        postings: passages that hold a word, word by word.
        counts: how often they hold it.
        vectors: of the passages, when they were embedded.
    """

    records: tuple[Facets, ...]
    owners: Integers
    ordinals: Integers
    lengths: Integers
    vocabulary: tuple[str, ...]
    starts: Integers
    postings: Integers
    counts: Integers
    vectors: Vectors | None = field(default=None, compare=False)

    def __len__(self) -> int:
        """How many passages there are."""
        return len(self.owners)

    @classmethod
    def build(
        cls, records: Iterable[tuple[str, Context]], embedder: Embedder | None = None
    ) -> Segment:
        """Index records, each with its kind."""
        facets: list[Facets] = []
        owners, ordinals, texts = [], [], []
        for kind, record in records:
            for ordinal, passage in enumerate(passages_of(record)):
                owners.append(len(facets))
                ordinals.append(ordinal)
                texts.append(passage)
            facets.append(
                Facets(
                    record.id,
                    kind,
                    record.provenance.source,
                    record.time.timestamp(),
                    record.consent.train,
                    record.consent.federate,
                )
            )
        bags = [Counter(words(text)) for text in texts]
        ids: dict[str, int] = {}
        terms = [ids.setdefault(word, len(ids)) for bag in bags for word in bag]
        vectors = None
        if embedder is not None and texts:
            vectors = Vectors.of(embedder.name, embedder.embed(texts))
        return cls(
            tuple(facets),
            _integers(owners),
            _integers(ordinals),
            _integers([sum(bag.values()) for bag in bags]),
            *_sorted_postings(
                tuple(ids),
                _integers(terms),
                np.repeat(np.arange(len(bags), dtype=np.int32), [len(bag) for bag in bags]),
                _integers([count for bag in bags for count in bag.values()]),
            ),
            vectors,
        )

    @classmethod
    def merged(cls, segments: Sequence[Segment]) -> Segment:
        """One segment with the passages of several, in their order."""
        ids: dict[str, int] = {}
        records: list[Facets] = []
        owners, terms, postings, passages = [], [], [], 0
        for segment in segments:
            own = _integers([ids.setdefault(word, len(ids)) for word in segment.vocabulary])
            owners.append(segment.owners + len(records))
            terms.append(own[segment._terms])
            postings.append(segment.postings + passages)
            records.extend(segment.records)
            passages += len(segment)
        vectors = [segment.vectors for segment in segments]
        names = {part.embedder for part in vectors if part is not None}
        whole = None
        if len(names) == 1 and all(part is not None for part in vectors):
            parts = [part for part in vectors if part is not None]
            whole = Vectors(
                names.pop(),
                np.concatenate([part.codes for part in parts]),
                np.concatenate([part.scales for part in parts]),
            )
        return cls(
            tuple(records),
            np.concatenate(owners),
            np.concatenate([segment.ordinals for segment in segments]),
            np.concatenate([segment.lengths for segment in segments]),
            *_sorted_postings(
                tuple(ids),
                np.concatenate(terms),
                np.concatenate(postings),
                np.concatenate([segment.counts for segment in segments]),
            ),
            whole,
        )

    def without(self, gone: Collection[str]) -> Segment:
        """A copy that holds nothing of these records, not even a word that only they had."""
        left = np.array([record.id not in gone for record in self.records], bool)
        kept = left[self.owners]
        place = np.cumsum(kept, dtype=np.int32) - 1
        still = kept[self.postings]
        terms = self._terms[still]
        used, terms = np.unique(terms, return_inverse=True)
        return Segment(
            tuple(record for record, stays in zip(self.records, left, strict=True) if stays),
            (np.cumsum(left, dtype=np.int32) - 1)[self.owners[kept]].astype(np.int32),
            self.ordinals[kept],
            self.lengths[kept],
            *_sorted_postings(
                tuple(self.vocabulary[term] for term in used),
                terms.astype(np.int32),
                place[self.postings[still]],
                self.counts[still],
            ),
            None if self.vectors is None else self.vectors.take(kept),
        )

    def holding(self, word: str) -> tuple[Integers, Integers]:
        """Passages that hold a word, and how often."""
        term = self._ids.get(word)
        if term is None:
            return _integers([]), _integers([])
        part = slice(self.starts[term], self.starts[term + 1])
        return self.postings[part], self.counts[part]

    def to_bytes(self) -> bytes:
        """Everything but the vectors, as one piece."""
        names = ("owners", "ordinals", "lengths", "starts", "postings", "counts")
        return save(
            {name: np.ascontiguousarray(getattr(self, name)) for name in names},
            metadata={
                "records": json.dumps(self.records),
                "vocabulary": json.dumps(self.vocabulary, ensure_ascii=True),
            },
        )

    @classmethod
    def from_bytes(cls, raw: bytes, vectors: Vectors | None = None) -> Segment:
        """Read what :meth:`to_bytes` wrote."""
        said = _metadata(raw)
        return cls(
            records=tuple(Facets(*row) for row in json.loads(said["records"])),
            vocabulary=tuple(json.loads(said["vocabulary"])),
            vectors=vectors,
            **load(raw),
        )

    @cached_property
    def ids(self) -> frozenset[str]:
        """The records' ids."""
        return frozenset(record.id for record in self.records)

    @cached_property
    def _ids(self) -> dict[str, int]:
        return {word: term for term, word in enumerate(self.vocabulary)}

    @property
    def _terms(self) -> Integers:
        """The word of each posting."""
        return np.repeat(np.arange(len(self.vocabulary), dtype=np.int32), np.diff(self.starts))


def passages_of(record: Context) -> list[str]:
    """The passages that a record is found by."""
    return list(cut_passages(record.text, max_words=_MAX_WORDS, min_words=1))


def _sorted_postings(
    vocabulary: tuple[str, ...], terms: Integers, postings: Integers, counts: Integers
) -> tuple[tuple[str, ...], Integers, Integers, Integers]:
    order = np.argsort(terms, kind="stable")
    starts = np.searchsorted(terms[order], np.arange(len(vocabulary) + 1))
    return vocabulary, starts.astype(np.int32), postings[order], counts[order]


def _integers(values: Sequence[int]) -> Integers:
    return np.array(values, np.int32)


def _metadata(raw: bytes) -> dict[str, Any]:
    length = int.from_bytes(raw[:8], "little")
    said: dict[str, Any] = json.loads(raw[8 : 8 + length])["__metadata__"]
    return said
