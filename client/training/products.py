"""Products of rows with trained matrices that keep the matrix' gradient per group of samples.

Every trained matrix ``W`` of an adapter enters as ``y = u W``, so its gradient for sample i is
``u_i^T (dL/dy)_i`` over that sample's rows: one small matrix product in the backward pass, no
second pass and no materialised activations. A LoRA matrix has r (in + out) numbers where an
activation has T (in + out), so keeping it per sample costs less than what the pass holds anyway.

Owners hold a matrix each: ``W`` is ``(K, m, n)`` and the samples of a batch are owner-major.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch

from .layout import Rows

__all__ = ["ConvProduct", "LookupProduct", "RowProduct", "Sink", "conv_out", "row_product"]

Sink = Callable[[torch.Tensor], None]
"""Takes a matrix' gradient per group, ``(groups, m, n)`` float32."""


def row_product(u: torch.Tensor, weight: torch.Tensor, rows: Rows) -> torch.Tensor:
    """``u (..., m)`` times each owner's ``weight (K, m, n)``, in ``u``'s precision."""
    weight = weight.to(u)
    if len(weight) == 1:
        return u @ weight[0]
    return rows.join(rows.split(u, len(weight)) @ weight, u.shape[:-1])


class RowProduct(torch.autograd.Function):
    """``u W`` for linear sites: ``u (..., m)``, ``W (K, m, n)``."""

    @staticmethod
    def forward(
        ctx: Any, u: torch.Tensor, weight: torch.Tensor, rows: Rows, sink: Sink
    ) -> torch.Tensor:
        """Multiply."""
        ctx.save_for_backward(u, weight)
        ctx.rows, ctx.sink = rows, sink
        return row_product(u, weight, rows)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, None, None, None]:
        """Sink ``u_i^T grad_i`` for every group i; pass ``grad W^T`` on."""
        u, weight = ctx.saved_tensors
        rows: Rows = ctx.rows
        left, right = (rows.split(t, rows.groups).float() for t in (u, grads[0]))
        ctx.sink(left.transpose(1, 2) @ right)
        if not ctx.needs_input_grad[0]:
            return None, None, None, None
        return row_product(grads[0], weight.transpose(1, 2), rows), None, None, None


class LookupProduct(torch.autograd.Function):
    """``onehot(ids) W`` for embeddings: ``ids (...)`` of rows of ``W (K, m, n)``, -1 for none."""

    @staticmethod
    def forward(
        ctx: Any, ids: torch.Tensor, weight: torch.Tensor, rows: Rows, sink: Sink
    ) -> torch.Tensor:
        """Look up; -1 gives zeros."""
        ctx.save_for_backward(ids)
        ctx.rows, ctx.sink, ctx.shape = rows, sink, weight.shape[1:]
        owners = rows.split(ids[..., None], len(weight))[..., 0]
        places, known = _places(owners, weight.shape[1])
        found = weight.flatten(0, 1)[places] * known[..., None]
        return rows.join(found, ids.shape)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[None, None, None, None]:
        """Sink the sum of each group's output gradients by row."""
        (ids,) = ctx.saved_tensors
        rows: Rows = ctx.rows
        places, known = _places(rows.split(ids[..., None], rows.groups)[..., 0], ctx.shape[0])
        grad = rows.split(grads[0], rows.groups).float() * known[..., None]
        total = grad.new_zeros(rows.groups * ctx.shape[0], ctx.shape[1])
        total.index_add_(0, places.flatten(), grad.flatten(0, 1))
        ctx.sink(total.view(rows.groups, *ctx.shape))
        return None, None, None, None


def _places(ids: torch.Tensor, size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Row of the stacked matrices for ``ids (K, rows)``, and where there is one."""
    offsets = torch.arange(len(ids), device=ids.device)[:, None] * size
    return ids.clamp(min=0) + offsets, ids >= 0


class ConvProduct(torch.autograd.Function):
    """A convolution with trained kernels: ``x (N, C, *S)``, ``W (K, C * kernel, n)``.

    ``like`` is the frozen convolution beside it, whose kernel, stride, padding and dilation count.
    """

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, rows: Rows, sink: Sink, like: Any
    ) -> torch.Tensor:
        """Convolve to ``(N, n, *S')``."""
        ctx.save_for_backward(x, weight)
        ctx.rows, ctx.sink, ctx.like = rows, sink, like
        folded = _fold(x, rows, len(weight))
        y = torch.convolution(folded, _kernels(weight, like, x), None, *_how(like, len(weight)))
        return _unfold(y, rows, len(weight))

    @staticmethod
    def backward(
        ctx: Any, *grads: torch.Tensor
    ) -> tuple[torch.Tensor | None, None, None, None, None]:
        """Sink each group's kernel gradient; pass the input gradient on."""
        x, weight = ctx.saved_tensors
        rows: Rows = ctx.rows
        grad, like = grads[0], ctx.like
        ctx.sink(_kernel_gradients(x, grad, weight, rows, like))
        if not ctx.needs_input_grad[0]:
            return None, None, None, None, None
        owners = len(weight)
        passed, _, _ = torch.ops.aten.convolution_backward(
            _fold(grad, rows, owners),
            _fold(x, rows, owners),
            _kernels(weight, like, x),
            None,
            *_how(like, owners),
            (True, False, False),
        )
        return _unfold(passed, rows, owners), None, None, None, None


def conv_out(x: torch.Tensor, weight: torch.Tensor, like: Any) -> torch.Tensor:
    """The convolution with one frozen ``weight (C * kernel, n)``."""
    return torch.convolution(x, _kernels(weight[None], like, x), None, *_how(like, 1))


def _kernel_gradients(
    x: torch.Tensor, grad: torch.Tensor, weight: torch.Tensor, rows: Rows, like: Any
) -> torch.Tensor:
    """``(groups, C * kernel, n)``: groups become groups of channels of one convolution."""
    groups = rows.groups
    one = weight[:1].expand(groups, -1, -1)
    _, found, _ = torch.ops.aten.convolution_backward(
        _fold(grad, rows, groups).float(),
        _fold(x, rows, groups).float(),
        _kernels(one, like, x.float()),
        None,
        *_how(like, groups),
        (False, True, False),
    )
    kernels: torch.Tensor = found
    return kernels.reshape(groups, weight.shape[2], weight.shape[1]).transpose(1, 2)


def _kernels(weight: torch.Tensor, like: Any, x: torch.Tensor) -> torch.Tensor:
    """``(K, C * kernel, n)`` as the kernels ``(K * n, C, *kernel)`` of a grouped convolution."""
    channels = weight.shape[1] // math.prod(like.kernel_size)
    kernels = weight.transpose(1, 2).reshape(-1, channels, *like.kernel_size)
    return kernels.to(x)


def _how(like: Any, groups: int) -> tuple[Any, ...]:
    none = [0] * len(like.kernel_size)
    return like.stride, like.padding, like.dilation, False, none, groups


def _fold(x: torch.Tensor, rows: Rows, parts: int) -> torch.Tensor:
    """``(N, C, *S)`` to ``(N / parts, parts * C, *S)``: each part in channels of its own."""
    if parts == 1:
        return x
    cut = rows.split_first(x, parts)  # (parts, f, C, *S)
    return cut.transpose(0, 1).flatten(1, 2)


def _unfold(y: torch.Tensor, rows: Rows, parts: int) -> torch.Tensor:
    if parts == 1:
        return y
    cut = y.reshape(len(y), parts, -1, *y.shape[2:]).transpose(0, 1)
    return rows.join_first(cut)
