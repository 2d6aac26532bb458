"""The private adapter: a LoRA of the person's own, which never leaves the device."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ...shared.adapters import Adapter, Array
from ...shared.errors import BadInputError, TooLittleDataError
from ...shared.forms import Directions
from .adapted import AdaptedTwin
from .chains import Chain, Slot
from .local import LocalTraining, train_locally
from .objectives.language import token_batch
from .optimizers import Optimizer
from .passes import AT_ONCE

__all__ = ["PrivateTraining", "train_private"]


@dataclass(frozen=True, kw_only=True)
class PrivateTraining:
    """How the private adapter is trained.

    ``A`` is the base's public directions; ``B`` starts from zero and is trained with Adam. There
    is no noise: what it learns stays on the device.

    Args:
        rank: directions per site.
        steps: optimizer steps.
        batch: records per step.
        learning_rate: of ``B``, decaying linearly to zero.
        seed: of the order in which records are visited.
    """

    rank: int = 4
    steps: int = 4
    batch: int = 16
    learning_rate: float = 1e-3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise BadInputError(f"rank must be at least 1, got {self.rank}")
        _ = self.local  # checks the rest

    @property
    def local(self) -> LocalTraining:
        """The steps."""
        return LocalTraining(
            steps=self.steps,
            batch=self.batch,
            optimizer=Optimizer(kind="adam", learning_rate=self.learning_rate, betas=(0.9, 0.99)),
            decay=True,
            seed=self.seed,
        )


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
        theta = train_locally(
            cohort,
            torch.zeros(1, cohort.dim),
            [records],
            how.local,
            lambda rows: token_batch(rows, start),
            progress=progress,
            at_once=AT_ONCE,
        )
    ups = {site: up[0].numpy() for site, up in cohort.unpack(theta).items()}
    return Adapter(twin.base_id, {site: (downs[site], ups[site]) for site in downs})


def _unit(a: Array) -> Array:
    unit: Array = np.ascontiguousarray(a / np.linalg.norm(a, axis=0, keepdims=True))
    return unit
