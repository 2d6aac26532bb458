"""The plan: what it refuses, what identifies it, and what it claims."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from locavore.privacy.accounting import epsilon_of_dp_sgd
from locavore.privacy.clipping import AdaptiveClip
from locavore.privacy.matrix import Correlation
from locavore.privacy.noise import insecure_seeded_noise
from locavore.privacy.plan import RecordPlan, UserPlan
from locavore.shared.errors import BadInputError, PrivacyError

from ..plans import record_plan, user_plan

NUMBERS = [f.name for f in fields(RecordPlan) if f.name not in ("relation", "trust")]


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


def test_what_is_protected_for_whom_must_be_said() -> None:
    """The class says the unit; there is no plan of no unit."""
    with pytest.raises(TypeError, match="'relation'"):
        RecordPlan()  # type: ignore[call-arg]
    with pytest.raises(TypeError, match=r"'trust'.*'relation'"):
        UserPlan(cohort=3, clip=1.0)  # type: ignore[call-arg]
    assert (record_plan().unit, user_plan().unit) == ("record", "user")
    assert record_plan().digest != user_plan().digest


@pytest.mark.parametrize(
    ("name", "value"), [("trust", "central"), ("trust", "nobody"), ("relation", "shuffled")]
)
def test_what_is_no_trust_or_relation_is_refused(name: str, value: str) -> None:
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


def test_an_adaptive_norm_is_the_last_entry_and_paid_for() -> None:
    clip = AdaptiveClip(initial=2.0, count_noise=8.0)
    plan = record_plan(clip=clip)
    assert plan.width(10) == 11
    assert plan.norm(math.log(3)) == pytest.approx(6.0)
    assert plan.votes([0.1, 9.0, 9.0], 0.0) == [clip.votes([0.1, 9.0, 9.0], 2.0)]
    drawn = np.stack(
        [plan.add_noise(np.zeros(400), insecure_seeded_noise(s), math.log(3)) for s in range(200)]
    )
    assert drawn[:, :-1].std() == pytest.approx(6.0 * clip.noise_multiplier(1.0), rel=0.02)
    assert drawn[:, -1].std() == pytest.approx(clip.vote_noise, rel=0.15)
    assert plan.epsilon(100) == record_plan().epsilon(100)  # the votes are part of the same budget
    assert (record_plan().width(10), record_plan().votes([1.0])) == (10, [])


def test_votes_that_cost_everything_are_refused_with_the_plan() -> None:
    with pytest.raises(PrivacyError, match=r"count_noise 0.1 costs more than the whole budget"):
        record_plan(clip=AdaptiveClip(initial=1.0, count_noise=0.1))


# --- users ------------------------------------------------------------------------------------


def gaussians(plan: UserPlan, steps: int, rate: float = 1.0) -> float:
    return epsilon_of_dp_sgd(
        noise_multiplier=plan.noise_multiplier,
        sampling_rate=rate,
        steps=steps,
        delta=plan.delta,
        relation=plan.relation,
    )


@pytest.mark.parametrize(
    ("changes", "steps", "rate"),
    [
        ({}, 12, 1.0),
        ({"separation": 4}, 3, 1.0),
        ({"separation": 5}, 3, 1.0),
        ({"population": 100}, 12, 0.1),
        ({"separation": 4, "correlation": Correlation("banded", 3)}, 1, 1.0),
        ({"relation": "replace-one"}, 12, 1.0),
    ],
)
def test_what_a_user_pays(changes: dict[str, Any], steps: int, rate: float) -> None:
    plan = user_plan(rounds=12, cohort=10, noise_multiplier=4.0, **changes)
    assert plan.epsilon(1) == pytest.approx(gaussians(plan, steps, rate))
    assert plan.epsilon(1000) == plan.epsilon(1)
    assert plan.epsilon(0) == 0.0


def test_rounds_that_lie_too_close_are_refused() -> None:
    plan = user_plan(rounds=9, separation=4)
    assert plan.charges(5, 1, [1])
    with pytest.raises(PrivacyError, match="round 4 is within 4 rounds of round 1"):
        plan.charges(4, 1, [1])
    with pytest.raises(PrivacyError, match=r"round must be 1..9"):
        plan.charges(10, 1)


def test_both_units_are_charged_for_one_use() -> None:
    inner = record_plan(rounds=12)
    plan = user_plan(rounds=12, within=inner)
    user, record = plan.charges(1, 64)
    assert (user.unit, record.unit) == ("user", "record")
    assert user.composed
    assert record.composed
    assert user.purpose == record.purpose
    assert record.mechanism == inner.charges(1, 64)[0].mechanism
    assert plan.units == {"user", "record"}
    assert plan.epsilon(64) == pytest.approx(gaussians(plan, 12))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"cohort": 0}, "cohort must be at least 1, got 0"),
        ({"separation": 0}, "separation must be at least 1, got 0"),
        ({"population": 9}, "population must be at least the cohort, got 9"),
        ({"population": 50, "separation": 2}, "a population or a separation, not both"),
        ({"population": 50, "trust": "local"}, "no sampling can be claimed"),
        ({"population": 50, "trust": "secure-aggregation"}, "no sampling can be claimed"),
        ({"fewest": 11}, "fewest must be 1..10, got 11"),
        ({"correlation": Correlation("banded", 2), "trust": "local"}, "needs central trust"),
        ({"correlation": Correlation("banded", 1), "population": 50}, "claims no sampling"),
        (
            {
                "correlation": Correlation("banded", 1),
                "clip": AdaptiveClip(initial=1.0, count_noise=9.0),
            },
            "one clipping norm for all rounds",
        ),
        ({"within": record_plan(rounds=7)}, "within must have the same rounds, got 7"),
        (
            {"within": record_plan(clip=AdaptiveClip(initial=1.0, count_noise=9.0))},
            "within needs a fixed clipping norm",
        ),
    ],
)
def test_a_bad_plan_for_users_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadInputError, match=reason):
        user_plan(**({"cohort": 10} | changes))


@pytest.mark.parametrize("size", [0.1, 3.0, math.inf, math.nan])
def test_no_change_is_longer_than_the_norm(size: float) -> None:
    plan = user_plan(clip=0.5)
    sealed = plan.seal(np.full(4, size), 0.0, insecure_seeded_noise(1))
    expected = {0.1: np.full(4, 0.1), 3.0: np.full(4, 0.25)}.get(size, np.zeros(4))
    np.testing.assert_allclose(sealed, expected)


@pytest.mark.parametrize(
    ("trust", "made"), [("central", 0.0), ("local", 1.5), ("secure-aggregation", 0.0)]
)
def test_a_devices_own_noise_is_for_local_trust_alone(trust: str, made: float) -> None:
    plan = user_plan(clip=3.0, noise_multiplier=0.5, cohort=12, fewest=9, trust=trust)
    sealed = plan.seal(np.zeros(40_000), 0.0, insecure_seeded_noise(2))
    assert sealed.std() == pytest.approx(made, rel=0.02)


def test_the_server_adds_what_it_is_trusted_with() -> None:
    total = np.full(40_000, 6.0)
    central, state = user_plan(cohort=3, clip=2.0).release(total, 0.0, insecure_seeded_noise(3))
    assert state is None
    assert central.mean() == pytest.approx(2.0, abs=0.02)
    assert central.std() == pytest.approx(2 / 3, rel=0.02)
    local = user_plan(cohort=3, trust="local")
    np.testing.assert_array_equal(local.release(total, 0.0, insecure_seeded_noise(3))[0], total / 3)


def test_correlated_noise_adds_up_to_less() -> None:
    """The released sums against the error that the family promises, and independent noise."""
    correlation = Correlation("buffered", 2)
    plan = user_plan(
        rounds=16, separation=4, cohort=1, clip=2.0, noise_multiplier=0.5, correlation=correlation
    )
    noise, state, width = insecure_seeded_noise(4), None, 4000
    released = []
    for _ in range(plan.rounds):
        update, state = plan.release(np.zeros(width), 0.0, noise, state)
        released.append(update)
    error = np.sqrt(np.square(np.cumsum(released, 0)).mean())
    assert error == pytest.approx(2.0 * 0.5 * correlation.error(plan.participation), rel=0.03)
    independent = 2.0 * 0.5 * math.sqrt(4 * 17 / 2)  # the same ε for four rounds of a user
    assert error < 0.7 * independent
    assert plan.signal_to_noise(9, 1) > user_plan(
        rounds=16, cohort=1, clip=2.0, noise_multiplier=0.5 * 2
    ).signal_to_noise(9, 1)
