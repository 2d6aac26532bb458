"""What a plan's words promise, by the papers' formulas.

Not by the plan's own code, which is what is audited: Abadi et al., arXiv:1607.00133, Algorithm 1;
McMahan et al., arXiv:1710.06963; where the norm adapts Andrew et al., arXiv:1905.03871, Theorem 1.
"""

from __future__ import annotations

import math

import numpy as np

from ..clipping import AdaptiveClip
from ..noise import Doubles
from ..plan import PrivacyPlan

__all__ = ["promised_deviations", "promised_norm", "silent_vote"]


def promised_norm(clip: float | AdaptiveClip, entry: float) -> float:
    """The clipping norm while the shared entry is ``entry``."""
    return clip.initial * math.exp(entry) if isinstance(clip, AdaptiveClip) else clip


def promised_deviations(plan: PrivacyPlan, width: int, entry: float) -> Doubles:
    """The least deviation of the noise on every number ``(width,)`` of a sum."""
    clip = plan.clip
    if not isinstance(clip, AdaptiveClip):
        return np.full(width, plan.noise_multiplier * clip)
    reach = max(clip.quantile, 1 - clip.quantile) / clip.count_noise
    multiplier = (plan.noise_multiplier**-2 - reach**2) ** -0.5
    found = np.full(width, multiplier * promised_norm(clip, entry))
    found[-1] = clip.rate * clip.count_noise
    return found


def silent_vote(clip: float | AdaptiveClip) -> float:
    """The vote of a contribution of no length; 0 where nobody votes."""
    return clip.rate * (clip.quantile - 1) if isinstance(clip, AdaptiveClip) else 0.0
