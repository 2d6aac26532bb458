"""Bounds from independent runs, or canaries that do not touch: rates of true and false alarms.

Clopper and Pearson's exact intervals for both rates together. What follows from them for (ε, δ)
assumes nothing else (Jagielski, Ullman, Oprea, arXiv:2006.07709). Where the mechanism is known to
be Gaussian, the same two rates say much more (Nasr et al., "Tight Auditing", arXiv:2302.07956).
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import numpy.typing as npt

from ...shared.errors import BadInputError
from .evidence import LowerBound, Scores, require_levels
from .gaussian import epsilon_of_mu

__all__ = ["Family", "chosen_threshold", "rates_bound", "rates_interval", "threshold_bound"]

Family = Literal["any", "gaussian"]
"""What is assumed of the mechanism: nothing, or that its trade-off is a Gaussian's."""


def rates_bound(
    hits: int,
    included: int,
    alarms: int,
    excluded: int,
    *,
    delta: float,
    confidence: float = 0.95,
    family: Family = "any",
) -> LowerBound:
    """From counts at a threshold that was fixed before.

    Args:
        hits: canaries that were there and were said to be, of ``included``.
        included: canaries that were there.
        alarms: canaries that were not there and were said to be, of ``excluded``.
        excluded: canaries that were not there.
        delta, confidence: of the bound; either rate may be wrong with half of what is left.
        family: what is assumed.

    Raises:
        BadInputError: counts that cannot be.
    """
    require_levels(delta, confidence)
    if not (0 <= hits <= included and 0 <= alarms <= excluded and included and excluded):
        raise BadInputError(
            f"counts must be at most the canaries, got {hits} of {included}, {alarms} of {excluded}"
        )
    least, most = rates_interval(hits, included, alarms, excluded, confidence)
    return LowerBound(
        epsilon=float(_epsilons(least, most, delta, family)),
        delta=delta,
        confidence=confidence,
        auditor=f"Clopper-Pearson{', Gaussian trade-off' if family == 'gaussian' else ''}",
        canaries=included + excluded,
    )


def threshold_bound(
    scores: Scores,
    *,
    delta: float,
    rng: np.random.Generator,
    confidence: float = 0.95,
    family: Family = "any",
) -> LowerBound:
    """From scores: one random half chooses the threshold, the other is counted."""
    require_levels(delta, confidence)
    trial, counted = scores.split(rng)
    at = chosen_threshold(trial, delta=delta, confidence=confidence, family=family)
    return rates_bound(
        int((counted.included >= at).sum()),
        len(counted.included),
        int((counted.excluded >= at).sum()),
        len(counted.excluded),
        delta=delta,
        confidence=confidence,
        family=family,
    )


def chosen_threshold(
    scores: Scores, *, delta: float, confidence: float = 0.95, family: Family = "any"
) -> float:
    """The threshold whose bound on these very scores is highest: not a bound on them any more."""
    cuts = np.quantile(np.concatenate([scores.included, scores.excluded]), np.linspace(0, 1, 101))
    there, away = np.sort(scores.included), np.sort(scores.excluded)
    hits = len(there) - np.searchsorted(there, cuts)
    alarms = len(away) - np.searchsorted(away, cuts)
    least, most = rates_interval(hits, len(there), alarms, len(away), confidence)
    best: float = cuts[int(np.argmax(_epsilons(least, most, delta, family)))]
    return best


def rates_interval(
    hits: npt.ArrayLike, included: int, alarms: npt.ArrayLike, excluded: int, confidence: float
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """The least true and the greatest false positive rate, together at that confidence.

    Args:
        hits, included, alarms, excluded: see :func:`rates_bound`; counts may be vectors.
        confidence: of both together (Clopper, Pearson, Biometrika 26, 1934).
    """
    from scipy.special import betaincinv

    wrong = (1 - confidence) / 2
    k, j = np.asarray(hits), np.asarray(alarms)
    with np.errstate(invalid="ignore"):
        least = np.where(k > 0, betaincinv(np.maximum(k, 1), included - k + 1, wrong), 0.0)
        most = np.where(
            j < excluded, betaincinv(j + 1, np.maximum(excluded - j, 1), 1 - wrong), 1.0
        )
    return least, most


def _epsilons(
    least: npt.NDArray[np.float64], most: npt.NDArray[np.float64], delta: float, family: Family
) -> npt.NDArray[np.float64]:
    """What the rates prove; both directions of the definition."""
    if family == "gaussian":
        from scipy.special import ndtri

        with np.errstate(invalid="ignore"):
            mus = np.nan_to_num(ndtri(least) - ndtri(most), nan=0.0, neginf=0.0)
        return np.array([epsilon_of_mu(float(mu), delta) for mu in mus.ravel()]).reshape(mus.shape)
    with np.errstate(divide="ignore", invalid="ignore"):
        ways = [np.log((least - delta) / most), np.log((1 - most - delta) / (1 - least))]
    proved = [np.nan_to_num(way, nan=0.0, neginf=0.0) for way in ways]
    found: npt.NDArray[np.float64] = np.max(proved, axis=0, initial=0.0)
    return found
