"""Made-up drawings: coloured shapes whose captions say what they are."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("diffusers", reason="the image base's recipe needs diffusers")

import torch

from locavore.export.image_base.captions import Caption
from locavore.export.image_base.drawings import SIDE, Drawings
from locavore.export.image_base.model import ImageBase, ModelPlan
from locavore.export.image_base.pictures import fit_patch_code
from locavore.export.image_base.tokens import build_tokenizer

COLOURS = {"red": (220, 30, 30), "green": (30, 160, 60), "blue": (40, 60, 210)}
SMALL = ModelPlan(
    vocabulary=200,
    tokens=6,
    text_width=32,
    text_layers=1,
    width=32,
    heads=2,
    layers=2,
    hidden=64,
    channels=12,
    decoder_width=8,
    decoder_blocks=1,
)


@pytest.fixture(scope="session")
def shapes() -> Drawings:
    """Bars and boxes in three colours by two teams, one of which draws them larger."""
    pixels, styles, names, captions = [], [], [], []
    for style, size in (("noto", 10), ("twemoji", 14)):
        for colour, rgb in COLOURS.items():
            for shape, (height, width) in {"bar": (4, size), "box": (size, size)}.items():
                picture = np.full((SIDE, SIDE, 3), 255, np.uint8)
                middle = SIDE // 2
                picture[middle - height : middle + height, middle - width : middle + width] = rgb
                pixels.append(picture)
                styles.append(style)
                names.append(f"{colour}-{shape}")
                captions.append(Caption(concept=f"{colour} {shape}", tags=("shape", colour)))
    return Drawings(np.stack(pixels), tuple(styles), tuple(names), tuple(captions))


@pytest.fixture
def untrained(shapes: Drawings) -> ImageBase:
    """A very small base that has learned nothing."""
    counts = {c.text: 2 for c in shapes.captions} | {"shape": 9}
    tokenizer = build_tokenizer(counts, ["noto", "twemoji"], SMALL.vocabulary)
    code = fit_patch_code(shapes.pixels, torch.ones(len(shapes)), SMALL.channels)
    torch.manual_seed(0)
    return ImageBase.untrained(SMALL, tokenizer, code)
