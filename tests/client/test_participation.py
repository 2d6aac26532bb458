"""What a device agrees to when it joins, and what it takes from a server afterwards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("flwr", reason="taking part needs the extra 'federate'")
pytest.importorskip("torch", reason="taking part needs the extra 'train'")

from locavore.client import Device, TextModel
from locavore.client.gates import charging, idle
from locavore.client.membership import Membership
from locavore.client.participation import Participation, agreed_budget
from locavore.privacy.ledger import Ledger
from locavore.shared.contexts import Consent, UserDocument
from locavore.shared.errors import (
    AdapterError,
    BadInputError,
    FederationError,
    TooLittleDataError,
)

from ..plans import record_plan
from ..privacy.test_terms import terms

PLAN = record_plan(rounds=3)


def device_with(records: int, model: TextModel) -> Device:
    device = Device(model)
    consent = Consent(retrieve=True, train=True, federate=True)
    device.remember_all(
        [
            UserDocument(body=f"The kettle squeaks {n} times.", consent=consent)
            for n in range(records)
        ]
    )
    return device


def member(model: TextModel, budget: float = 9.0) -> Membership:
    return Membership(
        url="https://127.0.0.1:1",
        certificates=None,
        terms=terms(base_id=model.base_id, plan=PLAN),
        identity=bytes(32),
        node_key="",
        node_id=7,
        budget=budget,
    )


def test_a_budget_is_the_plans_and_what_was_spent(model: TextModel) -> None:
    device, agreed = device_with(40, model), terms(base_id=model.base_id, plan=PLAN)
    first = agreed_budget(device, agreed)
    assert first == pytest.approx(1.25 * PLAN.epsilon(40))
    ledger = Ledger(device.store.journal, delta=PLAN.delta)
    ledger.charge(*PLAN.charges(1, 40))
    assert agreed_budget(device, agreed) == pytest.approx(first + PLAN.epsilon(40, 1))


def test_who_has_too_little_does_not_agree(model: TextModel) -> None:
    with pytest.raises(TooLittleDataError, match="31 records may be federated, 'notes' needs 32"):
        agreed_budget(device_with(31, model), terms(base_id=model.base_id, plan=PLAN))


def test_a_budget_ends_what_a_server_may_ask(model: TextModel) -> None:
    device = device_with(40, model)
    device.store.keep_membership(member(model, budget=PLAN.epsilon(40, 1) * 1.01))
    taking_part = Participation(device=device)
    taking_part.federated.begin(1)
    with pytest.raises(Exception, match="above the budget"):
        taking_part.federated.begin(2)


def test_adapters_come_in_order_and_within_the_plan(model: TextModel) -> None:
    device = device_with(40, model)
    device.store.keep_membership(member(model))
    seen: list[int] = []
    taking_part = Participation(device=device, on_round=seen.append)
    theta = np.full(taking_part.federated.width, 0.01, np.float32)
    taking_part.federated.evaluate_shared(theta, round=2)
    taking_part.federated.evaluate_shared(theta, round=2)
    for round in (1, 4):
        with pytest.raises(FederationError, match=f"of round {round} was sent, after round 2 of 3"):
            taking_part.federated.evaluate_shared(theta, round=round)
    assert seen == [2, 2]
    assert device.store.membership.last_round == 2
    assert device.shared is not None


def test_another_base_is_refused(model: TextModel) -> None:
    device = device_with(1, model)
    other = replace(member(model), terms=terms(base_id="another", plan=PLAN))
    device.store.keep_membership(other)
    with pytest.raises(AdapterError, match="trains another, this device has"):
        Participation(device=device)


def test_who_is_no_member_cannot_take_part(model: TextModel) -> None:
    device = device_with(1, model)
    with pytest.raises(BadInputError, match="in no federation; see 'locavore device join'"):
        Participation(device=device)
    device.store.keep_membership(member(model))
    assert device.store.is_member
    device.store.keep_membership(None)
    device.store.keep_membership(None)
    assert not device.store.is_member


def supply(folder: Path, kind: str, online: str | None = None) -> None:
    folder.mkdir(parents=True)
    (folder / "type").write_text(kind + "\n")
    if online is not None:
        (folder / "online").write_text(online + "\n")


def test_gates_read_what_the_kernel_says(tmp_path: Path) -> None:
    assert charging(tmp_path), "no battery at all"
    supply(tmp_path / "BAT0", "Battery")
    assert not charging(tmp_path)
    supply(tmp_path / "AC", "Mains", "0")
    assert not charging(tmp_path)
    (tmp_path / "AC" / "online").write_text("1\n")
    assert charging(tmp_path)
    assert idle(0.5, lambda: 0.0)
    assert not idle(0.5, lambda: 1000.0)
