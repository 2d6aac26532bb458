"""The main job on pictures, end to end, on a tiny base and two people with shapes of their own."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("flwr", reason="needs the extra 'simulate'")
pytest.importorskip("diffusers", reason="needs the extra 'train'")

from locavore.client.engines import open_trainer
from locavore.client.image_model import Drawing
from locavore.client.training.concepts import WAYS, SubjectTraining
from locavore.client.training.local import LocalTraining
from locavore.client.training.private import PrivateTraining
from locavore.server.simulation.config import REFERENCE, SimulationConfig
from locavore.server.simulation.gallery import Gallery
from locavore.server.simulation.gallery.asked import dressed
from locavore.server.simulation.picture_tasks import PICTURE_TASKS
from locavore.server.simulation.picturing import PictureStudy
from locavore.server.simulation.run import run_simulation
from locavore.server.simulation.studies import STUDIES, setting
from locavore.server.simulation.subjects import SubjectStudy
from locavore.shared.errors import BadInputError
from locavore.shared.forms import Directions
from locavore.shared.packages import Package
from locavore.shared.pictures import Picture
from locavore.shared.tasks import TASKS

from ...plans import record_plan, user_plan
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
    arms = (*study.arms, REFERENCE)
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
    assert first["grid"]["head"] == ["caption", *study.arms, "the person's own"]
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


def test_a_study_without_work_is_refused(study: PictureStudy) -> None:
    with pytest.raises(BadInputError, match=r"most.*draws"):
        PictureStudy(gallery=study.gallery, most=0, draws=0)


def small(study: PictureStudy) -> PictureStudy:
    """The study with the least work that shows anything."""
    made = replace(study, most=2, draws=2, how=replace(study.how, steps=2))
    if isinstance(made, SubjectStudy):
        made.training = SubjectTraining(rank=1, steps=4, batch=2, prior=1)
    return made


def quick(task: str) -> SimulationConfig:
    plan = record_plan if setting(task).unit == "record" else user_plan
    settings: dict[str, Any] = {"expected_batch": 4, "learning_rate": 0.01}
    if plan is user_plan:
        settings = {"cohort": 2, "clip": 0.05}
    return SimulationConfig(
        plan=plan(rounds=1, noise_multiplier=1.0, **settings),
        locally=LocalTraining(steps=1, batch=4),
        private=PrivateTraining(rank=2, steps=20, batch=4, learning_rate=1e-2),
        rank=1,
        made=2,
        reference=False,
    )


@pytest.mark.parametrize("task", [task for task in STUDIES if task in PICTURE_TASKS])
def test_every_image_task_is_simulated(
    task: str, image_packages: Callable[[Precision], Package], tmp_path: Path
) -> None:
    study = setting(task).load(None, 2, quick=True, seed=0)
    assert isinstance(study, PictureStudy)
    study = small(study)
    result = run_simulation(image_packages("int8"), study, quick(task), tmp_path / "run")
    synthetic = study.gallery.kind == "synthetic"
    assert ("synthetic" in result["data"]["name"]) == synthetic
    assert any("synthetic" in note for note in result["notes"]) == synthetic
    assert tuple(result["summary"]) == study.arms
    keys = {metric.key for metric in study.metrics}
    for devices in result["scores"].values():
        assert len(devices) == 2
        for figures in devices.values():
            assert set(figures) == {"loss", *keys}
            assert all(value is None or np.isfinite(value) for value in figures.values())
    losses = {arm: figures["loss"] for arm, figures in result["summary"].items()}
    assert losses["shared + private"] < losses["base"]
    assert (tmp_path / "run" / "report.html").exists()


def test_a_thing_is_learned_once_and_asked_for_by_its_word(
    image_packages: Callable[[Precision], Package], tmp_path: Path
) -> None:
    study = setting("image.subject").load(None, 2, quick=True, seed=0)
    assert isinstance(study, SubjectStudy)
    package = image_packages("int8")
    study.learners = 1
    owner, other = small(study).people(package, quick("image.subject"), tmp_path)
    assert owner.adapters_of("dreambooth") is None
    twin = open_trainer(package)
    directions = Directions.load(package.path("directions.safetensors"))
    owner.learn(twin, directions)
    other.learn(twin, directions)
    assert other.adapters_of("dreambooth") is None
    kind = owner.items[0].caption
    captions = {arm: owner.in_arm(arm).items[0].caption for arm in study.arms}
    expected: dict[str, str] = dict.fromkeys(("base", "shared", "shared + private"), kind)
    expected.update(dict.fromkeys(WAYS, "<mine>"))
    assert captions == expected
    assert owner.adapters_of("textual-inversion") == []
    (adapter,) = owner.adapters_of("dreambooth") or []
    bare = owner.in_arm("base").losses([])
    assert not np.allclose(bare, owner.in_arm("dreambooth").losses([adapter]))
    assert np.array_equal(bare, owner.in_arm("base").losses([]))  # the word is out of use again
    kept = {path.name: path.stat().st_mtime_ns for path in owner.folder.glob("*.concept")}
    owner.learn(twin, directions)
    assert kept == {p.name: p.stat().st_mtime_ns for p in owner.folder.glob("*.concept")}
    assert len(kept) == 3


def test_try_on_changes_nothing_but_clothes(
    image_packages: Callable[[Precision], Package], tmp_path: Path
) -> None:
    study = setting("image.tryon").load(None, 1, quick=True, seed=0)
    assert isinstance(study, PictureStudy)
    (person,) = small(study).people(image_packages("int8"), quick("image.tryon"), tmp_path)
    first, second, third = person.make([], 3)  # two are held out: the first is asked for again
    shown = person.items[0].shown
    _, mask = dressed(shown)
    for made in (first, third):
        assert (made.output.pixels[~mask] == shown.pixels[~mask]).all()
        assert (made.output.pixels[mask] != 128).any()
    assert not np.array_equal(first.output.pixels, third.output.pixels)
    assert person.asked(3) == (*person.items, person.items[0])
    del second


def test_a_folder_of_pictures_is_simulated_or_refused(
    image_packages: Callable[[Precision], Package], tmp_path: Path
) -> None:
    study = setting("image.face").load(None, 2, quick=True, seed=0)
    assert isinstance(study, PictureStudy)
    for artist in study.gallery.artists:
        for i, shown in enumerate(artist.pictures[:44]):
            Picture(shown.pixels).save(tmp_path / "people" / artist.name / f"person {i}.png")
    read = setting("image.face").load(tmp_path / "people", 2, quick=True, seed=0)
    assert isinstance(read, PictureStudy)
    assert (read.data_name, read.devices) == ("people", 2)
    assert [metric.key for metric in read.metrics] == ["paired"]  # nobody knows where heads are
    assert study.row.data_note in study.notes
    assert study.row.data_note not in read.notes
    people = small(read).people(image_packages("int8"), quick("image.face"), tmp_path / "run")
    assert [(person.records, len(person.items)) for person in people] == [(33, 2)] * 2
    for task in ("image.tryon", "image.product.behaviors"):
        with pytest.raises(BadInputError, match=r"train_pairs|more than pictures"):
            setting(task).load(tmp_path / "people", 2, quick=True, seed=0)
