"""After training: was the adapter that is returned the one that was trained, and does it run?

Asserted, not assumed: a public tool trained forty-five GPU hours of adapters whose live weights
never moved (meta-pytorch/opacus #820).
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeVar

import numpy as np

from ...shared.adapters import Adapter, Array, load_adapter, save_adapter
from ...shared.errors import TrainingError
from .adapted import AdaptedTwin

__all__ = ["TrainingCheck", "check_training"]

_SAVED = 1e-5
# The runtime rounds activations to 8 bits and the twin may train in bfloat16; both distances
# are measured on the same example, so the bare base's own distance is the yardstick.
_RUNTIME_FACTOR = 2.0
_RUNTIME_FLOOR = 0.02

Example = TypeVar("Example")
Example_ = TypeVar("Example_", contravariant=True)


@dataclass(frozen=True, kw_only=True)
class TrainingCheck:
    """What was measured, as relative L2 distances of what is said about one example.

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


class Says(Protocol[Example_]):
    """A device's runtime, as far as it is checked."""

    def attach(self, *adapters: Adapter) -> None:
        """Make the sum of adapters live."""
        ...

    def outputs(self, example: Example_) -> Array:
        """What the twin's ``outputs`` gives too."""
        ...


def check_training(
    twin: AdaptedTwin[Example], model: Says[Example], adapter: Adapter, example: Example
) -> TrainingCheck:
    """Check an adapter in the twin, from its file, and in the runtime.

    Raises:
        TrainingError: it changes nothing, its file differs from it, or the runtime disagrees.
    """
    bare, adapted = _twin_outputs(twin, None, example), _twin_outputs(twin, adapter, example)
    with tempfile.TemporaryDirectory(prefix="locavore-") as folder:
        save_adapter(adapter, Path(folder))
        saved = _twin_outputs(twin, load_adapter(Path(folder)), example)
    check = TrainingCheck(
        effect=_rel(adapted, bare),
        saved=_rel(saved, adapted),
        runtime_base=_rel(_runtime_outputs(model, None, example), bare),
        runtime_adapted=_rel(_runtime_outputs(model, adapter, example), adapted),
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


def _twin_outputs(twin: AdaptedTwin[Example], adapter: Adapter | None, example: Example) -> Array:
    with twin.adapted(*([adapter] if adapter else [])):
        return twin.outputs(example)


def _runtime_outputs(model: Says[Example], adapter: Adapter | None, example: Example) -> Array:
    model.attach(*([adapter] if adapter else []))
    try:
        return model.outputs(example)
    finally:
        model.attach()


def _rel(found: Array, expected: Array) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))
