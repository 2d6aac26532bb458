"""Bounds from one run: canaries that were each there by a coin of their own, and guesses at it.

The auditor says of some canaries that they were there, of as many that they were not, and nothing
of the rest. The number of right guesses is dominated by what a mechanism's claim allows.

- :func:`one_run_bound`: Steinke, Nasr, Jagielski, "Privacy Auditing with One (1) Training Run",
  arXiv:2305.08846, Theorem 5.2: a binomial and a correction for δ. Assumes nothing.
- :func:`one_run_gaussian_bound`: Mahloujifar, Melis, Chaudhuri, "Auditing f-Differential Privacy in
  One Run", arXiv:2410.22235, Theorem 9 and Algorithm 1: against the whole trade-off curve of a
  Gaussian, for mechanisms that claim one.

How many to guess must be fixed before the scores are seen. :func:`guesses_for` takes the number
that would do best if the claim were exactly true.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from ...shared.errors import BadInputError
from .evidence import LowerBound, Scores, require_levels
from .gaussian import epsilon_of_mu, mu_of_epsilon

__all__ = [
    "guesses_for",
    "guesses_for_gaussian",
    "one_run_bound",
    "one_run_epsilon",
    "one_run_gaussian_bound",
    "one_run_gaussian_epsilon",
    "one_run_reach",
    "right_guesses",
]

_NORMAL = NormalDist()
_SHARES = np.geomspace(0.005, 1.0, 16)  # of the canaries, that may be guessed at
_Epsilon = Callable[[int, int, int, float, float], float]


def one_run_bound(
    scores: Scores, *, guesses: int, delta: float, confidence: float = 0.95
) -> LowerBound:
    """From scores, without any assumption on the mechanism.

    Args:
        scores: of canaries that were each there with probability a half, independently.
        guesses: how many, half of them "there"; fixed before, see :func:`guesses_for`.
        delta, confidence: of the bound.
    """
    return _bound(one_run_epsilon, "one run, guesses", scores, guesses, delta, confidence)


def one_run_gaussian_bound(
    scores: Scores, *, guesses: int, delta: float, confidence: float = 0.95
) -> LowerBound:
    """From scores, of a mechanism whose trade-off is a Gaussian's; see :func:`one_run_bound`."""
    what = "one run, Gaussian trade-off"
    return _bound(one_run_gaussian_epsilon, what, scores, guesses, delta, confidence)


def guesses_for(claim: float, canaries: int, *, delta: float, confidence: float = 0.95) -> int:
    """How many guesses do best with :func:`one_run_bound`, if Gaussian scores claim ``claim``."""
    return _most_telling(one_run_epsilon, claim, canaries, delta, confidence)


def guesses_for_gaussian(
    claim: float, canaries: int, *, delta: float, confidence: float = 0.95
) -> int:
    """How many guesses do best with :func:`one_run_gaussian_bound`, if ``claim`` is true."""
    return _most_telling(one_run_gaussian_epsilon, claim, canaries, delta, confidence)


def one_run_reach(
    claim: float, canaries: int, *, guesses: int, delta: float, confidence: float = 0.95
) -> str:
    """In a sentence: what :func:`one_run_bound` could have shown of a claim at most."""
    most = one_run_epsilon(canaries, guesses, guesses, delta, confidence)
    said = (
        f"Had all {guesses} guesses at {canaries} coins been right, ε would have been shown to be "
        f"at least {most:.2f}; the claim that was tested is {claim:.2f}"
    )
    return f"{said}." if most > claim else f"{said}, so this audit could not have refuted it."


def right_guesses(scores: Scores, guesses: int) -> int:
    """Right ones of ``guesses``: the upper half of them "there", the lower "not there".

    Ties count against the auditor.

    Raises:
        BadInputError: more guesses than canaries, or fewer than one.
    """
    if not 1 <= guesses <= len(scores):
        raise BadInputError(f"guesses must be 1..{len(scores)}, got {guesses}")
    values = np.concatenate([scores.included, scores.excluded])
    there = np.arange(len(values)) < len(scores.included)
    upper = guesses - guesses // 2
    downwards = np.lexsort((there, -values))[:upper]  # of equal scores, first those not there
    upwards = np.lexsort((~there, values))[: guesses // 2]  # first those that were
    return int(there[downwards].sum() + (~there[upwards]).sum())


@functools.lru_cache(maxsize=4096)
def one_run_epsilon(
    canaries: int, guesses: int, right: int, delta: float, confidence: float
) -> float:
    """The largest ε that ``right`` of ``guesses`` refute (Theorem 5.2).

    With ``W ~ Binomial(guesses, e^ε / (1 + e^ε))`` the p-value is at most ``P(W ≥ right) + 2 m δ
    max_i P(right > W ≥ right - i) / i``.
    """
    _require_counts(canaries, guesses, right)
    return _root(lambda e: _p_value(canaries, guesses, right, e, delta) - (1 - confidence))


@functools.lru_cache(maxsize=4096)
def one_run_gaussian_epsilon(
    canaries: int, guesses: int, right: int, delta: float, confidence: float
) -> float:
    """The ε at δ of the least Gaussian trade-off that ``right`` of ``guesses`` do not refute."""
    _require_counts(canaries, guesses, right)

    def margin(mu: float) -> float:
        return guesses / canaries - _reach(canaries, guesses, right, mu, 1 - confidence)

    return epsilon_of_mu(_root(margin), delta)


def _p_value(canaries: int, guesses: int, right: int, epsilon: float, delta: float) -> float:
    from scipy.special import bdtrc

    rate = 1 / (1 + math.exp(-epsilon))
    tail = float(bdtrc(right - 1, guesses, rate)) if right else 1.0
    if not delta or not right:
        return tail
    below = np.arange(1, right + 1)
    tails = np.where(below < right, bdtrc(np.maximum(right - below - 1, 0), guesses, rate), 1.0)
    return min(1.0, tail + 2 * canaries * delta * float(((tails - tail) / below).max()))


def _reach(canaries: int, guesses: int, right: int, mu: float, wrong: float) -> float:
    """Algorithm 1: the mass of guesses that so many right ones would need at least."""
    good, bad = wrong * right / canaries, wrong * (guesses - right) / canaries
    for i in range(right - 1, -1, -1):
        if good >= 1:
            return math.inf
        more = max(bad, _NORMAL.cdf(_NORMAL.inv_cdf(good) - mu)) if good > 0 else bad
        if more == bad:
            break  # nothing changes any more
        good += i / (guesses - i) * (more - bad)
        bad = more
    return good + bad


def _root(refuted_below: Callable[[float], float]) -> float:
    """Where a rising function becomes positive, 0 where it is from the start."""
    from scipy.optimize import brentq

    if refuted_below(0.0) >= 0:
        return 0.0
    high = 1.0
    while refuted_below(high) < 0:
        high *= 2
        if high > 64:
            return 64.0
    return float(brentq(refuted_below, high / 2 if high > 1 else 0.0, high, xtol=1e-7))


def _bound(
    epsilon: _Epsilon, what: str, scores: Scores, guesses: int, delta: float, confidence: float
) -> LowerBound:
    require_levels(delta, confidence)
    right = right_guesses(scores, guesses)
    return LowerBound(
        epsilon=epsilon(len(scores), guesses, right, delta, confidence),
        delta=delta,
        confidence=confidence,
        auditor=what,
        canaries=len(scores),
    )


@functools.lru_cache(maxsize=256)
def _most_telling(
    epsilon: _Epsilon, claim: float, canaries: int, delta: float, confidence: float
) -> int:
    require_levels(delta, confidence)
    if canaries < 2:
        raise BadInputError(f"at least two canaries are needed, got {canaries}")
    counts = sorted({max(2, round(canaries * float(share))) for share in _SHARES})
    rights = _expected(np.array(counts) / canaries, mu_of_epsilon(claim, delta)) * counts
    found = [
        epsilon(canaries, count, math.floor(right), delta, confidence)
        for count, right in zip(counts, rights, strict=True)
    ]
    best: int = counts[int(np.argmax(found))]
    return best


def _expected(shares: npt.NDArray[np.float64], mu: float) -> npt.NDArray[np.float64]:
    """Expected accuracy of guessing at these shares of the canaries, scores ``N(0 or μ, 1)``."""
    from scipy.special import ndtr

    grid = np.linspace(-8, 8 + mu, 20_001)
    away, there = ndtr(-grid), ndtr(mu - grid)  # shares above each cut
    above = (away + there) / 2
    cut = np.interp(-shares / 2, -above, grid)
    expected: npt.NDArray[np.float64] = ndtr(mu - cut) / (ndtr(mu - cut) + ndtr(-cut))
    return expected


def _require_counts(canaries: int, guesses: int, right: int) -> None:
    if not 0 <= right <= guesses <= canaries or not guesses:
        raise BadInputError(
            f"right guesses, guesses and canaries must not fall, got {right}, {guesses}, {canaries}"
        )
