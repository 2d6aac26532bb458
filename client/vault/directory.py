"""Which entries a file must hold: names, versions and one digest over all of them.

An entry's own encryption notices when its bytes change or change places. The digest notices
entries that were added, removed, or put back from an older copy. It is a hash over buckets of
entries, so that a change costs its bucket and not the whole file.
"""

from __future__ import annotations

import hashlib
import struct
from typing import NamedTuple

__all__ = ["Directory", "Entry"]

_BUCKET = 10  # bits of the row id within a bucket


class Entry(NamedTuple):
    """Where an entry lies and which version of it is current."""

    row: int
    sort: int
    version: int


class Directory:
    """Current entries by their hashed name."""

    def __init__(self) -> None:
        self._entries: dict[bytes, Entry] = {}
        self._rows: dict[int, dict[int, bytes]] = {}  # sort to row to name
        self._buckets: dict[int, dict[int, bytes]] = {}  # row's high bits to row to name
        self._digests: dict[int, bytes] = {}

    def __contains__(self, name: bytes) -> bool:
        return name in self._entries

    def get(self, name: bytes) -> Entry | None:
        """The entry of that name."""
        return self._entries.get(name)

    def rows(self, sort: int) -> dict[int, bytes]:
        """Rows of a sort and their names, in the order of their writing."""
        return self._rows.get(sort, {})

    def names(self) -> list[bytes]:
        """Every name."""
        return list(self._entries)

    def put(self, name: bytes, entry: Entry) -> None:
        """Add an entry, or its new version."""
        row = entry.row
        self._entries[name] = entry
        bucket = row >> _BUCKET
        for table, key in ((self._rows, entry.sort), (self._buckets, bucket)):
            if key not in table:
                table[key] = {}
            table[key][row] = name
        if bucket in self._digests:
            del self._digests[bucket]

    def remove(self, name: bytes) -> Entry:
        """Remove an entry. Raises ``KeyError`` when there is none."""
        entry = self._entries.pop(name)
        bucket = entry.row >> _BUCKET
        del self._rows[entry.sort][entry.row]
        del self._buckets[bucket][entry.row]
        if not self._buckets[bucket]:
            del self._buckets[bucket]
        self._digests.pop(bucket, None)
        return entry

    def digest(self) -> str:
        """SHA-256 over all entries, in hex."""
        for bucket, rows in self._buckets.items():
            if bucket not in self._digests:
                self._digests[bucket] = self._of_bucket(rows)
        whole = hashlib.sha256()
        for bucket in sorted(self._buckets):
            whole.update(struct.pack(">Q", bucket) + self._digests[bucket])
        return whole.hexdigest()

    def _of_bucket(self, rows: dict[int, bytes]) -> bytes:
        found = hashlib.sha256()
        for row in sorted(rows):
            found.update(struct.pack(">QBQ", *self._entries[rows[row]]) + rows[row])
        return found.digest()
