"""Private steps of a cohort: sample, clip, sum, add noise, move. What a device does in a round.

DP-SGD (Abadi et al., arXiv:1607.00133, Algorithm 1) for K owners at once. Every owner samples
for itself, is clipped for itself and gets noise of its own; owners share the passes through the
frozen base and nothing else.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
import torch

from ...privacy.noise import NoiseSource
from ...privacy.plan import PrivacyPlan
from ...shared.adapters import Array
from ...shared.errors import PrivacyError, TrainingError
from .cohort import Batch, Cohort
from .optimizers import Optimizer, Stepper

__all__ = ["CohortTraining"]

_log = logging.getLogger("locavore.client")
Record = TypeVar("Record")


@dataclass(frozen=True, kw_only=True)
class CohortTraining(Generic[Record]):
    """Trains the owners' parameters by the steps of one plan.

    Args:
        cohort: the adapters and the loss.
        plan: sampling, clipping, noise and the claim.
        collate: makes a batch of records.
        at_once: samples per forward pass at most; see
            :func:`~locavore.client.training.memory.samples_within`.
        length: orders records, so that short ones are padded little.
        optimizer: how parameters move by the noised gradient; when not given, plain steps of
            the plan's learning rate over its clipping norm.
    """

    cohort: Cohort
    plan: PrivacyPlan
    collate: Callable[[Sequence[Record]], Batch]
    at_once: int = 8
    length: Callable[[Record], int] = lambda _: 0
    optimizer: Optimizer | None = None

    def round(
        self,
        theta: Array,
        records: Sequence[Sequence[Record]],
        noise: Sequence[NoiseSource],
        *,
        number: int = 1,
        progress: Callable[[float], None] = lambda _: None,
    ) -> Array:
        """Take the plan's local steps and return each owner's change.

        Args:
            theta: ``(K, dim)`` or, the same start for all, ``(dim,)``; left as it is.
            records: each owner's; one record is the unit of privacy.
            noise: each owner's source of sampling and noise.
            number: of the round, from 1; it decides whose turn it is where matrices alternate.
            progress: told how much of the round is done, 0..1.

        Returns:
            ``(K, dim)`` float32, noised.

        Raises:
            TrainingError: without noise, and no sampled record's gradient was finite.
            PrivacyError: the plan claims privacy but an update would leave un-noised.
        """
        begin = torch.from_numpy(np.array(theta, np.float32, ndmin=2)).expand(len(records), -1)
        how = self.optimizer or Optimizer(learning_rate=self.plan.learning_rate / self.plan.clip)
        stepper = Stepper(self.cohort, begin, how)
        for step in range(self.plan.local_steps):
            active = how.active(self.cohort, step=step, round=number)

            def told(share: float, before: int = step) -> None:
                progress((before + share) / self.plan.local_steps)

            gradient = self._private_gradients(stepper.theta, records, noise, active, told)
            stepper.step(gradient, active=active)
            told(1.0)
        delta: Array = (stepper.theta - begin).numpy()
        if self.plan.private and not delta.any(axis=1).all():
            raise PrivacyError("an update is exactly zero although the plan adds noise")
        return delta

    def _private_gradients(
        self,
        theta: torch.Tensor,
        records: Sequence[Sequence[Record]],
        noise: Sequence[NoiseSource],
        active: frozenset[str],
        told: Callable[[float], None],
    ) -> torch.Tensor:
        chosen = [
            sorted((own[i] for i in self.plan.sample(len(own), source)), key=self.length)
            for own, source in zip(records, noise, strict=True)
        ]
        total = self._clipped_sums(theta, chosen, active, told)  # sensitive until noised
        learning = self.cohort.mask(active).numpy()
        for row, source in zip(total.numpy(), noise, strict=True):
            row[learning] = self.plan.add_noise(row[learning], source)
        return total / self.plan.expected_batch

    def _clipped_sums(
        self,
        theta: torch.Tensor,
        chosen: Sequence[Sequence[Record]],
        active: frozenset[str],
        told: Callable[[float], None],
    ) -> torch.Tensor:
        """Sum of every owner's clipped gradients, ``(K, dim)``.

        Owners go through the model in groups that fit, each with its next few records; owners
        with fewer are filled up with records that count nothing.
        """
        total = torch.zeros(theta.shape, dtype=torch.float64)
        dropped = 0
        sampled = sum(map(len, chosen))
        passed = 0
        for owners, parts in _passes([len(own) for own in chosen], self.at_once):
            told(passed / sampled)
            rows = [chosen[k][part] for k, part in zip(owners, parts, strict=True)]
            found, bad = self._pass(theta[owners], rows, active)
            total[owners] += found
            dropped += bad
            passed += sum(map(len, rows))
        self._report(dropped, sampled)
        return total

    def _pass(
        self, theta: torch.Tensor, rows: Sequence[Sequence[Record]], active: frozenset[str]
    ) -> tuple[torch.Tensor, int]:
        width = max(map(len, rows))
        filler = next(own[0] for own in rows if own)
        filled = [[*own, *[filler] * (width - len(own))] for own in rows]
        present = torch.tensor([i < len(own) for own in rows for i in range(width)])
        batch = self.collate([record for own in filled for record in own])
        gradients = self.cohort.gradients(theta, batch, present=present, active=active)
        norms = gradients.norms().cpu()
        factors = torch.from_numpy(self.plan.clip_factors(norms.numpy())) * present
        bad = int((~torch.isfinite(norms) & present).sum())
        return gradients.sums(factors.to(gradients.losses.device), len(rows)).cpu(), bad

    def _report(self, dropped: int, sampled: int) -> None:
        if not dropped:
            return
        _log.warning("%d of %d records had a gradient that is not finite", dropped, sampled)
        # Under a private plan the round goes on as noise: an error would tell of the data.
        if dropped == sampled and not self.plan.private:
            raise TrainingError("every sampled record's loss or gradient is not finite")


def _passes(counts: Sequence[int], at_once: int) -> Iterator[tuple[list[int], list[slice]]]:
    """Owners with records left, and the next few of each, until there are none."""
    done = [0] * len(counts)
    while owners := [k for k, count in enumerate(counts) if done[k] < count][:at_once]:
        width = max(1, at_once // len(owners))
        yield owners, [slice(done[k], done[k] + width) for k in owners]
        for k in owners:
            done[k] += width
