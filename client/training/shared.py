"""DP-SGD on the shared form: what a device does in a round of the federation."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from ...privacy.noise import NoiseSource
from ...privacy.plan import PrivacyPlan
from ...shared.adapters import Array
from ...shared.errors import PrivacyError, TrainingError
from ...shared.forms import SharedForm
from .adapted import AdaptedTwin
from .loss import per_record_loss, token_batch

__all__ = ["SharedTraining", "clipped_sum", "poisson_sample"]

_log = logging.getLogger("locavore.client")
_MICRO_BATCH = 8  # DP-SGD is a sum over records: cutting a batch changes nothing but memory


@dataclass(frozen=True, kw_only=True)
class SharedTraining:
    """Trains ``theta`` of a shared form on one device's records.

    Args:
        twin: the base that the device runs.
        form: what ``theta`` stands for.
        plan: sampling, clipping, noise and the claim.
        records: token ids of each consented record; one record is the unit of privacy.
        noise: where sampling and noise come from.
        start: tokens in front of every record.
    """

    twin: AdaptedTwin
    form: SharedForm
    plan: PrivacyPlan
    records: Sequence[Sequence[int]]
    noise: NoiseSource
    start: Sequence[int] = field(default_factory=tuple)

    def round(self, theta: Array) -> Array:
        """Take the plan's local steps from ``theta`` and return the change.

        Raises:
            TrainingError: every sampled record's gradient was not finite.
            PrivacyError: the plan claims privacy but the update would leave un-noised.
        """
        local = theta.astype(np.float64)
        for _ in range(self.plan.local_steps):
            gradient = self._private_gradient(local.astype(np.float32))
            local = local - self.plan.learning_rate * gradient / self.plan.clip
        delta: Array = (local - theta).astype(np.float32)
        if self.plan.private and not np.any(delta):
            raise PrivacyError("the update is exactly zero although the plan adds noise")
        return delta

    def _private_gradient(self, theta: Array) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        chosen = poisson_sample(
            len(self.records), self.plan.sampling_rate(len(self.records)), self.noise
        )
        total = np.zeros(self.form.dim)
        dropped = 0
        sampled = sorted((self.records[i] for i in chosen), key=len)  # little padding
        for start in range(0, len(sampled), _MICRO_BATCH):
            rows = sampled[start : start + _MICRO_BATCH]
            gradients = self.per_record_gradients(theta, rows)  # sensitive: one row a record
            part, bad = clipped_sum(gradients, self.plan.clip)
            del gradients
            total += part  # sensitive until noised
            dropped += bad
        if dropped:
            _log.warning("%d of %d records had a gradient that is not finite", dropped, len(chosen))
            if dropped == len(chosen):
                raise TrainingError("every sampled record's loss or gradient is not finite")
        if self.plan.private:
            scale = self.plan.noise_multiplier * self.plan.clip
            total += scale * self.noise.gaussian(self.form.dim)
        return total / self.plan.expected_batch

    def per_record_gradients(self, theta: Array, rows: Sequence[Sequence[int]]) -> torch.Tensor:
        """Gradient of each record's own mean loss with respect to ``theta``, ``(B, dim)``."""
        middles = {s: torch.from_numpy(m.copy()) for s, m in self.form.unpack(theta).items()}
        sink: dict[str, list[torch.Tensor]] = {site: [] for site in middles}
        branches = self.twin.shared(self.form, middles, sink)
        with self.twin.branches(branches):
            losses = per_record_loss(self.twin.model, token_batch(rows, self.start))
            losses.sum().backward()  # type: ignore[no-untyped-call]
        return torch.cat([sink[site][0].flatten(1) for site in middles], dim=1)


def clipped_sum(
    gradients: torch.Tensor, clip: float
) -> tuple[np.ndarray[tuple[int], np.dtype[np.float64]], int]:
    """Sum of rows clipped to norm ``clip``; rows that are not finite count as zero.

    Args:
        gradients: ``(B, dim)``.

    Returns:
        The sum, whose sensitivity to one row is ``clip``, and how many rows were dropped.
    """
    rows = gradients.double()
    finite = torch.isfinite(rows).all(dim=1)
    rows = torch.where(finite[:, None], rows, torch.zeros_like(rows))
    norms = rows.norm(dim=1)
    factors = (clip / norms.clamp(min=1e-12)).clamp(max=1.0)
    return (rows * factors[:, None]).sum(0).numpy(), int((~finite).sum())


def poisson_sample(records: int, rate: float, noise: NoiseSource) -> list[int]:
    """Indices of the records that enter a step, each independently with probability ``rate``."""
    return [int(i) for i in np.flatnonzero(noise.uniform(records) < rate)]
