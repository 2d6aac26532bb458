"""An adapter that was not trained, or does not run as trained, is found out."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'train'")

from locavore.client.runtime import TextModel
from locavore.client.training.check import check_training
from locavore.client.training.private import PrivateTraining, train_private
from locavore.client.training.text import TextTwin
from locavore.shared.adapters import Adapter
from locavore.shared.errors import TrainingError
from locavore.shared.forms import Directions
from locavore.shared.packages import Package

if TYPE_CHECKING:
    from locavore.export.quantize import Precision

TEXT = [0, 70, 71, 300, 12, 5, 44, 260]


def trained(twin: TextTwin, directions: Directions) -> Adapter:
    how = PrivateTraining(rank=2, steps=4, learning_rate=1e-2)
    return train_private(twin, directions, [TEXT, TEXT[::-1]], how)


@pytest.mark.parametrize("precision", ["float32", "int8", "int4"])
def test_a_trained_adapter_passes(
    precision: Precision, packages: Callable[[Precision], Package]
) -> None:
    package = packages(precision)
    twin, model = TextTwin.of(package), TextModel(package)
    directions = Directions.load(package.path("directions.safetensors"))
    check = check_training(twin, model, trained(twin, directions), TEXT)
    assert check.effect > 0.01
    assert check.saved < 1e-6
    assert check.runtime_adapted < 0.05


def test_an_adapter_that_changes_nothing_fails(
    twin: TextTwin, model: TextModel, directions: Directions
) -> None:
    adapter = trained(twin, directions)
    zero = Adapter(
        adapter.base_id, {s: (a, np.zeros_like(b)) for s, (a, b) in adapter.factors.items()}
    )
    with pytest.raises(TrainingError, match="training changed nothing"):
        check_training(twin, model, zero, TEXT)


def test_a_runtime_that_runs_something_else_fails(
    twin: TextTwin, model: TextModel, directions: Directions, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = trained(twin, directions)
    strong = Adapter(adapter.base_id, {s: (a, 5 * b) for s, (a, b) in adapter.factors.items()})
    monkeypatch.setattr(model, "attach", lambda *_: None)  # the swap that forgot to swap
    with pytest.raises(TrainingError, match="differs from the twin by"):
        check_training(twin, model, strong, TEXT)


def test_the_runtime_is_left_bare(twin: TextTwin, model: TextModel, directions: Directions) -> None:
    bare = model.logits(TEXT)
    check_training(twin, model, trained(twin, directions), TEXT)
    np.testing.assert_array_equal(model.logits(TEXT), bare)
