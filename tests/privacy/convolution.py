"""ε by convolving a privacy loss on a grid: written for the tests alone, to check accountants.

The two data sets of the worst case differ in one record that moves the sum by the clipping norm 1:
present or absent (``add-or-remove-one``), or present on one side or on the other (``replace-one``).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.optimize import brentq
from scipy.special import logsumexp
from scipy.stats import norm

__all__ = ["epsilon_by_convolution"]

_BINS = 2**20
Doubles = npt.NDArray[np.float64]
Mixture = tuple[tuple[float, float], ...]
"""Weights and centres of unit-free Gaussians of one width."""


def epsilon_by_convolution(
    sigma: float, rate: float, steps: int, delta: float, relation: str
) -> float:
    """ε of ``steps`` Poisson-sampled Gaussians, without rounding in anybody's favour."""
    absent: Mixture = ((1.0, 0.0),)
    right: Mixture = ((1 - rate, 0.0), (rate, 1.0))
    left: Mixture = ((1 - rate, 0.0), (rate, -1.0))
    pairs = [(right, left)] if relation == "replace-one" else [(right, absent), (absent, right)]
    return max(_epsilon(p, q, sigma, steps, delta) for p, q in pairs)


def _epsilon(p: Mixture, q: Mixture, sigma: float, steps: int, delta: float) -> float:
    edges = np.linspace(-1 - 12 * sigma, 1 + 12 * sigma, 2_000_001)
    middles = (edges[1:] + edges[:-1]) / 2
    mass = np.diff(sum(w * norm.cdf(edges, c, sigma) for w, c in p if w))
    loss = _log_density(p, middles, sigma) - _log_density(q, middles, sigma)
    mean = float(mass @ loss)
    spread = float(np.sqrt(mass @ (loss - mean) ** 2))
    reach = abs(steps * mean) + 15 * np.sqrt(steps) * spread + float(np.abs(loss).max())
    width = 2 * reach / _BINS
    places = np.rint(loss / width).astype(np.int64) % _BINS
    one = np.bincount(places, mass, minlength=_BINS)
    total = np.maximum(np.fft.irfft(np.fft.rfft(one) ** steps, _BINS), 0)
    losses = np.fft.fftfreq(_BINS, 1 / _BINS) * width

    def excess(epsilon: float) -> float:
        above = losses > epsilon
        return float(total[above] @ -np.expm1(epsilon - losses[above])) - delta

    return 0.0 if excess(0.0) <= 0 else float(brentq(excess, 0.0, reach))


def _log_density(mixture: Mixture, x: Doubles, sigma: float) -> Doubles:
    parts = [np.log(w) - (x - c) ** 2 / (2 * sigma**2) for w, c in mixture if w]
    found: Doubles = logsumexp(np.stack(parts), axis=0)
    return found
