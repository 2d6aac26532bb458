"""A frozen twin with low-rank branches at its sites, and per-record gradients in closed form.

Every trained matrix ``W`` enters as a product ``y = u W`` whose per-record gradient is
``u_i^T (dL/dy)_i``. A matrix of a few rows costs less to keep per record than the activations
that the backward pass holds anyway, so no second pass and no hooks are needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from ...shared.adapters import Adapter
from ...shared.errors import AdapterError
from ...shared.forms import SharedForm

__all__ = ["AdaptedTwin", "Branch", "PerRecordProduct"]


class PerRecordProduct(torch.autograd.Function):
    """``u @ weight`` whose backward pass keeps the weight's gradient per record.

    Shapes: ``u (B, T, m)``, ``weight (m, n)``; ``sink`` receives ``(B, m, n)``.
    """

    @staticmethod
    def forward(
        ctx: Any, u: torch.Tensor, weight: torch.Tensor, sink: list[torch.Tensor]
    ) -> torch.Tensor:
        """Multiply."""
        ctx.save_for_backward(u, weight)
        ctx.sink = sink
        return u @ weight

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        """Keep ``u_i^T grad_i`` and pass ``grad weight^T`` on."""
        u, weight = ctx.saved_tensors
        ctx.sink.append(torch.einsum("btm,btn->bmn", u, grads[0]))
        return grads[0] @ weight.T, None, None


class Branch(nn.Module):
    """``x @ a [@ middle] [@ b]`` beside a frozen layer.

    With ``sink`` the middle matrix is trained per record; otherwise whichever factors require
    gradients are trained by autograd.
    """

    def __init__(
        self,
        a: torch.Tensor,
        b: torch.Tensor | None,
        middle: torch.Tensor | None = None,
        sink: list[torch.Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.a, self.b, self.middle, self.sink = a, b, middle, sink

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x (B, T, in)`` to the change of the layer's output ``(B, T, out)``.

        Wide products run in ``x``'s precision, the few numbers between them in float32.
        """
        value = (x @ self.a.to(x.dtype)).float()
        if self.middle is not None:
            if self.sink is None:
                value = value @ self.middle
            else:
                # Under the first trained site nothing requires gradients yet.
                value = value if value.requires_grad else value.requires_grad_()
                value = PerRecordProduct.apply(  # type: ignore[no-untyped-call]
                    value, self.middle, self.sink
                )
        return value if self.b is None else value.to(x.dtype) @ self.b.to(x.dtype)


class _Site(nn.Module):
    """A frozen linear layer and the branches beside it."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base = base
        self.branches: list[Branch] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """The layer's output plus every branch."""
        y: torch.Tensor = self.base(x)
        for branch in self.branches:
            y = y + branch(x).to(y.dtype)
        return y


class AdaptedTwin:
    """Puts branches on a twin. The twin's own weights never change."""

    def __init__(self, model: PreTrainedModel, base_id: str) -> None:
        self.model = model
        self.base_id = base_id
        self._sites: dict[str, _Site] = {}

    def site(self, name: str) -> _Site:
        """The wrapped layer at ``name``, wrapped on first use.

        Raises:
            AdapterError: there is no linear layer of that name.
        """
        if name not in self._sites:
            try:
                layer = self.model.get_submodule(name)
            except AttributeError:
                layer = None
            if not isinstance(layer, nn.Linear):
                raise AdapterError(f"base {self.base_id!r} has no linear layer at {name!r}")
            parent, _, leaf = name.rpartition(".")
            self._sites[name] = _Site(layer)
            setattr(self.model.get_submodule(parent), leaf, self._sites[name])
        return self._sites[name]

    @contextmanager
    def branches(self, branches: Mapping[str, Branch]) -> Iterator[None]:
        """Attach one branch per site for the duration of the block."""
        sites = {name: self.site(name) for name in branches}  # may raise: attach nothing before
        for name, branch in branches.items():
            sites[name].branches.append(branch)
        try:
            yield
        finally:
            for name, branch in branches.items():
                sites[name].branches.remove(branch)

    def frozen(self, adapter: Adapter) -> dict[str, Branch]:
        """Branches of an adapter that is not trained.

        Raises:
            AdapterError: the adapter belongs to another base.
        """
        adapter.require_base(self.base_id)
        return {
            site: Branch(torch.from_numpy(a), torch.from_numpy(b))
            for site, (a, b) in adapter.factors.items()
        }

    def shared(
        self,
        form: SharedForm,
        middles: Mapping[str, torch.Tensor],
        sink: dict[str, list[torch.Tensor]],
    ) -> dict[str, Branch]:
        """Branches that train a shared form per record; ``sink`` holds a list for every site."""
        branches = {}
        for site, (a, b) in form.directions.factors.items():
            up = torch.from_numpy(b) if form.name == "core" else None
            branches[site] = Branch(torch.from_numpy(a), up, middles[site], sink[site])
        return branches
