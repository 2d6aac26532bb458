"""The privacy ledger's lines as entries of a vault."""

from __future__ import annotations

from collections.abc import Callable

from .entries import Entries, Sort

__all__ = ["VaultJournal"]


class VaultJournal:
    """A ledger's lines as entries of a vault: a :class:`~locavore.privacy.ledger.Journal`."""

    def __init__(self, entries: Entries) -> None:
        self._entries = entries

    def __str__(self) -> str:
        return f"the ledger of vault {self._entries.store_id[:8]}"

    def lines(self) -> list[bytes]:
        """Every line, in order."""
        return list(self._entries.all(Sort.CHARGE))

    def append(self, make: Callable[[list[bytes]], list[bytes]]) -> None:
        """Add the lines that ``make`` gives for those that are there, in one transaction."""
        with self._entries.transaction() as batch:
            before = self.lines()
            for number, line in enumerate(make(before), len(before)):
                batch.put(Sort.CHARGE, str(number), line)
