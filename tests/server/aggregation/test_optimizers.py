"""Server optimizers against the source's own lines, a number at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

pytest.importorskip("flwr", reason="the federation needs the extra 'federate'")

from locavore.server.aggregation import OPTIMIZERS, ServerOptimizer
from locavore.shared.errors import BadInputError

CHANGES = (0.3, -0.1, 0.2, 0.0, -0.4)
RATE, B1, B2, TAU = 0.05, 0.9, 0.99, 1e-3


def path(kind: str, changes: Sequence[float]) -> list[float]:
    """Algorithm 2 of arXiv:2003.00295 (and momentum of arXiv:1909.06335), written out."""
    momentum, second, at, found = 0.0, TAU**2, 0.0, []
    for change in changes:
        if kind == "fedavg":
            at += RATE * change
        elif kind == "fedavgm":
            momentum = B1 * momentum + change
            at += RATE * momentum
        else:
            momentum = B1 * momentum + (1 - B1) * change
            if kind == "fedadam":
                second = B2 * second + (1 - B2) * change**2
            else:
                sign = (second > change**2) - (second < change**2)
                second = second - (1 - B2) * change**2 * sign
            at += RATE * momentum / (math.sqrt(second) + TAU)
        found.append(at)
    return found


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_it_steps_as_the_source_says(kind: str) -> None:
    optimizer = ServerOptimizer(kind=kind, learning_rate=RATE)  # type: ignore[arg-type]
    state, at, found = optimizer.begin(1), 0.0, []
    for change in CHANGES:
        step, state = optimizer.step(np.array([change]), state, np.arange(1))
        at += float(step[0])
        found.append(at)
    np.testing.assert_allclose(found, path(kind, CHANGES), rtol=1e-12)


@pytest.mark.parametrize("kind", OPTIMIZERS)
def test_what_does_not_change_keeps_its_state(kind: str) -> None:
    optimizer = ServerOptimizer(kind=kind)  # type: ignore[arg-type]
    begun = optimizer.begin(4)
    before = {name: values.copy() for name, values in begun.items()}
    step, state = optimizer.step(np.ones(2), begun, np.array([1, 3]))
    assert step.shape == (2,)
    for name, values in state.items():
        np.testing.assert_array_equal(values[[0, 2]], before[name][[0, 2]])
        np.testing.assert_array_equal(begun[name], before[name])


def test_a_plain_step_is_the_mean_itself() -> None:
    assert ServerOptimizer().plain
    assert not ServerOptimizer(learning_rate=0.5).plain
    assert not ServerOptimizer(kind="fedavgm").plain
    assert ServerOptimizer().begin(5) == {}


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(BadInputError) as caught:
        ServerOptimizer(kind="lion", learning_rate=0, momentum=1.0, floor=-1)  # type: ignore[arg-type]
    for part in ("'lion'", "learning_rate must be above 0", "momentum must be", "floor must be"):
        assert part in str(caught.value)
