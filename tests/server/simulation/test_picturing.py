"""The main job on pictures, end to end, on a tiny base and two people with shapes of their own."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

pytest.importorskip("flwr", reason="needs the extra 'simulate'")
pytest.importorskip("diffusers", reason="needs the extra 'train'")

from locavore.client.image_model import Drawing
from locavore.client.training.private import PrivateTraining
from locavore.server.simulation.config import REFERENCE, SimulationConfig
from locavore.server.simulation.gallery import Gallery
from locavore.server.simulation.picturing import PictureStudy, picture_study
from locavore.server.simulation.run import run_simulation
from locavore.server.simulation.studies import STUDIES, setting
from locavore.shared.errors import BadInputError
from locavore.shared.packages import Package
from locavore.shared.tasks import TASKS

from ...plans import record_plan
from ...tiny_images import tiny_artist

if TYPE_CHECKING:
    from locavore.export.quantize import Precision


@pytest.fixture
def study() -> PictureStudy:
    people = (tiny_artist("night", 40, 1), tiny_artist("day", 250, 2))
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


def test_every_simulated_task_is_a_task() -> None:
    assert set(STUDIES) <= set(TASKS)
    with pytest.raises(BadInputError, match=r"'video\.pose' is not"):
        setting("video.pose")


def test_a_folder_of_pictures_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="--data is not read"):
        picture_study(tmp_path, 2, quick=True, seed=0)
    with pytest.raises(BadInputError, match=r"most.*draws"):
        PictureStudy(gallery=picture_study(None, 2, quick=True, seed=0).gallery, most=0, draws=0)
