"""Many hands out of few: drawings, and copies of them as other hands might have made them.

The base's drawings are by few hands, and who learns from these alone what it is to draw like
somebody learns to tell them apart. A hand of our own making changes colours, and lines or
softness, of all its drawings in the same way; white stays white.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from .drawings import Drawings, Pixels

__all__ = ["Hands", "many_hands", "redrawn"]

_LEAST = 6  # drawings of a hand
_SEVERAL = 40  # before a copy's drawings are divided among hands
_HANDS = 40  # that a large team's drawings are divided among, in each copy
_ARTISTS = "clip art/"

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Hands:
    """Drawings by hand.

    Args:
        pixels: ``(N, 32, 32, 3)``.
        drawings: ``(N,)``, of which drawing each is a copy.
        rows: of each hand.
    """

    pixels: Pixels
    drawings: Rows
    rows: tuple[Rows, ...]


def many_hands(drawings: Drawings, copies: int, seed: int) -> Hands:
    """Drawings by artists as they are, and ``copies`` of every one by hands of our own making.

    Teams with a style token of their own are in the copies alone: the base knows their hands.
    """
    rng = np.random.default_rng(seed)
    count = len(drawings)
    groups = _grouped(drawings.styles)
    pixels = [drawings.pixels]
    rows = [group for group in groups if drawings.styles[group[0]].startswith(_ARTISTS)]
    for copy in range(1, copies + 1):
        made = drawings.pixels.copy()
        for group in groups:
            parts = min(_HANDS, max(1, len(group) // _SEVERAL))
            for part in np.array_split(rng.permutation(group), parts):
                made[part] = redrawn(drawings.pixels[part], rng)
                rows.append(part + copy * count)
        pixels.append(made)
    return Hands(np.concatenate(pixels), np.tile(np.arange(count), copies + 1), tuple(rows))


def redrawn(pixels: Pixels, rng: np.random.Generator) -> Pixels:
    """Drawings ``(N, 32, 32, 3)`` by another hand, which ``rng`` chooses."""
    x: _Signal = pixels.astype(np.float32) / 255
    grey = x.mean(-1, keepdims=True)
    mixed = np.eye(3) + rng.normal(0, 0.25, (3, 3))
    x = (grey + (x - grey) * rng.uniform(0, 1.6)) @ (mixed / mixed.sum(1, keepdims=True)).T
    x = np.clip(x, 0, 1) ** np.exp(rng.normal(0, 0.35))
    x = (_as_it_is, _outlined, _softened, _paled)[rng.integers(4)](x, rng)
    made: Pixels = np.rint(np.clip(x, 0, 1) * 255).astype(np.uint8)
    return made


_Signal = npt.NDArray[np.floating]


def _as_it_is(x: _Signal, _: np.random.Generator) -> _Signal:
    return x


def _outlined(x: _Signal, rng: np.random.Generator) -> _Signal:
    grey = x.mean(-1)
    edges = sum(np.abs(np.diff(grey, axis=axis, prepend=1)) for axis in (1, 2))
    outlined: _Signal = x * (1 - np.clip(edges * rng.uniform(1, 3), 0, 1)[..., None])
    return outlined


def _softened(x: _Signal, _: np.random.Generator) -> _Signal:
    moved = (np.roll(x, step, axis) for step in (-1, 1) for axis in (1, 2))
    softened: _Signal = (x + sum(moved)) / 5
    return softened


def _paled(x: _Signal, rng: np.random.Generator) -> _Signal:
    paled: _Signal = 1 - (1 - x) * rng.uniform(0.4, 0.9)
    return paled


def _grouped(styles: tuple[str, ...]) -> list[Rows]:
    found: dict[str, list[int]] = defaultdict(list)
    for row, style in enumerate(styles):
        found[style].append(row)
    return [np.array(rows) for rows in found.values() if len(rows) >= _LEAST]
