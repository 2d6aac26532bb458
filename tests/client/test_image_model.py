"""Pictures on the device: they repeat, keep what they must, and learn words and adapters."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from locavore.client.image_model import Drawing, ImageModel
from locavore.shared.adapters import Adapter, load_adapter, save_adapter
from locavore.shared.errors import AdapterError, BadInputError, IntegrityError
from locavore.shared.packages import Package
from locavore.shared.pictures import Picture

if TYPE_CHECKING:
    from locavore.export.quantize import Precision

QUICK = Drawing(steps=4, guidance=2.0, seed=3)


@pytest.fixture(scope="module")
def _model(image_packages: Callable[[Precision], Package]) -> ImageModel:
    return ImageModel(image_packages("float32"), threads=1)


@pytest.fixture
def model(_model: ImageModel) -> Iterator[ImageModel]:
    """The tiny image base, bare and without own words before and after a test."""
    yield _model
    _model.attach()
    _model.use_tokens({})


def distance(a: Picture, b: Picture) -> float:
    return float(np.abs(a.pixels.astype(int) - b.pixels.astype(int)).mean())


def adapter(model: ImageModel, scale: float = 0.5) -> Adapter:
    rng = np.random.default_rng(1)
    return Adapter(
        model.base_id,
        {
            site: (
                rng.standard_normal((i, 2)).astype(np.float32),
                rng.standard_normal((2, o)).astype(np.float32) * np.float32(scale / i**0.5),
            )
            for site, (i, o) in model.sites.items()
        },
    )


def test_a_picture_depends_on_the_seed_and_its_place_alone(model: ImageModel) -> None:
    together = model.generate(["red box", "blue bar"] * 5, QUICK)  # more than go through at once
    again = model.generate(["red box", "green bar"], QUICK)
    assert together[0].size == (32, 32)
    assert np.abs(again[0].pixels.astype(int) - together[0].pixels).max() <= 1
    assert distance(together[0], together[2]) > 1  # another place, other noise
    other = model.generate(["red box"], Drawing(steps=4, guidance=2.0, seed=4))
    assert distance(other[0], together[0]) > 1
    # The ninth goes through the networks with the tenth, and the first with seven others.
    ninth = model.generate(["blue bar"] * 8 + ["red box"], QUICK)[8]
    assert np.abs(ninth.pixels.astype(int) - together[8].pixels).max() <= 1


def test_progress_counts_every_step_of_every_part(model: ImageModel) -> None:
    told: list[tuple[int, int]] = []
    model.generate(["red box"] * 9, QUICK, lambda done, of: told.append((done, of)))
    assert told == [(i, 8) for i in range(1, 9)]


def test_guidance_and_what_it_goes_away_from_change_the_picture(model: ImageModel) -> None:
    plain = model.generate(["red box"], Drawing(steps=4, guidance=1.0, seed=3))[0]
    away = model.generate(["red box"], Drawing(steps=4, guidance=1.0, seed=3, negative="bar"))[0]
    assert distance(plain, away) == 0  # nothing to go away from
    guided = model.generate(["red box"], QUICK)[0]
    negative = model.generate(["red box"], Drawing(steps=4, guidance=2.0, seed=3, negative="bar"))
    assert min(distance(plain, guided), distance(guided, negative[0])) > 0.01


def test_an_adapter_changes_pictures_until_it_is_taken_off(model: ImageModel) -> None:
    bare = model.generate(["red box"], QUICK)[0]
    own = adapter(model)
    model.attach(own)
    changed = model.generate(["red box"], QUICK)[0]
    assert distance(bare, changed) > 1
    with model.bare():
        assert distance(model.generate(["red box"], QUICK)[0], bare) == 0
    assert distance(model.generate(["red box"], QUICK)[0], changed) == 0
    factors = {s: (a, b * np.float32(0.5)) for s, (a, b) in own.factors.items()}
    half = Adapter(own.base_id, factors)
    model.attach(half, half)
    assert distance(model.generate(["red box"], QUICK)[0], changed) < 0.1
    model.attach()
    assert distance(model.generate(["red box"], QUICK)[0], bare) == 0


def test_guidance_leads_away_from_the_bare_base_or_from_the_adapted_one(model: ImageModel) -> None:
    base, adapted = (
        Drawing(steps=1, guidance=3.0, seed=3, guide=guide) for guide in ("base", "adapted")
    )
    bare = model.generate(["red box"], base)[0]
    assert distance(model.generate(["red box"], adapted)[0], bare) == 0  # nothing is live
    model.attach(adapter(model))
    to, of = model.generate(["red box"], base)[0], model.generate(["red box"], adapted)[0]
    assert distance(to, of) > 1
    assert distance(to, bare) > distance(of, bare)  # it leads to what was learned, too
    alone = [replace(how, guidance=1.0) for how in (base, adapted)]
    assert distance(*(model.generate(["red box"], how)[0] for how in alone)) == 0
    model.attach()


def test_an_adapter_survives_its_file(model: ImageModel, tmp_path: Path) -> None:
    own = adapter(model)
    save_adapter(own, tmp_path)
    found = load_adapter(tmp_path)
    assert found.base_id == own.base_id
    for site, (a, b) in own.factors.items():
        np.testing.assert_array_equal(found.factors[site][0], a)
        np.testing.assert_array_equal(found.factors[site][1], b)
    with pytest.raises(AdapterError, match="belongs to base 'another'"):
        model.attach(Adapter("another", own.factors))


def test_own_words_stand_for_their_rows(model: ImageModel) -> None:
    table = _table(model)
    red, box = _ids(model, "red box")
    expected = model.generate(["red box"], QUICK)[0]
    model.use_tokens({"<thing>": table[[red, box]], "<thing-2>": table[[box]]})
    assert distance(model.generate(["<thing>"], QUICK)[0], expected) < 0.05
    assert distance(model.generate(["red <thing-2>"], QUICK)[0], expected) < 0.05
    other = model.generate(["<thing-2> <thing>"], QUICK)[0]
    assert distance(other, expected) > 0.05
    model.use_tokens({})
    assert distance(model.generate(["red box"], QUICK)[0], expected) == 0


def _table(model: ImageModel) -> Any:
    from locavore.shared.twin import open_image_twin

    twin = open_image_twin(model.package)
    return twin.text_encoder.get_input_embeddings().weight.numpy()  # type: ignore[operator]


def _ids(model: ImageModel, prompt: str) -> list[int]:
    from locavore.shared.prompts import Prompts

    found = Prompts.of(model.package).ids([prompt])[0]
    return [int(i) for i in found if i]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ({"<noto>": np.ones((1, 32), np.float32)}, "the base knows it"),
        ({"": np.ones((1, 32), np.float32)}, "empty"),
        ({"<cat>": np.ones((1, 31), np.float32)}, r"\(n, 32\), got \(1, 31\)"),
        ({"<cat>": np.ones((0, 32), np.float32)}, "at least one row"),
        ({"<cat>": np.full((1, 32), np.nan, np.float32)}, "finite"),
    ],
)
def test_words_that_cannot_be_used_are_refused(words: Any, reason: str, model: ImageModel) -> None:
    with pytest.raises(BadInputError, match=reason):
        model.use_tokens(words)


def test_little_strength_keeps_a_picture(model: ImageModel) -> None:
    start = model.generate(["blue bar"], QUICK)[0]
    found = [
        distance(
            model.generate(
                ["red box"], Drawing(steps=10, guidance=1.0, start=start, strength=strength)
            )[0],
            start,
        )
        for strength in (0.1, 0.5, 1.0)
    ]
    assert found[0] < found[1] < found[2]


def test_a_mask_keeps_every_pixel_outside(model: ImageModel) -> None:
    start = model.generate(["blue bar"], QUICK)[0]
    mask = np.zeros((32, 32), np.bool_)
    mask[3:, 18:] = True
    how = Drawing(steps=4, guidance=1.0, seed=9, start=start, strength=1.0, mask=mask)
    found = model.generate(["red box"], how)[0]
    assert (found.pixels[~mask] == start.pixels[~mask]).all()
    assert np.abs(found.pixels[mask].astype(int) - start.pixels[mask]).mean() > 1


@pytest.mark.parametrize(
    ("prompts", "how", "reason"),
    [
        ([], {}, "at least one prompt"),
        (["a"], {"steps": 0}, "steps must be 1..1000, got 0"),
        (["a"], {"sampler": "ddim"}, "a flow needs both"),
        (["a"], {"start": Picture(np.zeros((8, 8, 3), np.uint8))}, "8 x 8 pixels.*32 x 32"),
        (["a"], {"start": Picture(np.zeros((32, 32, 3), np.uint8)), "strength": 0}, "strength"),
        (
            ["a"],
            {"start": Picture(np.zeros((32, 32, 3), np.uint8)), "mask": np.ones((4, 4), np.bool_)},
            r"shape \(32, 32\), got \(4, 4\)",
        ),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    prompts: list[str], how: dict[str, Any], reason: str, model: ImageModel
) -> None:
    with pytest.raises(BadInputError, match=reason):
        model.generate(prompts, Drawing(**how))


@pytest.mark.parametrize(
    ("how", "reason"),
    [
        ({"mask": np.ones((32, 32), np.bool_)}, "give start as well"),
        ({"seed": -1}, "seed"),
        ({"guide": "nobody"}, "guide"),
    ],
)
def test_settings_without_sense_are_refused(how: dict[str, Any], reason: str) -> None:
    with pytest.raises(BadInputError, match=reason):
        Drawing(**how)


def test_predictions_are_the_twins(model: ImageModel) -> None:
    import torch

    from locavore.shared.prompts import Prompts
    from locavore.shared.twin import open_image_twin

    x = np.random.default_rng(0).standard_normal((1, 12, 4, 4)).astype(np.float32)
    ids = torch.from_numpy(Prompts.of(model.package).ids(["red box"]))
    with torch.no_grad():
        twin = open_image_twin(model.package)(torch.from_numpy(x), torch.tensor([400.0]), ids)
    np.testing.assert_allclose(model.predict(x, 400.0, "red box"), twin.numpy(), atol=1e-5)


def test_only_verified_image_packages_open(
    model: ImageModel, package: Package, trusted: list[bytes]
) -> None:
    assert ImageModel.open(model.package.folder, trusted=trusted).base_id == model.base_id
    with pytest.raises(IntegrityError):
        ImageModel.open(model.package.folder, trusted=[b"0" * 32])
    with pytest.raises(BadInputError, match="modality 'text'"):
        ImageModel(package)
