"""The private adapter: a LoRA of the person's own, which never leaves the device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal, TypeVar, get_args

import numpy as np
import torch

from ...shared.adapters import Adapter, Array
from ...shared.contexts import Context
from ...shared.errors import AdapterError, BadInputError, TooLittleDataError
from ...shared.forms import Directions
from ...shared.packages import Package
from ..engines import open_pairs, open_trainer
from ..preferences import choices, judged, likes
from .adapted import AdaptedTwin
from .chains import Chain, Slot
from .cohort import Cohort
from .local import LocalTraining, train_locally
from .optimizers import Optimizer
from .passes import AT_ONCE

__all__ = ["PrivateObjective", "PrivateTraining", "SliceTrainer", "private_chains", "train_private"]

PrivateObjective = Literal["sft", "dpo"]

Example = TypeVar("Example")


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
        seed: of the order in which records are visited, and of what is drawn for them.
        pull: how strongly the adapter is pulled back to nothing, and so the device to the shared
            adapter: Ditto's proximal term (arXiv:2012.04221), the columns of ``A`` being of
            length one.
    """

    rank: int = 4
    steps: int = 4
    batch: int = 16
    learning_rate: float = 1e-3
    seed: int = 0
    pull: float = 0.0

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
            optimizer=Optimizer(
                kind="adam",
                learning_rate=self.learning_rate,
                betas=(0.9, 0.99),
                weight_decay=self.pull,
            ),
            decay=True,
            seed=self.seed,
        )


def train_private(
    twin: AdaptedTwin[Example],
    directions: Directions,
    examples: Sequence[Example],
    how: PrivateTraining,
    *,
    shared: Adapter | None = None,
    begin: Adapter | None = None,
    progress: Callable[[float], None] = lambda _: None,
) -> Adapter:
    """Train a private adapter on top of ``shared``, on from ``begin`` where that is given.

    The same arguments give the same adapter, whatever was trained before.

    Raises:
        TooLittleDataError: there are no examples.
        AdapterError: ``begin`` is of another base, or has other directions than these.
        TrainingError: the loss is not finite.
    """
    if not examples:
        raise TooLittleDataError("private training needs at least one record")
    chains, downs = private_chains(directions, how.rank)
    with twin.adapted(*([shared] if shared else [])):
        cohort = twin.cohort(chains)
        twin.reseed(how.seed)  # after the probe, which draws too, but only the first time
        theta = train_locally(
            cohort,
            _theta(begin, downs, cohort, twin.base_id),
            [examples],
            how.local,
            twin.collate,
            progress=progress,
            at_once=AT_ONCE,
        )
    ups = {site: up[0].numpy() for site, up in cohort.unpack(theta).items()}
    return Adapter(twin.base_id, {site: (downs[site], ups[site]) for site in downs})


@dataclass
class SliceTrainer:
    """Trains the slices of a vault's private adapter: a :class:`~..vault.lineage.PrivateTrainer`.

    Args:
        twin: the torch twin of the device's base.
        directions: the base's public directions.
        training: how each slice is trained.
        objective: ``sft`` imitates the records; ``dpo`` learns from choices between two answers to
            one request (DPO for texts, arXiv:2305.18290; Diffusion-DPO for pictures,
            arXiv:2311.12908), and imitates what was liked where a slice has no choice.
        beta: of ``dpo``: how strongly the base is held on to; the modality's usual when not given.

    Raises:
        BadInputError: there is no such objective, or beta is not above 0.
    """

    twin: AdaptedTwin[Any]
    directions: Directions
    training: PrivateTraining = field(default_factory=PrivateTraining)
    objective: PrivateObjective = "sft"
    beta: float | None = None

    def __post_init__(self) -> None:
        if self.objective not in get_args(PrivateObjective):
            known = " or ".join(get_args(PrivateObjective))
            raise BadInputError(f"objective must be {known}, got {self.objective!r}")
        if self.objective == "dpo":
            open_pairs(self.twin, beta=self.beta)  # checks it

    @classmethod
    def of(
        cls,
        package: Package,
        training: PrivateTraining | None = None,
        *,
        objective: PrivateObjective = "sft",
        beta: float | None = None,
    ) -> SliceTrainer:
        """The trainer of an installed base."""
        directions = Directions.load(package.path("directions.safetensors"))
        twin, training = open_trainer(package), training or PrivateTraining()
        return cls(twin, directions, training, objective, beta)

    @property
    def base_id(self) -> str:
        """The base that it trains against."""
        return self.twin.base_id

    def takes(self, record: Context) -> bool:
        """Whether a record can be trained on."""
        if self.objective == "dpo":
            return self._judges(record)
        return self.twin.takes(record)

    @property
    def how(self) -> dict[str, Any]:
        """What decides a training but its records."""
        return {**asdict(self.training), "objective": self.objective, "beta": self.beta}

    def train(
        self,
        records: Sequence[Context],
        *,
        how: Mapping[str, Any],
        place: int,
        before: Iterable[Context],
        start: Adapter | None,
        shared: Adapter | None,
    ) -> Adapter:
        """Train a slice; its seed is that of the settings plus its place in the chain.

        An answer chooses among those of its own slice and of the slices before. Where there is
        nothing to learn, such as one disliked answer, the adapter stays what it was.
        """
        settings = dict(how)
        objective, beta = settings.pop("objective"), settings.pop("beta")
        training = PrivateTraining(**settings)
        training = replace(training, seed=training.seed + place)
        twin, examples = self._examples(records, before, objective, beta)
        if not examples:
            return start or self._untrained(training)
        return train_private(twin, self.directions, examples, training, shared=shared, begin=start)

    def _examples(
        self,
        records: Sequence[Context],
        before: Iterable[Context],
        objective: PrivateObjective,
        beta: float | None,
    ) -> tuple[AdaptedTwin[Any], list[Any]]:
        if objective == "sft":
            return self.twin, self.twin.together(self.twin.examples(records))
        found = choices(records, filter(self._judges, before))
        if not found:
            return self.twin, self.twin.together(self.twin.examples(likes(records)))
        pairs = open_pairs(self.twin, beta=beta)
        return pairs, pairs.chosen(found)

    def _judges(self, record: Context) -> bool:
        return record.modality == self.twin.modality and judged(record)

    def _untrained(self, training: PrivateTraining) -> Adapter:
        """An adapter that changes nothing."""
        chains, downs = private_chains(self.directions, training.rank)
        ups = {site: np.zeros(chain.slots[0].shape, np.float32) for site, chain in chains.items()}
        return Adapter(self.base_id, {site: (downs[site], ups[site]) for site in downs})


def private_chains(directions: Directions, rank: int) -> tuple[dict[str, Chain], dict[str, Array]]:
    """What a private adapter trains, ``B`` by site, and the public ``A`` ``(in, rank)`` before it.

    Raises:
        BadInputError: the rank is above what the directions hold.
    """
    limited = directions.limited(rank).factors
    downs = {site: _unit(a) for site, (a, _) in limited.items()}
    chains = {
        site: Chain((torch.from_numpy(downs[site]), Slot(site, b.shape)))
        for site, (_, b) in limited.items()
    }
    return chains, downs


def _theta(
    begin: Adapter | None, downs: Mapping[str, Array], cohort: Cohort, base_id: str
) -> torch.Tensor:
    """Where training begins: zero, or another adapter's ``B``."""
    if begin is None:
        return torch.zeros(1, cohort.dim)
    begin.require_base(base_id)
    same = begin.factors.keys() == downs.keys() and all(
        np.array_equal(a, downs[site]) for site, (a, _) in begin.factors.items()
    )
    if not same:
        raise AdapterError("the adapter to go on from has other directions than this training")
    ups = {site: torch.from_numpy(b)[None] for site, (_, b) in begin.factors.items()}
    return cohort.pack(ups)


def _unit(a: Array) -> Array:
    unit: Array = np.ascontiguousarray(a / np.linalg.norm(a, axis=0, keepdims=True))
    return unit
