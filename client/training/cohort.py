"""Adapters of K owners over one frozen model, trained in one forward and backward pass.

A device is a cohort of one; a simulation trains many owners at once, with the same numbers. The
samples of a batch are owner-major: K owners with n samples each. Gradients come per sample, for
record-level privacy, or per owner, where nothing is clipped inside an owner.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import nn

from ...shared.errors import AdapterError, BadInputError, TrainingError
from .branches import Pass, attached
from .chains import Chain, Slot
from .layout import Layout
from .probe import probe_layouts

__all__ = ["Batch", "Cohort", "Gradients", "Objective", "batch_size"]

Batch = Mapping[str, torch.Tensor]
"""Tensors with the samples on their first axis."""

Objective = Callable[[nn.Module, Batch], torch.Tensor]
"""Losses ``(B,)`` of a batch, each sample's from its own rows alone."""


@dataclass(frozen=True)
class Gradients:
    """Gradients of each group: slot name to ``(G, m, n)``, and the losses ``(B,)``.

    sensitive: one row a sample, or an owner, before clipping and noise.
    """

    parts: Mapping[str, torch.Tensor]
    losses: torch.Tensor

    def norms(self) -> torch.Tensor:
        """L2 norm of each group's whole gradient, ``(G,)`` float64."""
        squares = [
            torch.linalg.vector_norm(part.flatten(1), dim=1, dtype=torch.float64).square()
            for part in self.parts.values()
        ]
        return torch.stack(squares).sum(0).sqrt()

    def sums(self, factors: torch.Tensor, owners: int) -> torch.Tensor:
        """``sum_i factors_i gradient_i`` of each owner, ``(K, dim)`` float64.

        Groups whose factor is 0 count as zero even where they are not finite.
        """
        dropped = factors == 0
        columns = []
        for part in self.parts.values():
            rows = part.flatten(1).double()
            if dropped.any():
                rows = rows.masked_fill(dropped[:, None], 0)
            by_owner = rows.view(owners, -1, rows.shape[1])
            columns.append(torch.einsum("kg,kgd->kd", factors.view(owners, -1), by_owner))
        return torch.cat(columns, 1)


class Cohort:
    """The adapters of K owners: what is trained, where, and the gradients of a batch.

    Args:
        model: frozen; its parameters must not require gradients.
        chains: what stands beside which layer; every slot name once.
        objective: the per-sample loss.
        probe: three or more samples that differ, public ones if possible: they show which rows
            of every site belong to which sample. See :mod:`.probe`.
        layouts: what an earlier probe of the same model and objective found; where it covers
            every site, nothing is probed.

    Raises:
        AdapterError: a site cannot carry its chain, or a slot is named twice.
        TrainingError: a site's rows mix samples, or belong to none.
    """

    def __init__(
        self,
        model: nn.Module,
        chains: Mapping[str, Chain],
        objective: Objective,
        probe: Batch,
        *,
        layouts: Mapping[str, Layout] | None = None,
    ) -> None:
        self.model, self.chains, self.objective = model, chains, objective
        self.slots = _slots(model, chains)
        known = layouts or {}
        self.layouts = known if set(chains) <= set(known) else self._probe(probe)

    def _probe(self, probe: Batch) -> Mapping[str, Layout]:
        device = self.device
        zeros = {n: torch.zeros(1, *s.shape, device=device) for n, s in self.slots.items()}
        public = {name: value.to(device) for name, value in probe.items()}
        with attached(self.model, self.chains, Pass(zeros)):
            return probe_layouts(self.model, self.chains, self.objective, public)

    @property
    def device(self) -> torch.device:
        """Where the model is; batches and parameters are brought there."""
        return next((p.device for p in self.model.parameters()), torch.device("cpu"))

    @property
    def dim(self) -> int:
        """Number of trained parameters of one owner."""
        return sum(rows * columns for rows, columns in (s.shape for s in self.slots.values()))

    def start(self, owners: int, generator: torch.Generator) -> torch.Tensor:
        """Parameters ``(K, dim)`` of adapters that change nothing yet, the same for all owners.

        Slots that start uniform are drawn as Kaiming's rule for LoRA's ``A`` says.
        """
        parts = []
        for slot in self.slots.values():
            rows, columns = slot.shape
            value = torch.zeros(rows, columns)
            if slot.start == "uniform":
                value.uniform_(-(rows**-0.5), rows**-0.5, generator=generator)
            parts.append(value.flatten())
        return torch.cat(parts).repeat(owners, 1)

    def mask(self, slots: frozenset[str]) -> torch.Tensor:
        """Which of an owner's parameters belong to these slots, ``(dim,)`` bool."""
        sizes = {name: slot.shape[0] * slot.shape[1] for name, slot in self.slots.items()}
        return torch.cat([torch.full((n,), name in slots) for name, n in sizes.items()])

    def pack(self, parts: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The ``theta (K, dim)`` whose :meth:`unpack` gives these parts."""
        return torch.cat([parts[name].flatten(1) for name in self.slots], 1)

    def unpack(self, theta: torch.Tensor) -> dict[str, torch.Tensor]:
        """Slot name to ``(K, m, n)`` views of ``theta (K, dim)``.

        Raises:
            AdapterError: the width is not that of these chains.
        """
        if theta.ndim != 2 or theta.shape[1] != self.dim:
            raise AdapterError(
                f"parameters must be (owners, {self.dim}), got {tuple(theta.shape)}; they come "
                "from another base or rank"
            )
        sizes = [slot.shape[0] * slot.shape[1] for slot in self.slots.values()]
        parts = torch.split(theta, sizes, 1)
        return {
            name: part.unflatten(1, slot.shape)  # type: ignore[no-untyped-call]
            for (name, slot), part in zip(self.slots.items(), parts, strict=True)
        }

    def gradients(
        self,
        theta: torch.Tensor | Mapping[str, torch.Tensor],
        batch: Batch,
        *,
        per: Literal["sample", "owner"] = "sample",
        weights: torch.Tensor | None = None,
        active: frozenset[str] | None = None,
    ) -> Gradients:
        """Gradients of each sample's own loss, or of the sum of an owner's losses.

        Args:
            theta: ``(K, dim)`` float32, or as :meth:`unpack` gives it.
            batch: ``K n`` samples, owner-major.
            per: what one row of the result is.
            weights: ``(K n,)``, what each loss is multiplied by; at 0 a sample only fills up an
                owner with fewer, and counts nothing even where it is not finite.
            active: slots whose gradients are wanted; all when not given. The others' are zero.

        Raises:
            BadInputError: the samples do not divide among the owners.
            TrainingError: an active site took no part in the loss.
        """
        parts = self.unpack(theta) if isinstance(theta, torch.Tensor) else theta
        owners, samples = len(next(iter(parts.values()))), batch_size(batch)
        if samples % owners:
            raise BadInputError(f"{samples} samples do not divide among {owners} owners")
        wanted = frozenset(self.slots) if active is None else active
        device = self.device
        batch = {name: value.to(device) for name, value in batch.items()}
        values = {
            name: value.detach().to(device).requires_grad_(name in wanted)
            for name, value in parts.items()
        }
        groups = samples if per == "sample" else owners
        work = Pass(values, samples, groups, self.layouts, wanted)
        with torch.enable_grad(), attached(self.model, self.chains, work):
            losses = self.objective(self.model, batch)
            counted = losses if weights is None else _weighted(losses, weights.to(losses))
            if counted.requires_grad:
                counted.sum().backward()  # type: ignore[no-untyped-call]
        _require_all(work)
        for name in self.slots.keys() - wanted:
            work.found[name] = values[name].new_zeros(groups, *self.slots[name].shape)
        return Gradients({name: work.found[name] for name in self.slots}, losses.detach())


def _weighted(losses: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    return torch.where(weights > 0, losses, 0.0) * weights


def batch_size(batch: Batch) -> int:
    """Number of samples.

    Raises:
        BadInputError: the tensors disagree.
    """
    sizes = {name: len(value) for name, value in batch.items()}
    if len(set(sizes.values())) != 1:
        raise BadInputError(f"every tensor of a batch needs one row a sample, got {sizes}")
    return next(iter(sizes.values()))


def _slots(model: nn.Module, chains: Mapping[str, Chain]) -> dict[str, Slot]:
    trained = [name for name, value in model.named_parameters() if value.requires_grad]
    if trained:
        raise AdapterError(
            f"the base must be frozen, but {trained[0]!r} and {len(trained) - 1} more require "
            "gradients; call model.requires_grad_(False)"
        )
    slots: dict[str, Slot] = {}
    for chain in chains.values():
        for slot in chain.slots:
            if slot.name in slots:
                raise AdapterError(f"slot {slot.name!r} is named twice")
            slots[slot.name] = slot
    return slots


def _require_all(work: Pass) -> None:
    missing = sorted(work.active - set(work.found))
    if missing:
        raise TrainingError(
            f"{missing[0]!r} (and {len(missing) - 1} more) took no part in the loss: the model "
            "bypasses that layer, or a checkpointed block gets no input that needs a gradient"
        )
