"""What leaves a device, as several observers see it: raw, clipped, noised, or only in a sum.

All of them come out of the device's own training of the shared vector.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, get_args

import numpy as np

from ...privacy.clipping import AdaptiveClip
from ...privacy.noise import Doubles, NoiseSource, SecureNoise
from ...privacy.plan import RecordPlan
from ...shared.adapters import Array
from ...shared.errors import BadInputError
from ...shared.forms import SharedForm
from ..federated import form_training
from ..training.text import TextTwin
from .canaries import CountedNoise

__all__ = ["VIEWS", "Released", "Releases", "View"]

View = Literal["raw", "clipped", "noised", "summed"]
VIEWS: tuple[View, ...] = get_args(View)

_UNCLIPPED = 1e6  # times the clipping norm


@dataclass(frozen=True, eq=False)
class Released:
    """A change of the shared vector, as it was seen.

    Args:
        change: ``(dim,)``.
        noise: deviation of the noise on each number, which the plan makes public.
        devices: whose changes it is the sum of.
    """

    change: Doubles
    noise: float
    devices: int


@dataclass(frozen=True, kw_only=True)
class Releases:
    """A federation's round, from which changes are released.

    Args:
        twin: of the base.
        form: of the shared vector: ``core``, ``ffa`` or ``lora`` without turns.
        plan: of the round; every record of a device is in its step.
        theta: the shared vector ``(dim,)`` that the round begins with; public.
        start: token ids in front of each record.
        source: of noise.

    Raises:
        BadInputError: a form that keeps a half or takes turns, or a norm that adapts.
    """

    twin: TextTwin
    form: SharedForm
    plan: RecordPlan
    theta: Array
    start: Sequence[int] = ()
    source: Callable[[], NoiseSource] = SecureNoise

    def __post_init__(self) -> None:
        if self.form.kept_dim or self.form.turns != "never" or self.form.carried:
            raise BadInputError(
                f"updates are read of core, ffa and lora, whole in every round; got "
                f"{self.form.name!r} with turns {self.form.turns!r}"
            )
        if isinstance(self.plan.clip, AdaptiveClip):
            raise BadInputError("updates are read of plans with a fixed clipping norm")

    def release(
        self,
        view: View,
        devices: Sequence[Sequence[Sequence[int]]],
        *,
        noise_multiplier: float | None = None,
    ) -> Released:
        """What is seen of a round of these devices.

        Args:
            view: ``raw`` before clipping and ``clipped`` before noise, neither of which leaves
                under a plan with noise; ``noised``, as a server or an eavesdropper gets it;
                ``summed``: the sum of all devices, with the noise of one plan on it, as from a
                secure sum whose noise the devices make together.
            devices: each one's token records; the first is looked at. All but ``summed`` see the
                first alone.
            noise_multiplier: instead of the plan's, added to what the device clipped.
        """
        multiplier = self.plan.noise_multiplier if noise_multiplier is None else noise_multiplier
        deviation = self._deviation(multiplier) if view in ("noised", "summed") else 0.0
        seen = devices if view == "summed" else devices[:1]
        if view == "noised" and noise_multiplier is None:
            return Released(self._sum(self.plan, seen), deviation, 1)
        total = self._sum(self._unclipped() if view == "raw" else self._silent(), seen)
        return Released(
            total + deviation * self.source().gaussian(len(total)), deviation, len(seen)
        )

    def _silent(self) -> RecordPlan:
        return replace(self.plan, noise_multiplier=0.0)

    def _unclipped(self) -> RecordPlan:
        """Without noise, and steps of the same length in spite of the norm."""
        return replace(
            self._silent(),
            clip=_UNCLIPPED * self.plan.norm(),
            learning_rate=_UNCLIPPED * self.plan.learning_rate,
        )

    def _deviation(self, multiplier: float) -> float:
        """Of the noise on a change: a step's, over all steps of the round."""
        steps: float = self.plan.local_steps**0.5
        return steps * multiplier * self.plan.learning_rate / self.plan.expected_batch

    def _sum(self, plan: RecordPlan, devices: Sequence[Sequence[Sequence[int]]]) -> Doubles:
        training = form_training(self.twin, self.form, plan)
        sources = [CountedNoise(self.source(), everybody=True) for _ in devices]
        records = [[list(record) for record in own] for own in devices]
        moved = training.round(self.theta, records, sources)
        total: Doubles = moved.astype(np.float64).sum(0)
        return total
