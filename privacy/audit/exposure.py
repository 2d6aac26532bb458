"""How much a model gives away of secrets that were drawn at random and planted, in bits.

Carlini et al., "The Secret Sharer", arXiv:1802.08232, §4: the exposure of a canary is the logarithm
of how many guesses the model saves an attacker who tries the likeliest first. A canary that the
model never saw has a uniform rank, and so an exposure of 1.44 bits on average, 1 / ln 2.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ...shared.errors import BadInputError
from ..noise import Doubles
from .findings import Finding

__all__ = ["accuracy_interval", "chance_finding", "exposures", "fitted_exposures", "standings"]

_FALSE_ALARM = 1e-6
_SKEWEST = 0.8  # towards a skew normal's greatest, 0.995, its short tail ends all at once


def exposures(losses: npt.ArrayLike, references: npt.ArrayLike) -> Doubles:
    """By sampling (§4.3): bits by a canary's rank among other secrets of its space.

    Args:
        losses: ``(n,)`` log-perplexity of each canary.
        references: ``(n, m)`` of secrets that could as well have been drawn for it.

    Returns:
        ``(n,)``, from 0 to ``log2(m + 1)``.

    Raises:
        BadInputError: other shapes, or a loss that is not finite.
    """
    own, others = _checked(losses, references)
    ranks = 1 + (others <= own[:, None]).sum(1)
    found: Doubles = np.log2(others.shape[1] + 1) - np.log2(ranks)
    return found


def fitted_exposures(losses: npt.ArrayLike, references: npt.ArrayLike, *, space: int) -> Doubles:
    """By distribution modelling (§4.3): bits beyond what a few references can tell.

    A skew normal distribution is fitted to each canary's references, by their moments. It is an
    estimate: the tail is the model's.

    Args:
        losses, references: see :func:`exposures`.
        space: how many secrets there are; no exposure is above ``log2(space)``.
    """
    from scipy.stats import skewnorm

    own, others = _checked(losses, references)
    middle, spread, shape = _skew_normal(others)
    below = skewnorm.cdf(own, shape, loc=middle, scale=spread)
    return np.asarray(-np.log2(np.clip(below, 1 / space, 1.0)), np.float64)


def standings(losses: npt.ArrayLike, references: npt.ArrayLike) -> Doubles:
    """How many deviations a canary's loss is below the mean of its references, ``(n,)``.

    The score by which an attacker tells canaries that were there from those that were not.
    """
    own, others = _checked(losses, references)
    found: Doubles = (others.mean(1) - own) / np.maximum(others.std(1), 1e-12)
    return found


def chance_finding(
    bits: npt.ArrayLike, *, audit: str, false_alarm: float = _FALSE_ALARM
) -> Finding:
    """Whether canaries that were never there are exposed by no more than chance.

    The exposure of a uniform rank is, at most, exponential with mean ``1 / ln 2``; the sum of n
    independent ones has a gamma distribution.

    Args:
        bits: ``(n,)`` exposures of canaries with references of their own.
        audit: for the finding.
        false_alarm: probability with which what is true is refuted.
    """
    from scipy.special import gammainccinv

    values = np.asarray(bits, np.float64)
    most = float(gammainccinv(len(values), false_alarm)) / (len(values) * math.log(2))
    return Finding(
        audit=audit,
        claim=f"what was never there is exposed by chance alone: at most {most:.2f} bits on "
        "average, 1.44 expected",
        found=f"{values.mean():.2f} bits, {len(values)} canaries",
        holds=bool(values.mean() <= most),
    )


def accuracy_interval(right: int, tried: int, confidence: float = 0.95) -> tuple[float, float]:
    """Clopper and Pearson's interval of a probability, from independent trials.

    Raises:
        BadInputError: counts that cannot be.
    """
    from scipy.special import betaincinv

    if not 0 <= right <= tried or tried < 1:
        raise BadInputError(f"right answers must be 0..tried with tried ≥ 1, got {right}, {tried}")
    wrong = (1 - confidence) / 2
    least = float(betaincinv(right, tried - right + 1, wrong)) if right else 0.0
    most = float(betaincinv(right + 1, tried - right, 1 - wrong)) if right < tried else 1.0
    return least, most


def _checked(losses: npt.ArrayLike, references: npt.ArrayLike) -> tuple[Doubles, Doubles]:
    own, others = np.asarray(losses, np.float64), np.asarray(references, np.float64)
    if own.ndim != 1 or others.ndim != 2 or len(own) != len(others) or others.shape[1] < 2:
        raise BadInputError(
            "losses must be (n,) and references (n, m) with m ≥ 2, got "
            f"{own.shape} and {others.shape}"
        )
    if not (np.isfinite(own).all() and np.isfinite(others).all()):
        raise BadInputError("losses must be finite; the adapter has gone astray")
    return own, others


def _skew_normal(samples: Doubles) -> tuple[Doubles, Doubles, Doubles]:
    """Location, scale and shape of each row's skew normal by its moments (Azzalini 1985)."""
    mean, deviation = samples.mean(1), np.maximum(samples.std(1), 1e-12)
    skew = (((samples - mean[:, None]) / deviation[:, None]) ** 3).mean(1)
    skew = np.clip(skew, -_SKEWEST, _SKEWEST)
    root = np.abs(skew) ** (2 / 3)
    lean = np.sign(skew) * np.sqrt(math.pi / 2 * root / (root + ((4 - math.pi) / 2) ** (2 / 3)))
    spread = deviation / np.sqrt(1 - 2 * lean**2 / math.pi)
    middle = mean - spread * lean * math.sqrt(2 / math.pi)
    return middle, spread, lean / np.sqrt(1 - lean**2)
