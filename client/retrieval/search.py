"""Search over segments: BM25, recency and, optionally, embeddings, merged by rank.

A person's store is small, so every passage is scored. Rankings are merged by reciprocal rank fusion
(Cormack et al., SIGIR 2009); its weights can be learned from what the person chooses.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import numpy as np
import numpy.typing as npt

from ...shared.contexts import Context
from ...shared.errors import BadInputError
from .segment import Embedder, Segment, passages_of
from .words import words

__all__ = ["WEIGHTS", "Embedder", "Hit", "Retriever", "Where", "reweighted"]

_K1, _B = 1.2, 0.75  # Okapi BM25's customary constants
_RRF = 60.0
WEIGHTS: Mapping[str, float] = {"words": 1.0, "meaning": 1.0, "recency": 0.02}
Scores = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Hit:
    """A retrieved passage.

    Args:
        record: the record that it comes from, with its provenance.
        text: the passage.
        score: fused score; higher is better, comparable within one retrieval only.
        why: rank per ranking, from 1: ``{"words": 1, "recency": 7}``.
        shared: part of the query's information that the passage holds, 0 to 1: the query's words,
            weighted by how rare they are in the store.
    """

    record: Context
    text: str
    score: float
    why: dict[str, int]
    shared: float = 0.0


@dataclass(frozen=True, kw_only=True)
class Where:
    """Which records are searched; what is empty allows everything.

    Args:
        kinds: ``document``, ``behavior``, ...
        sources: of the provenance, such as ``mail``.
        since: not before.
        until: before.
        train: only what may train the private adapter.
        federate: only what may be federated.
    """

    kinds: Sequence[str] = ()
    sources: Sequence[str] = ()
    since: datetime | None = None
    until: datetime | None = None
    train: bool = False
    federate: bool = False

    def mask(self, segment: Segment) -> Mask:
        """Which of a segment's passages are allowed."""
        allowed = [
            (not self.kinds or facets.kind in self.kinds)
            and (not self.sources or facets.source in self.sources)
            and (self.since is None or facets.time >= self.since.timestamp())
            and (self.until is None or facets.time < self.until.timestamp())
            and (facets.train or not self.train)
            and (facets.federate or not self.federate)
            for facets in segment.records
        ]
        return np.array(allowed, bool)[segment.owners]


class Retriever:
    """Searches segments.

    Args:
        segments: what is searched.
        fetch: gives the record of an id.
        embedder: of the segments' vectors; without it words and time decide.
        weights: of the rankings; :data:`WEIGHTS` when not given.
    """

    def __init__(
        self,
        segments: Sequence[Segment],
        fetch: Callable[[str], Context],
        embedder: Embedder | None = None,
        weights: Mapping[str, float] = WEIGHTS,
    ) -> None:
        self._segments, self._fetch = list(segments), fetch
        self._embedder, self._weights = embedder, weights
        self._sizes = np.array([len(segment) for segment in segments], np.int64)
        self._ends = np.cumsum(self._sizes)
        lengths = [segment.lengths for segment in segments]
        self._lengths = np.concatenate(lengths).astype(np.float64) if lengths else np.zeros(0)
        times = [_times(segment) for segment in segments]
        self._times = np.concatenate(times) if times else np.zeros(0)

    @classmethod
    def over(
        cls, records: Iterable[tuple[str, Context]], embedder: Embedder | None = None
    ) -> Retriever:
        """Searches records, given with their kinds, that are in memory anyway."""
        kept = {r.id: (kind, r) for kind, r in records if r.consent.retrieve}
        segment = Segment.build(kept.values(), embedder)
        return cls([segment], lambda record_id: kept[record_id][1], embedder)

    def __len__(self) -> int:
        """How many passages can be found."""
        return len(self._lengths)

    def retrieve(self, query: str, k: int = 4, where: Where | None = None) -> list[Hit]:
        """The ``k`` best passages, best first; passages that share nothing with the query never.

        Raises:
            BadInputError: ``k`` is below 1.
        """
        if k < 1:
            raise BadInputError(f"k must be at least 1, got {k}")
        allowed = np.ones(len(self), bool)
        if where is not None and self._segments:
            allowed = np.concatenate([where.mask(segment) for segment in self._segments])
        by_words = self._bm25(query)
        ranks = {"words": _ranks(by_words, allowed & (by_words > 0))}
        found = np.isfinite(ranks["words"])
        if self._embedder is not None and len(self):
            closeness = self.closeness(self._embedder, query)
            ranks["meaning"] = _ranks(closeness, allowed & (closeness > 0))
            found |= np.isfinite(ranks["meaning"])
        candidates = np.flatnonzero(found)
        if not len(candidates):
            return []
        ranks["recency"] = _ranks(self._times, allowed)
        fused = sum(self._weights[n] / (_RRF + rank[candidates]) for n, rank in ranks.items())
        best = np.argsort(-np.asarray(fused), kind="stable")[:k]
        return [
            self._hit(query, int(candidates[i]), float(np.asarray(fused)[i]), ranks) for i in best
        ]

    def newest(self, count: int, without: Collection[str] = ()) -> list[Hit]:
        """The latest records' first passages, latest first, but for those with an id left out."""
        ranks = {"recency": _ranks(self._times, np.ones(len(self), bool))}
        left_out, hits = set(without), list[Hit]()
        for index in np.argsort(-self._times, kind="stable"):
            if len(hits) >= count:
                break
            hit = self._hit("", int(index), 0.0, ranks)
            if hit.record.id not in left_out:
                hits.append(hit)
                left_out.add(hit.record.id)
        return hits

    def closeness(self, embedder: Embedder, query: str) -> Scores:
        """Cosine of the query's vector with every passage's.

        Raises:
            BadInputError: a segment has no vectors of this embedder.
        """
        vector = embedder.embed([query])[0]
        scores = []
        for segment in self._segments:
            if segment.vectors is None or segment.vectors.embedder != embedder.name:
                raise BadInputError(f"the index has no vectors of embedder {embedder.name!r}")
            scores.append(segment.vectors.scores(vector))
        return np.concatenate(scores).astype(np.float64) if scores else np.zeros(0)

    def _hit(self, query: str, index: int, score: float, ranks: Mapping[str, Scores]) -> Hit:
        which = int(np.searchsorted(self._ends, index, side="right"))
        segment = self._segments[which]
        inside = index - int(self._ends[which] - self._sizes[which])
        record = self._fetch(segment.records[segment.owners[inside]].id)
        text = passages_of(record)[segment.ordinals[inside]]
        why = {name: int(rank[index]) for name, rank in ranks.items() if np.isfinite(rank[index])}
        return Hit(record, text, score, why, self._overlap(query, text))

    def _overlap(self, query: str, text: str) -> float:
        rarity = {word: self._rarity(self._held(word)) for word in set(words(query))}
        held = set(words(text))
        whole = sum(rarity.values())
        return sum(r for word, r in rarity.items() if word in held) / whole if whole else 0.0

    def _held(self, word: str) -> int:
        return sum(len(segment.holding(word)[0]) for segment in self._segments)

    def _rarity(self, held: int) -> float:
        return math.log(1 + (len(self) - held + 0.5) / (held + 0.5))

    def _bm25(self, query: str) -> Scores:
        scores = np.zeros(len(self))
        if not len(self):
            return scores
        norm = _K1 * (1 - _B + _B * self._lengths / max(self._lengths.mean(), 1e-9))
        offsets = self._ends - self._sizes
        for word in set(words(query)):
            parts = [segment.holding(word) for segment in self._segments]
            rows = np.concatenate([p + o for (p, _), o in zip(parts, offsets, strict=True)])
            if not len(rows):
                continue
            counts = np.concatenate([c for _, c in parts]).astype(np.float64)
            rarity = self._rarity(len(rows))
            scores[rows] += rarity * counts * (_K1 + 1) / (counts + norm[rows])
        return scores


def reweighted(
    weights: Mapping[str, float], hits: Sequence[Hit], chosen: str, rate: float = 0.5
) -> dict[str, float]:
    """Move weights towards the rankings that had the chosen record above the others.

    Exponentiated gradient (Kivinen and Warmuth 1997) on how much higher, by reciprocal rank, each
    ranking placed the chosen passage than the mean of the rest; the weights' sum stays.

    Raises:
        BadInputError: none of the hits is of that record.
    """
    best = next((hit for hit in hits if hit.record.id == chosen), None)
    if best is None:
        raise BadInputError(f"record {chosen!r} is not among these hits")
    others = [hit for hit in hits if hit.record.id != chosen]
    if not others:
        return dict(weights)

    def worth(hit: Hit, name: str) -> float:
        return 1 / hit.why[name] if name in hit.why else 0.0

    moved = {}
    for name, weight in weights.items():
        rest = sum(worth(hit, name) for hit in others) / len(others)
        moved[name] = weight * math.exp(rate * (worth(best, name) - rest))
    share = sum(weights.values()) / sum(moved.values())
    return {name: weight * share for name, weight in moved.items()}


def _times(segment: Segment) -> Scores:
    times = np.array([facets.time for facets in segment.records], np.float64)
    found: Scores = times[segment.owners]
    return found


def _ranks(scores: Scores, among: Mask) -> Scores:
    """Rank from 1 by falling score; equals share a rank; infinite where not ranked."""
    ranks = np.full(len(scores), np.inf)
    rows = np.flatnonzero(among)
    order = rows[np.argsort(-scores[rows], kind="stable")]
    falling = -scores[order]
    ranks[order] = np.searchsorted(falling, falling) + 1
    return ranks
