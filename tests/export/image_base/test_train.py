"""Training lowers the loss, and a run that was cut off is the run that was not."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch

from locavore.export.image_base.captions import Caption
from locavore.export.image_base.drawings import Drawings
from locavore.export.image_base.model import ImageBase
from locavore.export.image_base.sample import draw, sheet
from locavore.export.image_base.train import Examples, Run, TrainPlan, _drawn, drawing_weights
from locavore.shared.errors import BadInputError

PLAN = TrainPlan(steps=8, batch=8, part=4, warmup=2)


def test_training_lowers_the_loss(untrained: ImageBase, shapes: Drawings) -> None:
    examples = Examples.of(shapes, untrained)
    plan = TrainPlan(steps=60, batch=16, part=16, warmup=2, matrix_rate=0.01, rate=0.01, ema=0.8)
    run = Run(untrained, plan)
    before = run.measured(examples)
    for _ in range(plan.steps):
        run.advance(examples)
    assert run.measured(examples) < 0.8 * before


def test_a_resumed_run_is_the_uninterrupted_one(
    untrained: ImageBase, shapes: Drawings, tmp_path: Path
) -> None:
    examples = Examples.of(shapes, untrained)
    other = copy.deepcopy(untrained)
    whole = Run(untrained, PLAN)
    losses = [whole.advance(examples) for _ in range(6)]
    cut = Run(copy.deepcopy(other), PLAN)
    for _ in range(3):
        cut.advance(examples)
    cut.save(tmp_path / "checkpoint.pt")
    resumed = Run(other, PLAN)
    resumed.restore(tmp_path / "checkpoint.pt")
    assert resumed.step == 3
    assert [resumed.advance(examples) for _ in range(3)] == losses[3:]
    for name, value in whole.average.state_dict().items():
        assert torch.equal(resumed.average.state_dict()[name], value), name


def test_parts_add_up_to_the_batch(untrained: ImageBase, shapes: Drawings) -> None:
    examples = Examples.of(shapes, untrained)
    other = copy.deepcopy(untrained)
    whole, parted = (
        Run(untrained, TrainPlan(batch=8, part=8)),
        Run(other, TrainPlan(batch=8, part=2)),
    )
    assert whole.advance(examples) == pytest.approx(parted.advance(examples), rel=1e-4)


def test_every_weight_is_trained(untrained: ImageBase, shapes: Drawings) -> None:
    examples = Examples.of(shapes, untrained)
    run = Run(untrained, PLAN)
    start = {n: p.detach().clone() for n, p in run.trained.named_parameters()}
    for _ in range(4):
        run.advance(examples)
    still = [n for n, p in run.trained.named_parameters() if torch.equal(p, start[n])]
    assert still == []


def test_captions_are_names_keywords_or_nothing(untrained: ImageBase, shapes: Drawings) -> None:
    examples = Examples.of(shapes, untrained)
    plan = TrainPlan(batch=640, part=64)
    ids = _drawn(examples, plan, 0)[1]
    silent = (ids == 0).all(1).double().mean()
    styled = torch.isin(ids[:, 0], torch.tensor(examples.styles)).double().mean()
    assert 0.05 < silent < 0.16
    assert 0.55 < styled < 0.8


def test_the_rates_warm_up_and_cool_down() -> None:
    plan = TrainPlan(steps=1000, warmup=100, cooldown=0.2)
    assert plan.pace(0) == pytest.approx(0.01)
    assert plan.pace(100) == plan.pace(800) == 1
    assert plan.pace(900) == pytest.approx(0.5)
    assert plan.pace(999) == pytest.approx(0.005)


def test_near_copies_count_less(shapes: Drawings) -> None:
    captions = (
        Caption(concept="waving hand", detail="dark skin tone"),
        Caption(concept="flag of brazil"),
        *shapes.captions[2:],
    )
    weights = drawing_weights(Drawings(shapes.pixels, shapes.styles, shapes.names, captions))
    assert weights[0] < weights[1] < weights[2] == 1


def test_a_plan_says_all_that_is_wrong() -> None:
    with pytest.raises(BadInputError, match=r"multiple of part 64, .* no_style must be 0\.\.1"):
        TrainPlan(batch=100, no_style=1.5)


def test_a_drawing_is_its_seed(untrained: ImageBase) -> None:
    first = draw(untrained, ["red box", ""], seed=3, steps=2)
    assert first.shape == (2, 32, 32, 3)
    assert (first == draw(untrained, ["red box", ""], seed=3, steps=2)).all()
    assert (first != draw(untrained, ["red box", ""], seed=4, steps=2)).any()


def test_a_sheet_has_room_for_all(shapes: Drawings) -> None:
    assert sheet(shapes.pixels[:5], 3, gap=2).shape == (70, 104, 3)
