"""A shared form: which matrices a device trains, and which of their numbers travel.

What travels is one flat vector ``theta``; its zero is the adapter that changes nothing. Trained
matrices are stored as differences from a public start, so that averages of vectors are averages of
matrices whatever the start is.

- ``core``: ``delta W = A R B`` with a trained ``(r, r)`` core ``R`` per site between a public
  ``A`` ``(in, r)`` and a public ``B`` ``(r, out)``. LoRA-XS (arXiv:2405.17604), Fed-SB
  (arXiv:2502.15436).
- ``ffa``: ``delta W = A B`` with a trained ``B`` ``(r, out)`` per site on a public ``A``.
  FFA-LoRA (arXiv:2403.12313).
- ``lora``: ``delta W = A B``, both trained; ``A`` starts at the public one and ``B`` at zero. In
  turns by round one of the two travels up and both travel down (RoLoRA, arXiv:2409.02346).
- ``share-a``, ``share-b``: the same, but one half stays on the device (FedSA-LoRA,
  arXiv:2410.01463, shares ``A``).

A smaller rank is a prefix of every matrix, so a device may hold fewer directions than others.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from ..adapters import Adapter, Array, compose
from ..errors import AdapterError, BadInputError
from .directions import Directions

__all__ = ["FORMS", "FormName", "Matrix", "SharedForm", "Turns"]

FormName = Literal["core", "ffa", "lora", "share-a", "share-b"]
FORMS: tuple[FormName, ...] = get_args(FormName)
Turns = Literal["never", "step", "round"]
"""Whether ``A`` and ``B`` learn in turns, ``B`` first."""

Places = npt.NDArray[np.int64]
_TRAINED: Mapping[FormName, str] = {
    "core": "R",
    "ffa": "B",
    "lora": "AB",
    "share-a": "AB",
    "share-b": "AB",
}
_SHARED: Mapping[FormName, str] = {**_TRAINED, "share-a": "A", "share-b": "B"}


@dataclass(frozen=True)
class Matrix:
    """A trained matrix: its name in the training core, its site, which one it is, its shape."""

    name: str
    site: str
    letter: str
    shape: tuple[int, int]

    @property
    def size(self) -> int:
        """Numbers in it."""
        return self.shape[0] * self.shape[1]


@dataclass(frozen=True)
class SharedForm:
    """What the federation trains: a form over the directions of a base.

    Args:
        name: see the module.
        base_id: identity of the base.
        directions: public; their rank is the form's.
        turns: of ``lora`` alone.
        carried: rank of a public adapter behind the trained numbers, which travels down and is
            not trained: what an average of factors leaves out. Of ``lora`` alone.

    Raises:
        BadInputError: turns or a carried adapter with another form than ``lora``.
    """

    name: FormName
    base_id: str
    directions: Directions
    turns: Turns = "never"
    carried: int = 0

    def __post_init__(self) -> None:
        if self.name not in FORMS:
            names = ", ".join(map(repr, FORMS))
            raise BadInputError(f"the form must be one of {names}, got {self.name!r}")
        if self.name != "lora" and (self.turns != "never" or self.carried):
            raise BadInputError(
                f"turns and a carried adapter are of the form 'lora', got {self.name!r} with "
                f"turns {self.turns!r} and rank {self.carried} carried"
            )

    # --- what there is ------------------------------------------------------------------------

    @cached_property
    def trained(self) -> tuple[Matrix, ...]:
        """Every trained matrix, in the order in which the training core packs them."""
        return tuple(self._matrices())

    def _matrices(self) -> Iterator[Matrix]:
        for site, (a, b) in self.directions.factors.items():
            shapes = {"R": (a.shape[1], b.shape[0]), "A": a.shape, "B": b.shape}
            for letter in _TRAINED[self.name]:
                alone = len(_TRAINED[self.name]) == 1
                yield Matrix(site if alone else f"{site}.{letter}", site, letter, shapes[letter])

    @property
    def shared(self) -> tuple[Matrix, ...]:
        """The trained matrices that ``theta`` holds, in its order."""
        return tuple(m for m in self.trained if m.letter in _SHARED[self.name])

    @property
    def stays(self) -> tuple[Matrix, ...]:
        """The trained matrices that never leave the device."""
        return tuple(m for m in self.trained if m.letter not in _SHARED[self.name])

    @cached_property
    def main(self) -> int:
        """Numbers of ``theta`` that are trained."""
        return sum(matrix.size for matrix in self.shared)

    @cached_property
    def dim(self) -> int:
        """Length of ``theta``."""
        sizes = (a.shape[0] + b.shape[1] for a, b in self.directions.factors.values())
        return self.main + self.carried * int(sum(sizes))

    @property
    def kept_dim(self) -> int:
        """Trained numbers that stay on the device."""
        return sum(matrix.size for matrix in self.stays)

    @property
    def plain(self) -> bool:
        """Whether ``theta`` is all trained numbers, counted from zero, and nothing else."""
        return self.name in ("core", "ffa")

    @property
    def rank(self) -> int:
        """Directions per site."""
        return self.directions.rank

    def limited(self, rank: int) -> SharedForm:
        """The same form on the first ``rank`` directions: what a smaller device trains."""
        return replace(self, directions=self.directions.limited(rank))

    # --- where it is --------------------------------------------------------------------------

    def leaves(self, round: int) -> Places:
        """Places in ``theta`` whose change travels up in a round (from 1)."""
        if self.turns != "round":
            return np.arange(self.main)
        letter = "BA"[(round - 1) % 2]
        return np.flatnonzero(np.repeat(*_runs(self.shared, lambda m: m.letter == letter)))

    def prefix(self, rank: int) -> Places:
        """Places of ``theta`` that a device with the first ``rank`` directions is sent."""
        kept = []
        for matrix in self.shared:
            rows, columns = matrix.shape
            inside = np.zeros(matrix.shape, bool)
            inside[
                : rows if matrix.letter == "A" else rank,
                : columns if matrix.letter == "B" else rank,
            ] = True
            kept.append(inside.ravel())
        return np.flatnonzero(np.concatenate([*kept, np.ones(self.dim - self.main, bool)]))

    def places(self, matrices: tuple[Matrix, ...]) -> Places:
        """Places of some trained matrices among all trained numbers."""
        names = {matrix.name for matrix in matrices}
        return np.flatnonzero(np.repeat(*_runs(self.trained, lambda m: m.name in names)))

    def start(self) -> Array:
        """The public values ``(trained,)`` from which all trained numbers are counted."""
        parts = [
            self.directions.factors[m.site][0].ravel()
            if m.letter == "A"
            else np.zeros(m.size, np.float32)
            for m in self.trained
        ]
        return np.concatenate(parts)

    # --- what it stands for -------------------------------------------------------------------

    def zero(self) -> Array:
        """``theta`` of the adapter that changes nothing."""
        return np.zeros(self.dim, np.float32)

    def unpack(self, theta: Array) -> dict[str, Array]:
        """Split ``theta`` ``(dim,)`` into its shared matrices by name; differences from the start.

        Raises:
            AdapterError: the length does not fit this form.
        """
        if theta.shape != (self.dim,):
            raise AdapterError(
                f"the shared vector has shape {theta.shape}, this base's {self.name!r} form "
                f"needs ({self.dim},); it comes from another base or rank"
            )
        return _cut(self.shared, theta)

    def carry(self, theta: Array) -> Adapter | None:
        """The public adapter behind the trained numbers; None where the form carries none."""
        if not self.carried:
            return None
        factors, offset = {}, self.main
        for site, (a, b) in self.directions.factors.items():
            pair = []
            for shape in ((a.shape[0], self.carried), (self.carried, b.shape[1])):
                size = shape[0] * shape[1]
                pair.append(theta[offset : offset + size].reshape(shape))
                offset += size
            factors[site] = (pair[0], pair[1])
        return Adapter(self.base_id, factors)

    def to_adapter(self, theta: Array, kept: Array | None = None) -> Adapter:
        """An ordinary LoRA adapter: a core is folded into ``B``, a carried adapter is added.

        Args:
            theta: ``(dim,)``.
            kept: what stays on the device, ``(kept_dim,)``; its start when not given.
        """
        parts: dict[str, Any] = self.unpack(theta)
        parts |= _cut(self.stays, np.zeros(self.kept_dim, np.float32) if kept is None else kept)
        factors = {}
        for site, (a, b) in self.directions.factors.items():
            if self.name == "core":
                a, b = a, parts[site] @ b
            elif self.name == "ffa":
                b = parts[site]
            else:
                a, b = a + parts[f"{site}.A"], parts[f"{site}.B"]
            factors[site] = (a.astype(np.float32), b.astype(np.float32))
        own = Adapter(self.base_id, factors)
        carried = self.carry(theta)
        return own if carried is None else compose(own, carried)


def _cut(matrices: tuple[Matrix, ...], vector: Array) -> dict[str, Array]:
    parts: dict[str, Array] = {}
    offset = 0
    for matrix in matrices:
        parts[matrix.name] = vector[offset : offset + matrix.size].reshape(matrix.shape)
        offset += matrix.size
    return parts


def _runs(matrices: tuple[Matrix, ...], chosen: Any) -> tuple[list[bool], list[int]]:
    return [bool(chosen(m)) for m in matrices], [m.size for m in matrices]
