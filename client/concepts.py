"""Words of a person's own for a thing of theirs, with what a base has learned of it.

They are made of one record, a subject, and go with it: in a vault they lie under the record's key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from safetensors.numpy import load, save

from ..shared.adapters import Adapter, Array
from ..shared.errors import BadInputError

__all__ = ["Concept"]

_ROWS = "rows"


@dataclass(frozen=True, eq=False)
class Concept:
    """What a base has learned of one thing.

    Args:
        word: that stands for it in prompts, such as ``<my-cat>``.
        kind: of thing, in the base's own words, such as ``cat``.
        base_id: the base that learned it.
        rows: embeddings for which the word stands, ``(n, D)`` float32, ``n`` 1 or more: those that
            were learned, and then the kind's.
        adapter: that belongs to it, where the base itself was adapted too.
    """

    word: str
    kind: str
    base_id: str
    rows: Array
    adapter: Adapter | None = None

    def __post_init__(self) -> None:
        if not (self.word.startswith("<") and self.word.endswith(">") and len(self.word) > 2):
            raise BadInputError(
                f"a word of one's own stands in angle brackets, such as <my-cat>, got {self.word!r}"
            )
        if self.rows.ndim != 2 or not len(self.rows) or not np.isfinite(self.rows).all():
            raise BadInputError(f"rows must be finite and (n, D), got {self.rows.shape}")

    def to_bytes(self) -> bytes:
        """Everything in one piece, as :meth:`from_bytes` reads it."""
        told = {"word": self.word, "kind": self.kind, "base_id": self.base_id}
        parts: Mapping[str, Array] = {
            _ROWS: np.ascontiguousarray(self.rows, np.float32),
            **{
                f"{site}.{name}": np.ascontiguousarray(factor)
                for site, factors in (self.adapter.factors if self.adapter else {}).items()
                for name, factor in zip("AB", factors, strict=True)
            },
        }
        return save(dict(parts), metadata=told)

    @classmethod
    def from_bytes(cls, raw: bytes) -> Concept:
        """Undo :meth:`to_bytes`."""
        length = int.from_bytes(raw[:8], "little")
        told = json.loads(raw[8 : 8 + length])["__metadata__"]
        parts = load(raw)
        rows = parts.pop(_ROWS)
        sites = sorted({name.rsplit(".", 1)[0] for name in parts})
        factors = {site: (parts[f"{site}.A"], parts[f"{site}.B"]) for site in sites}
        adapter = Adapter(told["base_id"], factors) if factors else None
        return cls(told["word"], told["kind"], told["base_id"], rows, adapter)
