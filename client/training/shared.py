"""A round of private training for a cohort. What a device does between two messages.

Record by record, DP-SGD (Abadi et al., arXiv:1607.00133, Algorithm 1): sample, clip, sum, add
noise, move. User by user: train freely, then clip the whole change and add what noise is the
device's. Every owner samples for itself, is clipped for itself and gets noise of its own; owners
share the passes through the frozen base and nothing else.

Where the clipping norm adapts, the last entry of the shared vector stands for it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch

from ...privacy.noise import Doubles, NoiseSource
from ...privacy.plan import PrivacyPlan, RecordPlan, UserPlan
from ...shared.adapters import Array
from ...shared.errors import AdapterError, BadInputError, PrivacyError, TrainingError
from .cohort import Batch, Cohort
from .exchange import Exchange
from .local import LocalTraining, train_locally
from .optimizers import Optimizer, Stepper
from .passes import AT_ONCE, filled_up, passes

__all__ = ["CohortTraining", "SharedTraining", "UserTraining", "private_training"]

_log = logging.getLogger("locavore.client")
Entries = Doubles  # one row an owner
Record = TypeVar("Record")
Record_ = TypeVar("Record_", contravariant=True)


class SharedTraining(Protocol[Record_]):
    """What trains the shared vector of a round."""

    def round(
        self,
        theta: Array,
        records: Sequence[Sequence[Record_]],
        noise: Sequence[NoiseSource],
        *,
        number: int = 1,
        progress: Callable[[float], None] = lambda _: None,
        kept: Array | None = None,
    ) -> Array:
        """Return each owner's contribution ``(K, width)`` float32, as it may leave the device.

        Args:
            theta: ``(K, width)`` or, the same start for all, ``(width,)``; left as it is. The
                width is the plan's, for the form's numbers. A contribution is as wide as what
                leaves in this round.
            records: each owner's.
            noise: each owner's source of sampling and noise.
            number: of the round, from 1; it decides whose turn it is where matrices alternate.
            progress: told how much of the round is done, 0..1.
            kept: what stays on each device, ``(K, kept)``, where the form keeps something; it is
                moved in place. sensitive.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class CohortTraining(Generic[Record]):
    """Trains the owners' parameters by the steps of a plan for records.

    Args:
        cohort: the adapters and the loss.
        plan: sampling, clipping, noise and the claim.
        collate: makes a batch of records.
        at_once: samples per forward pass at most; see
            :func:`~locavore.client.training.memory.samples_within`.
        length: orders records, so that short ones are padded little.
        optimizer: how parameters move by the noised gradient; when not given, plain steps of
            the plan's learning rate over its (initial) clipping norm.
        exchange: between the shared vector and the parameters; when not given, they are the same.
    """

    cohort: Cohort
    plan: RecordPlan
    collate: Callable[[Sequence[Record]], Batch]
    at_once: int = AT_ONCE
    length: Callable[[Record], int] = lambda _: 0
    optimizer: Optimizer | None = None
    exchange: Exchange | None = None

    def round(
        self,
        theta: Array,
        records: Sequence[Sequence[Record]],
        noise: Sequence[NoiseSource],
        *,
        number: int = 1,
        progress: Callable[[float], None] = lambda _: None,
        kept: Array | None = None,
    ) -> Array:
        """Take the plan's local steps; see :class:`SharedTraining`.

        Raises:
            TrainingError: without noise, and no sampled record's gradient was finite.
            PrivacyError: the plan claims privacy but an update would leave un-noised.
        """
        link = self.exchange
        width = self.cohort.dim if link is None else link.form.dim
        vectors, starts = _split(theta, width, self.plan, len(records))
        if link is None:
            return self._steps(vectors, starts, records, noise, number, progress)
        with link.beside(theta):
            begin = link.opened(vectors, kept)
            whole = self._steps(begin, starts, records, noise, number, progress)
        leaving = link.closed(whole[:, : self.cohort.dim], number, kept)
        return np.concatenate([leaving, whole[:, self.cohort.dim :]], 1)

    def _steps(
        self,
        begin: torch.Tensor,
        starts: Entries,
        records: Sequence[Sequence[Record]],
        noise: Sequence[NoiseSource],
        number: int,
        progress: Callable[[float], None],
    ) -> Array:
        entries = starts
        how = self.optimizer or Optimizer(learning_rate=self.plan.learning_rate / self.plan.norm())
        stepper = Stepper(self.cohort, begin, how)
        for step in range(self.plan.local_steps):
            active = how.active(self.cohort, step=step, round=number)

            def told(share: float, before: int = step) -> None:
                progress((before + share) / self.plan.local_steps)

            means = self._private_means(stepper.theta, entries, records, noise, active, told)
            stepper.step(means[:, : self.cohort.dim], active=active)
            entries = entries + means[:, self.cohort.dim :].numpy()
            told(1.0)
        moved = (stepper.theta - begin).numpy()
        if self.plan.private and not moved.any(axis=1).all():
            raise PrivacyError("an update is exactly zero although the plan adds noise")
        delta: Array = np.concatenate([moved, (entries - starts).astype(np.float32)], 1)
        return delta

    def _private_means(
        self,
        theta: torch.Tensor,
        entries: Entries,
        records: Sequence[Sequence[Record]],
        noise: Sequence[NoiseSource],
        active: frozenset[str],
        told: Callable[[float], None],
    ) -> torch.Tensor:
        """Each owner's noised gradient and vote over the expected batch, ``(K, width)``."""
        chosen = [
            sorted((own[i] for i in self.plan.sample(len(own), source)), key=self.length)
            for own, source in zip(records, noise, strict=True)
        ]
        total = self._clipped_sums(theta, entries, chosen, active, told)  # sensitive until noised
        voting = np.ones(entries.shape[1], bool)
        learning = np.concatenate([self.cohort.mask(active).numpy(), voting])
        for row, entry, source in zip(total.numpy(), entries, noise, strict=True):
            row[learning] = self.plan.add_noise(row[learning], source, float(entry.sum()))
        return total / self.plan.expected_batch

    def _clipped_sums(
        self,
        theta: torch.Tensor,
        entries: Entries,
        chosen: Sequence[Sequence[Record]],
        active: frozenset[str],
        told: Callable[[float], None],
    ) -> torch.Tensor:
        """Sum of every owner's clipped gradients and votes, ``(K, width)``.

        Owners go through the model in groups that fit, each with its next few records; owners
        with fewer are filled up with records that count nothing.
        """
        total = torch.zeros(len(theta), theta.shape[1] + entries.shape[1], dtype=torch.float64)
        dropped = 0
        sampled = sum(map(len, chosen))
        passed = 0
        for owners, parts in passes([len(own) for own in chosen], self.at_once):
            told(passed / sampled)
            rows = [chosen[k][part] for k, part in zip(owners, parts, strict=True)]
            found, bad = self._pass(theta[owners], entries[owners], rows, active)
            total[owners] += found
            dropped += bad
            passed += sum(map(len, rows))
        self._report(dropped, sampled)
        return total

    def _pass(
        self,
        theta: torch.Tensor,
        entries: Entries,
        rows: Sequence[Sequence[Record]],
        active: frozenset[str],
    ) -> tuple[torch.Tensor, int]:
        records, present = filled_up(rows)
        batch = self.collate(records)
        gradients = self.cohort.gradients(theta, batch, weights=present, active=active)
        norms = gradients.norms().cpu()
        factors, votes = self._clip(norms.view(len(rows), -1).numpy(), entries, rows)
        bad = int((~torch.isfinite(norms) & present).sum())
        total = gradients.sums(torch.from_numpy(factors).to(gradients.losses.device), len(rows))
        return torch.cat([total.cpu(), torch.from_numpy(votes)], 1), bad

    def _clip(
        self, norms: Entries, entries: Entries, rows: Sequence[Sequence[Record]]
    ) -> tuple[Entries, Entries]:
        """Factors of all samples ``(K n,)``, 0 for absent ones, and the votes ``(K, 0 or 1)``."""
        factors = np.zeros(norms.shape)
        votes = np.zeros(entries.shape)
        for k, own in enumerate(rows):
            entry = float(entries[k].sum())  # 0 where the norm is fixed
            factors[k, : len(own)] = self.plan.clip_factors(norms[k, : len(own)], entry)
            votes[k] = self.plan.votes(norms[k, : len(own)], entry)
        return factors.ravel(), votes

    def _report(self, dropped: int, sampled: int) -> None:
        if not dropped:
            return
        _log.warning("%d of %d records had a gradient that is not finite", dropped, sampled)
        # Under a private plan the round goes on as noise: an error would tell of the data.
        if dropped == sampled and not self.plan.private:
            raise TrainingError("every sampled record's loss or gradient is not finite")


@dataclass(frozen=True, kw_only=True)
class UserTraining(Generic[Record]):
    """Lets the owners train by other means, and clips each one's whole change.

    Args:
        plan: clipping, noise and the claim.
        dim: length of one owner's vector, without the entry that stands for a clipping norm.
        train: ``(theta (K, dim), records, noise, round, progress, kept)`` to the changes that may
            leave.
    """

    plan: UserPlan
    dim: int
    train: Callable[..., Array]

    def round(
        self,
        theta: Array,
        records: Sequence[Sequence[Record]],
        noise: Sequence[NoiseSource],
        *,
        number: int = 1,
        progress: Callable[[float], None] = lambda _: None,
        kept: Array | None = None,
    ) -> Array:
        """Each owner's sealed change; see :class:`SharedTraining`."""
        begin, entries = _split(theta, self.dim, self.plan, len(records))
        changes = self.train(begin, records, noise, number, progress, kept)
        sealed = [
            self.plan.seal(change.astype(np.float64), float(entry.sum()), source)
            for change, entry, source in zip(changes, entries, noise, strict=True)
        ]
        return np.asarray(sealed, np.float32)


def private_training(
    cohort: Cohort,
    plan: PrivacyPlan,
    collate: Callable[[Sequence[Record]], Batch],
    *,
    at_once: int = AT_ONCE,
    length: Callable[[Record], int] = lambda _: 0,
    optimizer: Optimizer | None = None,
    locally: LocalTraining | None = None,
    exchange: Exchange | None = None,
) -> SharedTraining[Record]:
    """The training that a plan asks for.

    Args:
        cohort, plan, collate, at_once, length, optimizer, exchange: see :class:`CohortTraining`.
        locally: how a device trains under a plan for users that has no plan for records within;
            of it, a plan for records takes the proximal pull alone.
    """
    turns = "never" if exchange is None else exchange.form.turns
    inner = plan.within if isinstance(plan, UserPlan) else plan
    if isinstance(inner, RecordPlan):
        pull = 0.0 if locally is None else locally.optimizer.proximal
        rate = inner.learning_rate / inner.norm()
        how = optimizer or Optimizer(learning_rate=rate, proximal=pull)
        steps = CohortTraining(
            cohort=cohort,
            plan=inner,
            collate=collate,
            at_once=at_once,
            length=length,
            optimizer=replace(how, alternate=turns) if exchange else how,
            exchange=exchange,
        )
        if not isinstance(plan, UserPlan):
            return steps

        def by_records(
            theta: torch.Tensor, records: Any, noise: Any, number: int, progress: Any, kept: Any
        ) -> Array:
            return steps.round(
                theta.numpy(), records, noise, number=number, progress=progress, kept=kept
            )

        return UserTraining[Record](plan=plan, dim=_width(cohort, exchange), train=by_records)
    if not isinstance(plan, UserPlan):
        raise BadInputError(f"no training is known for a {type(plan).__name__}")
    local = locally or LocalTraining()
    if exchange is not None:
        local = replace(local, optimizer=replace(local.optimizer, alternate=turns))

    def trained(
        begin: torch.Tensor, records: Any, number: int, progress: Any
    ) -> Array:  # sensitive: nothing is clipped or noised yet
        after = train_locally(
            cohort,
            begin,
            records,
            local,
            collate,
            round=number,
            progress=progress,
            finite=False,
            at_once=at_once,
        )
        change: Array = (after - begin).numpy()
        return change

    def freely(
        theta: torch.Tensor, records: Any, _: Any, number: int, progress: Any, kept: Any
    ) -> Array:
        if exchange is None:
            return trained(theta, records, number, progress)
        with exchange.beside(theta.numpy()):
            change = trained(exchange.opened(theta, kept), records, number, progress)
        return exchange.closed(change, number, kept)

    return UserTraining[Record](plan=plan, dim=_width(cohort, exchange), train=freely)


def _width(cohort: Cohort, exchange: Exchange | None) -> int:
    return cohort.dim if exchange is None else exchange.form.dim


def _split(theta: Array, dim: int, plan: PrivacyPlan, owners: int) -> tuple[torch.Tensor, Entries]:
    """Parameters ``(K, dim)``, and the entries that stand for clipping norms ``(K, 0 or 1)``.

    Raises:
        AdapterError: the vector has another width.
    """
    rows = np.array(theta, np.float32, ndmin=2)
    if rows.shape[1] != plan.width(dim):
        raise AdapterError(
            f"the shared vector must have {plan.width(dim)} numbers, got {rows.shape[1]}; it comes "
            "from another plan, or from another base or rank"
        )
    begin = torch.from_numpy(rows[:, :dim]).expand(owners, -1)
    return begin, np.broadcast_to(rows[:, dim:], (owners, rows.shape[1] - dim)).astype(np.float64)
