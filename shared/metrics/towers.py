"""Small networks that see images, for :mod:`.local`; one comes with the library.

The built-in tower was trained on the drawings of the image base alone, in 32 x 32 pixels;
``tower/SOURCE.md`` says on which and how well it sees.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt
import onnxruntime
from tokenizers import Tokenizer

from ..errors import BadInputError
from .images import Pixels, require_pixels

__all__ = ["DrawingTowers", "TextTower", "Tower", "drawing_towers"]

FOLDER = Path(__file__).parent / "tower"
_SIDE = 32
_TOKENS = 12
_BATCH = 256
_Matrix = npt.NDArray[np.float64]


class Tower(Protocol):
    """A network that turns images into vectors."""

    @property
    def name(self) -> str:
        """What its figures carry after the ``@``."""

    def embed_images(self, pixels: Pixels) -> _Matrix:
        """``uint8 (N, H, W, 3)`` to ``(N, D)``."""

    def features(self, pixels: Pixels) -> list[_Matrix]:
        """Feature maps ``(N, C, H, W)`` from fine to coarse."""


class TextTower(Tower, Protocol):
    """A tower that embeds captions in the space of images."""

    def embed_texts(self, captions: Sequence[str]) -> _Matrix:
        """One vector a caption, ``(N, D)``."""


class _Graphs:
    """The built-in tower's two graphs and its tokenizer."""

    def __init__(self, folder: Path) -> None:
        self.images, self.texts = (_session(folder / f"{n}.onnx") for n in ("images", "texts"))
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))

    def see(self, outputs: Sequence[str], pixels: Pixels) -> list[_Matrix]:
        require_pixels(pixels)
        small = _shrunk(pixels)
        parts = [
            self.images.run(list(outputs), {"pixels": small[start : start + _BATCH]})
            for start in range(0, len(small), _BATCH)
        ]
        return [np.concatenate(found).astype(np.float64) for found in zip(*parts, strict=True)]


@dataclass(frozen=True)
class _DrawingTower:
    """One output of the built-in tower, as a tower of its own."""

    name: str
    _output: str
    _graphs: _Graphs

    def embed_images(self, pixels: Pixels) -> _Matrix:
        (vectors,) = self._graphs.see([self._output], pixels)
        return vectors

    def features(self, pixels: Pixels) -> list[_Matrix]:
        return self._graphs.see(["fine", "middle", "coarse"], pixels)


@dataclass(frozen=True)
class _CaptionedTower(_DrawingTower):
    def embed_texts(self, captions: Sequence[str]) -> _Matrix:
        if not captions:
            raise BadInputError("embed_texts needs one caption or more, got none")
        rows = [self._graphs.tokenizer.encode(caption).ids[:_TOKENS] for caption in captions]
        ids = np.array([row + [0] * (_TOKENS - len(row)) for row in rows], np.int64)
        vectors: _Matrix = self._graphs.texts.run(None, {"ids": ids})[0].astype(np.float64)
        return vectors


@dataclass(frozen=True)
class DrawingTowers:
    """The built-in tower, once for each thing that it sees.

    Args:
        concepts: what is shown, in the space of captions: for ``clip_t`` and ``clip_i``.
        styles: how it is drawn: for style accuracy and personalization.
        looks: the means of the last feature maps, each with mean 0 and variance 1 over the
            base's drawings: for ``fid``, ``kid`` and ``dino_i``.
    """

    concepts: TextTower
    styles: Tower
    looks: Tower


@cache
def drawing_towers(folder: Path = FOLDER) -> DrawingTowers:
    """Load the built-in tower, or another of its form, once.

    Images must be 32 pixels a side, or a multiple of it, and are then averaged down.
    """
    graphs = _Graphs(folder)
    return DrawingTowers(
        _CaptionedTower("drawings-concepts", "concepts", graphs),
        _DrawingTower("drawings-styles", "styles", graphs),
        _DrawingTower("drawings-looks", "looks", graphs),
    )


def _session(path: Path) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1  # so small that threads only wait for each other
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def _shrunk(pixels: Pixels) -> Pixels:
    count, height, width, _ = pixels.shape
    if height != width or height % _SIDE:
        raise BadInputError(
            f"the tower sees squares of {_SIDE} pixels a side or a multiple, got {height} x {width}"
        )
    times = height // _SIDE
    if times == 1:
        return pixels
    cells = pixels.reshape(count, _SIDE, times, _SIDE, times, 3)
    shrunk: Pixels = np.rint(cells.mean(axis=(2, 4))).astype(np.uint8)
    return shrunk
