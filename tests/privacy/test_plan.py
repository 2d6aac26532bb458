"""The plan: what it refuses, what identifies it, and what it claims."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from locavore.privacy.accounting import epsilon_of_dp_sgd
from locavore.privacy.noise import insecure_seeded_noise
from locavore.privacy.plan import PrivacyPlan
from locavore.shared.errors import BadInputError

from ..plans import record_plan

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
        record_plan(**{name: value})


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(BadInputError) as caught:
        record_plan(clip=0, noise_multiplier=-1, rounds=0, delta=2)
    for name in ("clip", "noise_multiplier", "rounds", "delta"):
        assert name in str(caught.value)


def test_the_digest_identifies_the_plan() -> None:
    plan = record_plan()
    assert plan.digest == record_plan().digest
    assert len(plan.digest) == 64
    assert set(plan.digest) <= set("0123456789abcdef")


@pytest.mark.parametrize("name", [*NUMBERS, "relation"])
def test_the_digest_changes_with_every_field(name: str) -> None:
    old = getattr(record_plan(), name)
    new: Any = old + 1 if isinstance(old, int) else "zero-out" if name == "relation" else old / 2
    assert replace(record_plan(), **{name: new}).digest != record_plan().digest


def test_sampling_rate() -> None:
    plan = record_plan(expected_batch=16)
    assert [plan.sampling_rate(n) for n in (0, 8, 16, 64)] == [0.0, 1.0, 1.0, 0.25]


def test_a_plan_without_noise_claims_nothing() -> None:
    plan = record_plan(noise_multiplier=0)
    assert not plan.private
    assert plan.epsilon(100) == math.inf
    assert plan.signal_to_noise(10, 10) == math.inf


def test_epsilon_is_of_all_steps_of_all_rounds() -> None:
    pytest.importorskip("dp_accounting")
    plan = record_plan(noise_multiplier=1, expected_batch=1, local_steps=100, rounds=10)
    assert plan.epsilon(100) == pytest.approx(1.8282, abs=1e-3)
    assert plan.epsilon(100, rounds=1) < plan.epsilon(100, rounds=2) < plan.epsilon(100)
    assert plan.epsilon(100, rounds=0) == 0.0
    assert plan.epsilon(0) == 0.0


def test_signal_to_noise() -> None:
    plan = record_plan(clip=6, noise_multiplier=2, expected_batch=16)
    dim, devices = 400, 9
    noise = 2 * 6 * math.sqrt(dim) / (16 * math.sqrt(devices))
    assert plan.signal_to_noise(dim, devices) == pytest.approx(6 / noise)
    assert plan.signal_to_noise(dim, 4 * devices) == pytest.approx(2 * 6 / noise)


# --- unit and relation ------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["unit", "relation"])
def test_unit_and_relation_must_be_said(name: str) -> None:
    said = {"unit": "record", "relation": "replace-one"}
    del said[name]
    with pytest.raises(TypeError, match=f"'{name}'"):
        PrivacyPlan(**said)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "value"), [("unit", "token"), ("relation", "shuffled")])
def test_what_is_no_unit_or_relation_is_refused(name: str, value: str) -> None:
    with pytest.raises(BadInputError, match=f"{name} must be .*got '{value}'"):
        record_plan(**{name: value})


def test_the_relation_is_what_is_accounted() -> None:
    added, replaced = record_plan(), record_plan(relation="replace-one")
    assert (
        added.epsilon(200)
        < replaced.epsilon(200)
        == epsilon_of_dp_sgd(
            noise_multiplier=1.0,
            sampling_rate=16 / 200,
            steps=3,
            delta=1e-5,
            relation="replace-one",
        )
    )


# --- the mechanism ----------------------------------------------------------------------------


def test_factors_bound_every_norm_and_drop_what_is_not_finite() -> None:
    plan = record_plan(clip=2.0)
    norms = np.array([0.0, 1.0, 2.0, 8.0, math.inf, math.nan])
    np.testing.assert_allclose(plan.clip_factors(norms), [1, 1, 1, 0.25, 0, 0])


def test_noise_is_the_multiplier_times_the_norm() -> None:
    plan = record_plan(clip=3.0, noise_multiplier=0.5)
    noised = plan.add_noise(np.full(20_000, 7.0), insecure_seeded_noise(1))
    assert noised.mean() == pytest.approx(7.0, abs=0.05)
    assert noised.std() == pytest.approx(1.5, rel=0.02)
    quiet = record_plan(noise_multiplier=0).add_noise(np.ones(3), insecure_seeded_noise(1))
    np.testing.assert_array_equal(quiet, np.ones(3))
