"""The plan: what it refuses, what identifies it, and what it claims."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import pytest

from locavore.privacy.plan import PrivacyPlan
from locavore.shared.errors import BadInputError

NUMBERS = [f.name for f in fields(PrivacyPlan) if f.name not in ("unit", "relation", "trust")]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("clip", 0.0),
        ("clip", -1.0),
        ("clip", math.inf),
        ("clip", math.nan),
        ("learning_rate", 0.0),
        ("learning_rate", math.nan),
        ("noise_multiplier", -0.1),
        ("noise_multiplier", math.nan),
        ("noise_multiplier", math.inf),
        ("expected_batch", 0),
        ("local_steps", 0),
        ("rounds", 0),
        ("delta", 0.0),
        ("delta", 1.0),
        ("delta", math.nan),
    ],
)
def test_a_bad_field_is_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(BadInputError, match=f"{name} must be .*got {value}"):
        PrivacyPlan(**{name: value})  # type: ignore[arg-type]


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(BadInputError) as caught:
        PrivacyPlan(clip=0, noise_multiplier=-1, rounds=0, delta=2)
    for name in ("clip", "noise_multiplier", "rounds", "delta"):
        assert name in str(caught.value)


def test_the_digest_identifies_the_plan() -> None:
    plan = PrivacyPlan()
    assert plan.digest == PrivacyPlan().digest
    assert len(plan.digest) == 64
    assert set(plan.digest) <= set("0123456789abcdef")


@pytest.mark.parametrize("name", [f.name for f in fields(PrivacyPlan)])
def test_the_digest_changes_with_every_field(name: str) -> None:
    old = getattr(PrivacyPlan(), name)
    new: Any = "other" if isinstance(old, str) else old + 1 if isinstance(old, int) else old / 2
    assert replace(PrivacyPlan(), **{name: new}).digest != PrivacyPlan().digest


def test_sampling_rate() -> None:
    plan = PrivacyPlan(expected_batch=16)
    assert [plan.sampling_rate(n) for n in (0, 8, 16, 64)] == [0.0, 1.0, 1.0, 0.25]


def test_a_plan_without_noise_claims_nothing() -> None:
    plan = PrivacyPlan(noise_multiplier=0)
    assert not plan.private
    assert plan.epsilon(100) == math.inf
    assert plan.signal_to_noise(10, 10) == math.inf


def test_epsilon_is_of_all_steps_of_all_rounds() -> None:
    pytest.importorskip("dp_accounting")
    plan = PrivacyPlan(noise_multiplier=1, expected_batch=1, local_steps=100, rounds=10)
    assert plan.epsilon(100) == pytest.approx(1.8282, abs=1e-3)
    assert plan.epsilon(100, rounds=1) < plan.epsilon(100, rounds=2) < plan.epsilon(100)
    assert plan.epsilon(100, rounds=0) == 0.0
    assert plan.epsilon(0) == 0.0


def test_signal_to_noise() -> None:
    plan = PrivacyPlan(clip=6, noise_multiplier=2, expected_batch=16)
    dim, devices = 400, 9
    noise = 2 * 6 * math.sqrt(dim) / (16 * math.sqrt(devices))
    assert plan.signal_to_noise(dim, devices) == pytest.approx(6 / noise)
    assert plan.signal_to_noise(dim, 4 * devices) == pytest.approx(2 * 6 / noise)
