"""Is the noise there that is claimed: enough of it, on every number, and new every time?

The noise of several releases is compared with Gaussians of the claimed deviations. All tests are
one-sided: more noise than claimed is no leak. ``wrong`` is the probability with which a true claim
is called refuted, of each test.
"""

from __future__ import annotations

import math

import numpy as np

from ...shared.errors import BadInputError
from ..noise import Doubles
from .findings import Finding

__all__ = ["WRONG", "noise_findings"]

WRONG = 1e-7  # a test calls a true claim refuted; hundreds of tests a suite, thousands of suites


def noise_findings(
    noise: Doubles, deviations: Doubles, *, what: str, wrong: float = WRONG
) -> list[Finding]:
    """Test releases that hold nothing but noise.

    Args:
        noise: ``(releases, width)``, each of a release of its own.
        deviations: ``(width,)``, what is claimed of every number.
        what: is noised, for the sentences.
        wrong: see the module.

    Raises:
        BadInputError: fewer than two releases, another width, or a claim of no noise.
    """
    if noise.ndim != 2 or len(noise) < 2 or noise.shape[1] != len(deviations):
        raise BadInputError(
            f"noise must be (releases, width) of two releases at least, got {noise.shape} for "
            f"{len(deviations)} deviations"
        )
    if not (np.isfinite(deviations) & (deviations > 0)).all():
        raise BadInputError("a deviation of no noise was claimed; there is nothing to test")
    units = noise / deviations
    return [_enough(units, what, wrong), _everywhere(units, what, wrong), _new(units, what, wrong)]


def _enough(units: Doubles, what: str, wrong: float) -> Finding:
    from scipy.special import chdtr

    found = math.sqrt(float(np.square(units).mean()))
    chance = float(chdtr(units.size, float(np.square(units).sum())))
    return Finding(
        audit=f"noise of {what}",
        claim="the deviation is what the plan says, or more",
        found=f"{found:.4f} of it in {units.size} numbers (chance {chance:.1e})",
        holds=bool(np.isfinite(units).all()) and chance > wrong,
    )


def _everywhere(units: Doubles, what: str, wrong: float) -> Finding:
    from scipy.special import chdtr

    chances = chdtr(len(units), np.square(units).sum(0))
    least = int(np.argmin(chances))
    chance = min(1.0, float(chances[least]) * units.shape[1])
    found = math.sqrt(float(np.square(units[:, least]).mean()))
    return Finding(
        audit=f"noise of {what}",
        claim="it is on every number",
        found=f"number {least} has {found:.4f} of it (chance {chance:.1e})",
        holds=chance > wrong,
    )


def _new(units: Doubles, what: str, wrong: float) -> Finding:
    """No two releases share noise: cosines of independent Gaussians are about N(0, 1 / width)."""
    from scipy.special import betainc

    lengths = np.linalg.norm(units, axis=1, keepdims=True)
    cosines = np.triu(np.abs((units / np.maximum(lengths, 1e-300)) @ units.T / lengths.T), 1)
    first, second = np.unravel_index(int(np.argmax(cosines)), cosines.shape)
    worst = float(min(1.0, cosines[first, second]))
    pairs = len(units) * (len(units) - 1) / 2
    # P(|cosine| > c) of random directions, exactly.
    chance = min(1.0, pairs * float(betainc((units.shape[1] - 1) / 2, 0.5, 1 - worst**2)))
    return Finding(
        audit=f"noise of {what}",
        claim="every release has noise of its own",
        found=f"releases {first} and {second} have the cosine {worst:.4f} (chance {chance:.1e})",
        holds=chance > wrong,
    )
