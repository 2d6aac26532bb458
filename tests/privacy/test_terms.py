"""Terms: what a device agrees to comes back as it was, and nothing else is taken for terms."""

from __future__ import annotations

import json
from typing import Any

import pytest

from locavore.privacy.clipping import AdaptiveClip
from locavore.privacy.matrix import Correlation
from locavore.privacy.plan import RecordPlan, UserPlan
from locavore.privacy.secagg.session import SecureSum
from locavore.privacy.terms import Terms, plan_from, plan_to
from locavore.shared.errors import BadInputError

from ..plans import record_plan, user_plan

PLANS = [
    record_plan(),
    record_plan(clip=AdaptiveClip(initial=2.0, count_noise=3.0)),
    user_plan(trust="secure-aggregation", cohort=9, fewest=5, secure_sum=SecureSum(bits=20)),
    user_plan(rounds=8, separation=2, correlation=Correlation("banded", 2)),
    user_plan(rounds=3, within=record_plan(rounds=3)),
]


def terms(**changes: Any) -> Terms:
    settings: dict[str, Any] = {
        "name": "notes",
        "base_id": "tiny-float32-0123",
        "form": "core",
        "rank": 2,
        "plan": PLANS[0],
        "admission": "ab" * 32,
    }
    return Terms(**(settings | changes))


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: f"{plan.unit} {plan.trust}")
def test_a_plan_comes_back_as_it_was(plan: RecordPlan | UserPlan) -> None:
    back = plan_from(json.loads(json.dumps(plan_to(plan))))
    assert back == plan
    assert back.digest == plan.digest


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: f"{plan.unit} {plan.trust}")
def test_terms_come_back_as_they_were(plan: RecordPlan | UserPlan) -> None:
    mine = terms(plan=plan)
    back = Terms.from_json(mine.to_json())
    assert back == mine
    assert back.digest == mine.digest


def test_every_word_of_the_terms_counts() -> None:
    digests = {
        terms(**change).digest
        for change in (
            {},
            {"name": "mail"},
            {"base_id": "other"},
            {"form": "ffa"},
            {"rank": 3},
            {"plan": PLANS[2]},
            {"admission": "cd" * 32},
        )
    }
    assert len(digests) == 7


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({}, "unit must be 'record' or 'user', got None"),
        ({"unit": "device"}, "got 'device'"),
        ({"unit": "record", "relation": "replace-one", "noise": 1}, "has no field 'noise'"),
        ({"unit": "user", "relation": "replace-one", "clip": 1.0}, "cannot be made"),
        ({"unit": "record", "relation": "replace-one", "rounds": 0}, "rounds must be at least 1"),
        ({"unit": "record", "clip": {"initial": 1.0}}, "the plan's clip cannot be made"),
    ],
)
def test_what_makes_no_plan_is_refused_by_name(said: dict[str, Any], why: str) -> None:
    with pytest.raises(BadInputError, match=why):
        plan_from(said)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("{", "cannot be read"),
        ("[]", "cannot be read"),
        (terms().to_json().replace('"format": 1', '"format": 2'), "of another format"),
        (terms().to_json().replace('"rank": 2', '"rang": 2'), "no field 'rang'"),
        (terms().to_json().replace('"rank": 2', '"rank": 0'), "rank must be at least 1"),
        (terms().to_json().replace("ab" * 32, "xy" * 32), "64 hex digits"),
        (terms().to_json().replace('"core"', '"heart"'), "form must be one of"),
        (terms().to_json().replace('"notes"', '""'), "name must not be empty"),
    ],
)
def test_what_is_no_terms_is_refused(text: str, why: str) -> None:
    with pytest.raises(BadInputError, match=why):
        Terms.from_json(text)


def test_a_person_is_told_who_must_be_trusted_and_what_it_costs() -> None:
    local = " ".join(terms().sentences(40))
    assert "Nobody has to be trusted" in local
    assert f"epsilon {PLANS[0].epsilon(40):.2f} at delta 1e-05" in local
    summed = " ".join(terms(plan=PLANS[2]).sentences(40))
    assert "sums of 5 or more devices' updates, never one" in summed
    assert "must be trusted not to invent them" in summed
    assert "whether this device took part at all" in summed
    assert "must be trusted with it" in " ".join(terms(plan=PLANS[3]).sentences(40))
