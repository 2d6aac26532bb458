"""A base's torch twin with adapters beside its layers: finished ones, or ones to be trained.

What an engine knows of its modality is in one subclass: how records become examples, how examples
become a batch, and what their losses are. Everything else that trains knows none of it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import ClassVar, Generic, TypeVar

import torch
from torch import nn

from ...shared.adapters import Adapter, Array
from ...shared.contexts import Context
from ...shared.forms import SharedForm
from .branches import Pass, attached
from .chains import Chain, Slot
from .cohort import Batch, Cohort, Objective
from .layout import Layout

__all__ = ["AdaptedTwin", "shared_chains"]

Example = TypeVar("Example")


class AdaptedTwin(ABC, Generic[Example]):
    """A frozen twin with the name of its base. Its own weights never change.

    Args:
        model: the frozen base.
        base_id: of the base.
    """

    modality: ClassVar[str]

    def __init__(self, model: nn.Module, base_id: str) -> None:
        self.model = model
        self.base_id = base_id
        self._layouts: dict[str, Layout] = {}  # of the sites that were probed so far

    @abstractmethod
    def takes(self, record: Context) -> bool:
        """Whether a record can be trained on."""

    @abstractmethod
    def examples(self, records: Sequence[Context]) -> list[Example]:
        """What can be trained on of these records, in their order."""

    @abstractmethod
    def collate(self, rows: Sequence[Example]) -> Batch:
        """A batch of examples, a row each."""

    @abstractmethod
    def losses(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Losses ``(B,)``, each example's from its own rows alone."""

    @abstractmethod
    def outputs(self, example: Example) -> Array:
        """What the twin says about an example; the device's runtime has the like."""

    @abstractmethod
    def probe(self) -> Batch:
        """Three or more public samples that differ everywhere."""

    @abstractmethod
    def longest(self) -> Example:
        """An example of the largest shape there is."""

    def reseed(self, seed: int) -> None:  # many twins draw nothing
        """Begin anew whatever is drawn at random for examples, such as times and noise."""

    def together(self, examples: Sequence[Example]) -> list[Example]:
        """One person's examples, shown each other where the twin can do that.

        Their losses then depend on one another: not for privacy that is stated for records.
        """
        return list(examples)

    def length(self, example: Example) -> int:
        """What examples are sorted by, so that short ones are padded little."""
        return 0

    @contextmanager
    def adapted(self, *adapters: Adapter) -> Iterator[None]:
        """Add finished adapters for the duration of the block.

        Raises:
            AdapterError: one belongs to another base, or names a layer that this one lacks.
        """
        for adapter in adapters:
            adapter.require_base(self.base_id)
        with ExitStack() as stack:
            for adapter in adapters:
                stack.enter_context(attached(self.model, _frozen(adapter), Pass()))
            yield

    def cohort(self, chains: Mapping[str, Chain]) -> Cohort:
        """Chains beside this twin's layers, trained by its own losses."""
        return self.cohort_of(chains, self.losses, self.probe())

    def cohort_of(self, chains: Mapping[str, Chain], objective: Objective, probe: Batch) -> Cohort:
        """Chains beside this twin's layers, trained by an objective of one's own.

        Args:
            chains: what is trained.
            objective: losses ``(B,)`` of a batch.
            probe: three or more samples of it that differ everywhere.
        """
        made = Cohort(self.model, chains, objective, probe, layouts=self._layouts)
        self._layouts.update(made.layouts)
        return made


def shared_chains(form: SharedForm) -> dict[str, Chain]:
    """What a shared form trains, in the order in which it packs its numbers."""
    slots = {(m.site, m.letter): Slot(m.name, m.shape) for m in form.trained}
    chains = {}
    for site, factors in form.directions.factors.items():
        a, b = (torch.from_numpy(factor) for factor in factors)
        core = [slots[site, "R"]] if (site, "R") in slots else []
        up = [b] if core else []
        chains[site] = Chain((slots.get((site, "A"), a), *core, *up, *_up(slots, site)))
    return chains


def _up(slots: Mapping[tuple[str, str], Slot], site: str) -> list[Slot]:
    return [slots[site, "B"]] if (site, "B") in slots else []


def _frozen(adapter: Adapter) -> dict[str, Chain]:
    return {
        site: Chain((torch.from_numpy(a), torch.from_numpy(b)))
        for site, (a, b) in adapter.factors.items()
    }
