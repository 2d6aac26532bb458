"""Private gradients as a textbook writes them: one sample at a time, by autograd alone.

Slow, and sharing nothing with the training core but the names of its matrices.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from locavore.client.training.chains import Chain, Slot

from .families import Batch, Family

__all__ = ["clipped_sum", "sample_gradient", "take"]


def take(batch: Batch, samples: slice | list[int]) -> dict[str, torch.Tensor]:
    """The samples of a batch, in this order."""
    return {name: value[samples] for name, value in batch.items()}


def sample_gradient(
    family: Family, model: nn.Module, chains: Mapping[str, Chain], theta: torch.Tensor, one: Batch
) -> torch.Tensor:
    """Gradient ``(dim,)`` of the loss of a batch of one, at ``theta (dim,)``."""
    leaf = theta.clone().requires_grad_()
    values, offset = {}, 0
    for slot in (slot for chain in chains.values() for slot in chain.slots):
        size = slot.shape[0] * slot.shape[1]
        values[slot.name] = leaf[offset : offset + size].view(slot.shape)
        offset += size
    with ExitStack() as stack:
        for site, chain in chains.items():
            hook = _hook([_matrix(link, values) for link in chain.links])
            stack.callback(
                model.get_submodule(site).register_forward_hook(hook, with_kwargs=True).remove
            )
        loss = family.losses(model, one).sum()
    (gradient,) = torch.autograd.grad(loss, leaf)
    return gradient


def clipped_sum(rows: torch.Tensor, clip: float) -> torch.Tensor:
    """Sum of ``rows (B, dim)``, each scaled down to norm ``clip`` where it is longer."""
    return torch.stack([row * min(1.0, clip / max(float(row.norm()), 1e-12)) for row in rows]).sum(
        0
    )


def _matrix(link: torch.Tensor | Slot, values: Mapping[str, torch.Tensor]) -> torch.Tensor:
    return values[link.name] if isinstance(link, Slot) else link


def _hook(matrices: list[torch.Tensor]) -> Any:
    def add(module: nn.Module, args: Any, kwargs: Any, out: torch.Tensor) -> torch.Tensor:
        x = args[0] if args else kwargs["input"]
        if isinstance(module, nn.Embedding):
            value = functional.embedding(x, matrices[0])
        elif isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            kernels = matrices[0].T.reshape(-1, module.in_channels, *module.kernel_size)
            convolve = getattr(functional, f"conv{len(module.kernel_size)}d")
            value = convolve(
                x, kernels, None, module.stride, module.padding, module.dilation
            ).movedim(1, -1)
        else:
            value = x @ matrices[0]
        for matrix in matrices[1:]:
            value = value @ matrix
        if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
            value = value.movedim(-1, 1)
        return out + value * getattr(module, "embed_scale", 1.0)

    return add
