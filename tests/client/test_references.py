"""Pictures to draw like: given by the caller, or found among the person's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
import pytest

from locavore.client.captioned import picture_record
from locavore.client.device import Device
from locavore.client.image_model import Drawing, ImageModel
from locavore.shared.contexts import Consent, Instruction
from locavore.shared.errors import BadInputError
from locavore.shared.packages import Package
from locavore.shared.pictures import Picture

if TYPE_CHECKING:
    from locavore.export.quantize import Precision

RETRIEVE = Consent(retrieve=True)


def plain(colour: tuple[int, int, int], side: int = 32) -> Picture:
    return Picture(np.full((side, side, 3), colour, np.uint8))


RED, GREEN = plain((220, 30, 30)), plain((30, 160, 60))


def quick(**changes: object) -> Drawing:
    return Drawing(steps=4, guidance=2.0, seed=3, **changes)  # type: ignore[arg-type]


def distance(a: Picture, b: Picture) -> float:
    return float(np.abs(a.pixels.astype(int) - b.pixels.astype(int)).mean())


@pytest.fixture(scope="module")
def _model(looking_package: Package) -> ImageModel:
    return ImageModel(looking_package, threads=1)


@pytest.fixture
def model(_model: ImageModel) -> Iterator[ImageModel]:
    _model.attach()
    yield _model
    _model.attach()


def test_a_picture_is_like_its_references_as_much_as_they_count(model: ImageModel) -> None:
    (bare,) = model.generate(["box"], quick())
    (none,) = model.generate(["box"], quick(references=(RED,), reference_strength=0.0))
    assert distance(bare, none) == 0
    half, whole = (
        model.generate(["box"], quick(references=(RED,), reference_strength=s))[0]
        for s in (0.05, 1.0)
    )
    assert 0 < distance(bare, half) < distance(bare, whole)
    (other,) = model.generate(["box"], quick(references=(GREEN,)))
    assert distance(other, whole) > 1
    large = plain((220, 30, 30), 64)
    assert distance(model.generate(["box"], quick(references=(large,)))[0], whole) == 0


def test_each_prompt_has_references_of_its_own(model: ImageModel) -> None:
    mixed = model.generate(["box", "box", "box"], quick(), references=[[RED], [], [RED, GREEN]])
    alone = model.generate(["box"] * 3, quick())
    same = model.generate(["box"] * 3, quick(references=(RED,)))
    assert distance(mixed[1], alone[1]) <= 1
    assert distance(mixed[0], same[0]) <= 1
    assert distance(mixed[2], alone[2]) > 1


def test_errors_depend_on_references(model: ImageModel) -> None:
    kept = model.errors([RED], ["box"], draws=4)
    seen = model.errors([RED], ["box"], draws=4, references=[[GREEN]])
    assert kept.shape == seen.shape == (1, 4)
    assert np.abs(kept - seen).max() > 1e-3


def test_references_that_cannot_be_looked_at_are_refused(
    model: ImageModel, image_packages: Callable[[Precision], Package]
) -> None:
    with pytest.raises(BadInputError, match="at most 4 pictures can be looked at, got 5"):
        model.generate(["box"], quick(references=(RED,) * 5))
    with pytest.raises(BadInputError, match="reference_strength must be 0 or more, got -1"):
        quick(reference_strength=-1)
    blind = ImageModel(image_packages("int8"), threads=1)
    with pytest.raises(BadInputError, match="looks at no pictures"):
        blind.generate(["box"], quick(references=(RED,)))


@pytest.fixture
def device(model: ImageModel) -> Device:
    """With two pictures of boxes, one of which may not be retrieved, and one of a bar."""
    device = Device(model)
    device.remember(picture_record(RED, "red box", id="red", consent=RETRIEVE))
    device.remember(picture_record(GREEN, "green box", id="green", consent=Consent(train=True)))
    device.remember(picture_record(GREEN, "green bar", id="bar", consent=RETRIEVE))
    return device


def test_a_device_draws_like_what_it_finds(device: Device, model: ImageModel) -> None:
    content = device.generate(Instruction(text="box"), quick())
    assert content.trace.record_ids == ("red", "bar")  # what fits, then the newest
    assert content.trace.reason == "personalised by 2 of the person's own pictures"
    (expected,) = model.generate(["box"], quick(references=(RED, GREEN)))
    assert distance(content.output, expected) == 0
    assert device.generate(Instruction(text="box"), quick(), k=1).trace.record_ids == ("red",)


@pytest.mark.parametrize(
    ("how", "k"),
    [(quick(), 0), (quick(reference_strength=0.0), 4), (quick(references=(GREEN,)), 4)],
    ids=["no retrieval", "no strength", "others given"],
)
def test_nothing_is_used_where_nothing_is_to_be_found(device: Device, how: Drawing, k: int) -> None:
    content = device.generate(Instruction(text="box"), how, k=k)
    assert content.trace.record_ids == ()
    assert ("1 given pictures" in content.trace.reason) == bool(how.references)
    (expected,) = device.model.generate(["box"], how)  # type: ignore[attr-defined]
    assert distance(content.output, expected) == 0
