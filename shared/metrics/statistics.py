"""Whether a difference is more than luck, who is served worst, and what a similarity is worth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..errors import BadInputError

__all__ = [
    "BootstrapInterval",
    "CalibratedScore",
    "MeanAndWorst",
    "mean_and_worst",
    "paired_bootstrap",
]

_BLOCK = 2**20  # drawn indices held in memory at a time


class BootstrapInterval(NamedTuple):
    """A mean difference and the bounds of its confidence interval."""

    mean_difference: float
    low: float
    high: float


class MeanAndWorst(NamedTuple):
    """The mean of a figure over people, and its value for the person served worst."""

    mean: float
    worst: float


@dataclass(frozen=True)
class CalibratedScore:
    """A similarity placed between other people's real work (0) and a person's own (1).

    Args:
        score: (similarity - floor) / (ceiling - floor), not clipped; None where this person
            cannot be told from others.
        similarity: of what was generated to the person's reference.
        floor: mean similarity of other people's real work to the reference.
        ceiling: similarity of the person's own held-out work to the reference.
        reason: why ``score`` is None, else empty.
    """

    score: float | None
    similarity: float
    floor: float
    ceiling: float
    reason: str = ""

    @classmethod
    def between(
        cls, similarity: float, floor: float, ceiling: float, *, least: float, advice: str
    ) -> CalibratedScore:
        """Place a similarity.

        Args:
            similarity: of what was generated.
            floor: of other people's work.
            ceiling: of the person's own.
            least: that ``ceiling`` must be above ``floor`` for a score to mean anything.
            advice: what to do where it is not.
        """
        if ceiling - floor < least:
            reason = (
                f"own held-out work ({ceiling:.2f}) is hardly closer to the reference than "
                f"others' ({floor:.2f}); {advice}"
            )
            return cls(None, similarity, floor, ceiling, reason)
        return cls((similarity - floor) / (ceiling - floor), similarity, floor, ceiling)


def paired_bootstrap(
    a: Sequence[float],
    b: Sequence[float],
    *,
    seed: int,
    resamples: int = 10_000,
    confidence: float = 0.95,
) -> BootstrapInterval:
    """Percentile bootstrap interval of the mean of ``a - b``, where ``a[i]`` pairs with ``b[i]``.

    Source: Efron and Tibshirani, "An Introduction to the Bootstrap", 1993, §13.3.

    Args:
        a: a figure of one system, for each example.
        b: the same of another system, for the same examples.
        seed: of the resampling.
        resamples: how many times the pairs are drawn anew, with replacement.
        confidence: share of resamples inside the interval, between 0 and 1.

    Raises:
        BadInputError: the lengths differ or are 0, a value is not finite, or a number is out
            of range.
    """
    _validate_bootstrap(a, b, resamples, confidence)
    differences = np.asarray(a, dtype=np.float64) - np.asarray(b, dtype=np.float64)  # (N,)
    generator = np.random.default_rng(seed)
    block = max(1, _BLOCK // len(differences))
    means = np.concatenate(
        [
            differences[
                generator.integers(len(differences), size=(min(block, resamples - done), len(a)))
            ].mean(axis=1)
            for done in range(0, resamples, block)
        ]
    )  # (resamples,)
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return BootstrapInterval(float(differences.mean()), float(low), float(high))


def _validate_bootstrap(
    a: Sequence[float], b: Sequence[float], resamples: int, confidence: float
) -> None:
    if len(a) != len(b) or not len(a):
        raise BadInputError(f"a and b must have as many values, got {len(a)} and {len(b)}")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise BadInputError("a and b must be finite; leave out the pairs that are not")
    if resamples < 1:
        raise BadInputError(f"resamples must be at least 1, got {resamples}")
    if not 0 < confidence < 1:
        raise BadInputError(f"confidence must be between 0 and 1, got {confidence}")


def mean_and_worst(values: Sequence[float], *, higher_is_better: bool = True) -> MeanAndWorst:
    """The mean over people and the worst person's value.

    Raises:
        BadInputError: there are no values, or one is not a number.
    """
    if not len(values) or any(math.isnan(value) for value in values):
        raise BadInputError(f"mean_and_worst needs one number or more, got {list(values)}")
    worst = min(values) if higher_is_better else max(values)
    return MeanAndWorst(float(np.mean(values)), float(worst))
