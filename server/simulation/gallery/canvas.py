"""Drawing in flat shapes, with exact masks of what is where.

Everything is drawn on a large sheet without antialiasing, as numbered strokes, each of a colour and
of a *part* of what is shown. A pixel of the picture is the mean over its block of the sheet, and a
part's mask is true wherever the part has any point in the block: a pixel outside it owes nothing to
the part.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ....shared.errors import BadInputError, MissingExtraError
from .pictures import Mask, Pixels

try:
    from PIL import Image, ImageDraw
except ImportError as error:
    raise MissingExtraError("simulate", "drawing pictures") from error

__all__ = ["SHEET", "Canvas", "Colour", "Point", "Stencil", "View"]

SHEET = 256  # points of the sheet a side
Colour = tuple[int, int, int]
Point = tuple[float, float]


@dataclass(frozen=True)
class View:
    """The square of the world that a picture shows: its upper left corner and its width."""

    x: float
    y: float
    width: float

    def points(self, at: Iterable[Point]) -> list[Point]:
        """World coordinates as points of the sheet."""
        scale = SHEET / self.width
        return [((x - self.x) * scale, (y - self.y) * scale) for x, y in at]


class Stencil:
    """A region of the sheet, put together from shapes in world coordinates."""

    def __init__(self, view: View) -> None:
        self.view = view
        self._image = Image.new("L", (SHEET, SHEET))
        self._draw = ImageDraw.Draw(self._image)

    @property
    def region(self) -> Mask:
        """bool, (SHEET, SHEET)."""
        return np.asarray(self._image).view(np.bool_)

    def ellipse(self, centre: Point, rx: float, ry: float, *, ink: int = 1) -> Stencil:
        """Add an ellipse; with ``ink=0`` take it away."""
        (x, y), scale = self.view.points([centre])[0], SHEET / self.view.width
        self._draw.ellipse((x - rx * scale, y - ry * scale, x + rx * scale, y + ry * scale), ink)
        return self

    def arc(self, centre: Point, rx: float, ry: float, span: Point, width: float) -> Stencil:
        """Add a curved line from one angle to another, degrees clockwise from the right."""
        (x, y), scale = self.view.points([centre])[0], SHEET / self.view.width
        box = (x - rx * scale, y - ry * scale, x + rx * scale, y + ry * scale)
        self._draw.arc(box, *span, fill=1, width=max(1, round(width * scale)))
        return self

    def polygon(self, *corners: Point, ink: int = 1) -> Stencil:
        """Add a polygon; with ``ink=0`` take it away."""
        self._draw.polygon(self.view.points(corners), ink)
        return self

    def limb(self, joints: Sequence[Point], width: float, *, ink: int = 1) -> Stencil:
        """Add a thick line with round ends and joints."""
        self._draw.line(
            self.view.points(joints), ink, max(1, round(width * SHEET / self.view.width))
        )
        for joint in joints:
            self.ellipse(joint, width / 2, width / 2, ink=ink)
        return self


class Canvas:
    """A picture in the making.

    Args:
        size: of the picture in pixels; it divides :data:`SHEET`.
        view: what it shows.
        background: its colour.

    Raises:
        BadInputError: such a size does not go into the sheet.
    """

    def __init__(self, size: int, view: View, background: Colour = (255, 255, 255)) -> None:
        if size < 1 or SHEET % size:
            raise BadInputError(f"size must divide {SHEET}, such as 32 or 64, got {size}")
        self.view = view
        self._block = SHEET // size
        self._strokes: NDArray[np.uint8] = np.zeros((SHEET, SHEET), np.uint8)
        self._colours, self._parts = [background], ["background"]  # of each stroke, by its number

    def stencil(self) -> Stencil:
        """An empty region in this picture's view."""
        return Stencil(self.view)

    def paint(
        self,
        where: Stencil | Mask,
        colour: Colour,
        part: str,
        *,
        pattern: str = "plain",
        second: Colour = (255, 255, 255),
    ) -> None:
        """Paint a region and say what part it is; a pattern is in the ``second`` colour."""
        region = where.region if isinstance(where, Stencil) else where
        self._stroke(region, colour, part)
        if pattern != "plain":
            self._stroke(region & self._pattern(pattern), second, part)

    def _stroke(self, region: Mask, colour: Colour, part: str) -> None:
        self._strokes[region] = len(self._colours)
        self._colours.append(colour)
        self._parts.append(part)

    def visible(self, *parts: str) -> Mask:
        """bool, (SHEET, SHEET): where one of these parts is on top."""
        seen: Mask = np.array([part in parts for part in self._parts])[self._strokes]
        return seen

    def mask(self, region: Mask) -> Mask:
        """bool, (size, size): pixels that have any point of the region."""
        size, block = SHEET // self._block, self._block
        rows = region.reshape(size, block, SHEET).any(axis=1)
        return np.asarray(rows.reshape(size, size, block).any(axis=2))

    def pixels(self) -> Pixels:
        """uint8, (size, size, 3)."""
        sheet = np.array(self._colours, np.uint8)[self._strokes]
        return np.array(Image.fromarray(sheet).reduce(self._block))

    def pixel(self, at: Point) -> Point:
        """World coordinates in pixels of the picture."""
        x, y = self.view.points([at])[0]
        return x / self._block, y / self._block

    def _pattern(self, name: str) -> Mask:
        """Where a pattern has its second colour; it is fixed to the world, not to the view."""
        steps = (np.arange(SHEET) + 0.5) * self.view.width / SHEET
        y, x = (steps + self.view.y)[:, None], (steps + self.view.x)[None, :]
        if name == "striped":
            return np.broadcast_to(y % 0.14 < 0.06, (SHEET, SHEET))
        if name == "checked":
            squares: Mask = (x % 0.16 < 0.08) ^ (y % 0.16 < 0.08)
            return squares
        if name == "dotted":
            odd = (y // 0.12 % 2) * 0.06
            dots: Mask = np.hypot((x + odd) % 0.12 - 0.06, y % 0.12 - 0.06) < 0.035
            return dots
        raise BadInputError(f"pattern must be plain, striped, checked or dotted, got {name!r}")
