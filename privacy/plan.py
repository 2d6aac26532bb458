"""The plan of private training: one frozen object from which mechanism and claim both follow.

It samples, clips and adds noise, and it says what that costs: the two cannot disagree.
"""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import asdict, dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from ..shared.errors import BadInputError
from .accounting import Relation, epsilon_of_dp_sgd
from .noise import Doubles, NoiseSource

__all__ = ["PrivacyPlan"]

_LEAST_NOISE = 0.2  # below, ε runs into the hundreds and protects nobody


@dataclass(frozen=True, kw_only=True)
class PrivacyPlan:
    """Record-level DP-SGD on the device, for the shared adapter.

    Each record enters a step independently with probability ``expected_batch / records``
    (Poisson sampling); its gradient is clipped to ``clip``; Gaussian noise of standard deviation
    ``noise_multiplier * clip`` is added to the sum on the device; the sum is divided by the
    public ``expected_batch``. Source: Abadi et al., arXiv:1607.00133, Algorithm 1.

    Args:
        clip: bound on the norm of one record's gradient.
        noise_multiplier: 0 switches privacy off, for reference runs only.
        expected_batch: records per step, on average.
        local_steps: steps a device takes in a round.
        rounds: rounds of the federation; a device may take part in all of them.
        learning_rate: length of a step whose averaged gradient has the norm ``clip``.
        delta: the δ at which ε is stated.
        unit: what the guarantee protects; must be said.
        relation: which neighbouring data sets it compares; must be said. Replacing a record costs
            up to twice what adding one does, see :data:`~locavore.privacy.accounting.Relation`.
        trust: who must be trusted for it. ``local``: nobody but the device itself, whose
            update is already noised when it leaves.
    """

    clip: float = 6.0
    noise_multiplier: float = 1.0
    expected_batch: int = 16
    local_steps: int = 1
    rounds: int = 3
    learning_rate: float = 0.05
    delta: float = 1e-5
    unit: Literal["record"]
    relation: Relation
    trust: Literal["local"] = "local"

    def __post_init__(self) -> None:
        problems = []
        for name in ("clip", "learning_rate"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                problems.append(f"{name} must be above 0, got {getattr(self, name)}")
        if self.noise_multiplier and not _LEAST_NOISE <= self.noise_multiplier < 1e6:
            problems.append(
                f"noise_multiplier must be 0 (no privacy) or {_LEAST_NOISE}..1e6, "
                f"got {self.noise_multiplier}"
            )
        for name in ("expected_batch", "local_steps", "rounds"):
            if getattr(self, name) < 1:
                problems.append(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.unit not in ("record",):
            problems.append(f"unit must be 'record', got {self.unit!r}")
        if self.relation not in get_args(Relation):
            names = ", ".join(map(repr, get_args(Relation)))
            problems.append(f"relation must be one of {names}, got {self.relation!r}")
        if not 0 < self.delta < 1:
            problems.append(f"delta must be between 0 and 1, got {self.delta}")
        if problems:
            raise BadInputError("; ".join(problems))

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the plan: devices refuse messages under another one."""
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()

    @property
    def private(self) -> bool:
        """Whether the plan claims anything."""
        return self.noise_multiplier > 0

    def sampling_rate(self, records: int) -> float:
        """Probability with which each of a device's ``records`` enters a step."""
        return min(1.0, self.expected_batch / records) if records else 0.0

    def epsilon(self, records: int, rounds: int | None = None) -> float:
        """ε of a device with ``records`` records after ``rounds`` rounds (all when not given).

        Infinite when the plan has no noise. A device without records spends nothing.
        """
        if not records:
            return 0.0
        if not self.private:
            return math.inf
        return epsilon_of_dp_sgd(
            noise_multiplier=self.noise_multiplier,
            sampling_rate=self.sampling_rate(records),
            steps=self.local_steps * (self.rounds if rounds is None else rounds),
            delta=self.delta,
            relation=self.relation,
        )

    def sample(self, records: int, noise: NoiseSource) -> list[int]:
        """Indices of the records that enter a step, each independently (Poisson sampling)."""
        rate = self.sampling_rate(records)
        return [int(i) for i in np.flatnonzero(noise.uniform(records) < rate)]

    def clip_factors(self, norms: npt.ArrayLike) -> Doubles:
        """What gradients of these norms ``(B,)`` are multiplied by: 0 where not finite."""
        lengths = np.asarray(norms, np.float64)
        factors = np.minimum(1.0, self.clip / np.maximum(lengths, 1e-12))
        return np.where(np.isfinite(lengths), factors, 0.0)

    def add_noise(self, total: Doubles, noise: NoiseSource) -> Doubles:
        """A sum ``(dim,)`` of clipped gradients with the plan's noise, when it has any."""
        if not self.private:
            return total
        return total + self.noise_multiplier * self.clip * noise.gaussian(len(total))

    def signal_to_noise(self, dim: int, devices: int) -> float:
        """Largest possible averaged update over the norm of the averaged noise, in one step.

        The noise of a step averaged over ``devices`` has the norm
        ``noise_multiplier * clip * sqrt(dim) / (expected_batch * sqrt(devices))``; the signal
        is at most ``clip``. Below 1 the shared adapter is mostly noise.
        """
        if not self.private:
            return math.inf
        noise = self.noise_multiplier * math.sqrt(dim) / (self.expected_batch * math.sqrt(devices))
        return 1 / noise
