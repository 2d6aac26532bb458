"""Tasks are rows of known words."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from locavore.shared.contexts import Instruction
from locavore.shared.errors import BadInputError
from locavore.shared.metric_names import METRICS
from locavore.shared.tasks import TASKS, Task
from locavore.tasks_cli import markdown, tasks

DOCUMENT = Path(__file__).parents[2] / "docs" / "tasks.md"


def test_the_registry_is_complete() -> None:
    counts = Counter(task.modality for task in TASKS.values())
    assert counts == {"text": 5, "image": 8, "video": 5, "3d": 4, "audio": 3, "cross": 3}
    assert {task.context for task in TASKS.values()} == {
        *("profile", "documents", "behaviors", "face_body", "subjects")
    }
    assert len({task.engine for task in TASKS.values()}) == 7


def test_every_metric_is_known_and_every_known_metric_is_used() -> None:
    used = {name for task in TASKS.values() for name in task.metrics}
    assert used <= set(METRICS)
    assert set(METRICS) - used == set()


def test_a_metric_over_a_network_of_ours_never_has_the_published_name() -> None:
    for name in ("fid", "clip_i", "dino_i", "lpips", "fvd", "fad"):
        assert METRICS[name].printed == f"{name}@local"
    assert METRICS["ssim"].printed == "ssim"


def test_a_task_is_found_by_its_id() -> None:
    task = Task.of("image.tryon")
    assert task.instruction == ("image", "mask", "pose")
    assert task.alignment == ()
    assert task.metrics == ("fid", "kid", "is", "ssim", "lpips", "psnr", "clip_i")


def test_an_unknown_id_names_those_that_look_alike() -> None:
    with pytest.raises(BadInputError, match=r"no task 'image\.try_on'; did you mean image\.tryon"):
        Task.of("image.try_on")
    with pytest.raises(BadInputError, match="'locavore tasks' lists them"):
        Task.of("zzz")


def test_a_row_of_unknown_words_is_refused_with_all_of_them() -> None:
    with pytest.raises(BadInputError) as error:
        replace(
            Task.of("image.face"),
            guidance=("prompt", "magic"),  # type: ignore[arg-type]
            quality=("fidd",),
            systems=(),
        )
    for problem in ("guidance 'magic' is not one of", "quality 'fidd'", "systems is empty"):
        assert problem in str(error.value)


def test_an_instruction_is_for_a_task_that_exists() -> None:
    assert Instruction(text="a hat", task="image.general").task == "image.general"
    with pytest.raises(BadInputError, match=r"no task 'image\.genral'"):
        Instruction(text="a hat", task="image.genral")


def test_the_document_is_the_registrys() -> None:
    assert DOCUMENT.read_text("utf-8").endswith(markdown())


def test_the_command_shows_a_row_with_metrics_as_they_may_be_printed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tasks("image.face")
    lines = capsys.readouterr().out.splitlines()
    assert any(line.split() == ["context", "face_body"] for line in lines)
    assert any("face_sim@local, clip_i@local, ssim, psnr" in line for line in lines)
    with pytest.raises(BadInputError, match=r"did you mean image\.face"):
        tasks("image.fac")
