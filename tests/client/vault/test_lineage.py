"""Forgetting reaches what was trained: the rebuilt adapter is the one that never saw the record."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'train'")

from locavore.client.device import Device
from locavore.client.runtime import Generation, TextModel
from locavore.client.training.private import PrivateTraining, SliceTrainer
from locavore.client.training.text import TextTwin
from locavore.client.vault.keys import Key
from locavore.client.vault.vault import Vault
from locavore.shared.adapters import Adapter
from locavore.shared.contexts import Consent, Instruction, UserDocument
from locavore.shared.errors import AdapterError, BadInputError
from locavore.shared.forms import Directions, SharedForm

KEY = b"k" * 32


@pytest.fixture
def trainer(twin: TextTwin, directions: Directions, model: TextModel) -> SliceTrainer:
    training = PrivateTraining(rank=2, steps=3, batch=3, learning_rate=1e-2)
    return SliceTrainer(twin, directions, training)


@pytest.fixture
def shared(model: TextModel, directions: Directions) -> Adapter:
    form = SharedForm("core", model.base_id, directions)
    theta = np.random.default_rng(0).standard_normal(form.dim).astype(np.float32)
    return form.to_adapter(theta)


def lived(
    device: Device,
    trainer: SliceTrainer,
    texts: list[str],
    without: frozenset[int] = frozenset(),
    new_shared: Adapter | None = None,
) -> Device:
    """Learns five records at a time; the shared adapter comes after the second time."""
    for place, first in enumerate(range(0, 20, 5)):
        for number in range(first, first + 5):
            if number not in without:
                device.remember(
                    UserDocument(
                        body=texts[number],
                        id=f"{number:02}",
                        consent=Consent(retrieve=True, train=True),
                    )
                )
        if place == 2:
            device.shared = new_shared
        device.learn(trainer)
    return device


@pytest.mark.parametrize(
    "gone", [frozenset({0}), frozenset({7}), frozenset({19}), frozenset({5, 6, 7, 8, 9, 16})]
)
def test_the_rebuilt_adapter_never_saw_the_record(
    gone: frozenset[int],
    trainer: SliceTrainer,
    shared: Adapter,
    private_texts: list[str],
    tmp_path: Path,
) -> None:
    vault = Vault.create(tmp_path / "v", Key(KEY))
    device = lived(Device(store=vault), trainer, private_texts, new_shared=shared)
    never = lived(Device(), trainer, private_texts, gone, shared)
    assert device.private is not None
    assert never.private is not None
    before = device.private.digest
    assert before != never.private.digest
    said = device.store.forget([f"{n:02}" for n in sorted(gone)])
    device.close()
    device = Device.open(tmp_path / "v", key=KEY)  # what was cut stays cut
    first = min(gone) // 5
    kept = [link.adapter for link in device.store.lineage.slices[:first]]
    assert said.adapter_before == before
    assert said.adapter_after == (kept[-1] if kept else None)
    assert (device.private.digest if device.private else None) == said.adapter_after
    assert said.due == len(device.store.lineage.due) > 0 or min(gone) == 19
    device.shared = shared
    assert device.learn(trainer) == 0
    assert device.private is not None
    assert device.private.digest == never.private.digest
    final = device.store.certificates[-1]
    final.verify()
    assert (final.adapter_before, final.adapter_after, final.due) == (
        before,
        never.private.digest,
        0,
    )
    kept_adapters = {link.adapter for link in device.store.lineage.slices} | {shared.digest}
    for digest in kept_adapters - {None}:
        device.store.lineage.adapter(str(digest))
    with pytest.raises(BadInputError, match="no adapter"):
        device.store.lineage.adapter(before)
    device.close()


def test_forgetting_with_a_trainer_rebuilds_at_once(
    trainer: SliceTrainer, private_texts: list[str]
) -> None:
    device = lived(Device(), trainer, private_texts)
    said = device.forget("07", trainer=trainer)
    never = lived(Device(), trainer, private_texts, frozenset({7}))
    said.verify()
    assert device.private is not None
    assert never.private is not None
    assert said.adapter_after == device.private.digest == never.private.digest
    assert said.due == 0


def test_what_was_not_trained_on_is_forgotten_without_touching_the_adapter(
    trainer: SliceTrainer, private_texts: list[str]
) -> None:
    device = lived(Device(), trainer, private_texts)
    device.remember(UserDocument(body="not for training", id="x"))
    said = device.forget("x")
    assert said.adapter_before == said.adapter_after is not None
    assert not device.store.lineage.due


def test_withdrawing_consent_to_train_is_forgetting_for_the_adapter(
    trainer: SliceTrainer, private_texts: list[str]
) -> None:
    device = lived(Device(), trainer, private_texts)
    record = UserDocument(body=private_texts[7], id="07", consent=Consent(retrieve=True))
    said = device.store.replace(record)
    assert said is not None
    assert said.adapter_after != said.adapter_before
    device.learn(trainer)
    never = lived(Device(), trainer, private_texts, frozenset({7}))
    assert device.private is not None
    assert never.private is not None
    assert device.private.digest == never.private.digest
    assert [hit.record.id for hit in device.recall(private_texts[7], 1)] == ["07"]


def test_explain_names_prompt_and_training_records(
    trainer: SliceTrainer, model: TextModel, private_texts: list[str]
) -> None:
    device = lived(Device(model), trainer, private_texts)
    content = device.generate(Instruction(text=private_texts[3]), Generation(max_tokens=4), k=1)
    found = device.explain(content)
    (used,) = found.prompt
    assert (used.id,) == content.trace.record_ids
    assert [record.id for record in found.private] == [f"{n:02}" for n in range(20)]
    assert not found.replaced
    device.forget(used.id)
    later = device.explain(content)
    assert later.prompt == ()
    assert later.forgotten == (used.id,)
    assert later.replaced


def test_another_base_is_refused_until_the_old_adapter_is_unlearned(
    trainer: SliceTrainer, private_texts: list[str]
) -> None:
    device = lived(Device(), trainer, private_texts)
    trainer.twin.base_id = "another"
    device.remember(
        UserDocument(body="more", consent=Consent(train=True)), consent=Consent(train=True)
    )
    with pytest.raises(AdapterError, match=r"use that base, or unlearn\(\)"):
        device.learn(trainer)
    device.unlearn()
    assert device.private is None
    assert device.store.lineage.slices == []
    assert device.learn(trainer) == 21
