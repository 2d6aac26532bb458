"""What was trained on which records: the private adapter as a chain of slices, and its forgetting.

A slice holds the records that were new when it was trained, and the adapter after it, which goes on
from the slice before. To forget a record the chain is cut before the first slice that touched it:
what is left never saw the record. The slices behind the cut are then trained again without it, with
the seeds of their new places, and end where a device that never had the record would have ended.

Source of the idea: Bourtoule et al., "Machine Unlearning" (SISA), arXiv:1912.03817, §IV.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Protocol

from ...shared.adapters import Adapter
from ...shared.contexts import Context
from ...shared.errors import BadInputError
from .entries import Entries, Sort

__all__ = ["Cut", "Lineage", "PrivateTrainer", "Slice"]

_SHARED = "shared adapter"


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
        start: Adapter | None,
        shared: Adapter | None,
    ) -> Adapter:
        """Train on from ``start``, on top of ``shared``; the place in the chain gives the seed."""
        ...


@dataclass(frozen=True, kw_only=True)
class Slice:
    """One link of the chain.

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
    """What forgetting did to the private adapter: digests before and after, slices cut off."""

    before: str | None
    after: str | None
    due: int


class Lineage:
    """The chain of slices and the adapters in a store."""

    def __init__(self, entries: Entries) -> None:
        self._entries = entries

    @property
    def slices(self) -> list[Slice]:
        """The chain, from its beginning."""
        count = self._entries.count(Sort.SLICE)
        return [_slice(self._entries.get(Sort.SLICE, str(place))) for place in range(count)]

    @property
    def due(self) -> list[int]:
        """Places of slices that are to be trained again."""
        return [place for place, link in enumerate(self.slices) if link.adapter is None]

    @property
    def private(self) -> Adapter | None:
        """The private adapter: that of the last slice before any that is due."""
        digest = _head(self.slices)
        return None if digest is None else self.adapter(digest)

    @property
    def shared(self) -> Adapter | None:
        """The shared adapter that was kept last."""
        if not self._entries.holds(Sort.SETTING, _SHARED):
            return None
        return self.adapter(self._entries.get(Sort.SETTING, _SHARED).decode())

    def adapter(self, digest: str) -> Adapter:
        """A kept adapter. Raises ``BadInputError`` when there is none of that digest."""
        try:
            return Adapter.from_bytes(self._entries.get(Sort.ADAPTER, digest))
        except KeyError:
            raise BadInputError(f"no adapter {digest[:12]} is kept here") from None

    def keep_shared(self, adapter: Adapter) -> None:
        """Keep a shared adapter from the federation; older ones stay while a slice needs them."""
        with self._entries.transaction() as batch:
            needed = self._needed()
            self._keep(adapter)
            batch.put(Sort.SETTING, _SHARED, adapter.digest.encode())
            self._drop(needed)

    def append(self, link: Slice, adapter: Adapter) -> None:
        """Add a slice and the adapter after it."""
        with self._entries.transaction() as batch:
            self._keep(adapter)
            place = self._entries.count(Sort.SLICE)
            batch.put(Sort.SLICE, str(place), _packed(replace(link, adapter=adapter.digest)))

    def finish(self, place: int, adapter: Adapter) -> None:
        """Write the adapter of a slice that was due."""
        with self._entries.transaction() as batch:
            self._keep(adapter)
            link = replace(self.slices[place], adapter=adapter.digest)
            batch.put(Sort.SLICE, str(place), _packed(link))

    def cut(self, records: Collection[str]) -> Cut:
        """Take records out of the chain, and with them every adapter that they touched."""
        before = self.slices
        gone = set(records)
        first = next((i for i, s in enumerate(before) if gone & set(s.records)), len(before))
        kept = [
            replace(link, records=tuple(r for r in link.records if r not in gone), adapter=None)
            for link in before[first:]
        ]
        after = before[:first] + [link for link in kept if link.records]
        if first < len(before):
            with self._entries.transaction() as batch:
                needed = self._needed()
                for place in range(first, len(before)):
                    batch.delete(Sort.SLICE, str(place))
                for place, link in enumerate(after[first:], first):
                    batch.put(Sort.SLICE, str(place), _packed(link))
                self._drop(needed)
        return Cut(
            before=_head(before), after=_head(after), due=len(after) - min(first, len(after))
        )

    def _keep(self, adapter: Adapter) -> None:
        if not self._entries.holds(Sort.ADAPTER, adapter.digest):
            with self._entries.transaction() as batch:
                batch.put(Sort.ADAPTER, adapter.digest, adapter.to_bytes())

    def _needed(self) -> set[str]:
        found = {d for link in self.slices for d in (link.adapter, link.shared) if d}
        if self._entries.holds(Sort.SETTING, _SHARED):
            found.add(self._entries.get(Sort.SETTING, _SHARED).decode())
        return found

    def _drop(self, needed_before: set[str]) -> None:
        with self._entries.transaction() as batch:
            for digest in sorted(needed_before - self._needed()):
                batch.delete(Sort.ADAPTER, digest)


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
