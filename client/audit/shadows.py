"""Many adapters trained alike on random halves of the same records: targets, and their shadows.

All of them stand beside one frozen base and share its passes, so that tens of shadows cost little
more than the records that they see.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ...privacy.audit.membership import Losses
from ...privacy.noise import Doubles, NoiseSource, SecureNoise
from ...privacy.plan import RecordPlan
from ...shared.errors import BadInputError
from ..training.cohort import Batch, Cohort
from ..training.local import LocalTraining, train_locally
from ..training.shared import private_training

__all__ = [
    "Trained",
    "Trainer",
    "draw_membership",
    "local_trainer",
    "plan_trainer",
    "train_on_coins",
]

Bools = npt.NDArray[np.bool_]

Trainer = Callable[[Sequence[Sequence[Any]]], torch.Tensor]
"""From the records of K owners to their adapters ``theta (K, dim)``."""

_AT_ONCE = 64  # records in a pass: tens of owners with a few each


@dataclass(frozen=True, eq=False, kw_only=True)
class Trained:
    """Adapters and what they think of every record.

    Args:
        theta: ``(K, dim)`` of all adapters, the targets first.
        targets: how many of them are attacked; the others are shadows.
        there: ``(K, n)`` whether the record was trained on.
        losses: ``(K, n)`` of the records, mean nats per token.
        public: ``(K, p)`` of public records, which no adapter was trained on.
    """

    theta: torch.Tensor
    targets: int
    there: Bools
    losses: Doubles
    public: Doubles

    def seen_by_attacker(self, target: int) -> Losses:
        """One target's losses beside those of all shadows, whose membership is known."""
        first = self.targets
        return Losses(
            seen=self.losses[target],
            shadows=self.losses[first:],
            there=self.there[first:],
            seen_public=self.public[target],
            shadows_public=self.public[first:],
        )


def train_on_coins(
    cohort: Cohort,
    train: Trainer,
    units: Sequence[Sequence[Any]],
    public: Sequence[Any],
    collate: Callable[[Sequence[Any]], Batch],
    *,
    targets: int,
    shadows: int,
    rng: np.random.Generator,
) -> Trained:
    """Train targets and shadows on random halves of ``units``, and look at all records.

    Args:
        cohort: the chains that are trained.
        train: how; for one owner a row.
        units: what is there or not as a whole: a user's records, or a single one.
        public: records of nobody.
        collate: makes a batch of records.
        targets, shadows: how many.
        rng: draws who is where.

    Raises:
        BadInputError: see :func:`draw_membership`; or no public records.
    """
    if not public:
        raise BadInputError("an attack is calibrated on public records; give at least one")
    there = draw_membership(len(units), targets=targets, shadows=shadows, rng=rng)
    members = [[unit for unit, yes in zip(units, row, strict=True) if yes] for row in there]
    theta = train([[record for unit in own for record in unit] for own in members])
    records = [record for unit in units for record in unit]
    return Trained(
        theta=theta,
        targets=targets,
        there=np.repeat(there, [len(unit) for unit in units], axis=1),
        losses=mean_losses(cohort, theta, records, collate),
        public=mean_losses(cohort, theta, public, collate),
    )


def draw_membership(units: int, *, targets: int, shadows: int, rng: np.random.Generator) -> Bools:
    """Who is in which adapter, ``(targets + shadows, units)``, the targets first.

    In a target each unit is by a coin of its own, as bounds from one run ask; of the shadows each
    unit is in half (Carlini et al., arXiv:2112.03570, Section 4.1).

    Raises:
        BadInputError: fewer than 16 units, four shadows, or one target.
    """
    if units < 16 or shadows < 4 or targets < 1:
        raise BadInputError(
            f"16 units, 4 shadows and a target are needed at least, got {units}, {shadows} and "
            f"{targets}"
        )
    coins = rng.random((targets, units)) < 0.5
    half = np.arange(shadows)[:, None] < shadows // 2
    return np.concatenate([coins, rng.permuted(np.repeat(half, units, 1), axis=0)])


def local_trainer(
    cohort: Cohort, how: LocalTraining, collate: Callable[[Sequence[Any]], Batch]
) -> Trainer:
    """As devices train private adapters: without clipping or noise."""

    def train(records: Sequence[Sequence[Any]]) -> torch.Tensor:
        begin = torch.zeros(len(records), cohort.dim)
        return train_locally(cohort, begin, records, how, collate, at_once=_AT_ONCE)

    return train


def plan_trainer(
    cohort: Cohort,
    plan: RecordPlan,
    collate: Callable[[Sequence[Any]], Batch],
    *,
    noise: Callable[[int, int], NoiseSource] = lambda _owner, _round: SecureNoise(),
) -> Trainer:
    """As devices train the shared adapter by a plan, each owner a federation of its own.

    Args:
        cohort: a ``core`` or ``ffa`` form's.
        noise: of an owner in a round.
    """
    training = private_training(cohort, plan, collate, at_once=_AT_ONCE, length=len)

    def train(records: Sequence[Sequence[Any]]) -> torch.Tensor:
        theta = np.zeros((len(records), plan.width(cohort.dim)), np.float32)
        for round in range(1, plan.rounds + 1):
            sources = [noise(owner, round) for owner in range(len(records))]
            theta = theta + training.round(theta, records, sources, number=round)
        return torch.from_numpy(theta[:, : cohort.dim])

    return train


def mean_losses(
    cohort: Cohort,
    theta: torch.Tensor,
    records: Sequence[Any],
    collate: Callable[[Sequence[Any]], Batch],
) -> Doubles:
    """Every adapter's loss on every record, ``(K, n)``."""
    found = np.zeros((len(theta), len(records)))
    order = sorted(range(len(records)), key=lambda i: len(records[i]))
    width = max(1, _AT_ONCE // len(theta))
    for first in range(0, len(order), width):
        places = order[first : first + width]
        batch = collate([records[i] for i in places] * len(theta))
        losses = cohort.gradients(theta, batch, per="owner", active=frozenset()).losses
        found[:, places] = losses.view(len(theta), -1).double().cpu().numpy()
    return found
