"""Checks of noise, sampling, accounts, openings and messages: what they refute and what not."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("dp_accounting", reason="accounting needs the extra 'train'")

from locavore.privacy.accounting import epsilon_of_dp_sgd
from locavore.privacy.audit import LowerBound
from locavore.privacy.audit.accounts import account_findings, least_epsilon
from locavore.privacy.audit.findings import Finding, against, verdict
from locavore.privacy.audit.noises import noise_findings
from locavore.privacy.audit.openings import opening_findings
from locavore.privacy.audit.promises import promised_deviations, silent_vote
from locavore.privacy.audit.sampling import sampling_findings
from locavore.privacy.audit.wire import Recorded, forms, wire_findings
from locavore.privacy.clipping import AdaptiveClip
from locavore.privacy.secagg.device import SecAggDevice
from locavore.shared.errors import BadInputError, SecAggError

from ...plans import record_plan

PLAN = "a" * 64


def broken(findings: list[Finding]) -> list[str]:
    return [finding.claim for finding in findings if not finding.holds]


# --- noise ----------------------------------------------------------------------------------


def noises(change: Callable[[Any], Any] = lambda drawn: drawn, seed: int = 0) -> list[Finding]:
    drawn = np.random.default_rng(seed).normal(size=(20, 500))
    return noise_findings(change(3.0 * drawn), np.full(500, 3.0), what="a step")


def halved(drawn: Any) -> Any:
    drawn[:, 7] = 0
    return drawn


def repeated(drawn: Any) -> Any:
    drawn[11] = drawn[3]
    return drawn


@pytest.mark.parametrize("seed", range(20))
def test_true_noise_is_not_refuted(seed: int) -> None:
    assert broken(noises(seed=seed)) == []


def test_more_noise_than_claimed_is_no_leak() -> None:
    assert broken(noises(lambda drawn: 2 * drawn)) == []


@pytest.mark.parametrize(
    ("change", "claim"),
    [
        (lambda drawn: drawn / math.sqrt(2), "the deviation is what the plan says, or more"),
        (halved, "it is on every number"),
        (repeated, "every release has noise of its own"),
        (lambda drawn: -repeated(drawn), "every release has noise of its own"),
        (lambda drawn: drawn * np.nan, "the deviation is what the plan says, or more"),
    ],
)
def test_wrong_noise_is_refuted(change: Callable[[Any], Any], claim: str) -> None:
    assert claim in broken(noises(change))


@pytest.mark.parametrize(
    ("noise", "deviations", "why"),
    [
        (np.ones((1, 3)), np.ones(3), "two releases"),
        (np.ones((4, 3)), np.ones(2), "for 2 deviations"),
        (np.ones((4, 3)), np.zeros(3), "nothing to test"),
    ],
)
def test_noise_that_cannot_be_tested(noise: Any, deviations: Any, why: str) -> None:
    with pytest.raises(BadInputError, match=why):
        noise_findings(noise, deviations, what="a step")


def test_what_plans_promise() -> None:
    """The plan's own scales, by another way."""
    fixed = record_plan(clip=2.0, noise_multiplier=1.5)
    np.testing.assert_allclose(promised_deviations(fixed, 3, 0.0), 3.0)
    rule = AdaptiveClip(initial=0.5, count_noise=4.0, quantile=0.7)
    adapts = record_plan(clip=rule)
    np.testing.assert_allclose(promised_deviations(adapts, 4, 0.3), adapts._scales(4, 0.3))
    assert silent_vote(rule) == pytest.approx(rule.votes([0.0], 0.5))
    assert silent_vote(1.0) == 0.0


# --- sampling -------------------------------------------------------------------------------


def test_poisson_samples_are_not_refuted() -> None:
    for seed in range(50):
        entered = np.random.default_rng(seed).random((60, 80)) < 0.2
        assert broken(sampling_findings(entered, 0.2)) == []


def shuffled(rng: np.random.Generator) -> Any:
    entered = np.zeros((60, 80), bool)
    for step in range(60):
        if step % 5 == 0:
            order = rng.permutation(80)
        entered[step, order[16 * (step % 5) :][:16]] = True
    return entered


@pytest.mark.parametrize(
    ("make", "claim"),
    [
        (shuffled, "records enter independently of each other (Poisson sampling)"),
        (shuffled, "every step samples anew"),
        (lambda rng: rng.random((60, 80)) < 0.3, "a record enters a step with probability 0.2"),
        (lambda rng: np.tile(rng.random(80) < 0.2, (60, 1)), "every step samples anew"),
    ],
)
def test_other_samples_are_refuted(make: Callable[[Any], Any], claim: str) -> None:
    found = broken(sampling_findings(make(np.random.default_rng(1)), 0.2))
    assert any(one.startswith(claim) for one in found)


def test_sampling_needs_something_to_look_at() -> None:
    assert sampling_findings(np.ones((20, 20), bool), 1.0) == []
    with pytest.raises(BadInputError, match="ten steps"):
        sampling_findings(np.ones((3, 20), bool), 0.5)


# --- accounts -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("noise", "rate", "steps"), [(0.6, 0.05, 3), (1.0, 0.2, 10), (2.0, 1.0, 7), (0.7, 1.0, 1)]
)
def test_the_least_epsilon_is_just_below_the_claim(noise: float, rate: float, steps: int) -> None:
    claimed = epsilon_of_dp_sgd(noise_multiplier=noise, sampling_rate=rate, steps=steps, delta=1e-5)
    least = least_epsilon(((noise, rate, steps),), delta=1e-5, relation="add-or-remove-one")
    assert claimed - 0.01 * max(1, claimed) < least <= claimed + 1e-4 * max(1, claimed)


def accounts(**changes: Any) -> list[Finding]:
    plan = record_plan(local_steps=2, rounds=2)
    charges = [*plan.charges(1, 100), *plan.charges(2, 100, [1])]
    given: dict[str, Any] = {
        "delta": plan.delta,
        "relation": plan.relation,
        "noise_multiplier": 1.0,
        "steps": 4,
    }
    claimed = changes.pop("claimed", plan.epsilon(100))
    return account_findings(charges, claimed, **(given | changes))


def test_true_accounts_hold() -> None:
    assert broken(accounts()) == []


@pytest.mark.parametrize(
    "changes",
    [{"steps": 5}, {"steps": 2}, {"noise_multiplier": 0.7}, {"claimed": 1.0}],
)
def test_false_accounts_are_refuted(changes: dict[str, Any]) -> None:
    assert broken(accounts(**changes))


def test_another_relation_is_refuted() -> None:
    assert len(broken(accounts(relation="replace-one"))) == 2
    assert least_epsilon((), delta=1e-5, relation="zero-out") == 0.0


# --- secure sums ----------------------------------------------------------------------------


def test_the_products_devices_open_nothing_they_should_not() -> None:
    found = opening_findings()
    assert len(found) == 8
    assert broken(found) == []


def test_a_device_that_masks_nothing_is_refuted() -> None:
    class Bare(SecAggDevice):
        def mask(self, vector: Any, inbox: Any) -> Any:
            super().mask(vector, inbox)
            return vector.copy()

    assert broken(opening_findings(Bare))[-2:] == [
        "masks are new in every sum",
        "masked vectors look like chance",
    ]


def test_a_device_that_takes_part_in_no_sum_is_not_safe_but_broken() -> None:
    class Shy(SecAggDevice):
        def mask(self, vector: Any, inbox: Any) -> Any:
            raise SecAggError("not today")

    assert "honest sums come out" in broken(opening_findings(Shy))


# --- messages -------------------------------------------------------------------------------


def message(raw: bytes = b"", **changes: Any) -> Recorded:
    records: dict[str, dict[str, object]] = {
        "config": {"round": 1, "plan": PLAN},
        "arrays": {"delta": np.zeros(4, np.float32)},
    }
    settings: dict[str, Any] = {"phase": "train", "way": "up", "records": records, "raw": raw}
    return Recorded(**(settings | changes))


@given(st.text("abcdefgh äö", min_size=12, max_size=40), st.binary(max_size=5), st.binary())
def test_a_text_is_found_in_every_coding(text: str, before: bytes, after: bytes) -> None:
    raw = text.encode()
    hidden = [
        before + raw + after,
        base64.b64encode(before + raw + after),
        (before + raw + after).hex().encode(),
        before + text.encode("utf-16-le") + after,
        json.dumps({"x": text}).encode(),
    ]
    for place in hidden:
        found = wire_findings([message(place)], {"it": text}, width=4, plan=PLAN)
        assert "no planted secret is in the bytes" in broken(found)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_numbers_are_found_in_every_precision(kind: Any) -> None:
    secret = np.random.default_rng(0).normal(size=30).astype(np.float32)
    found = wire_findings(
        [message(b"xy" + secret.astype(kind).tobytes())], {"it": secret}, width=4, plan=PLAN
    )
    assert broken(found) == ["no planted secret is in the bytes"]
    tokens = np.array([17, 300, 5, 9], np.int64)
    assert ("<i8", tokens.tobytes()) in forms([17, 300, 5, 9])


def test_honest_messages_hold() -> None:
    secrets = {"note": "the goat squeaks", "adapter": np.ones(3), "tokens": [17, 300, 5, 9]}
    found = wire_findings([message(b"\x00" * 400)], secrets, width=4, plan=PLAN)  # type: ignore[arg-type]
    assert broken(found) == []


@pytest.mark.parametrize(
    ("changes", "claim"),
    [
        ({"phase": None}, "nothing travels that is not on the allow-list"),
        ({"records": {"config": {}}}, "nothing travels that is not on the allow-list"),
        ({"way": "down"}, "nothing travels that is not on the allow-list"),
        ({"error": "ValueError: cannot read 'the goat'"}, "no planted secret is in the bytes"),
        (
            {"error": 'Traceback (most recent call last): File "x"'},
            "errors tell nothing of how a device got there",
        ),
    ],
)
def test_other_messages_are_refuted(changes: dict[str, Any], claim: str) -> None:
    found = wire_findings([message(**changes)], {"note": "the goat"}, width=4, plan=PLAN)
    assert claim in broken(found)


# --- verdicts -------------------------------------------------------------------------------


def test_a_bound_above_the_claim_refutes_it() -> None:
    bound = LowerBound(epsilon=3.0, delta=1e-5, confidence=0.95, auditor="some", canaries=9)
    held, refuted = (against(claim, bound, audit="run") for claim in (3.5, 2.5))
    assert held.holds
    assert not refuted.holds
    assert verdict([held]) == "no claim refuted in 1 audits"
    assert verdict([held, refuted]).startswith("REFUTED 1 of 2: ε is at most 2.5 at δ = 1e-05; ε ≥")
    assert str(refuted).startswith("REFUTED: run: ")
