"""A device in a federation: what it sends, when it refuses, and what it writes down."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'train'")

from locavore.client.device import Device
from locavore.client.federated import (
    MIN_RECORDS,
    FederatedLearner,
    form_training,
)
from locavore.client.kept import KeptHalf
from locavore.client.runtime import TextModel
from locavore.client.training.local import LocalTraining
from locavore.client.training.optimizers import Optimizer
from locavore.client.training.text import MAX_RECORD_TOKENS, TextTwin
from locavore.privacy.ledger import Charge, Ledger
from locavore.privacy.noise import insecure_seeded_noise
from locavore.shared.adapters import Array
from locavore.shared.contexts import Consent, UserDocument
from locavore.shared.errors import AdapterError, BadInputError, PrivacyError, TooLittleDataError
from locavore.shared.forms import Directions, FormName, SharedForm

from ..plans import record_plan, user_plan

PLAN = record_plan(expected_batch=4, rounds=2)
FEDERATE = Consent(train=True, federate=True)


def _ledger(path: Path, budget: float | None) -> Ledger:
    return Ledger(path, delta=PLAN.delta, budgets={} if budget is None else {"record": budget})


def make(
    model: TextModel,
    twin: TextTwin,
    directions: Directions,
    texts: list[str],
    *,
    consent: Consent = FEDERATE,
    stream: int = 0,
    ledger: Path | None = None,
    budget: float | None = None,
) -> FederatedLearner[list[int]]:
    device = Device(model)
    for i, text in enumerate(texts):
        device.remember(UserDocument(body=text, consent=consent, id=f"{i:03}"))
    return FederatedLearner(
        device=device,
        twin=twin,
        form=SharedForm("core", twin.base_id, directions),
        plan=PLAN,
        noise=lambda round: insecure_seeded_noise(round, stream),
        ledger=_ledger(ledger, budget) if ledger else None,
    )


def test_it_returns_a_finite_update_of_the_right_length(
    model: TextModel, twin: TextTwin, directions: Directions, private_texts: list[str]
) -> None:
    device = make(model, twin, directions, private_texts)
    theta = device.form.zero()
    delta = device.train_shared(theta, round=1)
    assert delta.shape == theta.shape
    assert delta.dtype == np.float32
    assert np.isfinite(delta).all()
    assert np.any(delta)
    assert (device.base_id, device.plan_digest) == (model.base_id, PLAN.digest)


def test_the_same_records_under_other_noise_give_other_updates(
    model: TextModel, twin: TextTwin, directions: Directions, private_texts: list[str]
) -> None:
    theta = np.zeros(224, np.float32)

    def update(stream: int, round: int = 1) -> Array:
        device = make(model, twin, directions, private_texts, stream=stream)
        return device.train_shared(theta, round=round)

    np.testing.assert_array_equal(update(0), update(0))
    assert not np.any(update(0) == update(1))
    assert not np.any(update(0, round=1) == update(0, round=2))


def test_noise_is_fresh_unless_a_test_says_otherwise(
    model: TextModel, twin: TextTwin, directions: Directions, private_texts: list[str]
) -> None:
    device = make(model, twin, directions, private_texts)
    device = FederatedLearner(device=device.device, twin=twin, form=device.form, plan=device.plan)
    theta = device.form.zero()
    assert not np.any(device.train_shared(theta, round=1) == device.train_shared(theta, round=1))


def test_too_few_records(
    model: TextModel, twin: TextTwin, directions: Directions, private_texts: list[str]
) -> None:
    device = make(model, twin, directions, private_texts[: MIN_RECORDS - 1])
    with pytest.raises(TooLittleDataError, match="31 records may be federated, at least 32"):
        device.train_shared(device.form.zero(), round=1)


@pytest.mark.parametrize("consent", [Consent(), Consent(train=True), Consent(retrieve=True)])
def test_records_without_consent_do_not_count(
    consent: Consent,
    model: TextModel,
    twin: TextTwin,
    directions: Directions,
    private_texts: list[str],
) -> None:
    device = make(model, twin, directions, private_texts, consent=consent)
    assert device.records() == []
    with pytest.raises(TooLittleDataError, match="0 records may be federated"):
        device.train_shared(device.form.zero(), round=1)


def test_a_record_is_cut_and_one_token_is_none(
    model: TextModel, twin: TextTwin, directions: Directions
) -> None:
    device = make(model, twin, directions, ["word " * 300, "x", "two words"])
    assert [len(ids) for ids in device.records()] == [
        MAX_RECORD_TOKENS,
        len(model.encode("two words")),
    ]


@pytest.mark.parametrize("round", [-1, 0, 3])
def test_a_round_beyond_the_plan_is_refused(
    round: int,
    model: TextModel,
    twin: TextTwin,
    directions: Directions,
    private_texts: list[str],
    tmp_path: Path,
) -> None:
    device = make(model, twin, directions, private_texts, ledger=tmp_path / "ledger")
    with pytest.raises(PrivacyError, match=rf"round must be 1\.\.2 as in the plan, got {round}"):
        device.train_shared(device.form.zero(), round=round)
    assert not (tmp_path / "ledger").exists()


def test_every_round_is_charged(
    model: TextModel,
    twin: TextTwin,
    directions: Directions,
    private_texts: list[str],
    tmp_path: Path,
) -> None:
    device = make(model, twin, directions, private_texts, ledger=tmp_path / "ledger")
    for round in (1, 2):
        device.train_shared(device.form.zero(), round=round)
    assert device.ledger is not None
    assert [charge.round for charge in device.ledger.charges] == [1, 2]
    assert device.ledger.charges[0] == Charge(
        purpose=f"text {PLAN.digest}",
        round=1,
        unit="record",
        relation="add-or-remove-one",
        noise_multiplier=1.0,
        sampling_rate=4 / 40,
    )
    assert device.ledger.epsilon() == pytest.approx(PLAN.epsilon(40))


def test_a_round_beyond_the_budget_is_not_trained(
    model: TextModel,
    twin: TextTwin,
    directions: Directions,
    private_texts: list[str],
    tmp_path: Path,
) -> None:
    """A server may ask for one round as often as it likes; the device stops at its budget."""
    budget = PLAN.epsilon(40)
    path = tmp_path / "ledger"
    device = make(model, twin, directions, private_texts, ledger=path, budget=budget)
    for _ in range(PLAN.rounds):
        device.train_shared(device.form.zero(), round=1)
    before = path.read_bytes()
    with pytest.raises(PrivacyError, match="above the budget"):
        device.train_shared(device.form.zero(), round=1)
    assert path.read_bytes() == before


def test_a_round_is_charged_before_it_is_trained(
    model: TextModel,
    twin: TextTwin,
    directions: Directions,
    private_texts: list[str],
    tmp_path: Path,
) -> None:
    device = make(model, twin, directions, private_texts, ledger=tmp_path / "ledger")
    with pytest.raises(AdapterError):
        device.train_shared(np.zeros(3, np.float32), round=1)
    assert device.ledger is not None
    assert [charge.round for charge in device.ledger.charges] == [1]


def test_a_ledger_that_cannot_be_written_stops_the_round(
    model: TextModel,
    twin: TextTwin,
    directions: Directions,
    private_texts: list[str],
    tmp_path: Path,
) -> None:
    device = make(model, twin, directions, private_texts, ledger=tmp_path)
    with pytest.raises(OSError, match="directory"):
        device.train_shared(device.form.zero(), round=1)


def test_evaluation_stays_on_the_device(
    model: TextModel, twin: TextTwin, directions: Directions
) -> None:
    seen: list[int] = []
    device = make(model, twin, directions, [])
    device.evaluate = lambda _theta, round: seen.append(round)
    device.evaluate_shared(device.form.zero(), round=2)
    assert seen == [2]


# --- memory and length ------------------------------------------------------------------------


def test_a_memory_budget_changes_no_result(
    model: TextModel, twin: TextTwin, directions: Directions, private_texts: list[str]
) -> None:
    device = make(model, twin, directions, private_texts)
    theta = device.form.zero()
    found = [
        replace(device, memory_budget=budget).train_shared(theta, round=1)
        for budget in (None, "3MB", "1GB")
    ]
    np.testing.assert_allclose(found[1], found[0], atol=1e-6)
    np.testing.assert_allclose(found[2], found[0], atol=1e-6)
    sizes = [
        form_training(twin, device.form, PLAN, memory_budget=budget).at_once  # type: ignore[attr-defined]
        for budget in ("3MB", "1GB")
    ]
    assert 1 <= sizes[0] < 8 < sizes[1]
    with pytest.raises(BadInputError, match="memory_budget 10kB is below what one sample needs"):
        replace(device, memory_budget="10kB").train_shared(theta, round=1)


def test_a_record_longer_than_the_context_is_cut(
    model: TextModel, twin: TextTwin, directions: Directions, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = make(model, twin, directions, ["the wind is cold and the sea is grey " * 20])
    assert len(device.records()[0]) == MAX_RECORD_TOKENS
    monkeypatch.setattr(twin, "max_tokens", 50)
    assert len(device.records()[0]) == 50


# --- plans for users --------------------------------------------------------------------------


def of_a_user(device: FederatedLearner[list[int]], **changes: Any) -> FederatedLearner[list[int]]:
    settings = {"rounds": 9, "separation": 3, "cohort": 5, "clip": 0.01} | changes
    how = LocalTraining(batch=4, optimizer=Optimizer(learning_rate=0.02))
    return replace(device, plan=user_plan(**settings), locally=how)


def test_one_record_is_enough_where_the_whole_user_is_protected(
    model: TextModel, twin: TextTwin, directions: Directions, tmp_path: Path
) -> None:
    single = make(model, twin, directions, ["One letter only."], ledger=tmp_path / "ledger")
    device = of_a_user(single)
    delta = device.train_shared(device.form.zero(), round=1)
    assert 0 < np.linalg.norm(delta) <= 0.01 * (1 + 1e-6)
    assert device.ledger is not None
    assert [(c.unit, c.round) for c in device.ledger.charges] == [("user", 1)]
    assert device.ledger.epsilon("user") == pytest.approx(device.plan.epsilon(1, rounds=1))
    with pytest.raises(TooLittleDataError, match="1 records may be federated, at least 32"):
        of_a_user(single, within=record_plan(rounds=9)).begin(1)


def test_a_user_is_not_asked_more_often_than_the_noise_is_made_for(
    model: TextModel, twin: TextTwin, directions: Directions, tmp_path: Path
) -> None:
    texts = [f"Letter {i} of the spring." for i in range(33)]
    device = of_a_user(make(model, twin, directions, texts, ledger=tmp_path / "ledger"))
    device.begin(2)
    with pytest.raises(PrivacyError, match="round 4 is within 3 rounds of round 2"):
        device.begin(4)
    device.begin(2)  # asked again after an interruption: paid again
    device.begin(5)
    assert device.ledger is not None
    assert [charge.round for charge in device.ledger.charges] == [2, 2, 5]


def test_both_units_are_charged_before_training(
    model: TextModel, twin: TextTwin, directions: Directions, tmp_path: Path
) -> None:
    texts = [f"Letter {i} of the autumn." for i in range(33)]
    device = of_a_user(
        make(model, twin, directions, texts, ledger=tmp_path / "ledger"),
        within=record_plan(rounds=9, expected_batch=4),
    )
    delta = device.train_shared(device.form.zero(), round=1)
    assert 0 < np.linalg.norm(delta) <= 0.01 * (1 + 1e-6)
    assert device.ledger is not None
    assert [charge.unit for charge in device.ledger.charges] == ["user", "record"]
    assert 0 < device.ledger.epsilon("record") < device.ledger.epsilon("user")


# --- a half that stays on the device ----------------------------------------------------------


def half_sharing(
    device: FederatedLearner[list[int]], name: FormName
) -> FederatedLearner[list[int]]:
    form = SharedForm(name, device.form.base_id, device.form.directions)
    return replace(of_a_user(device, clip=1.0), form=form, kept=None)


@pytest.mark.parametrize("name", ["share-a", "share-b"])
def test_what_stays_lies_in_the_vault_and_is_gone_on_from(
    name: FormName,
    model: TextModel,
    twin: TextTwin,
    directions: Directions,
    private_texts: list[str],
) -> None:
    device = half_sharing(make(model, twin, directions, private_texts), name)
    theta = device.form.zero()
    first = device.train_shared(theta, round=1)
    assert first.shape == (device.form.main,)
    assert device.kept is not None
    after_first = device.kept.latest()
    assert np.any(after_first)
    assert KeptHalf.in_vault(device.device.store, device.plan.digest, device.form.kept_dim)
    second = device.train_shared(theta, round=4)
    again = device.train_shared(theta, round=4)
    np.testing.assert_array_equal(second, again)
    np.testing.assert_array_equal(device.kept.before(4), after_first)
    assert not np.array_equal(device.kept.latest(), after_first)
    adapter = device.adapter(first)
    assert adapter.digest != device.form.to_adapter(first).digest


def test_what_stays_is_of_one_federation(
    model: TextModel, twin: TextTwin, directions: Directions, private_texts: list[str]
) -> None:
    device = half_sharing(make(model, twin, directions, private_texts), "share-a")
    device.train_shared(device.form.zero(), round=1)
    store, dim = device.device.store, device.form.kept_dim
    assert np.any(KeptHalf.in_vault(store, device.plan.digest, dim).latest())
    assert not np.any(KeptHalf.in_vault(store, "other", dim).latest())
    assert not np.any(KeptHalf.in_vault(store, device.plan.digest, dim + 1).latest())


def test_what_stays_is_forgotten_with_any_record(
    model: TextModel, twin: TextTwin, directions: Directions, private_texts: list[str]
) -> None:
    device = half_sharing(make(model, twin, directions, private_texts), "share-a")
    device.train_shared(device.form.zero(), round=1)
    assert device.kept is not None
    assert device.device.store.kept_half()
    device.device.store.forget(["007"])
    assert not device.device.store.kept_half()
    assert not np.any(device.kept.latest())
