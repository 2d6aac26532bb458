"""A picture: its pixels, and files of it."""

from __future__ import annotations

import io
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

import numpy as np
import numpy.typing as npt

from .adapters import Array
from .errors import BadInputError, MissingExtraError

__all__ = ["Picture", "Pixels"]

Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Picture:
    """``pixels (H, W, 3)``, red, green and blue in bytes."""

    pixels: Pixels

    def __post_init__(self) -> None:
        if self.pixels.dtype != np.uint8 or self.pixels.ndim != 3 or self.pixels.shape[2] != 3:
            raise BadInputError(
                "a picture's pixels must be (height, width, 3) in bytes, got "
                f"{self.pixels.shape} of {self.pixels.dtype}"
            )

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.pixels.shape[0], self.pixels.shape[1]

    @property
    def signal(self) -> Array:
        """``(3, H, W)`` in -1..1, as networks take it."""
        found: Array = self.pixels.transpose(2, 0, 1).astype(np.float32) / 127.5 - 1
        return found

    @classmethod
    def of_signal(cls, signal: npt.NDArray[np.floating[Any]]) -> Picture:
        """Undo :attr:`signal`; what is outside -1..1 is cut."""
        levels = np.rint((np.clip(signal, -1, 1) + 1) * 127.5).astype(np.uint8)
        return cls(np.ascontiguousarray(levels.transpose(1, 2, 0)))

    @classmethod
    def load(cls, path: Path | BinaryIO, size: tuple[int, int] | None = None) -> Picture:
        """Read a file; what is transparent becomes white.

        Args:
            path: of a picture that Pillow can read, or an open file.
            size: height and width to which the middle of it is resized; its own if not given.

        Raises:
            MissingExtraError: Pillow is not installed.
            BadInputError: the file holds no picture.
        """
        image = _pillow()
        try:
            with image.open(path) as opened:
                clear = opened.convert("RGBA")
        except OSError as error:
            raise BadInputError(f"{path} holds no picture that can be read: {error}") from None
        white = image.new("RGBA", clear.size, "white")
        found = image.alpha_composite(white, clear).convert("RGB")
        picture = cls(np.array(found, np.uint8))
        return picture if size is None else picture.resized(size)

    def resized(self, size: tuple[int, int]) -> Picture:
        """Its middle, in another height and width.

        Raises:
            MissingExtraError: Pillow is not installed.
        """
        if size == self.size:
            return self
        ops = _pillow("PIL.ImageOps")
        whole = _pillow().fromarray(self.pixels)
        fitted = ops.fit(whole, (size[1], size[0]), _pillow().Resampling.LANCZOS)
        return Picture(np.array(fitted, np.uint8))

    def encoded(self, kind: str) -> bytes:
        """A file's bytes, such as of a ``png``.

        Raises:
            MissingExtraError: Pillow is not installed.
        """
        raw = io.BytesIO()
        _pillow().fromarray(self.pixels).save(raw, format=kind)
        return raw.getvalue()

    def save(self, path: Path) -> None:
        """Write a file in the format that the path's ending names, such as ``.png``.

        Raises:
            MissingExtraError: Pillow is not installed.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        _pillow().fromarray(self.pixels).save(path)

    @staticmethod
    def stacked(pictures: Iterable[Picture]) -> Array:
        """Signals of pictures of one size, ``(B, 3, H, W)``."""
        found: Array = np.stack([picture.signal for picture in pictures])
        return found


def _pillow(module: str = "PIL.Image") -> ModuleType:
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError:
        raise MissingExtraError("image", "reading and writing picture files") from None
