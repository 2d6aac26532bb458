"""The twin of a text base, and adapters on it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager

import torch
from transformers import PreTrainedModel

from ...shared.adapters import Adapter
from ...shared.forms import SharedForm
from .branches import Pass, attached
from .chains import Chain, Slot
from .cohort import Batch, Cohort
from .layout import Layout
from .objectives.language import per_record_loss, token_batch

__all__ = ["AdaptedTwin", "shared_chains"]

_PROBE_TOKENS = 8


class AdaptedTwin:
    """A frozen twin with the name of its base. Its own weights never change."""

    def __init__(self, model: PreTrainedModel, base_id: str) -> None:
        self.model = model
        self.base_id = base_id
        self._layouts: dict[str, Layout] = {}  # of the sites that were probed so far

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
        """Chains beside this twin's layers, trained by the per-record language loss."""
        made = Cohort(self.model, chains, per_record_loss, self._probe(), layouts=self._layouts)
        self._layouts.update(made.layouts)
        return made

    def _probe(self) -> Batch:
        """Four public token sequences that differ everywhere."""
        vocabulary = self.model.get_input_embeddings().num_embeddings
        generator = torch.Generator().manual_seed(0)
        count = 4 * _PROBE_TOKENS
        if vocabulary >= count:
            ids = torch.randperm(vocabulary, generator=generator)[:count]
        else:
            ids = torch.randint(vocabulary, (count,), generator=generator)
        return token_batch(ids.view(4, _PROBE_TOKENS).tolist())


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
