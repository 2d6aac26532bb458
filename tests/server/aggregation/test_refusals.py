"""Combinations that cannot work are refused in a sentence, with the values and what to take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr", reason="the federation needs the extra 'federate'")

from locavore.privacy.matrix import Correlation
from locavore.server.aggregation import (
    POLICIES,
    Aggregation,
    RobustMean,
    ServerOptimizer,
    require_possible,
)
from locavore.server.app import FederationConfig
from locavore.shared.errors import BadInputError

from ...plans import record_plan, user_plan
from .test_policies import over

HIDDEN = user_plan(trust="secure-aggregation")
CENTRAL = user_plan()
LOCAL = user_plan(trust="local")
CORRELATED = user_plan(rounds=8, separation=4, correlation=Correlation("buffered", 2))
MEDIAN = RobustMean(kind="median")
PRODUCTS = [name for name, policy in POLICIES.items() if not policy.linear]

REFUSED: list[tuple[str, Any, dict[str, Any], str]] = [
    *((n, HIDDEN, {}, f"'{n}' needs every device's factors, but under") for n in PRODUCTS),
    *(
        (n, CENTRAL, {}, f"'{n}' has no bounded sensitivity, but the plan's noise")
        for n in PRODUCTS
    ),
    ("core", HIDDEN, {"robust": MEDIAN}, "'median' compares single updates, but under 'secure-"),
    ("core", CENTRAL, {"robust": MEDIAN}, "'median' is no sum of clipped updates"),
    (
        "fedex",
        None,
        {"ranks": [2, 4], "rank": 4},
        r"'fedex' needs one rank .* got \[2, 4\] beside 4",
    ),
    ("core", HIDDEN, {"ranks": [2], "rank": 4}, "a secure sum is of vectors of one length"),
    ("core", None, {"ranks": [2], "rank": 4, "robust": MEDIAN}, "of rank 2 does not train"),
    ("core", None, {"ranks": [0, 9], "rank": 4}, r"rank must be 1..4 .* got \[0, 9\]"),
    (
        "flora",
        None,
        {"optimizer": ServerOptimizer(kind="fedadam")},
        "'fedadam' with a learning rate",
    ),
    ("fedex", None, {"robust": MEDIAN}, "'median' averages vectors, but policy 'fedex'"),
    ("core", CORRELATED, {"optimizer": ServerOptimizer(kind="fedyogi")}, "'fedyogi' scales every"),
    ("alternate-round", CORRELATED, {}, "shares other numbers in every round"),
    ("alternate-step", record_plan(local_steps=1), {}, "2 local steps or more, got 1"),
    ("core", None, {"robust": RobustMean(kind="krum"), "cohort": 4}, "rounds of 5 devices or more"),
]


@pytest.mark.parametrize(("name", "plan", "options", "said"), REFUSED)
def test_it_is_refused(name: str, plan: Any, options: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInputError, match=said) as caught:
        require_possible(POLICIES[name], plan, **options)
    assert any(word in str(caught.value) for word in ("take ", "give ", "leave ", "must be"))


ALLOWED: list[tuple[str, Any, dict[str, Any]]] = [
    *((n, HIDDEN, {}) for n in POLICIES if n not in PRODUCTS),
    *((n, CENTRAL, {}) for n in POLICIES if n not in PRODUCTS),
    *((n, LOCAL, {}) for n in POLICIES),
    *((n, record_plan(local_steps=2), {}) for n in POLICIES),
    *((n, user_plan(noise_multiplier=0.0), {}) for n in POLICIES),
    ("core", LOCAL, {"robust": MEDIAN}),
    ("core", record_plan(), {"robust": RobustMean(kind="krum"), "cohort": 5}),
    ("core", CORRELATED, {"optimizer": ServerOptimizer(kind="fedavgm")}),
    ("core", CENTRAL, {"optimizer": ServerOptimizer(kind="fedadam")}),
    ("core", HIDDEN, {"optimizer": ServerOptimizer(kind="fedadam"), "ranks": [4], "rank": 4}),
    ("flexlora", None, {"ranks": [1, 2, 4], "rank": 4}),
    ("core", CENTRAL, {"ranks": [1, 2, 4], "rank": 4}),
]


@pytest.mark.parametrize(("name", "plan", "options"), ALLOWED)
def test_it_is_possible(name: str, plan: Any, options: dict[str, Any]) -> None:
    require_possible(POLICIES[name], plan, **options)


def config(folder: Path, **changes: Any) -> FederationConfig:
    settings: dict[str, Any] = {
        "base_id": "base",
        "plan_digest": "ab" * 32,
        "form": "some",
        "dim": over("core").dim,
        "rounds": 1,
        "cohort": 4,
        "min_replies": 1,
        "seed": 0,
        "checkpoint_dir": folder,
    }
    return FederationConfig(**(settings | changes))


def test_a_federation_refuses_at_start_up(tmp_path: Path) -> None:
    form = over("fedex")
    with pytest.raises(BadInputError, match="'fedex' has no bounded sensitivity"):
        config(
            tmp_path,
            dim=form.dim,
            plan=CENTRAL,
            plan_digest=CENTRAL.digest,
            aggregation=Aggregation(policy=POLICIES["fedex"], form=form),
        )


@pytest.mark.parametrize(
    ("aggregation", "said"),
    [
        (Aggregation(policy=POLICIES["flora"]), "policy 'flora' cannot work on a bare vector"),
        (Aggregation(ranks={1: 2}), "devices of mixed ranks cannot work on a bare vector"),
        (Aggregation(robust=MEDIAN), r"median\(0.2\) cannot work on a bare vector"),
        (
            Aggregation(optimizer=ServerOptimizer(kind="fedavgm")),
            r"fedavgm\(1, 0.9\) cannot work on a bare vector; give the aggregation its form",
        ),
        (Aggregation(form=over("ffa")), "the form is not that of policy 'core'"),
        (
            Aggregation(policy=POLICIES["ffa"], form=over("ffa")),
            rf"dim must be the form's, {over('ffa').dim}, got {over('core').dim}",
        ),
    ],
)
def test_form_and_policy_must_agree(tmp_path: Path, aggregation: Aggregation, said: str) -> None:
    with pytest.raises(BadInputError, match=said):
        config(tmp_path, aggregation=aggregation)
