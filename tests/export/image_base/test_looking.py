"""Hands of our own making, and learning to draw like the one that is looked at."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("diffusers", reason="the image base's recipe needs diffusers")

import torch

from locavore.export.image_base.captions import Caption
from locavore.export.image_base.drawings import Drawings
from locavore.export.image_base.hands import many_hands, redrawn
from locavore.export.image_base.learn_looking import LookPlan, learn_looking
from locavore.export.image_base.model import ImageBase, ModelPlan
from locavore.export.image_base.pictures import fit_patch_code
from locavore.export.image_base.tokens import build_tokenizer


@pytest.fixture(scope="module")
def drawings() -> Drawings:
    """Twelve boxes by an artist, and twelve by a team."""
    rng = np.random.default_rng(0)
    pixels = np.full((24, 32, 32, 3), 255, np.uint8)
    for picture in pixels:
        top, left = rng.integers(2, 14, 2)
        picture[top : top + 14, left : left + 14] = rng.integers(0, 200, 3)
    styles = ("clip art/Ada",) * 12 + ("noto",) * 12
    names = tuple(map(str, range(24)))
    return Drawings(pixels, styles, names, (Caption(concept="box", tags=()),) * 24)


def test_hands_change_all_their_drawings_alike_and_leave_paper_white(drawings: Drawings) -> None:
    for seed in range(8):  # every kind of hand is among them
        made = redrawn(drawings.pixels, np.random.default_rng(seed))
        assert made.shape == drawings.pixels.shape
        assert (made[:, 0, 0] >= 250).all()
        assert np.abs(made.astype(int) - drawings.pixels).max() > 20
        again = redrawn(drawings.pixels[:3], np.random.default_rng(seed))
        assert np.array_equal(again, made[:3])


def test_artists_are_hands_as_they_are_and_teams_in_copies_alone(drawings: Drawings) -> None:
    hands = many_hands(drawings, copies=2, seed=0)
    assert len(hands.pixels) == 72
    assert np.array_equal(hands.pixels[:24], drawings.pixels)
    whose = [set(hands.drawings[rows] // 12) for rows in hands.rows]
    assert all(len(groups) == 1 for groups in whose)
    as_they_are = [rows for rows in hands.rows if rows.max() < 24]
    assert [sorted(rows) for rows in as_they_are] == [list(range(12))]
    assert sorted(np.concatenate(hands.rows)) == [*range(12), *range(24, 72)]


def test_what_is_looked_at_is_learned_and_the_base_stays(drawings: Drawings) -> None:
    plan = ModelPlan(
        vocabulary=100,
        tokens=6,
        text_width=32,
        text_layers=1,
        width=256,
        heads=4,
        layers=1,
        hidden=64,
        channels=12,
        decoder_width=8,
        decoder_blocks=1,
    )
    tokenizer = build_tokenizer({"box": 2}, ["noto"], plan.vocabulary)
    code = fit_patch_code(drawings.pixels, torch.ones(24), plan.channels)
    torch.manual_seed(0)
    base = ImageBase.untrained(plan, tokenizer, code)
    for parameter in base.networks().parameters():  # a new denoiser says zero whatever it reads
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    before = {n: value.clone() for n, value in base.networks().state_dict().items()}
    losses: list[float] = []
    how = LookPlan(steps=60, batch=32, rank=4, rate=1e-2, copies=1, blur=0.1)
    factors = learn_looking(base, drawings, how, lambda _step, loss: losses.append(loss))
    assert set(factors) == {f"blocks.0.attn2.add_{part}_proj" for part in "kv"}
    assert [tuple(f.shape) for f in factors["blocks.0.attn2.add_v_proj"]] == [(256, 4), (4, 256)]
    assert np.mean(losses[-10:]) < 0.95 * np.mean(losses[:10])
    after = base.networks().state_dict()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
