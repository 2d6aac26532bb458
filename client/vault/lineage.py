"""What was trained on which records: private adapters as chains of slices, and their forgetting.

A person has one store, and in it one chain for each base that was trained. A base's id is a digest
of its weights: a base that was built anew is another base, with a chain of its own.

A slice holds the records that were new when it was trained, and the adapter after it, which goes on
from the slice before. To forget a record the chain is cut before the first slice that touched it:
what is left never saw the record. The slices behind the cut are then trained again without it, with
the seeds of their new places, and end where a device that never had the record would have ended.

Source of the idea: Bourtoule et al., "Machine Unlearning" (SISA), arXiv:1912.03817, §IV.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from ...shared.adapters import Adapter
from ...shared.contexts import Context
from ...shared.errors import BadInputError
from .entries import Entries, Sort

__all__ = ["Cut", "Lineage", "Lineages", "PrivateTrainer", "Slice"]

_SHARED = "shared adapters"  # digests by base


class PrivateTrainer(Protocol):
    """Trains a private adapter on records; the same arguments give the same bytes."""

    @property
    def base_id(self) -> str:
        """The base that it trains against."""
        ...

    @property
    def how(self) -> Mapping[str, Any]:
        """Everything that decides a training but its records, as JSON can hold it."""
        ...

    def takes(self, record: Context) -> bool:
        """Whether a record can be trained on."""
        ...

    def train(
        self,
        records: Sequence[Context],
        *,
        how: Mapping[str, Any],
        place: int,
        before: Iterable[Context],
        start: Adapter | None,
        shared: Adapter | None,
    ) -> Adapter:
        """Train on from ``start``, on top of ``shared``; the place in the chain gives the seed.

        Args:
            before: records of the earlier slices, oldest slice first; read as they are asked for.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Slice:
    """One link of a chain.

    Args:
        records: ids, in the order in which they were trained on.
        base_id: of the base.
        how: the trainer's settings.
        shared: digest of the shared adapter beneath it.
        adapter: digest of the adapter after this slice; None when it is due to be trained again.
    """

    records: tuple[str, ...]
    base_id: str
    how: Mapping[str, Any]
    shared: str | None
    adapter: str | None


@dataclass(frozen=True, kw_only=True)
class Cut:
    """What forgetting did to a base's private adapter: digests before and after, slices cut off."""

    base_id: str
    before: str | None
    after: str | None
    due: int


class Lineage:
    """One base's chain of slices and its adapters in a store."""

    def __init__(self, entries: Entries, base_id: str) -> None:
        self.base_id = base_id
        self._entries = entries

    @property
    def slices(self) -> list[Slice]:
        """The chain, from its beginning."""
        found = list[Slice]()
        while self._entries.holds(Sort.SLICE, name := self._name(len(found))):
            found.append(_slice(self._entries.get(Sort.SLICE, name)))
        return found

    @property
    def due(self) -> list[int]:
        """Places of slices that are to be trained again."""
        return [place for place, link in enumerate(self.slices) if link.adapter is None]

    @property
    def private_digest(self) -> str | None:
        """Of the private adapter: that of the last slice before any that is due."""
        return _head(self.slices)

    @property
    def shared_digest(self) -> str | None:
        """Of the shared adapter that was kept last."""
        return _shared(self._entries).get(self.base_id)

    @property
    def private(self) -> Adapter | None:
        """The private adapter."""
        digest = self.private_digest
        return None if digest is None else self.adapter(digest)

    @property
    def shared(self) -> Adapter | None:
        """The shared adapter that was kept last."""
        digest = self.shared_digest
        return None if digest is None else self.adapter(digest)

    def adapter(self, digest: str) -> Adapter:
        """A kept adapter. Raises ``BadInputError`` when there is none of that digest."""
        try:
            return Adapter.from_bytes(self._entries.get(Sort.ADAPTER, digest))
        except KeyError:
            raise BadInputError(f"no adapter {digest[:12]} is kept here") from None

    def keep_shared(self, adapter: Adapter) -> None:
        """Keep a shared adapter from the federation; older ones stay while a slice needs them.

        Raises:
            AdapterError: it is of another base.
        """
        adapter.require_base(self.base_id)
        with self._entries.transaction() as batch:
            needed = self._needed()
            self._keep(adapter)
            kept = {**_shared(self._entries), self.base_id: adapter.digest}
            batch.put(Sort.SETTING, _SHARED, json.dumps(kept).encode())
            self._drop(needed)

    def append(
        self,
        records: Sequence[str],
        adapter: Adapter,
        *,
        how: Mapping[str, Any],
        shared: Adapter | None = None,
    ) -> None:
        """Add a slice and the adapter after it, which was trained on top of ``shared``.

        Raises:
            AdapterError: an adapter is of another base.
        """
        with self._entries.transaction():
            if shared is not None:
                self.keep_shared(shared)
            link = Slice(
                records=tuple(records),
                base_id=self.base_id,
                how=how,
                shared=shared.digest if shared else None,
                adapter=None,
            )
            self._write(len(self.slices), link, adapter)

    def finish(self, place: int, adapter: Adapter) -> None:
        """Write the adapter of a slice that was due."""
        self._write(place, self.slices[place], adapter)

    def cut(self, records: Collection[str]) -> Cut | None:
        """Take records out of the chain, and with them every adapter that they touched.

        Returns None where they touched none.
        """
        before = self.slices
        gone = set(records)
        first = next((i for i, s in enumerate(before) if gone & set(s.records)), None)
        if first is None:
            return None
        kept = [
            replace(link, records=tuple(r for r in link.records if r not in gone), adapter=None)
            for link in before[first:]
        ]
        again = [link for link in kept if link.records]
        with self._entries.transaction() as batch:
            needed = self._needed()
            for place in range(first, len(before)):
                batch.delete(Sort.SLICE, self._name(place))
            for place, link in enumerate(again, first):
                batch.put(Sort.SLICE, self._name(place), _packed(link))
            self._drop(needed)
        return Cut(
            base_id=self.base_id, before=_head(before), after=_head(before[:first]), due=len(again)
        )

    def _name(self, place: int) -> str:
        return f"{place}/{self.base_id}"

    def _write(self, place: int, link: Slice, adapter: Adapter) -> None:
        adapter.require_base(self.base_id)
        with self._entries.transaction() as batch:
            self._keep(adapter)
            whole = replace(link, adapter=adapter.digest)
            batch.put(Sort.SLICE, self._name(place), _packed(whole))

    def _keep(self, adapter: Adapter) -> None:
        if not self._entries.holds(Sort.ADAPTER, adapter.digest):
            with self._entries.transaction() as batch:
                batch.put(Sort.ADAPTER, adapter.digest, adapter.to_bytes())

    def _needed(self) -> set[str]:
        """Digests of adapters; they hold the base's id, so no two bases need the same."""
        found = {d for link in self.slices for d in (link.adapter, link.shared) if d}
        return found | ({self.shared_digest} if self.shared_digest else set())

    def _drop(self, needed_before: set[str]) -> None:
        with self._entries.transaction() as batch:
            for digest in sorted(needed_before - self._needed()):
                batch.delete(Sort.ADAPTER, digest)


class Lineages:
    """The chains of all bases in a store."""

    def __init__(self, entries: Entries) -> None:
        self._entries = entries

    def of(self, base_id: str) -> Lineage:
        """A base's; empty until something is trained."""
        return Lineage(self._entries, base_id)

    def __iter__(self) -> Iterator[Lineage]:
        """Those of every base of which there is an adapter or a slice, by base id."""
        trained = {_slice(raw).base_id for raw in self._entries.all(Sort.SLICE)}
        return iter([self.of(base_id) for base_id in sorted(trained | set(_shared(self._entries)))])

    def cut(self, records: Collection[str]) -> list[Cut]:
        """Take records out of every chain; what became of those that they had touched."""
        with self._entries.transaction():
            cuts = [lineage.cut(records) for lineage in self]
        return [cut for cut in cuts if cut is not None]


def _shared(entries: Entries) -> dict[str, str]:
    if not entries.holds(Sort.SETTING, _SHARED):
        return {}
    found: dict[str, str] = json.loads(entries.get(Sort.SETTING, _SHARED))
    return found


def _head(slices: Sequence[Slice]) -> str | None:
    head = None
    for link in slices:
        if link.adapter is None:
            break
        head = link.adapter
    return head


def _packed(link: Slice) -> bytes:
    return json.dumps(asdict(link)).encode()


def _slice(raw: bytes) -> Slice:
    row = json.loads(raw)
    return Slice(**{**row, "records": tuple(row["records"])})
