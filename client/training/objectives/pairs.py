"""Samples that hold two of a kind: a liked and a disliked one, an own and a public one."""

from __future__ import annotations

from collections.abc import Mapping

import torch

__all__ = ["in_pairs", "side_by_side"]


def in_pairs(batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """``(2 B, ...)`` to ``(B, 2, ...)``: rows 2i and 2i + 1 become sample i."""
    return {name: value.view(-1, 2, *value.shape[1:]) for name, value in batch.items()}


def side_by_side(batch: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """``(B, 2, ...)`` to ``(2 B, ...)``, as a model takes them."""
    return {name: value.flatten(0, 1) for name, value in batch.items()}
