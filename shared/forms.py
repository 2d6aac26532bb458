"""The shared adapter's forms: small linear parametrizations in public directions.

What a device trains for the federation is one flat vector ``theta``. A form says which adapter
``theta`` stands for. Both forms are linear in ``theta``, so the mean of vectors is the mean of
adapters, Gaussian noise stays Gaussian, and secure aggregation is a sum.

- ``core``: ``delta W = A R B`` with a trained ``(r, r)`` core ``R`` per site between a public
  ``A`` ``(in, r)`` and a public ``B`` ``(r, out)``. LoRA-XS (arXiv:2405.17604), Fed-SB
  (arXiv:2502.15436).
- ``ffa``: ``delta W = A B`` with a trained ``B`` ``(r, out)`` per site on a public ``A``.
  FFA-LoRA (arXiv:2403.12313).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from safetensors.numpy import load_file, save_file

from .adapters import Adapter, Array
from .errors import AdapterError, BadInputError

__all__ = ["Directions", "FormName", "SharedForm"]

FormName = Literal["core", "ffa"]


@dataclass(frozen=True)
class Directions:
    """Public directions that come with a base: site to ``(A, B)``.

    ``A`` is ``(in, r)`` and ``B`` ``(r, out)``, float32, ordered by importance so that a
    smaller rank is a prefix.
    """

    factors: Mapping[str, tuple[Array, Array]]

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
        held = min(a.shape[1] for a, _ in self.factors.values())
        if not 1 <= rank <= held:
            raise BadInputError(
                f"rank must be 1..{held} (what the base's directions hold), got {rank}"
            )
        return Directions(
            {
                site: (np.ascontiguousarray(a[:, :rank]), np.ascontiguousarray(b[:rank]))
                for site, (a, b) in self.factors.items()
            }
        )


@dataclass(frozen=True)
class SharedForm:
    """What the federation trains: a form over the directions of a base."""

    name: FormName
    base_id: str
    directions: Directions

    def shapes(self) -> dict[str, tuple[int, int]]:
        """Site to the shape of its trained matrix, in the order in which ``theta`` is packed."""
        if self.name == "core":
            return {s: (a.shape[1], b.shape[0]) for s, (a, b) in self.directions.factors.items()}
        return {s: b.shape for s, (_, b) in self.directions.factors.items()}

    @property
    def dim(self) -> int:
        """Number of trained parameters: the length of ``theta``."""
        return sum(rows * cols for rows, cols in self.shapes().values())

    def zero(self) -> Array:
        """``theta`` of the adapter that changes nothing."""
        return np.zeros(self.dim, np.float32)

    def unpack(self, theta: Array) -> dict[str, Array]:
        """Split ``theta`` ``(dim,)`` into its matrices by site.

        Raises:
            AdapterError: the length does not fit this form.
        """
        if theta.shape != (self.dim,):
            raise AdapterError(
                f"the shared vector has shape {theta.shape}, this base's {self.name!r} form "
                f"needs ({self.dim},); it comes from another base or rank"
            )
        parts: dict[str, Array] = {}
        offset = 0
        for site, (rows, cols) in self.shapes().items():
            parts[site] = theta[offset : offset + rows * cols].reshape(rows, cols)
            offset += rows * cols
        return parts

    def to_adapter(self, theta: Array) -> Adapter:
        """Fold ``theta`` into an ordinary LoRA adapter: the core goes into ``B``."""
        factors = {}
        for site, matrix in self.unpack(theta).items():
            a, b = self.directions.factors[site]
            factors[site] = (a, (matrix @ b if self.name == "core" else matrix).astype(np.float32))
        return Adapter(self.base_id, factors)
