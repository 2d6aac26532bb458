"""What an audit says: scores go in, bounds with a confidence or estimates without one come out.

A bound and an estimate are two types without a common ancestor, and neither is a number: no table
or sentence can show an estimate in the place of a bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...shared.errors import BadInputError
from ..noise import Doubles

__all__ = ["Estimate", "LowerBound", "Scores", "require_levels"]


@dataclass(frozen=True, kw_only=True)
class LowerBound:
    """An ε that a mechanism exceeds, or the audit was unlucky.

    Args:
        epsilon: at least 0, which says nothing.
        delta: the δ at which it holds.
        confidence: probability, over the audit's randomness, that the true ε is not below.
        auditor: which one, with its assumption.
        canaries: that it was computed from.
    """

    epsilon: float
    delta: float
    confidence: float
    auditor: str
    canaries: int

    def refutes(self, claim: float) -> bool:
        """Whether a claimed ε at the same δ is contradicted."""
        return self.epsilon > claim

    def __str__(self) -> str:
        return (
            f"ε ≥ {self.epsilon:.2f} at δ = {self.delta:g} with {100 * self.confidence:.10g} % "
            f"confidence ({self.auditor}, {self.canaries} canaries)"
        )


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A guess at ε without any confidence: half of such guesses are too high.

    Args:
        value: the most plausible ε.
        delta: the δ at which it is stated.
        auditor: which one.
        canaries: that it was computed from.
    """

    value: float
    delta: float
    auditor: str
    canaries: int

    def __str__(self) -> str:
        return (
            f"ε about {self.value:.2f} at δ = {self.delta:g} (a point estimate and no bound: "
            f"{self.auditor}, {self.canaries} canaries)"
        )


@dataclass(frozen=True, eq=False)
class Scores:
    """How much each canary looks as if it had been there; higher is more.

    Args:
        included: ``(n,)`` of canaries that were there.
        excluded: ``(k,)`` of canaries that were not.

    Raises:
        BadInputError: a side is empty, not a vector, or holds what is not finite.
    """

    included: Doubles
    excluded: Doubles

    def __post_init__(self) -> None:
        problems = []
        for name in ("included", "excluded"):
            values = np.asarray(getattr(self, name), np.float64)
            object.__setattr__(self, name, values)
            if values.ndim != 1 or not len(values):
                problems.append(f"{name} scores must be (n,) with n ≥ 1, got {values.shape}")
            elif not np.isfinite(values).all():
                problems.append(f"{name} scores must be finite")
        if problems:
            raise BadInputError("; ".join(problems))

    @classmethod
    def of(cls, scores: npt.ArrayLike, present: npt.ArrayLike) -> Scores:
        """From the scores ``(m,)`` of all canaries and whether each was there."""
        values, there = np.asarray(scores, np.float64), np.asarray(present, bool)
        if values.shape != there.shape:
            raise BadInputError(
                f"as many scores as canaries are needed, got {values.shape} and {there.shape}"
            )
        return cls(values[there], values[~there])

    def __len__(self) -> int:
        return len(self.included) + len(self.excluded)

    def split(self, rng: np.random.Generator) -> tuple[Scores, Scores]:
        """Two random halves of either side, so that one may choose how the other is read.

        Raises:
            BadInputError: a side has fewer than two.
        """
        if min(len(self.included), len(self.excluded)) < 2:
            raise BadInputError("to be split, either side needs at least two scores")
        mixed = [rng.permutation(side) for side in (self.included, self.excluded)]
        halves = [(side[: len(side) // 2], side[len(side) // 2 :]) for side in mixed]
        (a, b), (c, d) = halves
        return Scores(a, c), Scores(b, d)


def require_levels(delta: float, confidence: float) -> None:
    """Refuse a δ or a confidence that means nothing.

    Raises:
        BadInputError: one is out of range.
    """
    problems = []
    if not (math.isfinite(delta) and 0 <= delta < 1):
        problems.append(f"delta must be in [0, 1), got {delta}")
    if not 0.5 <= confidence < 1:
        problems.append(f"confidence must be in [0.5, 1), got {confidence}")
    if problems:
        raise BadInputError("; ".join(problems))
