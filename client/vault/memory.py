"""Entries that live and die with the process: for simulated people, and for trying things out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ...shared.errors import BadInputError
from .entries import Sort

__all__ = ["MemoryFile"]


class MemoryFile:
    """:class:`~.entries.Entries` in a dictionary; nothing is written and nothing encrypted."""

    read_only = False

    def __init__(self) -> None:
        self.store_id = os.urandom(16).hex()
        self.identity = Ed25519PrivateKey.generate().private_bytes_raw()
        self.revision = 0
        self.last_row = 0
        self._entries: dict[Sort, dict[str, tuple[int, bytes]]] = {sort: {} for sort in Sort}
        self._undo: list[Callable[[], object]] | None = None

    @contextmanager
    def transaction(self) -> Iterator[MemoryFile]:
        """Changes within the block are one."""
        if self._undo is not None:
            yield self
            return
        self._undo = []
        try:
            yield self
        except BaseException:
            for step in reversed(self._undo):
                step()
            raise
        finally:
            self._undo = None
        self.revision += 1

    def put(self, sort: Sort, name: str, payload: bytes, *, owner: str | None = None) -> None:
        """Write an entry."""
        before = self._entries[sort].get(name)
        self._changing(sort, name, before)
        if before is None:
            self.last_row += 1
        self._entries[sort][name] = (self.last_row if before is None else before[0], payload)

    def put_all(self, sort: Sort, items: Iterable[tuple[str, bytes]]) -> None:
        """Write new entries."""
        for name, payload in items:
            if name in self._entries[sort]:
                raise BadInputError(f"there is an entry {name!r} already")
            self.put(sort, name, payload)

    def delete(self, sort: Sort, name: str) -> None:
        """Drop an entry."""
        before = self._entries[sort].pop(name)
        self._changing(sort, name, before)

    def clear(self) -> None:
        """Drop every entry."""
        for sort, entries in self._entries.items():
            for name in list(entries):
                self.delete(sort, name)

    def holds(self, sort: Sort, name: str) -> bool:
        """Whether there is such an entry."""
        return name in self._entries[sort]

    def get(self, sort: Sort, name: str, *, owner: str | None = None) -> bytes:
        """An entry's payload."""
        return self._entries[sort][name][1]

    def all(self, sort: Sort, after: int = 0) -> Iterator[bytes]:
        """Payloads of a sort."""
        yield from [payload for row, payload in self._entries[sort].values() if row > after]

    def count(self, sort: Sort) -> int:
        """How many entries of a sort there are."""
        return len(self._entries[sort])

    def close(self) -> None:
        """Nothing to let go of."""

    def _changing(self, sort: Sort, name: str, before: tuple[int, bytes] | None) -> None:
        if self._undo is None:
            raise RuntimeError("entries change within a transaction only")
        entries = self._entries[sort]
        if before is None:
            self._undo.append(lambda: entries.pop(name, None))
        else:
            self._undo.append(lambda: entries.__setitem__(name, before))
