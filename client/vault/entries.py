"""What a vault is kept in: named entries of a few sorts, changed in transactions.

Two implementations run one contract: :class:`~.file.SealedFile` (encrypted, on disk) and
:class:`~.memory.MemoryFile` (lives and dies with the process).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from enum import IntEnum
from typing import Protocol

__all__ = ["Batch", "Entries", "Sort"]


class Sort(IntEnum):
    """What an entry is. Part of what it is authenticated with; numbers never change."""

    RECORD = 1
    MEDIA = 2
    INDEX = 3
    ADAPTER = 4
    SLICE = 5
    USE = 6
    CHARGE = 7
    SETTING = 8
    CERTIFICATE = 9
    VECTORS = 10
    CONCEPT = 11


class Batch(Protocol):
    """Changes that happen together or not at all."""

    def put(self, sort: Sort, name: str, payload: bytes, *, owner: str | None = None) -> None:
        """Write an entry, or write it anew.

        Args:
            owner: the record whose key encrypts it as well, so that it goes when that key goes.
        """

    def put_all(self, sort: Sort, items: Iterable[tuple[str, bytes]]) -> None:
        """Write entries that were not there before."""

    def delete(self, sort: Sort, name: str) -> None:
        """Destroy an entry and its key. Raises ``KeyError`` when there is none."""

    def clear(self) -> None:
        """Destroy every entry."""


class Entries(Protocol):
    """A store of entries."""

    @property
    def store_id(self) -> str:
        """Names this store; random, in hex."""

    @property
    def identity(self) -> bytes:
        """Raw Ed25519 private key of this store, for its certificates."""

    @property
    def read_only(self) -> bool:
        """Whether changes are refused."""

    def transaction(self) -> AbstractContextManager[Batch]:
        """Changes within the block are one; a block within a block joins it."""

    def holds(self, sort: Sort, name: str) -> bool:
        """Whether there is such an entry."""

    def get(self, sort: Sort, name: str, *, owner: str | None = None) -> bytes:
        """An entry's payload. Raises ``KeyError`` when there is none."""

    def all(self, sort: Sort, after: int = 0) -> Iterator[bytes]:
        """Payloads of a sort's entries without an owner that lie after a row, in their order."""

    @property
    def last_row(self) -> int:
        """The last row that was given out; rows grow and are never given out again."""

    def count(self, sort: Sort) -> int:
        """How many entries of a sort there are."""

    @property
    def revision(self) -> int:
        """Grows with every change, also by other processes."""

    def close(self) -> None:
        """Let go of files and keys."""
