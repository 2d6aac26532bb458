"""After training: was the adapter that is returned the one that was trained, and does it run?

Asserted, not assumed: a public tool trained forty-five GPU hours of adapters whose live weights
never moved (meta-pytorch/opacus #820).
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ...shared.adapters import Adapter, Array, load_adapter, save_adapter
from ...shared.errors import TrainingError
from ..runtime import TextModel
from .adapted import AdaptedTwin

__all__ = ["TrainingCheck", "check_training"]

_SAVED = 1e-5
# The runtime rounds activations to 8 bits and the twin may train in bfloat16; both distances
# are measured on the same text, so the bare base's own distance is the yardstick.
_RUNTIME_FACTOR = 2.0
_RUNTIME_FLOOR = 0.02


@dataclass(frozen=True, kw_only=True)
class TrainingCheck:
    """What was measured, as relative L2 distances of logits on one text.

    Args:
        effect: adapted twin against bare twin: above 0, or nothing was learnt.
        saved: adapted twin against the twin with the adapter read back from its file.
        runtime_base: ONNX runtime against twin, both bare.
        runtime_adapted: ONNX runtime against twin, both with the adapter.
    """

    effect: float
    saved: float
    runtime_base: float
    runtime_adapted: float


def check_training(
    twin: AdaptedTwin, model: TextModel, adapter: Adapter, text: Sequence[int]
) -> TrainingCheck:
    """Check an adapter in the twin, from its file, and in the runtime.

    Raises:
        TrainingError: it changes nothing, its file differs from it, or the runtime disagrees.
    """
    bare, adapted = _twin_logits(twin, None, text), _twin_logits(twin, adapter, text)
    with tempfile.TemporaryDirectory(prefix="locavore-") as folder:
        save_adapter(adapter, Path(folder))
        saved = _twin_logits(twin, load_adapter(Path(folder)), text)
    check = TrainingCheck(
        effect=_rel(adapted, bare),
        saved=_rel(saved, adapted),
        runtime_base=_rel(_runtime_logits(model, None, text), bare),
        runtime_adapted=_rel(_runtime_logits(model, adapter, text), adapted),
    )
    if not check.effect > 0:
        raise TrainingError("training changed nothing: the adapter has no effect on the base")
    if not check.saved <= _SAVED:
        raise TrainingError(f"the saved adapter differs from the trained one by {check.saved:.1e}")
    bound = max(_RUNTIME_FLOOR, _RUNTIME_FACTOR * check.runtime_base)
    if not check.runtime_adapted <= bound:
        raise TrainingError(
            f"the runtime with the adapter differs from the twin by {check.runtime_adapted:.1e}, "
            f"more than {bound:.1e}"
        )
    return check


def _twin_logits(twin: AdaptedTwin, adapter: Adapter | None, text: Sequence[int]) -> Array:
    with torch.no_grad(), twin.adapted(*([adapter] if adapter else [])):
        ids = torch.tensor([list(text)], device=twin.model.device)
        out = twin.model(input_ids=ids, use_cache=False)
    logits: Array = out.logits[0].float().cpu().numpy()
    return logits


def _runtime_logits(model: TextModel, adapter: Adapter | None, text: Sequence[int]) -> Array:
    model.attach(*([adapter] if adapter else []))
    try:
        return model.logits(text)
    finally:
        model.attach()


def _rel(found: Array, expected: Array) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
