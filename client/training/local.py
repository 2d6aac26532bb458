"""Plain local training of a cohort: passes over each owner's records, nothing clipped inside.

What a device does under user-level privacy, where the whole change of a user is clipped
afterwards and no gradient per record is needed, and how private adapters are trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import torch

from ...shared.errors import BadInputError, TooLittleDataError, TrainingError
from .cohort import Batch, Cohort
from .optimizers import Optimizer, Stepper
from .passes import filled_up, passes

__all__ = ["LocalTraining", "train_locally"]

Record = TypeVar("Record")


@dataclass(frozen=True, kw_only=True)
class LocalTraining:
    """How each owner trains on records of its own.

    Args:
        epochs: passes over the records, when ``steps`` is not given.
        steps: batches in all, from as many reshuffled passes as they take.
        batch: records per step; fewer where an owner has fewer.
        optimizer: how parameters move.
        decay: whether the learning rate falls linearly to zero.
        seed: of the order in which records are visited.
    """

    epochs: int = 1
    steps: int | None = None
    batch: int = 16
    optimizer: Optimizer = field(default_factory=Optimizer)
    decay: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be at least 1, got {value}"
            for name, value in (
                ("epochs", self.epochs),
                ("steps", self.steps),
                ("batch", self.batch),
            )
            if value is not None and value < 1
        ]
        if problems:
            raise BadInputError("; ".join(problems))

    def order(self, count: int) -> list[list[int]]:
        """The batches of an owner with ``count`` records, as indices.

        A pass ends with a smaller batch; ``steps`` batches are all of one size and run over the
        end of a pass.
        """
        rng = np.random.default_rng(self.seed)
        if self.steps is None:
            passes = [rng.permutation(count).tolist() for _ in range(self.epochs)]
            return [p[i : i + self.batch] for p in passes for i in range(0, count, self.batch)]
        size = min(self.batch, count)
        stream: list[int] = []
        while len(stream) < self.steps * size:
            stream.extend(rng.permutation(count).tolist())
        return [stream[i * size : (i + 1) * size] for i in range(self.steps)]

    def pace(self, step: int, steps: int) -> float:
        """What the learning rate of an owner with ``steps`` batches is multiplied by."""
        if step >= steps:
            return 0.0
        return 1 - step / steps if self.decay else 1.0


def train_locally(
    cohort: Cohort,
    theta: torch.Tensor,
    records: Sequence[Sequence[Record]],
    how: LocalTraining,
    collate: Callable[[Sequence[Record]], Batch],
    *,
    round: int = 1,
    progress: Callable[[float], None] = lambda _: None,
    finite: bool = True,
    at_once: int | None = None,
) -> torch.Tensor:
    """Train every owner from its row of ``theta (K, dim)``; returns the new ``theta``.

    Owners train together, each as if alone: those with fewer batches stop earlier.

    Args:
        finite: whether a gradient that is not finite is an error. Otherwise the owner's row
            becomes NaN, for callers to whom the error would tell of the owner's records.
        at_once: samples per forward pass at most; all of a step's when not given.

    Raises:
        TooLittleDataError: an owner has no records.
        TrainingError: an owner's gradient is not finite.
    """
    if not all(records):
        raise TooLittleDataError("local training needs at least one record of every owner")
    plans = [how.order(len(own)) for own in records]
    stepper = Stepper(cohort, theta, how.optimizer)
    steps = max(map(len, plans))
    for step in range(steps):
        rows = [
            [own[i] for i in plan[step]] if step < len(plan) else []
            for own, plan in zip(records, plans, strict=True)
        ]
        active = how.optimizer.active(cohort, step=step, round=round)
        gradient = _mean_gradients(cohort, stepper.values, rows, collate, active, at_once)
        if finite and not all(bool(torch.isfinite(part.sum())) for part in gradient.values()):
            raise TrainingError(
                f"a loss or gradient is not finite at step {step + 1} of {steps}; lower the "
                f"learning rate ({how.optimizer.learning_rate:g})"
            )
        pace = torch.tensor([how.pace(step, len(plan)) for plan in plans])
        stepper.step(gradient, active=active, pace=None if (pace == 1).all() else pace)
        progress((step + 1) / steps)
    return stepper.theta


def _mean_gradients(
    cohort: Cohort,
    values: Mapping[str, torch.Tensor],
    rows: Sequence[Sequence[Record]],
    collate: Callable[[Sequence[Record]], Batch],
    active: frozenset[str],
    at_once: int | None,
) -> Mapping[str, torch.Tensor]:
    """Gradient of each owner's mean loss by slot; zero for owners without rows."""
    counts = [len(own) for own in rows]
    if at_once is None or max(counts) * len(counts) <= at_once:
        return _pass(cohort, values, rows, counts, collate, active)
    total = {name: torch.zeros_like(value) for name, value in values.items()}
    for owners, parts in passes(counts, at_once):
        found = _pass(
            cohort,
            {name: value[owners] for name, value in values.items()},
            [rows[k][part] for k, part in zip(owners, parts, strict=True)],
            [counts[k] for k in owners],
            collate,
            active,
        )
        for name, part in found.items():
            total[name][owners] += part.to(total[name])
    return total


def _pass(
    cohort: Cohort,
    values: Mapping[str, torch.Tensor],
    rows: Sequence[Sequence[Record]],
    counts: Sequence[int],
    collate: Callable[[Sequence[Record]], Batch],
    active: frozenset[str],
) -> Mapping[str, torch.Tensor]:
    """What these rows add to the gradients of means over ``counts`` rows."""
    records, present = filled_up(rows)
    shares = torch.tensor([1 / max(1, count) for count in counts])
    weights = shares.repeat_interleave(len(records) // len(rows)) * present
    found = cohort.gradients(values, collate(records), per="owner", weights=weights, active=active)
    return found.parts
