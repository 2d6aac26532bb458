"""The main job on pictures, end to end, on a tiny base and two people with shapes of their own."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

pytest.importorskip("flwr", reason="needs the extra 'simulate'")
pytest.importorskip("diffusers", reason="needs the extra 'train'")

from locavore.client.image_model import Drawing
from locavore.client.training.private import PrivateTraining
from locavore.server.simulation.config import REFERENCE, SimulationConfig
from locavore.server.simulation.gallery import Artist, Gallery, Picture
from locavore.server.simulation.picturing import PictureStudy, picture_study
from locavore.server.simulation.run import run_simulation
from locavore.server.simulation.studies import STUDIES, setting
from locavore.shared.errors import BadInputError
from locavore.shared.packages import Package
from locavore.shared.tasks import TASKS

from ...plans import record_plan

if TYPE_CHECKING:
    from locavore.export.quantize import Precision

COLOURS = {"red": (220, 30, 30), "green": (30, 160, 60), "blue": (40, 60, 210)}


def artist(name: str, paper: int, seed: int) -> Artist:
    """Bars and boxes on paper of a colour of one's own; blue boxes are held out."""
    rng = np.random.default_rng(seed)
    pictures = []
    for i in range(42):
        colour = list(COLOURS)[i % 3]
        shape, half = (("bar", 4), ("box", 10))[i // 3 % 2]
        pixels = np.full((32, 32, 3), paper, np.uint8)
        top, left = rng.integers(12, 20), rng.integers(4, 8)
        pixels[top - half : top + half, left : left + 20] = COLOURS[colour]
        held_out = (colour, shape) == ("blue", "box")
        pictures.append(Picture(pixels=pixels, caption=f"{colour} {shape}", held_out=held_out))
    return Artist(name=name, pictures=tuple(pictures))


@pytest.fixture
def study() -> PictureStudy:
    people = (artist("night", 40, 1), artist("day", 250, 2))
    gallery = Gallery(name="shapes", kind="synthetic", artists=people)
    return PictureStudy(gallery=gallery, most=5, how=Drawing(steps=2), draws=4)


def test_a_run_on_pictures_writes_what_it_promises(
    image_packages: Callable[[Precision], Package], study: PictureStudy, tmp_path: Path
) -> None:
    config = SimulationConfig(
        plan=record_plan(rounds=1, expected_batch=8, learning_rate=0.01, noise_multiplier=1.0),
        private=PrivateTraining(rank=2, steps=40, batch=8, learning_rate=1e-2),
        rank=2,
        made=2,
    )
    result = run_simulation(image_packages("int8"), study, config, tmp_path / "run")
    arms = (*PictureStudy.arms, REFERENCE)
    assert tuple(result["arms"]) == arms
    assert result["data"]["name"] == "shapes (synthetic)"
    for arm in arms:
        assert set(result["scores"][arm]) == {"night", "day"}
        figures = result["scores"][arm]["night"]
        assert set(figures) == {"loss", "paired", "personal", "clip_t"}
        assert len(result["items"][arm]["night"]) == 5
    losses = {arm: result["summary"][arm]["loss"] for arm in arms}
    assert losses["shared + private"] < losses["base"]
    assert result["summary"]["shared + private"]["gain"]["low"] > 0
    assert {name: round(e, 6) for name, e in result["epsilon"].items()} == {
        name: round(config.plan.epsilon(35), 6) for name in ("night", "day")
    }
    (first, _) = result["samples"]
    assert first["grid"]["head"] == ["caption", *PictureStudy.arms, "the person's own"]
    (row, _, *_) = first["grid"]["rows"]
    assert row[0] == "blue box"
    assert all(base64.b64decode(cell["png"]).startswith(b"\x89PNG") for cell in row[1:])
    page = (tmp_path / "run" / "report.html").read_text()
    assert page.count("data:image/png;base64,") == 2 * 2 * 4
    json.loads((tmp_path / "run" / "result.json").read_text())


def test_a_base_that_looks_is_told_what_devices_find(
    looking_package: Package, study: PictureStudy, tmp_path: Path
) -> None:
    arms = study.arms_of(looking_package)
    assert arms[:2] == ("base", "base + retrieval")
    assert arms[-1] == "shared + private + retrieval"
    config = SimulationConfig(plan=record_plan(rounds=1, expected_batch=8))
    (person, _) = study.people(looking_package, config, tmp_path)
    (alone, found) = (np.concatenate(person.losses([], retrieval=r)) for r in (False, True))
    assert np.abs(alone - found).max() > 1e-3
    (plain, told) = (person.make([], 2, retrieval=r)[1] for r in (False, True))
    assert plain.hits == ()
    own = {record.id for record in person.device.store}
    assert len(told.hits) == 4
    assert {hit.record.id for hit in told.hits} <= own
    assert not np.array_equal(plain.output.pixels, told.output.pixels)


def test_every_simulated_task_is_a_task() -> None:
    assert set(STUDIES) <= set(TASKS)
    with pytest.raises(BadInputError, match=r"'video\.pose' is not"):
        setting("video.pose")


def test_a_folder_of_pictures_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="--data is not read"):
        picture_study(tmp_path, 2, quick=True, seed=0)
    with pytest.raises(BadInputError, match=r"most.*draws"):
        PictureStudy(gallery=picture_study(None, 2, quick=True, seed=0).gallery, most=0, draws=0)
