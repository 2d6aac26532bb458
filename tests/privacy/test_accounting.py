"""ε against values that were computed elsewhere."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("dp_accounting", reason="accounting needs the extra 'train'")

from locavore.privacy.accounting import epsilon_of_dp_sgd
from locavore.shared.errors import PrivacyError


def epsilon(sigma: float, rate: float, steps: int, delta: float = 1e-5) -> float:
    return epsilon_of_dp_sgd(noise_multiplier=sigma, sampling_rate=rate, steps=steps, delta=delta)


@pytest.mark.parametrize(
    ("sigma", "rate", "steps", "expected"),
    [(1.0, 0.01, 1000, 1.8282), (0.8, 0.02, 500, 4.668), (1.0, 1.0, 1, 4.37718)],
)
def test_known_values(sigma: float, rate: float, steps: int, expected: float) -> None:
    assert epsilon(sigma, rate, steps) == pytest.approx(expected, abs=1e-3)


@settings(max_examples=4)
@given(st.floats(0.7, 3), st.floats(0.01, 1), st.integers(1, 10))
def test_more_steps_cost_more_and_more_noise_costs_less(
    sigma: float, rate: float, steps: int
) -> None:
    once = epsilon(sigma, rate, steps)
    assert epsilon(sigma, rate, steps + 5) > once > 0
    assert epsilon(sigma * 1.5, rate, steps) < once
    assert epsilon(sigma, rate, steps, delta=1e-7) > once


def test_no_step_costs_nothing() -> None:
    assert epsilon(1.0, 0.1, 0) == 0.0


@pytest.mark.parametrize(
    ("sigma", "rate", "steps", "delta"),
    [
        (0.0, 0.1, 1, 1e-5),
        (-1.0, 0.1, 1, 1e-5),
        (float("nan"), 0.1, 1, 1e-5),
        (1.0, 0.0, 1, 1e-5),
        (1.0, 1.01, 1, 1e-5),
        (1.0, float("nan"), 1, 1e-5),
        (1.0, 0.1, -1, 1e-5),
        (1.0, 0.1, 1, 0.0),
        (1.0, 0.1, 1, 1.0),
        (1.0, 0.1, 1, float("nan")),
    ],
)
def test_what_cannot_be_claimed_is_refused(
    sigma: float, rate: float, steps: int, delta: float
) -> None:
    with pytest.raises(PrivacyError, match="no ε can be claimed"):
        epsilon(sigma, rate, steps, delta)
