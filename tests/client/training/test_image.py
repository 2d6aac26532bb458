from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'train'")
pytest.importorskip("diffusers", reason="needs the extra 'train'")
pytest.importorskip("onnx_ir", reason="needs the extra 'export'")

import torch

from locavore.client.captioned import captioned, picture_record
from locavore.client.image_model import Drawing, ImageModel
from locavore.client.training.chains import token_rows
from locavore.client.training.check import check_training
from locavore.client.training.concepts import SubjectTraining, Way, learn_subject
from locavore.client.training.image import Draws, ImageTwin
from locavore.client.training.private import PrivateTraining, train_private
from locavore.shared.contexts import PersonalizedSubject, UserDocument
from locavore.shared.errors import BadInputError, TooLittleDataError
from locavore.shared.forms import Directions
from locavore.shared.packages import Package
from locavore.shared.pictures import Picture

from ...tiny_images import public_pictures

if TYPE_CHECKING:
    from locavore.export.quantize import Precision


@pytest.fixture(scope="module")
def package(image_packages: Callable[[Precision], Package]) -> Package:
    return image_packages("int8")


@pytest.fixture
def twin(package: Package) -> ImageTwin:
    return ImageTwin.of(package)


@pytest.fixture(scope="module")
def model(package: Package) -> ImageModel:
    return ImageModel(package)


@pytest.fixture(scope="module")
def directions(package: Package) -> Directions:
    return Directions.load(package.path("directions.safetensors"))


def test_records_with_pictures_are_examples_and_others_are_not(twin: ImageTwin) -> None:
    (picture, caption), (other, _) = public_pictures()[:2]
    drawn = picture_record(picture, caption)
    thing = PersonalizedSubject(
        name="bar",
        media=(picture.encoded("png"), other.encoded("png")),
        media_type="image/png",
    )
    assert [twin.takes(r) for r in (drawn, thing, UserDocument(body="red bar"))] == [1, 1, 0]
    ((same, told),) = captioned(drawn, (32, 32))
    assert np.array_equal(same.pixels, picture.pixels)
    assert told == caption
    assert [len(twin.examples([r])) for r in (drawn, thing)] == [1, 2]
    assert np.array_equal(twin.examples([drawn])[0].ids, twin.prompts.ids([caption])[0])


def test_the_runtime_says_what_the_twin_says(twin: ImageTwin, model: ImageModel) -> None:
    (example,) = twin.seen(public_pictures()[:1])
    model.attach()
    said, expected = model.outputs(example), twin.outputs(example)
    assert np.linalg.norm(said - expected) < 0.05 * np.linalg.norm(expected)


def test_an_example_is_trained_at_times_that_are_spread_evenly() -> None:
    times = Draws(each=4).times(100)
    assert torch.equal((times * 4).long().sort(1).values, torch.arange(4).expand(100, 4))


def test_the_mean_of_an_examples_draws_is_its_loss(twin: ImageTwin) -> None:
    batch = twin.collate(twin.seen(public_pictures()[:3]))
    losses = twin.losses(twin.model, batch)
    assert losses.shape == (3,)
    for i in range(3):
        alone = {name: value[i : i + 1] for name, value in batch.items()}
        torch.testing.assert_close(twin.losses(twin.model, alone), losses[i : i + 1])


def test_a_private_adapter_learns_pictures_and_runs(
    twin: ImageTwin, model: ImageModel, directions: Directions
) -> None:
    pictures = public_pictures()
    examples = twin.seen(pictures)
    how = PrivateTraining(rank=2, steps=40, batch=6, learning_rate=1e-2)
    adapter = train_private(twin, directions, examples, how)
    check_training(twin, model, adapter, examples[0])
    shown = [picture for picture, _ in pictures]
    said = [caption for _, caption in pictures]
    model.attach()
    before = model.errors(shown, said, draws=8)
    model.attach(adapter)
    after = model.errors(shown, said, draws=8)
    model.attach()
    assert before.shape == (6, 8)
    assert after.mean() < 0.9 * before.mean()


def test_errors_are_those_of_the_objective(twin: ImageTwin, model: ImageModel) -> None:
    pictures = public_pictures()[:2]
    model.attach()
    found = model.errors([p for p, _ in pictures], [c for _, c in pictures], draws=4, seed=3)
    for i, example in enumerate(twin.seen(pictures)):
        noise = np.random.default_rng([3, i]).standard_normal(
            (4, *example.latents.shape), np.float32
        )
        batch = {
            "clean": torch.from_numpy(example.latents).expand(4, -1, -1, -1),
            "noise": torch.from_numpy(noise),
            "time": (torch.arange(4) + 0.5) / 4,
            "input_ids": torch.from_numpy(example.ids).expand(4, -1),
        }
        expected = twin.diffusion(twin.model, batch).detach().numpy()
        np.testing.assert_allclose(found[i], expected, rtol=0.1)


# --- things of one's own ----------------------------------------------------------------------


def quick(way: Way, **changes: int) -> SubjectTraining:
    return SubjectTraining(way=way, steps=30, learning_rate=1e-2, prior=4, rank=2, **changes)


@pytest.mark.parametrize("way", ["textual-inversion", "custom-diffusion", "dreambooth"])
def test_a_thing_is_learned_and_drawn(
    way: Way, twin: ImageTwin, model: ImageModel, directions: Directions
) -> None:
    picture = Picture(np.roll(public_pictures()[0][0].pixels, 7, axis=0))
    concept = learn_subject(twin, model, directions, [picture], "<my-bar>", "bar", quick(way))
    assert concept.rows.shape == (2, 32)  # the learned one, and that of "bar"
    sites = set(concept.adapter.factors if concept.adapter else ())
    if way == "textual-inversion":
        assert not sites
    elif way == "custom-diffusion":
        assert sites
        assert all(site.endswith((".attn2.to_k", ".attn2.to_v")) for site in sites)
    else:
        assert sites == set(directions.factors)
    model.use_tokens({"<my-bar>": concept.rows})
    try:
        model.attach(*([concept.adapter] if concept.adapter else []))
        told = model.errors([picture], ["<my-bar>"], draws=16)
        model.attach()
        before = model.errors([picture], ["bar"], draws=16)
        assert told.mean() < before.mean()
        assert model.generate(["a <my-bar>"], Drawing(steps=2))[0].size == (32, 32)
    finally:
        model.use_tokens({})
        model.attach()
    assert twin.prompts.own == {}


def test_the_rows_are_what_was_trained(
    twin: ImageTwin, model: ImageModel, directions: Directions
) -> None:
    picture, _ = public_pictures()[0]
    how = quick("textual-inversion", rows=2)
    concept = learn_subject(twin, model, directions, [picture], "<x>", "bar", how)
    table = twin.model.get_submodule(twin.embedding_site).weight
    (start,) = twin.prompts.spelled("bar")
    moved = concept.rows - table[start].numpy()  # type: ignore[index]
    assert (np.linalg.norm(moved[:2], axis=1) > 1e-3).all()
    assert concept.rows.shape == (3, 32)
    assert not moved[2].any()  # the kind itself
    assert token_rows(twin.model, twin.embedding_site, {500: start})


def test_what_cannot_be_learned_is_refused(
    twin: ImageTwin, model: ImageModel, directions: Directions
) -> None:
    picture, _ = public_pictures()[0]
    with pytest.raises(TooLittleDataError, match="one picture"):
        learn_subject(twin, model, directions, [], "<x>", "bar")
    with pytest.raises(BadInputError, match="knows no word"):
        learn_subject(twin, model, directions, [picture], "<x>", "")
    with pytest.raises(BadInputError, match="the base knows it"):
        learn_subject(twin, model, directions, [picture], "<noto>", "bar")
    with pytest.raises(BadInputError, match=r"rank.*way"):
        SubjectTraining(way="magic", rank=0)  # type: ignore[arg-type]
