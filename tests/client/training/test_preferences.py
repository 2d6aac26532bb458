"""Choices train a private adapter: of pictures and of texts, and are forgotten exactly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'train'")
pytest.importorskip("diffusers", reason="needs the extra 'train'")
pytest.importorskip("onnx_ir", reason="needs the extra 'export'")

import torch

from locavore.client.captioned import picture_record
from locavore.client.device import Device
from locavore.client.image_model import ImageModel
from locavore.client.preferences import choices
from locavore.client.runtime import TextModel
from locavore.client.training.preferences import PicturePairs, TextPairs
from locavore.client.training.private import PrivateTraining, SliceTrainer
from locavore.client.training.text import TextTwin
from locavore.shared.adapters import Adapter, Array
from locavore.shared.contexts import Consent, Context, UserBehavior
from locavore.shared.errors import BadInputError
from locavore.shared.forms import Directions
from locavore.shared.packages import Package
from locavore.shared.pictures import Picture

from ...tiny_images import public_pictures

if TYPE_CHECKING:
    from locavore.export.quantize import Precision

TRAIN = Consent(train=True)
QUICK = PrivateTraining(rank=2, steps=2, batch=2, learning_rate=1e-2)


@pytest.fixture(scope="module")
def image_model(image_packages: Callable[[Precision], Package]) -> ImageModel:
    return ImageModel(image_packages("int8"))


@pytest.fixture
def pictures_trainer(image_model: ImageModel) -> SliceTrainer:
    return SliceTrainer.of(image_model.package, QUICK, objective="dpo")


@pytest.fixture
def texts_trainer(twin: TextTwin, directions: Directions) -> SliceTrainer:
    return SliceTrainer(twin, directions, QUICK, "dpo")


def framed(picture: Picture) -> Picture:
    """In a manner of its own: the same, in a dark frame."""
    pixels = picture.pixels.copy()
    pixels[:4] = pixels[-4:] = pixels[:, :4] = pixels[:, -4:] = 20
    return Picture(pixels)


def tastes(numbers: Sequence[int], without: str = "") -> list[Context]:
    """Somebody who likes frames: of each caption a framed picture, and one that is not."""
    records = []
    for number in numbers:
        picture, caption = public_pictures()[number]
        for name, shown, action in (
            (f"yes{number}", framed(picture), "liked"),
            (f"no{number}", picture, "disliked"),
        ):
            fields = {"id": name, "consent": TRAIN}
            records.append(picture_record(shown, caption, action=action, **fields))
    return [record for record in records if record.id != without]


def rewards(model: ImageModel, adapter: Adapter, numbers: Sequence[int]) -> Array:
    """By how much less an adapter errs on the framed pictures than on the others."""
    shown = [public_pictures()[number] for number in numbers]
    captions = [caption for _, caption in shown]
    gains = []
    for pictures in ([framed(picture) for picture, _ in shown], [picture for picture, _ in shown]):
        model.attach()
        before = model.errors(pictures, captions, draws=16)
        model.attach(adapter)
        gains.append((before - model.errors(pictures, captions, draws=16)).mean(1))
        model.attach()
    margin: Array = gains[0] - gains[1]
    return margin


def test_choices_of_pictures_carry_over_to_other_captions(image_model: ImageModel) -> None:
    training = PrivateTraining(rank=2, steps=40, batch=4, learning_rate=1e-2)
    trainer = SliceTrainer.of(image_model.package, training, objective="dpo")
    device = Device(image_model)
    device.remember_all(tastes([0, 1, 2, 3]))
    assert device.learn(trainer) == 8
    assert device.private is not None
    assert (rewards(image_model, device.private, [4, 5]) > 0).all()


def test_both_pictures_of_a_pair_have_the_same_noise(pictures_trainer: SliceTrainer) -> None:
    pairs = PicturePairs(pictures_trainer.twin)  # type: ignore[arg-type]
    batch = pairs.collate(pairs.examples(tastes([0, 1, 2])))
    for name in ("noise", "time", "input_ids"):
        assert torch.equal(batch[name][:, 0], batch[name][:, 1])
    assert not torch.equal(batch["clean"][:, 0], batch["clean"][:, 1])
    assert batch["reference"].shape == (3, 2)
    torch.testing.assert_close(pairs.losses(pairs.model, batch), torch.full((3,), 0.6931472))


def texts(numbers: Sequence[int]) -> list[Context]:
    """Somebody who likes to be greeted loudly."""
    who = ("Kim", "Bo", "Ida", "Sven", "Lou", "Mia")
    return [
        UserBehavior(
            item=f"Dear {who[number]},",
            action=action,
            media=said.encode(),
            media_type="text/plain",
            id=f"{action}{number}",
            consent=TRAIN,
        )
        for number in numbers
        for action, said in (("liked", " HELLO! HELLO!"), ("disliked", " I hope you are well."))
    ]


def test_choices_of_texts_carry_over_to_other_requests(
    model: TextModel, twin: TextTwin, directions: Directions
) -> None:
    training = PrivateTraining(rank=2, steps=20, batch=4, learning_rate=1e-2)
    device = Device(model)
    device.remember_all(texts([0, 1, 2, 3]))
    assert device.learn(SliceTrainer(twin, directions, training, "dpo")) == 8
    adapter = device.private
    assert adapter is not None
    said: dict[str, list[float]] = {}
    for live in ([], [adapter]):
        model.attach(*live)
        for record in texts([4, 5]):
            assert isinstance(record, UserBehavior)
            (losses,) = model.score([record.item], [record.media.decode()])
            said.setdefault(record.id, []).append(-float(losses.sum()))
    model.attach()
    gains = {name: after - before for name, (before, after) in said.items()}
    assert all(gains[f"liked{number}"] > gains[f"disliked{number}"] for number in (4, 5))


def test_only_the_answers_tokens_count(texts_trainer: SliceTrainer) -> None:
    pairs = TextPairs(texts_trainer.twin)  # type: ignore[arg-type]
    (row,) = pairs.examples(texts([0]))
    liked, disliked = row
    batch = pairs.batch([row])
    lengths = batch["target"].sum(2).tolist()
    assert lengths == [[len(liked.answer), len(disliked.answer)]]
    long = UserBehavior(item="x " * 500, action="liked", media=b"y " * 500, media_type="text/plain")
    assert len(pairs.answer(long).ids) == pairs.twin.max_tokens
    assert pairs.answer(long).answer


def test_an_answer_chooses_among_those_of_earlier_slices(
    pictures_trainer: SliceTrainer, image_model: ImageModel
) -> None:
    liked, disliked = tastes([0])
    device = Device(image_model)
    device.remember(disliked)
    device.learn(pictures_trainer)
    first = device.private
    device.remember(liked)
    assert device.learn(pictures_trainer) == 1
    assert first is not None
    assert device.private is not None

    def trained(before: list[Context]) -> str:
        how = pictures_trainer.how
        return pictures_trainer.train(
            [liked], how=how, place=1, before=before, start=first, shared=None
        ).digest

    assert device.private.digest == trained([disliked]) != trained([])  # else it is imitated


def test_one_disliked_answer_teaches_nothing_yet(
    pictures_trainer: SliceTrainer, image_model: ImageModel
) -> None:
    device = Device(image_model)
    device.remember_all(tastes([0], without="yes0"))
    assert device.learn(pictures_trainer) == 1
    assert device.private is not None
    assert not any(b.any() for _, b in device.private.factors.values())
    image_model.attach(device.private)
    image_model.attach()


@pytest.mark.parametrize("gone", ["yes0", "no0", "no1"])
def test_a_forgotten_choice_was_never_made(
    gone: str, pictures_trainer: SliceTrainer, image_model: ImageModel
) -> None:
    def lived(without: str = "") -> Device:
        device = Device(image_model)
        for numbers in ([0], [1], [0, 2]):
            kept = {record.id for record in device.store}
            fresh = [r for r in tastes(numbers, without) if r.id not in kept]
            if numbers == [0, 2]:  # one more of a caption that was chosen among before
                picture, caption = public_pictures()[0]
                more = Picture(np.roll(framed(picture).pixels, 3, axis=0))
                fields = {"id": "more", "consent": TRAIN}
                fresh.append(picture_record(more, caption, action="liked", **fields))
            device.remember_all(fresh)
            device.learn(pictures_trainer)
        return device

    device = lived()
    said = device.forget(gone, trainer=pictures_trainer)
    never = lived(without=gone)
    assert said.due == 0
    assert device.private is not None
    assert never.private is not None
    assert device.private.digest == never.private.digest


def test_imitation_leaves_out_what_was_disliked(pictures_trainer: SliceTrainer) -> None:
    imitating = SliceTrainer(pictures_trainer.twin, pictures_trainer.directions, QUICK)
    own = picture_record(public_pictures()[0][0], "red bar")
    records = [*tastes([0]), own]
    assert [imitating.takes(record) for record in records] == [True, False, True]
    assert [pictures_trainer.takes(record) for record in records] == [True, True, False]
    assert not pictures_trainer.takes(texts([0])[0])
    assert len(choices(records)) == 1


def test_what_is_wrong_is_said(pictures_trainer: SliceTrainer) -> None:
    twin, directions = pictures_trainer.twin, pictures_trainer.directions
    with pytest.raises(BadInputError, match="objective must be sft or dpo, got 'rlhf'"):
        SliceTrainer(twin, directions, QUICK, "rlhf")  # type: ignore[arg-type]
    with pytest.raises(BadInputError, match="beta must be above 0, got -1"):
        SliceTrainer(twin, directions, QUICK, "dpo", beta=-1)
