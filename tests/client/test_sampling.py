"""Choosing a token."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from locavore.client.sampling import Sampling, choose
from locavore.shared.adapters import Array
from locavore.shared.errors import BadInputError

GREEDY = Sampling(repetition_penalty=1)


def draw(
    logits: Array, how: Sampling, count: int = 2000, history: tuple[int, ...] = ()
) -> Counter[int]:
    rng = np.random.default_rng(how.seed)
    return Counter(choose(logits, history, how, rng) for _ in range(count))


@given(arrays(np.float32, st.integers(1, 40), elements=st.floats(-50, 50, width=32)))
def test_greedy_takes_the_largest(logits: Array) -> None:
    assert choose(logits, [], GREEDY, np.random.default_rng(0)) == int(logits.argmax())


@given(
    arrays(np.float32, st.integers(1, 300), elements=st.floats(-30, 30, width=32)),
    st.floats(0.01, 1),
    st.integers(0, 2**32),
)
def test_any_logits_can_be_sampled_from_the_nucleus(logits: Array, top_p: float, seed: int) -> None:
    how = Sampling(temperature=1, top_p=top_p, repetition_penalty=1)
    token = choose(logits, [], how, np.random.default_rng(seed))
    p = np.exp(logits.astype(np.float64) - logits.max())
    p /= p.sum()
    assert p[p > p[token]].sum() < top_p + 1e-9


def test_top_p_one_does_not_run_off_the_end() -> None:
    rng = np.random.default_rng(0)
    how = Sampling(temperature=1, top_p=1, repetition_penalty=1)
    for size in range(1, 400):  # some of these cumulative sums end below 1
        logits = rng.standard_normal(size).astype(np.float32)
        assert 0 <= choose(logits, [], how, rng) < size


def test_the_nucleus_is_the_smallest_that_reaches_top_p() -> None:
    logits = np.log(np.array([0.1, 0.5, 0.15, 0.25], np.float32))
    for top_p, kept in ((0.4, {1}), (0.6, {1, 3}), (0.8, {1, 2, 3}), (1.0, {0, 1, 2, 3})):
        how = Sampling(temperature=1, top_p=top_p, repetition_penalty=1)
        assert set(draw(logits, how)) == kept


def test_frequencies_follow_the_temperature() -> None:
    logits = np.log(np.array([0.2, 0.8], np.float32))
    once = draw(logits, Sampling(temperature=1, repetition_penalty=1))
    assert once[0] / 2000 == pytest.approx(0.2, abs=0.05)
    twice = draw(logits, Sampling(temperature=2, repetition_penalty=1))
    assert twice[0] / 2000 == pytest.approx(1 / 3, abs=0.05)


def test_the_same_seed_repeats_and_another_differs() -> None:
    logits = np.zeros(1000, np.float32)

    def sequence(seed: int) -> list[int]:
        rng = np.random.default_rng(seed)
        return [choose(logits, [], Sampling(temperature=1), rng) for _ in range(8)]

    assert sequence(1) == sequence(1)
    assert sequence(1) != sequence(2)


def test_repetition_penalty_lowers_positive_and_negative_logits() -> None:
    how = Sampling(repetition_penalty=2)
    rng = np.random.default_rng(0)
    assert choose(np.array([3.0, 2.0], np.float32), [0], how, rng) == 1
    assert choose(np.array([3.0, 1.0], np.float32), [0], how, rng) == 0
    assert choose(np.array([-1.0, -1.5], np.float32), [0], how, rng) == 1
    assert choose(np.array([-1.0, -2.5], np.float32), [0, 0, 0], how, rng) == 0  # once only


def test_the_penalty_looks_back_as_far_as_its_window() -> None:
    logits, rng = np.array([3.0, 2.0, 0.0], np.float32), np.random.default_rng(0)
    assert choose(logits, [0, 2], Sampling(repetition_penalty=2, repetition_window=2), rng) == 1
    assert choose(logits, [0, 2], Sampling(repetition_penalty=2, repetition_window=1), rng) == 0
    assert choose(logits, [0, 2], Sampling(repetition_penalty=2, repetition_window=0), rng) == 0


def test_the_logits_are_not_changed() -> None:
    logits = np.array([3.0, 2.0], np.float32)
    choose(logits, [0], Sampling(repetition_penalty=2), np.random.default_rng(0))
    np.testing.assert_array_equal(logits, [3, 2])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("temperature", -0.1),
        ("temperature", 11),
        ("temperature", float("nan")),
        ("top_p", 0),
        ("top_p", 1.1),
        ("top_p", float("nan")),
        ("repetition_penalty", 0.9),
        ("repetition_penalty", float("nan")),
        ("repetition_window", -1),
        ("seed", -1),
    ],
)
def test_a_bad_value_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(BadInputError, match=f"{name} must .*got {value}"):
        Sampling(**{name: value})


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(BadInputError, match=r"temperature.*top_p"):
        Sampling(temperature=-1, top_p=0)
