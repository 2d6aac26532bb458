"""Robust averages: some devices may send anything, and the result stays near the others'.

They look at single updates, so no secure sum can take them; and what one device moves them by has
no bound that a server's noise could be made for.

- ``trimmed-mean``, ``median``: number by number (Yin et al., arXiv:1803.01498).
- ``krum``, ``multi-krum``: the update, or the mean of the updates, with the nearest neighbours
  (Blanchard et al., arXiv:1703.02757).
- ``norm-bound``: the mean of updates that are cut to a length (Sun et al., arXiv:1911.07963).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np

from ...privacy.noise import Doubles
from ...shared.errors import BadInputError

__all__ = ["ROBUST", "RobustMean", "RobustName"]

RobustName = Literal["trimmed-mean", "median", "krum", "multi-krum", "norm-bound"]
ROBUST: tuple[RobustName, ...] = get_args(RobustName)


@dataclass(frozen=True, kw_only=True)
class RobustMean:
    """A robust average.

    Args:
        kind: see the module.
        liars: share of the devices that may send anything, 0 or more and below one half. So many
            are trimmed at either end, and not counted among an update's neighbours.
        bound: longest update of ``norm-bound``; the median length of a round's when not given.
    """

    kind: RobustName
    liars: float = 0.2
    bound: float | None = None

    def __post_init__(self) -> None:
        problems = []
        if self.kind not in ROBUST:
            names = ", ".join(map(repr, ROBUST))
            problems.append(f"the robust mean must be one of {names}, got {self.kind!r}")
        if not 0 <= self.liars < 0.5:
            problems.append(f"liars must be 0 or more and below 0.5, got {self.liars}")
        if self.bound is not None and not (math.isfinite(self.bound) and self.bound > 0):
            problems.append(f"bound must be above 0, got {self.bound}")
        if problems:
            raise BadInputError("; ".join(problems))

    def __str__(self) -> str:
        told = f"{self.liars:g}" if self.bound is None else f"{self.liars:g}, {self.bound:g}"
        return f"{self.kind}({told})"

    def fewest(self) -> int:
        """Updates below which it promises nothing."""
        if self.kind not in ("krum", "multi-krum"):
            return 1
        return math.ceil(3 / (1 - 2 * self.liars) - 1e-9)

    def of(self, updates: Doubles) -> Doubles:
        """The average ``(n,)`` of updates ``(K, n)``, the same in any order of them.

        Raises:
            BadInputError: fewer updates than it needs.
        """
        if len(updates) < self.fewest():
            raise BadInputError(
                f"{self.kind} with liars {self.liars:g} needs at least {self.fewest()} updates, "
                f"got {len(updates)}"
            )
        rows: list[Doubles] = sorted(updates, key=lambda row: row.tobytes())
        ordered = np.stack(rows)
        result: Doubles = _AVERAGES[self.kind](self, ordered)
        return result

    def _median(self, updates: Doubles) -> Doubles:
        return np.asarray(np.median(updates, axis=0), np.float64)

    def _trimmed(self, updates: Doubles) -> Doubles:
        cut = min(self._faulty(len(updates)), (len(updates) - 1) // 2)
        kept = np.sort(updates, axis=0)[cut : len(updates) - cut]
        return np.asarray(kept.mean(axis=0), np.float64)

    def _bounded(self, updates: Doubles) -> Doubles:
        lengths = np.linalg.norm(updates, axis=1)
        bound = float(np.median(lengths)) if self.bound is None else self.bound
        factors = np.minimum(1.0, bound / np.maximum(lengths, 1e-12))
        return np.asarray((updates * factors[:, None]).mean(axis=0), np.float64)

    def _krum(self, updates: Doubles) -> Doubles:
        count, faulty = len(updates), self._faulty(len(updates))
        squares = np.square(updates).sum(1)
        between = np.maximum(squares[:, None] + squares - 2 * updates @ updates.T, 0)
        np.fill_diagonal(between, np.inf)
        near = np.sort(between, axis=1)[:, : count - faulty - 2]
        best = np.argsort(near.sum(1), kind="stable")
        chosen = best[: 1 if self.kind == "krum" else count - faulty]
        return np.asarray(updates[np.sort(chosen)].mean(axis=0), np.float64)

    def _faulty(self, count: int) -> int:
        """Devices that may send anything, among so many."""
        return math.floor(self.liars * count + 1e-9)


_AVERAGES: dict[RobustName, Callable[[RobustMean, Doubles], Doubles]] = {
    "trimmed-mean": RobustMean._trimmed,
    "median": RobustMean._median,
    "krum": RobustMean._krum,
    "multi-krum": RobustMean._krum,
    "norm-bound": RobustMean._bounded,
}
