"""Published ε against ledgers and plans: true ones hold, and every way to lie is refuted."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("dp_accounting", reason="needs the extra 'train'")

from locavore.privacy.audit.claims import Published, claims_section
from locavore.privacy.audit.findings import Finding
from locavore.privacy.ledger import Ledger
from locavore.privacy.plan import PrivacyPlan, RecordPlan

from ...plans import record_plan, user_plan

RECORDS = 200


def spent(plan: PrivacyPlan, path: Path, *, rounds: int | None = None) -> Published:
    """A device that was in the plan's first rounds, with a true ε."""
    ledger = Ledger(path, delta=plan.delta)
    before: list[int] = []
    for round in range(1, (rounds or plan.rounds) + 1):
        ledger.charge(*plan.charges(round, RECORDS, before, task="text"))
        before.append(round)
    return Published(
        name=path.stem, epsilon=ledger.epsilon(plan.unit), records=RECORDS, ledger=ledger
    )


def refuted(plan: PrivacyPlan, *devices: Published, digest: str = "", updates: int) -> list[str]:
    section = claims_section(plan, digest or plan.digest, devices, updates=updates)
    return [finding.claim for finding in section.findings if not finding.holds]


@pytest.mark.parametrize(
    "plan",
    [
        record_plan(rounds=3, local_steps=2),
        user_plan(trust="central", cohort=4, rounds=3, population=9),
        user_plan(
            trust="central",
            cohort=4,
            rounds=3,
            within=record_plan(rounds=3, relation="zero-out"),
            relation="zero-out",
        ),
    ],
)
def test_what_is_true_holds(plan: PrivacyPlan, tmp_path: Path) -> None:
    devices = spent(plan, tmp_path / "a.jsonl"), spent(plan, tmp_path / "b.jsonl", rounds=1)
    assert devices[1].epsilon < devices[0].epsilon
    assert refuted(plan, *devices, updates=4) == []


def test_an_epsilon_that_was_lowered_is_refuted(tmp_path: Path) -> None:
    plan, honest = record_plan(), spent(record_plan(), tmp_path / "a.jsonl")
    lowered = replace(honest, epsilon=0.99 * honest.epsilon)
    found = refuted(plan, lowered, updates=3)
    assert [claim.split("below what ")[1] for claim in found] == [
        "its ledger's charges cost",
        "the plan costs in its rounds",
    ]
    assert refuted(plan, replace(honest, epsilon=2 * honest.epsilon), updates=3) == []


def test_more_records_than_there_were_are_refuted(tmp_path: Path) -> None:
    """A larger device would have a lower rate, and with it a lower ε."""
    plan, honest = record_plan(), spent(record_plan(), tmp_path / "a.jsonl")
    found = refuted(plan, replace(honest, records=5 * RECORDS), updates=3)
    assert found == ["the ledgers hold the plan's charges and no others"]


def test_a_quieter_plan_under_the_same_digest_is_refuted(tmp_path: Path) -> None:
    plan, honest = record_plan(), spent(record_plan(), tmp_path / "a.jsonl")
    louder = replace(plan, noise_multiplier=2.0)
    found = refuted(louder, honest, digest=plan.digest, updates=3)
    assert "the plan that was published is the one to which devices agreed" in found
    assert "the ledgers hold the plan's charges and no others" in found


def test_a_ledger_that_was_cut_or_changed_is_refuted(tmp_path: Path) -> None:
    plan, path = record_plan(), tmp_path / "a.jsonl"
    honest = spent(plan, path)
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0])
    cut = replace(honest, epsilon=honest.ledger.epsilon())
    assert refuted(plan, cut, updates=3) == ["every update that left a device was charged"]
    path.write_bytes(lines[0].replace(b'"steps": 1', b'"steps": 0') + lines[1])
    claim = "every device's ledger is there, and each line follows from the one before"
    assert claim in refuted(plan, honest, updates=0)
    path.unlink()
    assert claim in refuted(plan, honest, updates=0)


def test_a_round_that_was_asked_for_again_is_paid_again(tmp_path: Path) -> None:
    plan, honest = record_plan(), spent(record_plan(), tmp_path / "a.jsonl")
    honest.ledger.charge(*plan.charges(3, RECORDS, [1, 2], task="text"))
    again = replace(honest, epsilon=honest.ledger.epsilon())
    assert again.epsilon > honest.epsilon
    assert refuted(plan, again, updates=4) == []
    assert refuted(plan, again, updates=5) == ["every update that left a device was charged"]
    assert "below what its ledger" in refuted(plan, honest, updates=4)[0]


def test_charges_of_something_else_are_named(tmp_path: Path) -> None:
    plan, honest = record_plan(), spent(record_plan(), tmp_path / "a.jsonl")
    other: RecordPlan = replace(plan, noise_multiplier=0.7)
    honest.ledger.charge(*other.charges(1, RECORDS, task="text"))
    section = claims_section(plan, plan.digest, [honest], updates=3)
    broken: list[Finding] = [finding for finding in section.findings if not finding.holds]
    assert "noise 0.7" in broken[0].found
    assert broken[1].claim.endswith("below what its ledger's charges cost")


def test_without_noise_no_epsilon_may_be_published(tmp_path: Path) -> None:
    plan = record_plan(noise_multiplier=0)
    ledger = Ledger(tmp_path / "a.jsonl", delta=plan.delta)
    honest = Published(name="a", epsilon=math.inf, records=RECORDS, ledger=ledger)
    assert refuted(plan, honest, updates=3) == []
    assert refuted(plan, replace(honest, epsilon=4.0), updates=3) == [
        "a plan without noise claims no ε"
    ]
