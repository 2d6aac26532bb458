"""The tower's training learns what it is for, and its graphs say what torch says."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from locavore.export.image_base.drawings import Drawings
from locavore.export.image_base.tower import (
    TowerExamples,
    TowerPlan,
    TowerRun,
    Towers,
    caption_loss,
    padded,
    tower_input,
    tower_tokenizer,
)
from locavore.export.image_base.tower_graph import write_tower
from locavore.shared.errors import BadInputError
from locavore.shared.metrics.towers import drawing_towers

SMALL = TowerPlan(vocabulary=150, widths=(8, 8, 16), concept=16, style=8, steps=60, batch=24)


@pytest.fixture(scope="module")
def many(shapes: Drawings) -> Drawings:
    """Three of each shape, slightly unlike, so that every style has enough of them."""
    drawings = shapes.take([*range(len(shapes))] * 3)
    noise = np.random.default_rng(0).integers(-20, 20, drawings.pixels.shape)
    pixels = np.clip(drawings.pixels + noise, 0, 255).astype(np.uint8)
    return Drawings(pixels, drawings.styles, drawings.names, drawings.captions)


@pytest.fixture(scope="module")
def run(many: Drawings) -> TowerRun:
    tokenizer = tower_tokenizer(many, SMALL.vocabulary)
    run = TowerRun(TowerExamples.of(many, tokenizer), tokenizer, SMALL)
    losses: list[tuple[float, float]] = []
    run.train(lambda step, concept, style: losses.append((concept, style)))
    assert len(losses) == SMALL.steps
    assert (np.mean(losses[-5:], axis=0) < 0.7 * np.mean(losses[:5], axis=0)).all()
    return run


def test_captions_find_their_drawings(run: TowerRun, many: Drawings) -> None:
    texts = sorted({c.text for c in many.captions})
    ids = padded([run.towers.tokenizer.encode(text).ids for text in texts], SMALL.tokens)
    with torch.no_grad():
        shown = run.towers.images(tower_input(torch.from_numpy(many.pixels).permute(0, 3, 1, 2)))[0]
        nearest = (shown @ run.towers.texts(ids).T).argmax(1)
    right = [texts[i] == c.text for i, c in zip(nearest.tolist(), many.captions, strict=True)]
    assert np.mean(right) > 0.6  # chance: 1/6


def test_every_drawing_of_a_concept_is_a_right_answer() -> None:
    concepts = torch.tensor([4, 4, 9])
    same = (concepts[:, None] == concepts).float()
    best = caption_loss(30 * same, concepts)
    assert best.item() == pytest.approx(2 / 3 * np.log(2), abs=1e-3)  # the entropy of two answers
    assert caption_loss(30 * torch.eye(3), concepts) > best + 1


def test_graphs_say_what_torch_says(run: TowerRun, many: Drawings, tmp_path: Path) -> None:
    run.towers.save(tmp_path / "trained")
    towers = Towers.load(tmp_path / "trained")
    files = write_tower(towers, tmp_path / "graphs")
    assert sum(file.stat().st_size for file in files[:2]) < 60_000
    found = drawing_towers(tmp_path / "graphs").styles.embed_images(many.pixels)
    with torch.no_grad():
        wanted = towers.images(tower_input(torch.from_numpy(many.pixels).permute(0, 3, 1, 2)))[1]
    assert (found * wanted.numpy()).sum(axis=1).min() > 0.99  # bytes are not floats


def test_a_missing_tower_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=f"no tower in {tmp_path}"):
        Towers.load(tmp_path)


def test_no_steps_are_refused() -> None:
    with pytest.raises(BadInputError, match="steps must be at least 1, got 0"):
        TowerPlan(steps=0)
