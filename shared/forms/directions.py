"""The public directions that come with a base."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file

from ..adapters import Array
from ..errors import BadInputError

__all__ = ["Directions"]


@dataclass(frozen=True)
class Directions:
    """Public directions that come with a base: site to ``(A, B)``.

    ``A`` is ``(in, r)`` and ``B`` ``(r, out)``, float32, ordered by importance so that a
    smaller rank is a prefix.
    """

    factors: Mapping[str, tuple[Array, Array]]

    @property
    def rank(self) -> int:
        """Directions that every site has."""
        return int(min(a.shape[1] for a, _ in self.factors.values()))

    def save(self, path: Path) -> None:
        """Write one safetensors file."""
        save_file(
            {
                f"{site}.{letter}": np.ascontiguousarray(array)
                for site, pair in self.factors.items()
                for letter, array in zip("AB", pair, strict=True)
            },
            path,
        )

    @classmethod
    def load(cls, path: Path) -> Directions:
        """Read what :meth:`save` wrote."""
        tensors = load_file(path)
        sites = dict.fromkeys(name.rsplit(".", 1)[0] for name in tensors)
        return cls({site: (tensors[f"{site}.A"], tensors[f"{site}.B"]) for site in sites})

    def limited(self, rank: int) -> Directions:
        """The first ``rank`` directions of every site.

        Raises:
            BadInputError: the rank is below 1 or above what the package holds.
        """
        if not 1 <= rank <= self.rank:
            raise BadInputError(
                f"rank must be 1..{self.rank} (what the base's directions hold), got {rank}"
            )
        return Directions(
            {
                site: (np.ascontiguousarray(a[:, :rank]), np.ascontiguousarray(b[:rank]))
                for site, (a, b) in self.factors.items()
            }
        )
