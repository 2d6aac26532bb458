"""Bounds from scores that are Gaussian: white-box audits of Gaussian mechanisms.

The score of a canary that was there is ``N(a + μ s, s²)``, of one that was not ``N(a, s²)``; the
mechanism is then no better than Gaussian differential privacy at ``μ`` (Dong, Roth, Su,
arXiv:1905.02383). What is estimated is ``μ``, and the two groups' means over their common deviation
are exactly a noncentral t, so the bound is exact at every number of canaries. A fifth of what the
confidence leaves is kept back, by choice and not by a theorem: an exact bound is measured below its
confidence as often as above it, and real scores, such as float32 sums, are not quite Gaussian.

Where the null is known, no canary has to stay away: directions that nothing was put into have the
mean 0, and as many of them as the released vector has numbers are free. For canary *devices* the
null has a closed form: the cosine of an independent random direction with anything is
``N(0, 1 / d)`` (Andrew et al., arXiv:2302.03098, Section 3 and Algorithm 2).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ...shared.errors import BadInputError
from ..accounting import epsilon_of_gaussian
from ..noise import Doubles
from .evidence import Estimate, LowerBound, Scores, require_levels

__all__ = [
    "cosine_bound",
    "cosine_estimate",
    "epsilon_of_mu",
    "epsilon_of_two_gaussians",
    "gaussian_bound",
    "gaussian_estimate",
    "mu_of_epsilon",
    "reference_bound",
]

_KEPT_BACK = 0.2  # of the probability of error, for scores that are not quite Gaussian
_LARGEST_MU = 40.0  # ε in the hundreds; beyond, the tails of doubles end


def epsilon_of_mu(mu: float, delta: float) -> float:
    """ε at δ of Gaussian differential privacy at ``mu``; 0 where that is not above 0."""
    return 0.0 if mu <= 0 else epsilon_of_gaussian(noise_multiplier=1 / mu, steps=1, delta=delta)


def mu_of_epsilon(epsilon: float, delta: float) -> float:
    """The inverse of :func:`epsilon_of_mu`, to 1e-9."""
    from scipy.optimize import brentq

    if not (math.isfinite(epsilon) and epsilon > 0):
        raise BadInputError(f"epsilon must be above 0, got {epsilon}")
    return float(
        brentq(lambda mu: epsilon_of_mu(mu, delta) - epsilon, 1e-9, _LARGEST_MU, xtol=1e-10)
    )


def gaussian_bound(scores: Scores, *, delta: float, confidence: float = 0.95) -> LowerBound:
    """From canaries that were there and canaries that were not, of one deviation.

    Raises:
        BadInputError: fewer than three scores, or all of a kind.
    """
    require_levels(delta, confidence)
    gap, spread, freedom = _groups(scores)
    weight = math.sqrt(1 / len(scores.included) + 1 / len(scores.excluded))
    mu = weight * _least_shift(gap / (spread * weight), freedom, confidence)
    return LowerBound(
        epsilon=epsilon_of_mu(mu, delta),
        delta=delta,
        confidence=confidence,
        auditor="Gaussian scores, two groups",
        canaries=len(scores),
    )


def gaussian_estimate(scores: Scores, *, delta: float) -> Estimate:
    """The ε that the scores' own means and deviation would give."""
    require_levels(delta, 0.5)
    gap, spread, _ = _groups(scores)
    return Estimate(
        value=epsilon_of_mu(gap / spread, delta),
        delta=delta,
        auditor="Gaussian scores, two groups",
        canaries=len(scores),
    )


def reference_bound(
    included: npt.ArrayLike,
    reference: npt.ArrayLike,
    *,
    delta: float,
    confidence: float = 0.95,
) -> LowerBound:
    """From canaries that were all there, and directions that nothing was put into.

    Args:
        included: ``(n,)`` scores of the canaries.
        reference: ``(k,)`` scores of directions that were drawn like the canaries and not used,
            or that are orthogonal to all that was put in: their mean is 0.
        delta, confidence: of the bound.
    """
    require_levels(delta, confidence)
    scores = Scores(np.asarray(included, np.float64), np.asarray(reference, np.float64))
    there, away = scores.included, scores.excluded
    freedom = len(scores) - 1
    squares = np.square(there - there.mean()).sum() + np.square(away).sum()
    spread = _require_spread(math.sqrt(float(squares) / max(1, freedom)))
    root = math.sqrt(len(there))
    mu = _least_shift(float(there.mean()) * root / spread, freedom, confidence) / root
    return LowerBound(
        epsilon=epsilon_of_mu(mu, delta),
        delta=delta,
        confidence=confidence,
        auditor="Gaussian scores, known null",
        canaries=len(there),
    )


def cosine_bound(
    cosines: npt.ArrayLike, dim: int, *, delta: float, confidence: float = 0.95
) -> LowerBound:
    """From canary devices: random directions whose null is ``N(0, 1 / dim)`` in closed form.

    Args:
        cosines: ``(n,)`` of every canary's direction with the released change.
        dim: numbers in it, in the hundreds at least for the closed form to hold.
        delta, confidence: of the bound.

    The larger of the known deviation and the canaries' own is taken, which can only lower it.
    """
    from scipy.special import ndtri

    require_levels(delta, confidence)
    found = _cosines(cosines, dim)
    spread = max(1 / math.sqrt(dim), float(found.std(ddof=1)))
    mu = float(found.mean()) / spread - float(ndtri(_kept(confidence))) / math.sqrt(len(found))
    return LowerBound(
        epsilon=epsilon_of_mu(mu, delta),
        delta=delta,
        confidence=confidence,
        auditor="canary devices, closed-form null",
        canaries=len(found),
    )


def cosine_estimate(cosines: npt.ArrayLike, dim: int, *, delta: float) -> Estimate:
    """Andrew et al.'s own figure: ε between ``N(0, 1 / dim)`` and the canaries' Gaussian."""
    require_levels(delta, 0.5)
    found = _cosines(cosines, dim)
    away, there = (0.0, 1 / math.sqrt(dim)), (float(found.mean()), float(found.std(ddof=1)))
    return Estimate(
        value=epsilon_of_two_gaussians(away, there, delta=delta),
        delta=delta,
        auditor="canary devices, two Gaussians",
        canaries=len(found),
    )


def epsilon_of_two_gaussians(
    first: tuple[float, float], second: tuple[float, float], *, delta: float
) -> float:
    """The least ε at which two Gaussians ``(mean, deviation)`` are (ε, δ)-close both ways."""
    from scipy.optimize import brentq

    def excess(epsilon: float) -> float:
        return max(_apart(first, second, epsilon), _apart(second, first, epsilon)) - delta

    if excess(0.0) <= 0:
        return 0.0
    high = 1.0
    while excess(high) > 0 and high < 1e4:
        high *= 2
    return float(brentq(excess, 0.0, high, xtol=1e-9))


def _apart(p: tuple[float, float], q: tuple[float, float], epsilon: float) -> float:
    """``P(loss > ε) - e^ε Q(loss > ε)``: where a quadratic in x is above 0."""
    from scipy.special import log_ndtr

    (a, s), (b, t) = p, q
    square = 1 / t**2 - 1 / s**2
    line = 2 * (a / s**2 - b / t**2)
    rest = (b / t) ** 2 - (a / s) ** 2 + 2 * math.log(t / s) - 2 * epsilon

    def tail(x: float, side: int) -> float:
        """Below ``x`` for the side 1, above it for -1."""
        above = float(log_ndtr(side * (x - a) / s))
        other = epsilon + float(log_ndtr(side * (x - b) / t))
        return math.exp(above) - math.exp(min(700.0, other))

    if abs(square) < 1e-9 / min(s, t) ** 2:
        return tail(-rest / line, -1 if line > 0 else 1) if line else 0.0
    under = line**2 - 4 * square * rest
    if under <= 0:  # the loss is above ε nowhere, or everywhere, which no probability allows
        return 0.0
    low, high = sorted((-line + sign * math.sqrt(under)) / (2 * square) for sign in (-1, 1))
    if square > 0:
        return tail(low, 1) + tail(high, -1)
    return tail(high, 1) - tail(low, 1)


def _cosines(cosines: npt.ArrayLike, dim: int) -> Doubles:
    found = np.asarray(cosines, np.float64)
    if found.ndim != 1 or len(found) < 2 or not (np.abs(found) <= 1).all():
        raise BadInputError(f"cosines must be (n,) with n ≥ 2 in [-1, 1], got {found.shape}")
    if dim < 100:
        raise BadInputError(f"the closed-form null needs at least 100 numbers, got {dim}")
    return found


def _groups(scores: Scores) -> tuple[float, float, int]:
    """Difference of the means, common deviation, degrees of freedom."""
    there, away = scores.included, scores.excluded
    freedom = len(scores) - 2
    if freedom < 1:
        raise BadInputError(f"Gaussian scores need at least three canaries, got {len(scores)}")
    squares = np.square(there - there.mean()).sum() + np.square(away - away.mean()).sum()
    spread = _require_spread(math.sqrt(float(squares) / freedom))
    return float(there.mean() - away.mean()), spread, freedom


def _require_spread(spread: float) -> float:
    if not spread > 0:
        raise BadInputError(
            "the scores of each group are all the same: there is no noise, so no ε is high enough"
        )
    return spread


def _kept(confidence: float) -> float:
    return 1 - (1 - confidence) * (1 - _KEPT_BACK)


def _least_shift(statistic: float, freedom: int, confidence: float) -> float:
    """The noncentrality at which a t statistic is as large as this so rarely as is allowed."""
    from scipy.optimize import brentq
    from scipy.special import ndtri
    from scipy.stats import nct

    if statistic <= 0:
        return 0.0
    # Around the normal approximation; exact by the noncentral t's own distribution.
    confidence = _kept(confidence)
    near = math.sqrt(1 + statistic**2 / (2 * freedom))
    reach = (abs(float(ndtri(confidence))) + 4) * near + 1

    def over(shift: float) -> float:
        return float(nct.cdf(statistic, freedom, shift)) - confidence

    low, high = max(0.0, statistic - reach), statistic
    if low == 0 and over(0.0) <= 0:
        return 0.0
    return float(brentq(over, low, high, xtol=1e-9))
