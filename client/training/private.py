"""The private adapter: a LoRA of the person's own, which never leaves the device."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ...shared.adapters import Adapter
from ...shared.errors import BadInputError, TooLittleDataError, TrainingError
from ...shared.forms import Directions
from .adapted import AdaptedTwin, Branch
from .loss import per_record_loss, token_batch

__all__ = ["PrivateTraining", "train_private"]


@dataclass(frozen=True, kw_only=True)
class PrivateTraining:
    """How the private adapter is trained.

    ``A`` starts from the base's public directions and ``B`` from zero; both are trained with
    Adam. There is no noise: what it learns stays on the device.

    Args:
        rank: directions per site.
        steps: optimizer steps.
        batch: records per step.
        learning_rate: of ``B``, decaying linearly to zero; ``A`` stays at its directions.
        seed: of the order in which records are visited.
    """

    rank: int = 4
    steps: int = 4
    batch: int = 16
    learning_rate: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be at least 1, got {getattr(self, name)}"
            for name in ("rank", "steps", "batch")
            if getattr(self, name) < 1
        ]
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            problems.append(f"learning_rate must be above 0, got {self.learning_rate}")
        if problems:
            raise BadInputError("; ".join(problems))


def train_private(
    twin: AdaptedTwin,
    directions: Directions,
    records: Sequence[Sequence[int]],
    how: PrivateTraining,
    *,
    shared: Adapter | None = None,
    start: Sequence[int] = (),
    progress: Callable[[float], None] = lambda _: None,
) -> Adapter:
    """Train a private adapter on top of ``shared``.

    Raises:
        TooLittleDataError: there are no records.
        TrainingError: the loss is not finite.
    """
    if not records:
        raise TooLittleDataError("private training needs at least one record")
    limited = directions.limited(how.rank)
    downs = {site: torch.from_numpy(_unit(a)) for site, (a, _) in limited.factors.items()}
    ups = {
        site: torch.zeros(b.shape, requires_grad=True) for site, (_, b) in limited.factors.items()
    }
    optimizer = torch.optim.Adam(ups.values(), lr=how.learning_rate, betas=(0.9, 0.99))
    batches = _batches(len(records), how)
    branches = {site: Branch(downs[site], ups[site]) for site in downs}
    frozen = twin.frozen(shared) if shared else {}
    with twin.branches(frozen), twin.branches(branches):
        for step, rows in enumerate(batches):
            optimizer.param_groups[0]["lr"] = how.learning_rate * (1 - step / how.steps)
            optimizer.zero_grad()
            loss = per_record_loss(
                twin.model, token_batch([records[i] for i in rows], start)
            ).mean()
            if not torch.isfinite(loss):
                raise TrainingError(
                    f"the private loss is {loss.item()} at step {step + 1} of {how.steps}; "
                    f"lower the learning rate ({how.learning_rate:g})"
                )
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            progress((step + 1) / how.steps)
    return Adapter(
        twin.base_id, {site: (downs[site].numpy(), ups[site].detach().numpy()) for site in downs}
    )


def _unit(a: np.ndarray[tuple[int, int], np.dtype[np.float32]]):  # type: ignore[no-untyped-def]
    return np.ascontiguousarray(a / np.linalg.norm(a, axis=0, keepdims=True))


def _batches(records: int, how: PrivateTraining) -> list[list[int]]:
    """Cut reshuffled passes over the records into ``steps`` batches."""
    rng = np.random.default_rng(how.seed)
    size = min(how.batch, records)
    order: list[int] = []
    while len(order) < how.steps * size:
        order.extend(int(i) for i in rng.permutation(records))
    return [order[i * size : (i + 1) * size] for i in range(how.steps)]
