"""The encrypted search index: segments over the records, kept in step with them.

The index is derived: new records are taken in at the next search, forgotten ones go in the same
transaction as the records. A segment is written under a fresh key each time, so nothing of an older
one can be read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice

from ...shared.contexts import Context
from ..retrieval.segment import Embedder, Segment, Vectors, passages_of
from .entries import Entries, Sort

__all__ = ["Index"]

_MANIFEST = "index"
_RECORDS = 2048  # that go into one segment
_SMALL, _MOST_SMALL = 1024, 8  # passages; so many small segments are merged

Source = Callable[[int], Iterator[tuple[str, Context]]]


class Index:
    """Segments in a store, and their copies in memory."""

    def __init__(self, entries: Entries) -> None:
        self._entries = entries
        self._loaded: dict[str, Segment] = {}

    def segments(self, records: Source, embedder: Embedder | None = None) -> list[Segment]:
        """Every segment, after taking in what is new.

        Args:
            records: gives the records to be found, with their kinds, after a row.
            embedder: whose vectors the segments must have.
        """
        names, upto = self._manifest()
        found = {name: self._load(name, embedder) for name in names}
        if embedder is not None:
            found = self._embedded(found, records, embedder)
        last = self._entries.last_row
        if upto < last:
            fresh = _built(records(upto), embedder)
            found |= {os.urandom(8).hex(): segment for segment in fresh}
        found = _merged(found)
        if set(found) != set(names) and not self._entries.read_only:
            self._store(names, found, last)
        self._loaded = found
        return list(found.values())

    def remove(self, gone: set[str]) -> None:
        """Take records out of every segment; within the transaction that forgets them."""
        names, upto = self._manifest()
        before = {name: self._load(name) for name in names}
        after = {}
        for name, segment in before.items():
            if segment.ids.isdisjoint(gone):
                after[name] = segment
            elif segment.ids - gone:
                after[os.urandom(8).hex()] = segment.without(gone)
        if set(after) != set(before):
            self._store(list(before), after, upto)
        self._loaded = {}

    def forget(self) -> None:
        """Drop the copies in memory."""
        self._loaded = {}

    def _embedded(
        self, found: dict[str, Segment], records: Source, embedder: Embedder
    ) -> dict[str, Segment]:
        """Segments with this embedder's vectors; those of another are embedded again."""
        stale = {
            name: segment
            for name, segment in found.items()
            if segment.vectors is None or segment.vectors.embedder != embedder.name
        }
        if not stale:
            return found
        texts = {record.id: passages_of(record) for _, record in records(0)}
        for name, segment in stale.items():
            own = [
                texts[segment.records[owner].id][ordinal]
                for owner, ordinal in zip(segment.owners, segment.ordinals, strict=True)
            ]
            vectors = Vectors.of(embedder.name, embedder.embed(own)) if own else None
            del found[name]
            found[os.urandom(8).hex()] = replace(segment, vectors=vectors)
        return found

    def _load(self, name: str, embedder: Embedder | None = None) -> Segment:
        segment = self._loaded.get(name)
        if segment is None:
            vectors = None
            if self._entries.holds(Sort.VECTORS, name):
                vectors = Vectors.from_bytes(self._entries.get(Sort.VECTORS, name))
            segment = Segment.from_bytes(self._entries.get(Sort.INDEX, name), vectors)
            self._loaded[name] = segment
        return segment

    def _store(self, before: list[str], after: dict[str, Segment], upto: int) -> None:
        with self._entries.transaction() as batch:
            for name in set(before) - set(after):
                batch.delete(Sort.INDEX, name)
                if self._entries.holds(Sort.VECTORS, name):
                    batch.delete(Sort.VECTORS, name)
            for name in after.keys() - set(before):
                batch.put(Sort.INDEX, name, after[name].to_bytes())
                vectors = after[name].vectors
                if vectors is not None:
                    batch.put(Sort.VECTORS, name, vectors.to_bytes())
            manifest = {"segments": list(after), "upto": upto}
            batch.put(Sort.SETTING, _MANIFEST, json.dumps(manifest).encode())

    def _manifest(self) -> tuple[list[str], int]:
        if not self._entries.holds(Sort.SETTING, _MANIFEST):
            return [], 0
        kept = json.loads(self._entries.get(Sort.SETTING, _MANIFEST))
        return kept["segments"], kept["upto"]


def _built(records: Iterator[tuple[str, Context]], embedder: Embedder | None) -> Iterator[Segment]:
    while batch := list(islice(records, _RECORDS)):
        yield Segment.build(batch, embedder)


def _merged(found: dict[str, Segment]) -> dict[str, Segment]:
    """Small segments put together when there are many."""
    small = [name for name, segment in found.items() if len(segment) < _SMALL]
    if len(small) <= _MOST_SMALL:
        return found
    kept = {name: segment for name, segment in found.items() if name not in small}
    return kept | {os.urandom(8).hex(): Segment.merged([found[name] for name in small])}
