"""Synthetic outfits: people with a taste in clothes, by what they wore or by what they tell."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from ....shared.errors import BadInputError
from .avatars import BODY, FACES, Face, Moment, draw_person
from .pictures import Artist, Gallery, Picture
from .wardrobe import (
    CATEGORIES,
    PALETTES,
    PATTERNS,
    Garment,
    compatibility,
    draw_garment,
    is_reserved,
)

__all__ = ["STYLES", "Taste", "load_outfits", "load_styled"]

STYLES = {
    "sporty": ("t-shirt", "shorts", "shoes", "backpack"),
    "classic": ("shirt", "trousers", "boots", "bag"),
    "cosy": ("sweater", "trousers", "boots", "backpack"),
    "summery": ("tank top", "skirt", "shoes", "bag"),
}
"""A style's kind of each category, in the order of the categories."""

_FAITHFUL = 0.85  # chance that a garment follows the taste
_HELD_OUT = 4  # one outfit in so many
_OCCASIONS = ("a walk", "a party", "work", "a journey")


@dataclass(frozen=True)
class Taste:
    """What somebody likes to wear: a palette, a pattern for one of the garments, a style."""

    palette: str
    pattern: str
    style: str

    def words(self) -> dict[str, str]:
        """The same as words."""
        return {"palette": self.palette, "pattern": self.pattern, "style": self.style}

    def likes(self, garment: Garment) -> float:
        """How far a garment follows it, 0 to 1: the mean over palette, kind and pattern."""
        kind = STYLES[self.style][list(CATEGORIES).index(garment.category)]
        return (
            (garment.palette == self.palette)
            + (garment.kind == kind)
            + (garment.pattern in ("plain", self.pattern))
        ) / 3


TASTES = tuple(Taste(*words) for words in product(PALETTES, PATTERNS[1:], STYLES))


def load_outfits(people: int = 60, outfits: int = 8, *, size: int = 64, seed: int = 0) -> Gallery:
    """Fashion by behaviours: what each person wore, garment by garment; the taste is hidden.

    An outfit is four pictures, a garment each (top, bottom, shoes, bag), with the same attribute
    ``outfit``, every one given the pictures of the three others under their categories. Every
    fourth outfit is held out, with garments that nobody trains on. Truth: the taste.

    Args:
        people: with tastes in turn.
        outfits: of each person.
        size: in pixels.
        seed: of the garments.

    Raises:
        BadInputError: a number is out of range.
    """
    rng = np.random.default_rng([seed, 3])
    artists = []
    for number, taste in enumerate(_tastes(rng, people, outfits)):
        pictures: list[Picture] = []
        for index in range(outfits):
            held_out = index % _HELD_OUT == _HELD_OUT - 1
            pictures += _items(_outfit(rng, taste, held_out), index, size, held_out=held_out)
        artists.append(
            Artist(name=f"wearer {number:04}", pictures=tuple(pictures), truth=taste.words())
        )
    return Gallery(name="outfits", kind="synthetic", artists=tuple(artists))


def load_styled(people: int = 60, outfits: int = 8, *, size: int = 64, seed: int = 0) -> Gallery:
    """Fashion by profile: whole outfits on their wearer, who tells what they like.

    The profile is the taste in words; truth is the taste, and attribute ``compatibility`` the
    truth of :func:`~.wardrobe.compatibility`. Every fourth outfit is held out, with garments that
    nobody trains on. Arguments and errors as for :func:`load_outfits`.
    """
    rng = np.random.default_rng([seed, 4])
    artists = []
    for number, taste in enumerate(_tastes(rng, people, outfits)):
        face = FACES[rng.integers(len(FACES))]
        pictures = tuple(
            _styled(rng, face, taste, size, held_out=index % _HELD_OUT == _HELD_OUT - 1)
            for index in range(outfits)
        )
        artists.append(
            Artist(
                name=f"wearer {number:04}",
                pictures=pictures,
                profile=_told(taste),
                truth=taste.words(),
            )
        )
    return Gallery(name="styled", kind="synthetic", artists=tuple(artists))


def _styled(
    rng: np.random.Generator, face: Face, taste: Taste, size: int, *, held_out: bool
) -> Picture:
    top, bottom, shoes, _ = _outfit(rng, taste, held_out)  # the bag stays at home
    worn = (top, shoes) if top.kind == "dress" else (top, bottom, shoes)
    drawn = draw_person(face, Moment(), top, bottom=bottom, shoes=shoes, view=BODY, size=size)
    attributes = {garment.category: str(garment) for garment in worn}
    return Picture(
        pixels=drawn.pixels,
        caption=f"outfit for {_OCCASIONS[rng.integers(len(_OCCASIONS))]}",
        attributes={**attributes, "compatibility": f"{compatibility(worn):.2f}"},
        held_out=held_out,
        masks=drawn.masks,
        pose=drawn.pose,
    )


def _told(taste: Taste) -> dict[str, str]:
    return {
        "favourite colours": f"{taste.palette} ones",
        "favourite pattern": taste.pattern,
        "style": taste.style,
    }


def _tastes(rng: np.random.Generator, people: int, outfits: int) -> list[Taste]:
    if people < 1:
        raise BadInputError(f"people must be at least 1, got {people}")
    if outfits < _HELD_OUT:
        raise BadInputError(f"outfits must be at least {_HELD_OUT} a person, got {outfits}")
    order = rng.permutation(len(TASTES))
    return [TASTES[order[i % len(order)]] for i in range(people)]


def _outfit(rng: np.random.Generator, taste: Taste, held_out: bool) -> tuple[Garment, ...]:
    """A garment of each category, one of them patterned, of the reserved ones or none of them."""
    patterned = rng.integers(len(CATEGORIES))
    return tuple(
        _garment(rng, taste, category, index == patterned, held_out)
        for index, category in enumerate(CATEGORIES)
    )


def _garment(
    rng: np.random.Generator, taste: Taste, category: str, patterned: bool, reserved: bool
) -> Garment:
    kind = STYLES[taste.style][list(CATEGORIES).index(category)]
    if rng.random() > _FAITHFUL:
        kind = str(rng.choice(CATEGORIES[category]))
    palette = taste.palette if rng.random() < _FAITHFUL else str(rng.choice(list(PALETTES)))
    pattern = taste.pattern if patterned else "plain"
    choice = [Garment(kind, colour, pattern) for colour in PALETTES[palette]]
    choice = [garment for garment in choice if is_reserved(garment) == reserved]
    return choice[rng.integers(len(choice))]


def _items(
    garments: tuple[Garment, ...], outfit: int, size: int, *, held_out: bool
) -> list[Picture]:
    drawn = {garment.category: draw_garment(garment, size) for garment in garments}
    return [
        Picture(
            pixels=drawn[garment.category][0],
            caption=str(garment),
            attributes={**garment.attributes(), "outfit": str(outfit)},
            held_out=held_out,
            masks={"garment": drawn[garment.category][1]},
            given={name: pixels for name, (pixels, _) in drawn.items() if name != garment.category},
        )
        for garment in garments
    ]
