"""Our own small people: synthetic, in flat shapes, with everything about them known.

A person is drawn once, standing in a world about 2 high, and looked at in three ways: portrait,
upper body, whole. Who it is (:class:`Face`), what they do (:class:`Moment`) and what they wear
(:class:`~.wardrobe.Garment`) are independent of each other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType

import numpy as np

from .canvas import Canvas, Colour, Point, Stencil, View
from .pictures import Mask, Pixels
from .wardrobe import COLOURS, TOPS, Garment, cut, paint_garment

__all__ = ["BODY", "FACES", "PORTRAIT", "UPPER", "Drawn", "Face", "Moment", "draw_person"]

PORTRAIT = View(0.2, -0.03, 0.6)
UPPER = View(0.0, 0.0, 1.0)
BODY = View(-0.5, -0.02, 2.04)

_SKINS: Mapping[str, Colour] = MappingProxyType(
    {
        "pale": (255, 224, 200),
        "light": (241, 194, 160),
        "olive": (214, 164, 118),
        "tan": (184, 128, 84),
        "brown": (136, 88, 56),
        "dark": (88, 56, 38),
    }
)
_HAIRS: Mapping[str, Colour] = MappingProxyType(
    {
        "black": (30, 26, 30),
        "brown": (92, 58, 34),
        "blond": (232, 196, 96),
        "red": (190, 76, 34),
        "grey": (166, 168, 176),
        "blue": (60, 96, 196),
    }
)
_EYES: Mapping[str, Colour] = MappingProxyType(
    {"brown": (84, 48, 24), "blue": (44, 110, 196), "green": (44, 140, 84)}
)
_CUTS = ("short", "long", "curly", "bun", "bob", "spiky", "bald")
_SHAPES: Mapping[str, Point] = MappingProxyType(  # half width and half height of the head
    {"round": (0.13, 0.13), "long": (0.108, 0.15), "square": (0.125, 0.14)}
)
_WHITE, _DARK = (255, 255, 255), (40, 30, 34)
_LIPS = {"brown": (222, 110, 112), "dark": (214, 100, 108)}
_LIP = (176, 52, 60)  # of all others
_HEAD = (0.5, 0.24)

_ARMS: Mapping[str, tuple[Point, Point]] = MappingProxyType(  # elbow and wrist on the right
    {
        "down": ((0.725, 0.66), (0.735, 0.88)),
        "hips": ((0.83, 0.64), (0.67, 0.8)),
        "up": ((0.82, 0.42), (0.86, 0.18)),
        "wide": ((0.8, 0.56), (0.94, 0.68)),
    }
)


@dataclass(frozen=True)
class Face:
    """Who somebody is: what stays the same in all pictures of a person."""

    skin: str
    hair: str
    cut: str
    eyes: str
    shape: str
    glasses: bool

    def attributes(self) -> dict[str, str]:
        """The same as words."""
        return {
            "skin": self.skin,
            "hair": "none" if self.cut == "bald" else f"{self.cut} {self.hair}",
            "eyes": self.eyes,
            "face": self.shape,
            "glasses": "yes" if self.glasses else "no",
        }


FACES: tuple[Face, ...] = tuple(
    Face(skin, hair, cut, eyes, shape, glasses)
    for skin, hair, cut, eyes, shape, glasses in product(
        _SKINS, _HAIRS, _CUTS, _EYES, _SHAPES, (False, True)
    )
    if cut != "bald" or hair == "black"  # of the bald, each once
)
"""Everybody who can be drawn."""


@dataclass(frozen=True)
class Moment:
    """What a person does in a picture.

    Args:
        mouth: smiling, laughing, serious or sad.
        gaze: left, ahead or right, as seen in the picture.
        left: what the person's left arm does, which is seen on the right: down, hips, up or wide.
        right: what the right arm does.
    """

    mouth: str = "smiling"
    gaze: str = "ahead"
    left: str = "down"
    right: str = "down"

    MOUTHS = ("smiling", "laughing", "serious", "sad")
    GAZES = ("left", "ahead", "right")
    ARMS = tuple(_ARMS)


@dataclass(frozen=True, eq=False)
class Drawn:
    """A picture, the masks of its parts, and joints and landmarks in pixels, on the person's sides.

    Masks: ``face``, ``hair``, ``clothes`` (the top or dress), ``bottom``, ``shoes``; and
    ``wearable``, where any top could be seen, whichever it is.
    """

    pixels: Pixels
    masks: Mapping[str, Mask]
    pose: Mapping[str, Point]


def draw_person(
    face: Face,
    moment: Moment,
    top: Garment,
    *,
    bottom: Garment,
    shoes: Garment,
    view: View = PORTRAIT,
    size: int = 64,
    background: Colour = (226, 236, 242),
) -> Drawn:
    """Draw a person.

    Args:
        face: who it is.
        moment: what they do.
        top: a garment of category top.
        bottom: one of category bottom, hidden by a dress.
        shoes: one of category shoes.
        view: portrait, upper body or whole.
        size: of the picture, in pixels.
        background: its colour.

    Raises:
        BadInputError: the size does not divide the sheet.
    """
    canvas = Canvas(size, view, background)
    joints = _joints(moment)
    _paint_back_hair(canvas, face)
    _paint_body(canvas, face, joints)
    paint_garment(canvas, shoes, joints)
    if top.kind != "dress":
        paint_garment(canvas, bottom, joints)
    paint_garment(canvas, top, joints)
    _paint_head(canvas, face)
    landmarks = _paint_features(canvas, face, moment)
    _paint_front_hair(canvas, face)
    if face.glasses:
        _paint_glasses(canvas, landmarks)
    parts = ("face", "hair", "clothes", "bottom", "shoes")
    masks = {part: canvas.mask(canvas.visible(part)) for part in parts}
    masks["hair"] |= canvas.mask(canvas.visible("back hair"))
    masks["wearable"] = canvas.mask(_wearable(canvas, joints))
    pose = {name: canvas.pixel(at) for name, at in {**joints, **landmarks}.items()}
    return Drawn(canvas.pixels(), masks, pose)


def _joints(moment: Moment) -> dict[str, Point]:
    """Joints in world coordinates; sides are the person's own."""
    joints = {
        "neck": (0.5, 0.42),
        "left_shoulder": (0.65, 0.46),
        "left_elbow": _ARMS[moment.left][0],
        "left_wrist": _ARMS[moment.left][1],
        "right_shoulder": (0.35, 0.46),
        "right_elbow": _mirrored(_ARMS[moment.right][0]),
        "right_wrist": _mirrored(_ARMS[moment.right][1]),
        "left_hip": (0.575, 0.9),
        "left_knee": (0.59, 1.35),
        "left_ankle": (0.6, 1.8),
    }
    for name in ("hip", "knee", "ankle"):
        joints[f"right_{name}"] = _mirrored(joints[f"left_{name}"])
    return joints


def _mirrored(at: Point) -> Point:
    return 1 - at[0], at[1]


def _wearable(canvas: Canvas, joints: Mapping[str, Point]) -> Mask:
    """Points that some top would cover, unless hair or face is before it."""
    tops = [cut(kind, canvas.stencil(), joints).region for kind in TOPS]
    covered: Mask = np.logical_or.reduce(tops) & ~canvas.visible("face", "hair")
    return covered


def _paint_body(canvas: Canvas, face: Face, joints: Mapping[str, Point]) -> None:
    body = canvas.stencil().polygon((0.34, 0.43), (0.66, 0.43), (0.63, 0.92), (0.37, 0.92))
    body.limb([(0.5, 0.3), (0.5, 0.45)], 0.095)
    for side in ("left", "right"):
        body.limb([joints[f"{side}_{name}"] for name in ("shoulder", "elbow", "wrist")], 0.085)
        body.ellipse(joints[f"{side}_wrist"], 0.052, 0.052)
        body.limb([joints[f"{side}_{name}"] for name in ("hip", "knee", "ankle")], 0.12)
    canvas.paint(body, _SKINS[face.skin], "body")


def _paint_head(canvas: Canvas, face: Face) -> None:
    x, y = _HEAD
    rx, ry = _SHAPES[face.shape]
    skin = _SKINS[face.skin]
    shade: Colour = tuple(round(0.82 * channel) for channel in skin)  # type: ignore[assignment]
    chin = canvas.stencil().ellipse((x, y + 0.03), rx * 0.8, ry)
    canvas.paint(chin.region & canvas.visible("body"), shade, "body")
    head = canvas.stencil().ellipse(_HEAD, rx, ry)
    if face.shape == "square":
        head.polygon((x - 0.115, y), (x + 0.115, y), (x + 0.09, y + 0.125), (x - 0.09, y + 0.125))
    for side in (-1, 1):
        head.ellipse((x + side * rx, y + 0.02), 0.024, 0.032)
    canvas.paint(head, skin, "face")


def _paint_features(canvas: Canvas, face: Face, moment: Moment) -> dict[str, Point]:
    """Paint eyes, brows, nose and mouth; where they are, in world coordinates."""
    x = _HEAD[0] + {"left": -0.028, "ahead": 0.0, "right": 0.028}[moment.gaze]
    y = _HEAD[1]
    marks = {
        "right_eye": (x - 0.05, y),
        "left_eye": (x + 0.05, y),
        "nose": (x + 0.006, y + 0.045),
        "mouth": (x, y + 0.082),
        "right_mouth": (x - 0.04, y + 0.08),
        "left_mouth": (x + 0.04, y + 0.08),
    }
    look = (x - _HEAD[0]) * 0.35
    brow = _HAIRS[face.hair] if face.cut != "bald" else _DARK
    tilt = {"sad": 0.014, "serious": -0.006}.get(moment.mouth, 0.0)
    for side, name in ((-1, "right_eye"), (1, "left_eye")):
        eye_x, eye_y = marks[name]
        canvas.paint(canvas.stencil().ellipse((eye_x, eye_y), 0.028, 0.026), _WHITE, "face")
        iris = canvas.stencil().ellipse((eye_x + look, eye_y), 0.018, 0.021)
        canvas.paint(iris, _EYES[face.eyes], "face")
        pupil = canvas.stencil().ellipse((eye_x + look, eye_y), 0.008, 0.01)
        canvas.paint(pupil, _DARK, "face")
        inner, outer = eye_x - side * 0.026, eye_x + side * 0.03
        line = canvas.stencil().limb([(inner, y - 0.048 - tilt), (outer, y - 0.046 + tilt)], 0.013)
        canvas.paint(line, brow, "face")
    skin = _SKINS[face.skin]
    shade: Colour = tuple(round(0.74 * channel) for channel in skin)  # type: ignore[assignment]
    nose = canvas.stencil().limb([(marks["nose"][0], y + 0.02), marks["nose"]], 0.013)
    canvas.paint(nose, shade, "face")
    _paint_mouth(canvas, moment.mouth, marks["mouth"], _LIPS.get(face.skin, _LIP))
    return marks


def _paint_mouth(canvas: Canvas, mouth: str, at: Point, lips: Colour) -> None:
    x, y = at
    if mouth == "laughing":
        canvas.paint(
            canvas.stencil().ellipse((x, y - 0.008), 0.05, 0.042)
            .polygon((x - 0.09, y - 0.06), (x + 0.09, y - 0.06), (x + 0.09, y - 0.012),
                     (x - 0.09, y - 0.012), ink=0),
            (120, 28, 38), "face",
        )  # fmt: skip
        canvas.paint(
            canvas.stencil().limb([(x - 0.036, y - 0.008), (x + 0.036, y - 0.008)], 0.011),
            _WHITE, "face",
        )  # fmt: skip
        return
    line = canvas.stencil()
    if mouth == "smiling":
        line.arc((x, y - 0.03), 0.048, 0.045, (25, 155), 0.014)
    elif mouth == "sad":
        line.arc((x, y + 0.034), 0.04, 0.04, (212, 328), 0.014)
    else:
        line.limb([(x - 0.034, y + 0.004), (x + 0.034, y + 0.004)], 0.013)
    canvas.paint(line, lips, "face")


def _paint_back_hair(canvas: Canvas, face: Face) -> None:
    """Hair behind head and shoulders."""
    x, y = _HEAD
    rx, ry = _SHAPES[face.shape]
    back = canvas.stencil()
    if face.cut == "long":
        back.ellipse((x, y), rx + 0.045, ry + 0.03)
        back.polygon(
            (x - rx - 0.045, y), (x + rx + 0.045, y),
            (x + rx + 0.055, y + 0.3), (x - rx - 0.055, y + 0.3),
        )  # fmt: skip
    elif face.cut == "bob":
        back.ellipse((x, y + 0.02), rx + 0.05, ry + 0.025)
    elif face.cut == "curly":
        for angle in np.linspace(np.pi * 0.85, np.pi * 2.15, 9):
            at = (x + (rx + 0.02) * np.cos(angle), y + (ry + 0.01) * np.sin(angle))
            back.ellipse(at, 0.058, 0.058)
    elif face.cut == "bun":
        back.ellipse((x, y - ry - 0.035), 0.062, 0.055)
    canvas.paint(back, _HAIRS[face.hair], "back hair")


def _paint_front_hair(canvas: Canvas, face: Face) -> None:
    """Hair over the forehead, and what of long hair falls before the shoulders."""
    if face.cut == "bald":
        return
    x, y = _HEAD
    rx, ry = _SHAPES[face.shape]
    crown = canvas.stencil().ellipse((x, y - 0.012), rx + 0.016, ry + 0.014)
    low = {"short": -0.065, "spiky": -0.075, "bun": -0.08, "curly": -0.062}.get(face.cut, -0.06)
    below = (x - 0.3, y + low), (x + 0.3, y + low), (x + 0.3, y + 0.3), (x - 0.3, y + 0.3)
    crown.polygon(*below, ink=0)
    if face.cut in ("long", "bob"):
        for side in (-1, 1):
            length = 0.27 if face.cut == "long" else 0.13
            edge = x + side * (rx + 0.016)
            crown.limb([(edge, y - 0.05), (edge, y + length)], 0.048)
    if face.cut == "short":
        for side in (-1, 1):
            crown.limb([(x + side * rx, y - 0.06), (x + side * rx, y - 0.015)], 0.026)
    if face.cut == "spiky":
        for step in range(-3, 4):
            root, rise = x + step * 0.038, 0.05 - 0.006 * step * step
            crown.polygon(
                (root - 0.04, y - ry + 0.08), (root + 0.04, y - ry + 0.06),
                (root + 0.03 + step * 0.006, y - ry - rise),
            )  # fmt: skip
    if face.cut == "curly":
        for step in range(-2, 3):
            crown.ellipse((x + step * 0.05, y - ry + 0.045), 0.04, 0.04)
    canvas.paint(crown, _HAIRS[face.hair], "hair")


def _paint_glasses(canvas: Canvas, marks: Mapping[str, Point]) -> None:
    frame: Stencil = canvas.stencil()
    for name in ("left_eye", "right_eye"):
        frame.arc(marks[name], 0.045, 0.042, (0, 360), 0.011)
    inner = marks["right_eye"][0] + 0.04, marks["left_eye"][0] - 0.04
    frame.limb([(x, _HEAD[1]) for x in inner], 0.01)
    canvas.paint(frame, COLOURS["black"], "face")
