"""Forgetting reaches what was trained: the rebuilt adapter is the one that never saw the record."""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'train'")

from locavore.client.captioned import picture_record
from locavore.client.device import Device
from locavore.client.image_model import ImageModel
from locavore.client.runtime import Generation, TextModel
from locavore.client.training.private import PrivateTraining, SliceTrainer
from locavore.client.training.text import TextTwin
from locavore.client.vault.entries import Sort
from locavore.client.vault.keys import Key
from locavore.client.vault.lineage import Cut, Lineage
from locavore.client.vault.vault import Vault
from locavore.shared.adapters import Adapter
from locavore.shared.contexts import Consent, Context, Instruction, UserDocument
from locavore.shared.errors import AdapterError, BadInputError
from locavore.shared.forms import Directions, SharedForm
from locavore.shared.packages import Package

from ...tiny_images import public_pictures

if TYPE_CHECKING:
    from locavore.export.quantize import Precision

KEY = b"k" * 32
TRAIN = Consent(train=True)


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
    model: TextModel,
    private_texts: list[str],
    tmp_path: Path,
) -> None:
    vault = Vault.create(tmp_path / "v", Key(KEY))
    device = lived(Device(model, store=vault), trainer, private_texts, new_shared=shared)
    never = lived(Device(model), trainer, private_texts, gone, shared)
    assert device.private is not None
    assert never.private is not None
    before = device.private.digest
    assert before != never.private.digest
    said = device.store.forget([f"{n:02}" for n in sorted(gone)])
    device.close()
    device = Device.open(tmp_path / "v", key=KEY, model=model)  # what was cut stays cut
    lineage = device.store.lineages.of(model.base_id)
    first = min(gone) // 5
    kept = [link.adapter for link in lineage.slices[:first]]
    (cut,) = said.adapters
    assert (cut.base_id, cut.before) == (model.base_id, before)
    assert cut.after == (kept[-1] if kept else None)
    assert (device.private.digest if device.private else None) == cut.after
    assert said.due == len(lineage.due) > 0 or min(gone) == 19
    device.shared = shared
    assert device.learn(trainer) == 0
    assert device.private is not None
    assert device.private.digest == never.private.digest
    final = device.store.certificates[-1]
    final.verify()
    (cut,) = final.adapters
    assert (cut.before, cut.after, cut.due) == (before, never.private.digest, 0)
    kept_adapters = {link.adapter for link in lineage.slices} | {shared.digest}
    for digest in kept_adapters - {None}:
        lineage.adapter(str(digest))
    with pytest.raises(BadInputError, match="no adapter"):
        lineage.adapter(before)
    device.close()


def test_forgetting_with_a_trainer_rebuilds_at_once(
    trainer: SliceTrainer, model: TextModel, private_texts: list[str]
) -> None:
    device = lived(Device(model), trainer, private_texts)
    said = device.forget("07", trainer=trainer)
    never = lived(Device(model), trainer, private_texts, frozenset({7}))
    said.verify()
    assert device.private is not None
    assert never.private is not None
    (cut,) = said.adapters
    assert cut.after == device.private.digest == never.private.digest
    assert said.due == 0


def test_what_was_not_trained_on_is_forgotten_without_touching_the_adapter(
    trainer: SliceTrainer, model: TextModel, private_texts: list[str]
) -> None:
    device = lived(Device(model), trainer, private_texts)
    before = device.private
    device.remember(UserDocument(body="not for training", id="x"))
    assert device.forget("x").adapters == ()
    assert before is not None
    assert device.private is before
    assert not device.store.lineages.of(model.base_id).due


def test_withdrawing_consent_to_train_is_forgetting_for_the_adapter(
    trainer: SliceTrainer, model: TextModel, private_texts: list[str]
) -> None:
    device = lived(Device(model), trainer, private_texts)
    record = UserDocument(body=private_texts[7], id="07", consent=Consent(retrieve=True))
    said = device.store.replace(record)
    assert said is not None
    (cut,) = said.adapters
    assert cut.after != cut.before
    device.learn(trainer)
    never = lived(Device(model), trainer, private_texts, frozenset({7}))
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


# --- several bases in one store ---------------------------------------------------------------


@pytest.fixture
def image_model(image_packages: Callable[[Precision], Package]) -> ImageModel:
    return ImageModel(image_packages("int8"))


@pytest.fixture
def image_trainer(image_model: ImageModel) -> SliceTrainer:
    training = PrivateTraining(rank=2, steps=2, batch=3, learning_rate=1e-2)
    return SliceTrainer.of(image_model.package, training)


def drawing(number: int) -> Context:
    """A picture with a caption: an image base sees the one, a text base reads the other."""
    picture, caption = public_pictures()[number]
    return picture_record(picture, caption, id=f"p{number}", consent=Consent(train=True))


def both(device: Device, *trainers: SliceTrainer, without: str = "") -> Device:
    """Texts and pictures, in two slices of either base."""
    for number in range(2):
        records = [note(number), drawing(number), drawing(number + 2)]
        device.remember_all([record for record in records if record.id != without])
        for trainer in trainers:
            device.learn(trainer)
    return device


def note(number: int) -> Context:
    return UserDocument(body=f"Note {number}: alas, it squeaks!", id=f"n{number}", consent=TRAIN)


def chains(device: Device) -> dict[str, list[str | None]]:
    return {one.base_id: [link.adapter for link in one.slices] for one in device.store.lineages}


def test_a_record_is_forgotten_by_every_base_that_saw_it(
    trainer: SliceTrainer, image_trainer: SliceTrainer, tmp_path: Path
) -> None:
    trainers = (trainer, image_trainer)
    with Device.create(tmp_path / "v", key=KEY) as device:
        before = chains(both(device, *trainers))
    assert [len(chain) for chain in before.values()] == [2, 2]
    with Device.open(tmp_path / "v", key=KEY) as device:
        said = device.forget("p1")  # in the second slice of both
        assert {cut.base_id: (cut.before, cut.after, cut.due) for cut in said.adapters} == {
            base_id: (chain[1], chain[0], 1) for base_id, chain in before.items()
        }
        assert chains(device) == {base_id: [chain[0], None] for base_id, chain in before.items()}
        for base_id, chain in before.items():
            with pytest.raises(BadInputError, match="no adapter"):
                device.store.lineages.of(base_id).adapter(str(chain[1]))
        device.learn(trainer)
        (open_cut,) = [cut for cut in device.store.certificates[-1].adapters if cut.due]
        assert open_cut.base_id == image_trainer.base_id
        device.learn(image_trainer)
        final = device.store.certificates[-1]
        final.verify()
        assert final.due == 0
        assert final.from_json(final.to_json()) == final
        never = chains(both(Device(), *trainers, without="p1"))
        assert {cut.base_id: cut.after for cut in final.adapters} == {
            base_id: chain[-1] for base_id, chain in never.items()
        }


def test_what_one_base_learns_and_forgets_leaves_the_other(
    trainer: SliceTrainer, image_trainer: SliceTrainer, model: TextModel, image_model: ImageModel
) -> None:
    device = both(Device(model), trainer, image_trainer)
    text = device.private
    device.use_model(image_model)
    pictures = device.private
    assert text is not None
    assert pictures is not None
    assert (text.base_id, pictures.base_id) == (model.base_id, image_model.base_id)
    said = device.forget("n1")  # no picture
    assert [cut.base_id for cut in said.adapters] == [model.base_id]
    assert device.private is pictures
    device.learn(trainer)
    assert device.private is pictures
    device.unlearn(image_model.base_id)
    assert device.available_adapters() == ()
    device.use_model(model)
    assert device.available_adapters() == ("private",)
    with pytest.raises(
        BadInputError, match=r"nothing was learned for base 'x'; there is tiny-llama"
    ):
        device.unlearn("x")
    assert device.learn(image_trainer) == 4


def test_a_base_that_was_built_anew_begins_from_nothing(
    trainer: SliceTrainer, model: TextModel, shared: Adapter, private_texts: list[str]
) -> None:
    device = lived(Device(model), trainer, private_texts, new_shared=shared)
    before = chains(device)
    trainer.twin.base_id = "another"
    assert device.learn(trainer) == 20
    after = chains(device)
    assert after.pop("another") is not None
    assert after == before
    (link,) = device.store.lineages.of("another").slices
    assert link.shared is None  # that of the base before is not this one's
    with pytest.raises(AdapterError, match="belongs to base"):
        device.store.lineages.of("another").keep_shared(shared)


def test_every_base_is_exported_and_everything_is_wiped(
    trainer: SliceTrainer, image_trainer: SliceTrainer, tmp_path: Path
) -> None:
    device = both(Device(store=Vault.create(tmp_path / "v", Key(KEY))), trainer, image_trainer)
    device.export(tmp_path / "me.zip")
    with zipfile.ZipFile(tmp_path / "me.zip") as archive:
        kept = {name: archive.read(name) for name in archive.namelist() if "private" in name}
    lineages = list(device.store.lineages)
    assert kept == {
        f"adapters/{one.base_id}/private.safetensors": one.private.to_bytes()
        for one in lineages
        if one.private
    }
    assert len(kept) == 2
    heads = {one.base_id: one.private_digest for one in lineages}
    said = device.forget_everything()
    assert {cut.base_id: cut.before for cut in said.adapters} == heads
    assert all(cut.after is None for cut in said.adapters)
    assert not list(device.store.lineages)
    assert device.store.entries.count(Sort.ADAPTER) == 0
    device.close()


def test_a_fault_while_forgetting_leaves_both_bases_as_they_were(
    trainer: SliceTrainer,
    image_trainer: SliceTrainer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Device.create(tmp_path / "v", key=KEY) as device:
        before = chains(both(device, trainer, image_trainer))
        cut, done = Lineage.cut, list[str]()

        def failing(lineage: Lineage, records: Collection[str]) -> Cut | None:
            if done:
                raise RuntimeError("interrupted")
            done.append(lineage.base_id)
            return cut(lineage, records)

        monkeypatch.setattr(Lineage, "cut", failing)
        with pytest.raises(RuntimeError, match="interrupted"):
            device.forget("p1")
    with Device.open(tmp_path / "v", key=KEY) as device:
        assert len(done) == 1
        assert chains(device) == before
        assert device.store.holds("p1")
        assert all(one.private for one in device.store.lineages)
