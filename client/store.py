"""Where a device keeps its records: a small interface, and one implementation in memory."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from ..shared.contexts import Context
from ..shared.errors import BadInputError

__all__ = ["ContextStore", "MemoryStore"]


class ContextStore(Protocol):
    """Holds a person's records by id. ``client`` tests run one contract on every store."""

    def add(self, record: Context) -> None:
        """Keep a record. Raises ``BadInputError`` when its id is taken."""

    def get(self, record_id: str) -> Context:
        """The record of that id. Raises ``BadInputError`` when there is none."""

    def remove(self, record_id: str) -> None:
        """Forget a record. Raises ``BadInputError`` when there is none."""

    def __iter__(self) -> Iterator[Context]:
        """Every record, oldest first."""

    def __len__(self) -> int:
        """How many records there are."""


class MemoryStore:
    """A :class:`ContextStore` that lives and dies with the process; nothing is written."""

    def __init__(self) -> None:
        self._records: dict[str, Context] = {}

    def add(self, record: Context) -> None:
        """Keep a record."""
        if record.id in self._records:
            raise BadInputError(f"there is a record {record.id!r} already; forget it first")
        self._records[record.id] = record

    def get(self, record_id: str) -> Context:
        """The record of that id."""
        self._require(record_id)
        return self._records[record_id]

    def remove(self, record_id: str) -> None:
        """Forget a record."""
        self._require(record_id)
        del self._records[record_id]

    def __iter__(self) -> Iterator[Context]:
        """Every record, oldest first."""
        return iter(sorted(self._records.values(), key=lambda record: (record.time, record.id)))

    def __len__(self) -> int:
        """How many records there are."""
        return len(self._records)

    def _require(self, record_id: str) -> None:
        if record_id not in self._records:
            raise BadInputError(f"there is no record {record_id!r}")
