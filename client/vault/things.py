"""What bases have learned of single things, each under the key of the record that it came from.

No chain of slices as of an adapter that many records trained: a concept is of one record, and the
record's key takes it along.
"""

from __future__ import annotations

import json

from ..concepts import Concept
from .entries import Entries, Sort

__all__ = ["Things"]

_BASES = "bases of concepts"


class Things:
    """Concepts in a store, by record and base."""

    def __init__(self, entries: Entries) -> None:
        self._entries = entries

    def keep(self, record_id: str, concept: Concept) -> None:
        """Keep a concept, in place of what the same base had learned of the record before."""
        bases = self._bases
        with self._entries.transaction() as batch:
            name = _name(record_id, concept.base_id)
            batch.put(Sort.CONCEPT, name, concept.to_bytes(), owner=record_id)
            if concept.base_id not in bases:
                raw = json.dumps([*bases, concept.base_id]).encode()
                batch.put(Sort.SETTING, _BASES, raw)

    def of(self, record_id: str) -> list[Concept]:
        """What was learned of a record's thing, one a base."""
        names = self._names(record_id)
        found = (self._entries.get(Sort.CONCEPT, name, owner=record_id) for name in names)
        return list(map(Concept.from_bytes, found))

    def remove(self, record_id: str) -> None:
        """Destroy what was learned of a record's thing."""
        with self._entries.transaction() as batch:
            for name in self._names(record_id):
                batch.delete(Sort.CONCEPT, name)

    def _names(self, record_id: str) -> list[str]:
        names = [_name(record_id, base_id) for base_id in self._bases]
        return [name for name in names if self._entries.holds(Sort.CONCEPT, name)]

    @property
    def _bases(self) -> list[str]:
        """Every base that ever learned of a thing."""
        if not self._entries.holds(Sort.SETTING, _BASES):
            return []
        found: list[str] = json.loads(self._entries.get(Sort.SETTING, _BASES))
        return found


def _name(record_id: str, base_id: str) -> str:
    return f"{base_id}/{record_id}"
