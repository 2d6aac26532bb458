"""What our people wear: garments by kind, colour and pattern, and which of them go together."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from types import MappingProxyType

from ....shared.errors import BadInputError
from .canvas import Canvas, Colour, Point, Stencil, View
from .pictures import Mask, Pixels

__all__ = [
    "CATEGORIES",
    "COLOURS",
    "CREAM",
    "PALETTES",
    "PATTERNS",
    "TOPS",
    "Garment",
    "compatibility",
    "cut",
    "draw_garment",
    "is_reserved",
    "paint_garment",
]

COLOURS: Mapping[str, Colour] = MappingProxyType(
    {
        "red": (206, 44, 48),
        "orange": (240, 138, 36),
        "yellow": (246, 206, 62),
        "pink": (240, 134, 170),
        "green": (52, 152, 82),
        "teal": (30, 150, 160),
        "blue": (44, 92, 196),
        "purple": (124, 70, 170),
        "black": (38, 38, 44),
        "grey": (136, 140, 148),
        "beige": (216, 192, 152),
        "brown": (122, 78, 46),
    }
)
PALETTES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "warm": ("red", "orange", "yellow", "pink"),
        "cool": ("green", "teal", "blue", "purple"),
        "neutral": ("black", "grey", "beige", "brown"),
    }
)
PATTERNS = ("plain", "striped", "checked", "dotted")
CATEGORIES: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "top": ("t-shirt", "sweater", "tank top", "shirt", "dress"),
        "bottom": ("trousers", "shorts", "skirt"),
        "shoes": ("shoes", "boots"),
        "bag": ("bag", "backpack"),
    }
)
"""Kinds of garments by category."""
TOPS = CATEGORIES["top"]

CREAM: Colour = (250, 246, 236)
"""What patterns are painted in."""
_PART = {"top": "clothes", "bottom": "bottom", "shoes": "shoes", "bag": "bag"}
_VIEWS = {  # what a garment's own picture shows
    "top": View(0.02, 0.3, 0.96),
    "bottom": View(-0.02, 0.8, 1.04),
    "shoes": View(0.2, 1.5, 0.6),
    "bag": View(0.0, 0.0, 1.0),
}
_FLAT = {  # joints of a garment that lies flat
    "right_shoulder": (0.35, 0.46), "right_elbow": (0.22, 0.66), "right_wrist": (0.12, 0.86),
    "left_shoulder": (0.65, 0.46), "left_elbow": (0.78, 0.66), "left_wrist": (0.88, 0.86),
    "right_hip": (0.425, 0.9), "right_knee": (0.4, 1.35), "right_ankle": (0.37, 1.76),
    "left_hip": (0.575, 0.9), "left_knee": (0.6, 1.35), "left_ankle": (0.63, 1.76),
}  # fmt: skip


@dataclass(frozen=True)
class Garment:
    """Something to wear.

    Args:
        kind: one of a category's in :data:`CATEGORIES`.
        colour: a name in :data:`COLOURS`.
        pattern: one of :data:`PATTERNS`, in cream on the colour.

    Raises:
        BadInputError: a word is not known.
    """

    kind: str
    colour: str
    pattern: str = "plain"

    def __post_init__(self) -> None:
        kinds = [kind for of_category in CATEGORIES.values() for kind in of_category]
        for what, word, known in (
            ("kind", self.kind, kinds),
            ("colour", self.colour, COLOURS),
            ("pattern", self.pattern, PATTERNS),
        ):
            if word not in known:
                raise BadInputError(f"{what} must be one of {', '.join(known)}, got {word!r}")

    def __str__(self) -> str:
        words = (self.colour, "" if self.pattern == "plain" else self.pattern, self.kind)
        return " ".join(word for word in words if word)

    @property
    def category(self) -> str:
        """The category that the kind belongs to."""
        return next(name for name, kinds in CATEGORIES.items() if self.kind in kinds)

    @property
    def palette(self) -> str:
        """The palette that the colour belongs to."""
        return next(name for name, colours in PALETTES.items() if self.colour in colours)

    def attributes(self) -> dict[str, str]:
        """The same as words."""
        return {
            "category": self.category,
            "kind": self.kind,
            "colour": self.colour,
            "pattern": self.pattern,
        }


def is_reserved(garment: Garment) -> bool:
    """Whether a garment is kept for held-out pictures, whoever wears it.

    One colour of each palette is, another one for each kind and pattern: a quarter of all garments,
    and some to the taste of everybody.
    """
    digest = hashlib.sha256(f"{garment.kind}/{garment.pattern}/{garment.palette}".encode()).digest()
    colours = PALETTES[garment.palette]
    return colours.index(garment.colour) == digest[0] % len(colours)


def compatibility(garments: Sequence[Garment]) -> float:
    """How well garments go together, 0 to 1: the truth of our wardrobe, not of fashion.

    The share of pairs that go together: colours of one palette, or one of them neutral; and not two
    different patterns.

    Raises:
        BadInputError: there are fewer than two.
    """
    pairs = list(combinations(garments, 2))
    if not pairs:
        raise BadInputError(f"an outfit needs at least 2 garments, got {len(garments)}")
    return sum(_go_together(a, b) for a, b in pairs) / len(pairs)


def _go_together(a: Garment, b: Garment) -> bool:
    colours = a.palette == b.palette or "neutral" in (a.palette, b.palette)
    patterns = {a.pattern, b.pattern} - {"plain"}
    return colours and len(patterns) < 2


def draw_garment(garment: Garment, size: int = 64) -> tuple[Pixels, Mask]:
    """A garment's own picture, lying flat on white, and the mask of it."""
    canvas = Canvas(size, _VIEWS[garment.category])
    paint_garment(canvas, garment, _FLAT)
    part = _PART[garment.category]
    return canvas.pixels(), canvas.mask(canvas.visible(part))


def paint_garment(canvas: Canvas, garment: Garment, joints: Mapping[str, Point]) -> None:
    """Paint a garment onto a body of these joints, or by itself."""
    colour, part = COLOURS[garment.colour], _PART[garment.category]
    shape = cut(garment.kind, canvas.stencil(), joints)
    canvas.paint(shape, colour, part, pattern=garment.pattern, second=CREAM)
    dark: Colour = tuple(round(0.7 * channel) for channel in colour)  # type: ignore[assignment]
    trim = _trim(garment.kind, canvas.stencil(), joints)
    canvas.paint(trim.region & shape.region, dark, part)


def cut(kind: str, shape: Stencil, joints: Mapping[str, Point]) -> Stencil:
    """Add the outline of a kind of garment to a stencil."""
    if kind in CATEGORIES["top"]:
        return _top(kind, shape, joints)
    if kind in CATEGORIES["bottom"]:
        return _bottom(kind, shape, joints)
    if kind in CATEGORIES["shoes"]:
        return _shoes(kind, shape, joints)
    return _bag(kind, shape)


def _top(kind: str, shape: Stencil, joints: Mapping[str, Point]) -> Stencil:
    narrow = 0.06 if kind == "tank top" else 0.0
    shape.polygon(
        (0.425, 0.395), (0.575, 0.395), (0.67 - narrow, 0.43), (0.655, 0.6), (0.66, 0.96),
        (0.34, 0.96), (0.345, 0.6), (0.33 + narrow, 0.43),
    )  # fmt: skip
    if kind == "dress":
        shape.polygon((0.355, 0.75), (0.645, 0.75), (0.78, 1.3), (0.22, 1.3))
    for side in ("left", "right"):
        shoulder, elbow, wrist = (joints[f"{side}_{at}"] for at in ("shoulder", "elbow", "wrist"))
        if kind in ("t-shirt", "dress"):
            shape.limb([shoulder, _between(shoulder, elbow, 0.6)], 0.125)
        elif kind in ("sweater", "shirt"):
            width = 0.135 if kind == "sweater" else 0.115
            shape.limb([shoulder, elbow, _between(elbow, wrist, 0.86)], width)
    neck = {"tank top": 0.085, "dress": 0.07, "sweater": 0.045}.get(kind, 0.055)
    return shape.ellipse((0.5, 0.385), 0.075, neck, ink=0)


def _bottom(kind: str, shape: Stencil, joints: Mapping[str, Point]) -> Stencil:
    if kind == "skirt":
        return shape.polygon((0.365, 0.87), (0.635, 0.87), (0.76, 1.34), (0.24, 1.34))
    shape.polygon((0.36, 0.87), (0.64, 0.87), (0.65, 1.02), (0.35, 1.02))
    for side in ("left", "right"):
        hip, knee, ankle = (joints[f"{side}_{at}"] for at in ("hip", "knee", "ankle"))
        end = [knee, _between(knee, ankle, 0.9)] if kind == "trousers" else []
        shape.limb([hip, *(end or [_between(hip, knee, 0.75)])], 0.155)
    return shape


def _shoes(kind: str, shape: Stencil, joints: Mapping[str, Point]) -> Stencil:
    for side, outwards in (("right", -1), ("left", 1)):
        x, y = joints[f"{side}_ankle"]
        shape.polygon(
            (x - outwards * 0.07, y), (x + outwards * 0.05, y), (x + outwards * 0.15, y + 0.1),
            (x + outwards * 0.15, y + 0.14), (x - outwards * 0.07, y + 0.14),
        )  # fmt: skip
        if kind == "boots":
            shape.limb([(x, y + 0.06), (x, y - 0.14)], 0.145)
    return shape


def _bag(kind: str, shape: Stencil) -> Stencil:
    if kind == "bag":
        shape.arc((0.5, 0.42), 0.2, 0.26, (180, 360), 0.06)
        return shape.polygon((0.16, 0.4), (0.84, 0.4), (0.9, 0.88), (0.1, 0.88))
    shape.arc((0.5, 0.2), 0.1, 0.12, (180, 360), 0.05)
    shape.ellipse((0.5, 0.42), 0.3, 0.26).polygon((0.2, 0.42), (0.8, 0.42), (0.8, 0.9), (0.2, 0.9))
    return shape.limb([(0.15, 0.55), (0.15, 0.82)], 0.1).limb([(0.85, 0.55), (0.85, 0.82)], 0.1)


def _trim(kind: str, shape: Stencil, joints: Mapping[str, Point]) -> Stencil:
    """Seams and edges, painted darker."""
    if kind in ("t-shirt", "sweater", "tank top", "dress"):
        shape.arc((0.5, 0.385), 0.09, 0.075, (0, 180), 0.018)
    if kind == "sweater":
        shape.limb([(0.3, 0.95), (0.7, 0.95)], 0.04)
    if kind == "shirt":
        shape.limb([(0.5, 0.42), (0.5, 0.97)], 0.014)
        shape.polygon((0.42, 0.39), (0.5, 0.46), (0.46, 0.52)).polygon(
            (0.58, 0.39), (0.5, 0.46), (0.54, 0.52)
        )
    if kind == "dress":
        shape.limb([(0.3, 0.76), (0.7, 0.76)], 0.025)
    if kind in ("trousers", "shorts", "skirt"):
        shape.limb([(0.3, 0.885), (0.7, 0.885)], 0.03)
    if kind in ("shoes", "boots"):
        y = joints["left_ankle"][1] + 0.14
        shape.limb([(-0.2, y), (1.2, y)], 0.04)
    if kind == "bag":
        shape.limb([(0.1, 0.5), (0.9, 0.5)], 0.02)
    if kind == "backpack":
        shape.polygon((0.3, 0.6), (0.7, 0.6), (0.7, 0.8), (0.3, 0.8))
    return shape


def _between(a: Point, b: Point, share: float) -> Point:
    return a[0] + share * (b[0] - a[0]), a[1] + share * (b[1] - a[1])
