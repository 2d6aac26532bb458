"""Synthetic people for the face and try-on tasks: who they are stays, all else varies.

Reserved garments (:func:`~.wardrobe.is_reserved`) are tried on and worn in held-out pictures only,
whoever wears them.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

import numpy as np

from ....shared.errors import BadInputError
from .avatars import FACES, PORTRAIT, UPPER, Drawn, Face, Moment, draw_person
from .pictures import Artist, Gallery, Mask, Picture, Pixels
from .wardrobe import CATEGORIES, COLOURS, PATTERNS, TOPS, Garment, draw_garment, is_reserved

__all__ = ["TOP_GARMENTS", "load_faces", "load_tryon"]

TOP_GARMENTS = tuple(Garment(*words) for words in product(TOPS, COLOURS, PATTERNS))
"""Every top that there is."""

_FREE = tuple(garment for garment in TOP_GARMENTS if not is_reserved(garment))
_RESERVED = tuple(garment for garment in TOP_GARMENTS if is_reserved(garment))

_HELD_OUT = 4  # one picture of a person in so many
_GREY = 128  # what an agnostic person shows in place of clothes


def load_faces(people: int = 100, pictures: int = 12, *, size: int = 64, seed: int = 0) -> Gallery:
    """Portraits: each person's face and hair in changing clothes, moods and gazes.

    A picture's attributes are the person's and the moment's; its masks and landmarks are those of
    :class:`~.avatars.Drawn`. The caption says nothing of who it is.

    Args:
        people: all different.
        pictures: of each person; every fourth is held out.
        size: in pixels.
        seed: of who they are and what they do.

    Raises:
        BadInputError: a number is out of range.
    """
    rng = np.random.default_rng([seed, 1])
    artists = []
    for number, face in enumerate(_choose_faces(rng, people, pictures)):
        wear = _wear(rng)
        taken = tuple(
            _portrait(face, _moment(rng, "down"), top, wear, size, held_out)
            for top, held_out in _tops(rng, pictures)
        )
        artists.append(Artist(name=f"person {number:04}", pictures=taken, truth=face.attributes()))
    return Gallery(name="faces", kind="synthetic", artists=tuple(artists))


def load_tryon(people: int = 100, pictures: int = 12, *, size: int = 64, seed: int = 0) -> Gallery:
    """Try-on: a person in a pose, and a garment; the picture is the person wearing it, exactly.

    Each picture is given ``garment`` (lying flat), ``person`` (the same person in the same pose in
    another garment) and ``agnostic`` (that person with everything greyed out that any top could
    cover), each with a mask: the garment, the clothes to be taken off, the grey. Outside the grey,
    ``agnostic`` is the picture. The pose is the picture's; mask ``clothes`` is where the garment is
    seen in it.

    Args:
        people: all different.
        pictures: of each person; every fourth is held out.
        size: in pixels.
        seed: of who they are, how they stand and what they wear.

    Raises:
        BadInputError: a number is out of range.
    """
    rng = np.random.default_rng([seed, 2])
    artists = []
    for number, face in enumerate(_choose_faces(rng, people, pictures)):
        wear = _wear(rng)
        taken = tuple(
            _tried_on(rng, face, top, wear, size, held_out)
            for top, held_out in _tops(rng, pictures)
        )
        artists.append(Artist(name=f"person {number:04}", pictures=taken, truth=face.attributes()))
    return Gallery(name="tryon", kind="synthetic", artists=tuple(artists))


def _choose_faces(rng: np.random.Generator, people: int, pictures: int) -> list[Face]:
    if not 1 <= people <= len(FACES):
        raise BadInputError(f"people must be 1..{len(FACES)}, got {people}")
    if pictures < _HELD_OUT:
        raise BadInputError(f"pictures must be at least {_HELD_OUT} a person, got {pictures}")
    return [FACES[i] for i in rng.choice(len(FACES), people, replace=False)]


def _wear(rng: np.random.Generator) -> tuple[Garment, Garment]:
    """Bottom and shoes of a person."""
    bottom, shoes = (
        Garment(str(rng.choice(CATEGORIES[what])), str(rng.choice(list(COLOURS))))
        for what in ("bottom", "shoes")
    )
    return bottom, shoes


def _tops(rng: np.random.Generator, pictures: int) -> list[tuple[Garment, bool]]:
    """A top for each picture, and whether the picture is held out, which reserved tops are."""
    uses = [i % _HELD_OUT == _HELD_OUT - 1 for i in range(pictures)]
    return [(_any_of(rng, _RESERVED if use else _FREE), use) for use in uses]


def _any_of(rng: np.random.Generator, garments: Sequence[Garment]) -> Garment:
    return garments[int(rng.integers(len(garments)))]


def _moment(rng: np.random.Generator, arms: str | None = None) -> Moment:
    left, right = (arms or str(rng.choice(Moment.ARMS)) for _ in range(2))
    return Moment(str(rng.choice(Moment.MOUTHS)), str(rng.choice(Moment.GAZES)), left, right)


def _portrait(
    face: Face,
    moment: Moment,
    top: Garment,
    wear: tuple[Garment, Garment],
    size: int,
    held_out: bool,
) -> Picture:
    drawn = draw_person(face, moment, top, bottom=wear[0], shoes=wear[1], view=PORTRAIT, size=size)
    gaze = "" if moment.gaze == "ahead" else f", looking {moment.gaze}"
    return Picture(
        pixels=drawn.pixels,
        caption=f"{moment.mouth} person in a {top}{gaze}",
        attributes={
            **face.attributes(),
            **top.attributes(),
            "mouth": moment.mouth,
            "gaze": moment.gaze,
        },
        held_out=held_out,
        masks=drawn.masks,
        pose=drawn.pose,
    )


def _tried_on(
    rng: np.random.Generator,
    face: Face,
    top: Garment,
    wear: tuple[Garment, Garment],
    size: int,
    held_out: bool,
) -> Picture:
    moment = _moment(rng)
    worn = _any_of(rng, [garment for garment in _FREE if garment != top])

    def draw(garment: Garment) -> Drawn:
        return draw_person(
            face, moment, garment, bottom=wear[0], shoes=wear[1], view=UPPER, size=size
        )

    after, before = draw(top), draw(worn)
    garment, garment_mask = draw_garment(top, size)
    wearable = after.masks["wearable"]
    return Picture(
        pixels=after.pixels,
        caption=f"person wearing a {top}",
        attributes={**face.attributes(), **top.attributes(), "worn before": str(worn)},
        held_out=held_out,
        masks=after.masks,
        given={
            "garment": garment,
            "person": before.pixels,
            "agnostic": _greyed(after.pixels, wearable),
        },
        given_masks={
            "garment": garment_mask,
            "person": before.masks["clothes"],
            "agnostic": wearable,
        },
        pose=after.pose,
    )


def _greyed(pixels: Pixels, where: Mask) -> Pixels:
    grey = pixels.copy()
    grey[where] = _GREY
    return grey
