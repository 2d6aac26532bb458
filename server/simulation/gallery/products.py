"""Synthetic advertisements: products before scenes, and clicks logged under a known policy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType

import numpy as np

from ....shared.errors import BadInputError
from .canvas import Canvas, Colour, Stencil, View
from .pictures import Artist, Gallery, Impression, Mask, Picture, Pixels
from .wardrobe import COLOURS

__all__ = [
    "GROUPS",
    "PRODUCTS",
    "SCENES",
    "advertisements",
    "click_chance",
    "load_ads",
    "load_group_ads",
]

PRODUCTS = ("mug", "bottle", "lamp", "ball", "book", "plant")
SCENES = ("beach", "forest", "city", "night", "party", "studio")
GROUPS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        "outdoor people": {"beach": 0.5, "forest": 0.6},
        "city people": {"city": 0.6, "studio": 0.4},
        "night people": {"night": 0.6, "party": 0.4},
        "quiet people": {"studio": 0.6, "forest": 0.4},
    }
)
"""What of its chance to click a group adds before a scene that it likes."""

_CHANCE = 0.08  # of a click before any other scene
_HELD_OUT = ("lamp", "plant")  # products that nobody trains on
_EXPLORE = 0.4  # share of impressions whose scene is drawn evenly; the others show a favourite
_WORLD = View(0.0, 0.0, 1.0)


def click_chance(group: str, scene: str) -> float:
    """The true chance that a person of the group clicks an advertisement before the scene.

    Raises:
        BadInputError: there is no such group or scene.
    """
    if group not in GROUPS or scene not in SCENES:
        raise BadInputError(f"no group {group!r} or no scene {scene!r}; see GROUPS and SCENES")
    return _CHANCE + GROUPS[group].get(scene, 0.0)


def load_ads(people: int = 60, shown: int = 60, *, size: int = 64, seed: int = 0) -> Gallery:
    """Products by behaviours: what each person was shown and what they clicked.

    All people have the same pictures, each product before each scene, given ``product`` alone with
    its mask. A log of impressions says which were shown to the person, with what probability, and
    which were clicked. Two products are held out and in no log. Truth: the person's group.

    Args:
        people: of the groups in turn.
        shown: impressions of each person.
        size: in pixels.
        seed: of impressions and clicks.

    Raises:
        BadInputError: a number is out of range.
    """
    if people < 1 or shown < 1:
        raise BadInputError(f"people and shown must be at least 1, got {people} and {shown}")
    groups = [list(GROUPS)[i % len(GROUPS)] for i in range(people)]
    artists = tuple(
        _shopper(f"shopper {i:04}", group, shown, size, [seed, 5, i], tells=False)
        for i, group in enumerate(groups)
    )
    return Gallery(name="ads", kind="synthetic", artists=artists)


def load_group_ads(shown: int = 900, *, size: int = 64, seed: int = 0) -> Gallery:
    """Products by profile: as :func:`load_ads`, one artist for each group, which is its profile.

    Raises:
        BadInputError: ``shown`` is below 1.
    """
    if shown < 1:
        raise BadInputError(f"shown must be at least 1, got {shown}")
    artists = tuple(
        _shopper(group, group, shown, size, [seed, 6, i], tells=True)
        for i, group in enumerate(GROUPS)
    )
    return Gallery(name="group ads", kind="synthetic", artists=artists)


def _shopper(
    name: str, group: str, shown: int, size: int, seed: list[int], *, tells: bool
) -> Artist:
    return Artist(
        name=name,
        pictures=advertisements(size),
        profile={"group": group} if tells else {},
        truth={"group": group},
        log=_log(np.random.default_rng(seed), group, advertisements(size), shown),
    )


def _log(
    rng: np.random.Generator, group: str, pictures: tuple[Picture, ...], shown: int
) -> tuple[Impression, ...]:
    """Draw a product evenly, and its scene by a policy that shows the world's favourite often."""
    favourite = SCENES[0]
    trained = [product for product in PRODUCTS if product not in _HELD_OUT]
    propensities = np.full(len(SCENES), _EXPLORE / len(SCENES))
    propensities[SCENES.index(favourite)] += 1 - _EXPLORE
    where = {
        (picture.attributes["product"], picture.attributes["scene"]): i
        for i, picture in enumerate(pictures)
    }
    log = []
    for _ in range(shown):
        product = trained[rng.integers(len(trained))]
        scene = int(rng.choice(len(SCENES), p=propensities))
        clicked = bool(rng.random() < click_chance(group, SCENES[scene]))
        propensity = float(propensities[scene]) / len(trained)
        log.append(Impression(where[product, SCENES[scene]], propensity, clicked))
    return tuple(log)


@cache
def advertisements(size: int) -> tuple[Picture, ...]:
    """Each product before each scene."""
    return tuple(_advertisement(product, scene, size) for product in PRODUCTS for scene in SCENES)


def _advertisement(product: str, scene: str, size: int) -> Picture:
    shown, alone = Canvas(size, _WORLD), Canvas(size, _WORLD)
    _paint_scene(shown, scene)
    for canvas in (shown, alone):
        _paint_product(canvas, product)
    mask = alone.mask(alone.visible("product"))
    return Picture(
        pixels=shown.pixels(),
        caption=f"{product}, {scene}",
        attributes={"product": product, "scene": scene},
        held_out=product in _HELD_OUT,
        masks={"product": mask},
        given={"product": _cut_out(alone.pixels(), mask)},
        given_masks={"product": mask},
    )


def _cut_out(pixels: Pixels, mask: Mask) -> Pixels:
    return np.where(mask[..., None], pixels, np.uint8(255)).astype(np.uint8)


def _paint_product(canvas: Canvas, product: str) -> None:
    colour, shapes = _PRODUCT_SHAPES[product]
    for part, shade in ((shapes, colour), (_TRIMS[product], _shaded(colour))):
        stencil = canvas.stencil()
        part(stencil)
        canvas.paint(stencil, shade, "product")


def _shaded(colour: Colour) -> Colour:
    red, green, blue = (round(0.66 * channel) for channel in colour)
    return red, green, blue


def _mug(shape: Stencil) -> None:
    shape.arc((0.66, 0.66), 0.11, 0.11, (270, 450), 0.04)
    shape.polygon((0.34, 0.5), (0.66, 0.5), (0.64, 0.84), (0.36, 0.84))


def _mug_trim(shape: Stencil) -> None:
    shape.ellipse((0.5, 0.5), 0.16, 0.035)


def _bottle(shape: Stencil) -> None:
    shape.polygon((0.46, 0.3), (0.54, 0.3), (0.55, 0.46), (0.45, 0.46))
    shape.ellipse((0.5, 0.5), 0.11, 0.08).polygon(
        (0.39, 0.5), (0.61, 0.5), (0.61, 0.86), (0.39, 0.86)
    )


def _bottle_trim(shape: Stencil) -> None:
    shape.polygon((0.45, 0.27), (0.55, 0.27), (0.55, 0.33), (0.45, 0.33))
    shape.polygon((0.39, 0.6), (0.61, 0.6), (0.61, 0.72), (0.39, 0.72))


def _lamp(shape: Stencil) -> None:
    shape.polygon((0.4, 0.34), (0.6, 0.34), (0.7, 0.58), (0.3, 0.58))


def _lamp_trim(shape: Stencil) -> None:
    shape.polygon((0.48, 0.58), (0.52, 0.58), (0.52, 0.8), (0.48, 0.8)).ellipse(
        (0.5, 0.82), 0.13, 0.04
    )


def _ball(shape: Stencil) -> None:
    shape.ellipse((0.5, 0.64), 0.2, 0.2)


def _ball_trim(shape: Stencil) -> None:
    shape.arc((0.36, 0.64), 0.16, 0.18, (310, 410), 0.025)
    shape.arc((0.64, 0.64), 0.16, 0.18, (130, 230), 0.025)


def _book(shape: Stencil) -> None:
    shape.polygon((0.32, 0.4), (0.62, 0.36), (0.68, 0.8), (0.38, 0.85))


def _book_trim(shape: Stencil) -> None:
    shape.polygon((0.32, 0.4), (0.36, 0.395), (0.42, 0.845), (0.38, 0.85))
    shape.polygon((0.43, 0.48), (0.57, 0.46), (0.58, 0.54), (0.44, 0.56))


def _plant(shape: Stencil) -> None:
    for tip in ((0.3, 0.42), (0.42, 0.3), (0.58, 0.3), (0.7, 0.42)):
        shape.limb([(0.5, 0.66), tip], 0.07)


def _plant_trim(shape: Stencil) -> None:
    shape.polygon((0.36, 0.64), (0.64, 0.64), (0.6, 0.86), (0.4, 0.86))


_PRODUCT_SHAPES: Mapping[str, tuple[Colour, Callable[[Stencil], None]]] = MappingProxyType(
    {
        "mug": (COLOURS["red"], _mug),
        "bottle": (COLOURS["teal"], _bottle),
        "lamp": (COLOURS["yellow"], _lamp),
        "ball": (COLOURS["orange"], _ball),
        "book": (COLOURS["purple"], _book),
        "plant": (COLOURS["green"], _plant),
    }
)
_TRIMS: Mapping[str, Callable[[Stencil], None]] = MappingProxyType(
    {
        "mug": _mug_trim,
        "bottle": _bottle_trim,
        "lamp": _lamp_trim,
        "ball": _ball_trim,
        "book": _book_trim,
        "plant": _plant_trim,
    }
)


def _paint_scene(canvas: Canvas, scene: str) -> None:
    """Sky and ground, then what stands between them."""
    sky, ground, horizon = _GROUNDS[scene]
    canvas.paint(canvas.stencil().polygon((0, 0), (1, 0), (1, 1), (0, 1)), sky, "scene")
    floor = canvas.stencil().polygon((0, horizon), (1, horizon), (1, 1), (0, 1))
    canvas.paint(floor, ground, "scene")
    for colour, shape in _things(canvas, scene):
        canvas.paint(shape, colour, "scene")


_GROUNDS: Mapping[str, tuple[Colour, Colour, float]] = MappingProxyType(
    {
        "beach": ((150, 214, 246), (244, 222, 160), 0.66),
        "forest": ((204, 232, 204), (84, 128, 66), 0.7),
        "city": ((206, 214, 226), (110, 112, 120), 0.78),
        "night": ((24, 28, 66), (40, 44, 58), 0.75),
        "party": ((94, 46, 120), (66, 30, 86), 0.78),
        "studio": ((238, 234, 228), (214, 206, 196), 0.7),
    }
)


def _things(canvas: Canvas, scene: str) -> list[tuple[Colour, Stencil]]:
    new = canvas.stencil
    if scene == "beach":
        sea = new().polygon((0, 0.5), (1, 0.5), (1, 0.66), (0, 0.66))
        return [((40, 130, 200), sea), ((255, 226, 90), new().ellipse((0.84, 0.16), 0.1, 0.1))]
    if scene == "forest":
        trees, trunks = new(), new()
        for x, top in ((0.1, 0.12), (0.3, 0.26), (0.72, 0.2), (0.92, 0.08)):
            trees.polygon((x, top), (x + 0.16, 0.66), (x - 0.16, 0.66))
            trunks.polygon(
                (x - 0.025, 0.64), (x + 0.025, 0.64), (x + 0.025, 0.76), (x - 0.025, 0.76)
            )
        return [((98, 66, 40), trunks), ((34, 94, 54), trees)]
    if scene == "city":
        houses, windows = new(), new()
        for x, top in ((0.02, 0.3), (0.24, 0.14), (0.56, 0.24), (0.78, 0.1)):
            houses.polygon((x, top), (x + 0.2, top), (x + 0.2, 0.78), (x, 0.78))
            for y in np.arange(top + 0.06, 0.7, 0.13):
                windows.polygon(
                    (x + 0.04, y), (x + 0.16, y), (x + 0.16, y + 0.05), (x + 0.04, y + 0.05)
                )
        return [((128, 138, 156), houses), ((252, 232, 150), windows)]
    if scene == "night":
        stars = new()
        for x, y in ((0.1, 0.1), (0.28, 0.3), (0.44, 0.08), (0.6, 0.2), (0.9, 0.42), (0.08, 0.5)):
            stars.ellipse((x, y), 0.016, 0.016)
        moon = new().ellipse((0.8, 0.18), 0.1, 0.1).ellipse((0.75, 0.15), 0.085, 0.085, ink=0)
        return [((255, 255, 230), stars), ((250, 240, 190), moon)]
    if scene == "party":
        return [
            (COLOURS[colour], new().ellipse(at, 0.07, 0.085))
            for colour, at in (
                ("red", (0.12, 0.2)), ("yellow", (0.3, 0.12)), ("teal", (0.7, 0.14)),
                ("pink", (0.88, 0.24)), ("orange", (0.1, 0.5)), ("green", (0.92, 0.54)),
            )
        ]  # fmt: skip
    return [((255, 255, 255), new().ellipse((0.5, 0.5), 0.42, 0.42))]
