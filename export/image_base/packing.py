"""Weights as one byte each: what is committed is a quarter of what is trained.

A matrix or a kernel is stored as whole numbers -127..127 with one scale a row (its first axis), a
vector in half precision. Reading and storing again changes nothing more.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

__all__ = ["packed", "unpacked"]

_SCALE = ".scale"
_SMALLEST = 512  # numbers; what is smaller, and the code's basis, is not worth the loss
_EXACT = ("code.",)


def packed(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Tensors to write: ``name`` in int8 with ``name.scale`` in float32, or in float16."""
    found: dict[str, torch.Tensor] = {}
    for name, value in tensors.items():
        value = value.detach().float()
        if value.ndim < 2 or value.numel() < _SMALLEST or name.startswith(_EXACT):
            found[name] = value.half()
            continue
        scale = (value.flatten(1).abs().amax(1) / 127).clamp_min(1e-12)
        levels = value / scale.view(-1, *[1] * (value.ndim - 1))
        found[name] = levels.round().to(torch.int8)
        found[name + _SCALE] = scale
    return found


def unpacked(saved: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Undo :func:`packed`, in float32; also reads what was never packed."""
    found = {}
    for name, value in saved.items():
        if name.endswith(_SCALE) and name.removesuffix(_SCALE) in saved:
            continue
        scale = saved.get(name + _SCALE)
        whole = value.float()
        found[name] = whole if scale is None else whole * scale.view(-1, *[1] * (value.ndim - 1))
    return found
