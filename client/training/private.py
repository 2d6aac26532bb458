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
from .adapted import AdaptedTwin
from .chains import Chain, Slot
from .loss import token_batch

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
    limited = directions.limited(how.rank).factors
    downs = {site: _unit(a) for site, (a, _) in limited.items()}
    chains = {
        site: Chain((torch.from_numpy(downs[site]), Slot(site, b.shape)))
        for site, (_, b) in limited.items()
    }
    with twin.adapted(*([shared] if shared else [])):
        cohort = twin.cohort(chains)
        theta = torch.zeros(1, cohort.dim)
        optimizer = torch.optim.Adam([theta], lr=how.learning_rate, betas=(0.9, 0.99))
        for step, rows in enumerate(_batches(len(records), how)):
            optimizer.param_groups[0]["lr"] = how.learning_rate * (1 - step / how.steps)
            batch = token_batch([records[i] for i in rows], start)
            gradients = cohort.gradients(theta, batch, per="owner")
            loss = gradients.losses.mean()
            if not torch.isfinite(loss):
                raise TrainingError(
                    f"the private loss is {loss.item()} at step {step + 1} of {how.steps}; "
                    f"lower the learning rate ({how.learning_rate:g})"
                )
            theta.grad = gradients.sums(torch.ones(1, dtype=torch.float64), 1).float() / len(rows)
            optimizer.step()
            progress((step + 1) / how.steps)
    ups = {site: up[0].numpy() for site, up in cohort.unpack(theta).items()}
    return Adapter(twin.base_id, {site: (downs[site], ups[site]) for site in downs})


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
