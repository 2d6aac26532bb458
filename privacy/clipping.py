"""Clipping norms that follow a quantile of the norms, privately.

Andrew et al., arXiv:1905.03871: every contribution also says whether it was *not* clipped; the
noisy share of these bits is compared with the wanted quantile, and the norm moves geometrically,
down where too many are below it and up where too few are. The bits cost budget: their noise and a
raised noise on the sum together cost what the stated noise multiplier alone would.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..shared.errors import BadInputError, PrivacyError
from .noise import NoiseSource

__all__ = ["AdaptiveClip"]


@dataclass(frozen=True, kw_only=True)
class AdaptiveClip:
    """The rule by which a clipping norm follows a quantile. The norm itself is passed around.

    Args:
        initial: the norm of the first step.
        quantile: share of contributions that should not be clipped.
        rate: how fast the norm's logarithm moves; the paper's is 0.2.
        count_noise: standard deviation of the noise on the number of unclipped contributions;
            the paper's is a twentieth of the expected number of contributions.
    """

    initial: float
    quantile: float = 0.5
    rate: float = 0.2
    count_noise: float

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be above 0, got {getattr(self, name)}"
            for name in ("initial", "rate", "count_noise")
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0)
        ]
        if not 0 < self.quantile < 1:
            problems.append(f"quantile must be between 0 and 1, got {self.quantile}")
        if problems:
            raise BadInputError("; ".join(problems))

    def noise_multiplier(self, stated: float) -> float:
        """What the sum's noise must be so that sum and bits together cost ``stated``.

        The bits less one half have sensitivity 1/2, so their noise multiplier is
        ``2 count_noise`` (Theorem 1).

        Raises:
            PrivacyError: the bits alone would cost more than all that is stated.
        """
        left = stated**-2 - (2 * self.count_noise) ** -2
        if not left > 0:
            raise PrivacyError(
                f"count_noise {self.count_noise} costs more than the whole budget of the noise "
                f"multiplier {stated}; it must be above {stated / 2:g}"
            )
        return math.sqrt(1 / left)

    def after(
        self, clip: float, norms: npt.ArrayLike, expected: float, noise: NoiseSource
    ) -> float:
        """The next step's norm.

        Args:
            clip: this step's norm.
            norms: sensitive: of this step's contributions, before clipping; any number of them.
                What is not finite counts as clipped.
            expected: public expected number of contributions.
            noise: where the noise on the count comes from.
        """
        below = np.asarray(norms, np.float64) <= clip  # False for what is not finite
        centred = float((below - 0.5).sum()) + self.count_noise * float(noise.gaussian(1)[0])
        share = centred / expected + 0.5
        return clip * math.exp(-self.rate * (share - self.quantile))
