"""Correlated noise for many rounds: each round's noise takes back part of the rounds before.

The matrix mechanism of federated learning (DP-FTRL): a public lower-triangular Toeplitz matrix
``C`` with coefficients ``c_0 = 1 >= c_1 >= ... >= 0`` turns independent Gaussians ``z`` into the
noise ``x = C^-1 z``. What counts is the error of the *sum* of all rounds so far, which is what a
model is; the claim needs no sampling, only that one user's rounds lie far enough apart.

Two families, each streamed in memory that does not grow with the rounds:

- *banded* (Choquette-Choo et al., arXiv:2306.08153): ``c_i = 0`` from the band on. Keeps the last
  ``band - 1`` noises; the better one while the band is no wider than the separation.
- *buffered* (BLT; Dvijotham et al., arXiv:2404.16706; McMahan et al., arXiv:2408.08868):
  ``c_i = sum_j w_j d_j^(i-1)``. Keeps one vector a buffer, a handful for thousands of rounds.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..shared.errors import BadInputError, PrivacyError
from .noise import Doubles

__all__ = ["Correlation", "Participation"]


@dataclass(frozen=True, kw_only=True)
class Participation:
    """In which rounds one user can be.

    Args:
        rounds: of the federation.
        separation: rounds between two of a user's, at least; 1 allows every round.
        times: rounds that a user takes part in at most; what the separation allows when not given.
    """

    rounds: int
    separation: int
    times: int | None = None

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be at least 1, got {value}"
            for name, value in vars(self).items()
            if value is not None and value < 1
        ]
        if problems:
            raise BadInputError("; ".join(problems))

    @property
    def most(self) -> int:
        """Rounds that one user can be in."""
        fit = math.ceil(self.rounds / self.separation)
        return fit if self.times is None else min(fit, self.times)

    def require(self, round: int, before: list[int]) -> None:
        """Refuse a round that lies too close to a user's earlier ones.

        Raises:
            PrivacyError: it does, or the user was there often enough.
        """
        near = [other for other in before if abs(round - other) < self.separation]
        if near:
            raise PrivacyError(
                f"round {round} is within {self.separation} rounds of round {near[-1]}, in which "
                "this user took part; the noise was made for users that come back later"
            )
        if len(before) >= self.most:
            raise PrivacyError(
                f"this user took part in {len(before)} rounds, the noise was made for {self.most}"
            )


@dataclass(frozen=True)
class Correlation:
    """A family of correlated noise, fitted to a schedule when it is used.

    Args:
        kind: ``banded`` or ``buffered``.
        size: the band, or the number of buffers.
    """

    kind: Literal["banded", "buffered"]
    size: int

    def __post_init__(self) -> None:
        if self.kind not in ("banded", "buffered"):
            raise BadInputError(f"kind must be 'banded' or 'buffered', got {self.kind!r}")
        if self.size < 1:
            raise BadInputError(f"size must be at least 1, got {self.size}")

    def coefficients(self, who: Participation) -> Doubles:
        """First column of ``C``, ``(rounds,)``.

        Raises:
            BadInputError: a band wider than the separation, whose sensitivity has no closed form.
        """
        return _curve(self, who)[0]

    def sensitivity(self, who: Participation) -> float:
        """Norm by which one user, clipped to 1 in each of its rounds, moves ``C G``."""
        return _sensitivity(self.coefficients(who), who)

    def error(self, who: Participation) -> float:
        """Root mean square error of the sums over all rounds, at noise multiplier and norm 1.

        Independent noise gives ``sqrt(times (rounds + 1) / 2)``.
        """
        return self.sensitivity(who) * _prefix_error(self.coefficients(who))

    def state(self, width: int) -> Doubles:
        """What is remembered before the first round: ``(size, width)``, or one row less."""
        return np.zeros((self.size - (self.kind == "banded"), width))

    def next(self, who: Participation, fresh: Doubles, state: Doubles) -> tuple[Doubles, Doubles]:
        """A round's noise from fresh Gaussians of the scale of the whole, and the new state.

        Args:
            who: the schedule.
            fresh: ``(width,)`` standard Gaussians times whatever the caller wants.
            state: of :meth:`state`, or what the round before returned. Secret.
        """
        column, weights, decays = _curve(self, who)
        if self.kind == "banded":
            noise = fresh - _mixed(column[1 : len(state) + 1], state[: len(column) - 1])
            return noise, np.concatenate([noise[None], state])[: len(state)]
        noise = fresh - _mixed(weights, state)
        return noise, decays[:, None] * state + noise


def _mixed(weights: Doubles, rows: Doubles) -> Doubles:
    mixed: Doubles = np.einsum("i,ij->j", weights, rows)  # without BLAS, see noise.length
    return mixed


@functools.cache
def _curve(how: Correlation, who: Participation) -> tuple[Doubles, Doubles, Doubles]:
    """The column, and the buffers' weights and decays, of the smallest error."""
    if how.kind == "banded":
        return _fit_band(how.size, who), np.zeros(0), np.zeros(0)
    return _fit_buffers(how.size, who)


def _fit_band(band: int, who: Participation) -> Doubles:
    if band > who.separation and who.most > 1:
        raise BadInputError(
            f"a band of {band} is wider than the separation of {who.separation} rounds; lower the "
            "band, or use 'buffered'"
        )
    from scipy.optimize import minimize

    rounds, band = who.rounds, min(band, who.rounds)

    def column(tail: Doubles) -> Doubles:
        return np.concatenate([[1.0], tail, np.zeros(rounds - band)])

    def objective(tail: Doubles) -> tuple[float, Doubles]:
        # log of the mean squared error, without the constant participations, and its slope
        c = column(tail)
        inverse = _inverse(c)
        sums = np.cumsum(inverse)
        weighted = np.arange(rounds, 0, -1) * sums
        error, scale = float(weighted @ sums), float(c @ c)
        chained = np.convolve(sums, inverse)[:rounds]
        slope = [-2 * float(weighted[i:] @ chained[: rounds - i]) for i in range(1, band)]
        return math.log(error * scale), np.array(slope) / error + 2 * tail / scale

    found = minimize(objective, _root(band)[1:], jac=True, method="L-BFGS-B")
    return column(found.x)


def _fit_buffers(buffers: int, who: Participation) -> tuple[Doubles, Doubles, Doubles]:
    from scipy.optimize import minimize

    powers = np.arange(who.rounds - 1)

    def parts(free: Doubles) -> tuple[Doubles, Doubles, Doubles]:
        weights = np.exp(free[:buffers])
        decays = 1 / (1 + np.exp(-free[buffers:]))
        tail = weights @ decays[:, None] ** powers if who.rounds > 1 else np.zeros(0)
        return np.concatenate([[1.0], tail]), weights, decays

    def objective(free: Doubles) -> float:
        column = parts(free)[0]
        if column[1:2].sum() > 1:  # the sensitivity below holds for falling columns only
            return 50.0 + float(column[1])
        return math.log(_prefix_error(column) * _sensitivity(column, who))

    spread = np.linspace(0.5, math.log(10 * who.rounds), buffers)
    begin = np.concatenate([np.full(buffers, -math.log(2.5 * buffers)) - 0.5 * spread, spread])
    found = minimize(objective, begin, method="L-BFGS-B", options={"maxiter": 500})
    return parts(found.x)


def _root(count: int) -> Doubles:
    """Coefficients of ``(1 - x)^(-1/2)``, the square root of the sum matrix."""
    steps = np.arange(1, count)
    return np.concatenate([[1.0], np.cumprod((2 * steps - 1) / (2 * steps))])


def _inverse(column: Doubles) -> Doubles:
    """First column of the inverse of a lower-triangular Toeplitz matrix with ones."""
    from scipy.signal import lfilter

    impulse = np.zeros(len(column))
    impulse[0] = 1.0
    found: Doubles = lfilter([1.0], np.trim_zeros(column, "b"), impulse)
    return found


def _prefix_error(column: Doubles) -> float:
    """Root mean square over the rounds of the noise in the sums so far, ``A C^-1 z``."""
    sums = np.cumsum(_inverse(column))
    return math.sqrt(float(np.arange(len(column), 0, -1) @ sums**2) / len(column))


def _sensitivity(column: Doubles, who: Participation) -> float:
    """For falling non-negative columns the worst user comes first and as often as may be.

    McMahan et al., arXiv:2408.08868, Theorem 2.
    """
    total = np.zeros(who.rounds)
    for start in range(0, who.most * who.separation, who.separation):
        total[start:] += column[: who.rounds - start]
    return float(np.linalg.norm(total))
