"""Clipping norms that follow a quantile of the norms, privately.

Andrew et al., arXiv:1905.03871: every contribution also says whether its norm was below the
clipping norm; their noisy share is compared with the wanted quantile and the norm moves
geometrically, down where too many are below it and up where too few are. Here the logarithm of the
norm is one more entry of the shared vector, and what a contribution says is one more entry of its
update: it is summed, noised and sent like all others, and costs a part of the same budget.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..shared.errors import BadInputError, PrivacyError

__all__ = ["AdaptiveClip"]


@dataclass(frozen=True, kw_only=True)
class AdaptiveClip:
    """The rule by which a clipping norm follows a quantile.

    Args:
        initial: the norm while the shared entry is 0.
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

    def norm(self, entry: float) -> float:
        """The clipping norm that the shared entry stands for; within e^30 of the initial one."""
        return self.initial * math.exp(min(30.0, max(-30.0, entry)))

    def votes(self, norms: npt.ArrayLike, clip: float) -> float:
        """What contributions of these norms add to the sum of the entry's updates, un-noised.

        ``rate (quantile - 1)`` for a norm below ``clip``, ``rate quantile`` for one above it or
        not finite. sensitive: until noise of :attr:`vote_noise` is on the sum.
        """
        below = np.asarray(norms, np.float64) <= clip  # False for what is not finite
        return self.rate * float((self.quantile - below).sum())

    @property
    def vote_noise(self) -> float:
        """Standard deviation of the noise on a sum of votes."""
        return self.rate * self.count_noise

    def noise_multiplier(self, stated: float) -> float:
        """What the gradients' noise must be so that they and the votes together cost ``stated``.

        One contribution moves the count less its quantile by at most ``max(q, 1 - q)`` (Theorem
        1, there for the median).

        Raises:
            PrivacyError: the votes alone would cost more than all that is stated.
        """
        reach = max(self.quantile, 1 - self.quantile)
        left = stated**-2 - (reach / self.count_noise) ** 2
        if not left > 0:
            raise PrivacyError(
                f"count_noise {self.count_noise} costs more than the whole budget of the noise "
                f"multiplier {stated}; it must be above {stated * reach:g}"
            )
        return math.sqrt(1 / left)
