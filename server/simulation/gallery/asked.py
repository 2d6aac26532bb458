"""What a task asks of a gallery's people: their pictures, with captions that leave it to taste.

A request says what is wanted, and not what the person likes: that is what is to be learned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from .pictures import Artist, Gallery, Mask, Picture, Pixels
from .products import GROUPS

__all__ = ["clicked", "dressed", "every", "spread", "staged", "told", "untold"]

_GREY = 128
_JPEG = 24  # levels by which a pixel differs for another reason than compression


def every(gallery: Gallery, change: Callable[[Artist], Artist]) -> Gallery:
    """The gallery with every person changed."""
    return replace(gallery, artists=tuple(change(artist) for artist in gallery.artists))


def spread(gallery: Gallery, people: int) -> Gallery:
    """At most so many of its people, evenly spread over all."""
    count = min(people, len(gallery.artists))
    places = np.arange(count) * len(gallery.artists) // count
    return replace(gallery, artists=tuple(gallery.artists[i] for i in places))


def untold(artist: Artist, attribute: str) -> Artist:
    """Captions say one attribute of a picture, and nothing else."""
    return _recaptioned(artist, lambda picture: picture.attributes[attribute])


def told(artist: Artist) -> Artist:
    """What the person tells of themselves stands before every caption."""
    words = ", ".join(artist.profile.values())
    return _recaptioned(artist, lambda picture: f"{words}: {picture.caption}")


def _recaptioned(artist: Artist, caption: Callable[[Picture], str]) -> Artist:
    pictures = tuple(replace(picture, caption=caption(picture)) for picture in artist.pictures)
    return replace(artist, pictures=pictures)


def clicked(artist: Artist, seed: int) -> Artist:
    """An advertisement for every click that counts, and held-out ones before liked scenes.

    A click counts with the least propensity divided by its own, so that all count as if every
    advertisement had been shown equally often (Li et al., arXiv:1003.5956, Algorithm 2: replay).
    """
    rng = np.random.default_rng([seed, *artist.name.encode()])
    least = min(line.propensity for line in artist.log)
    counted = [
        artist.pictures[line.picture]
        for line in artist.log
        if line.clicked and rng.random() < least / line.propensity
    ]
    liked = GROUPS[artist.truth["group"]]
    held_out = [p for p in artist.held_out if p.attributes["scene"] in liked]
    return replace(artist, pictures=(*counted, *held_out), log=())


def dressed(picture: Picture) -> tuple[Pixels, Mask]:
    """The person with grey in place of clothes, and where it is: what try-on draws."""
    agnostic = picture.given["agnostic"]
    differs: Mask = np.any(np.abs(agnostic.astype(int) - picture.pixels) > _JPEG, axis=2)
    mask = picture.given_masks.get("agnostic", differs)
    return np.where(mask[..., None], np.uint8(_GREY), picture.pixels), mask


def staged(picture: Picture) -> tuple[Pixels, Mask]:
    """The product on white, and where it is not: what an advertisement draws."""
    return picture.given["product"], ~picture.given_masks["product"]


def dealt(gallery: Gallery, people: int) -> Gallery:
    """Deal the pictures of many to a few, where nobody has any held out, a quarter to be so.

    What one of the gallery's people has stays together: all of it is held out or nothing.
    """
    hands: list[list[Picture]] = [[] for _ in range(min(people, len(gallery.artists)))]
    for number, artist in enumerate(gallery.artists):
        turn, hand = divmod(number, len(hands))
        hands[hand] += _marked(artist.pictures, held_out=turn % 4 == 3)
    artists = (Artist(name=f"hand {i}", pictures=tuple(hand)) for i, hand in enumerate(hands))
    return replace(gallery, artists=tuple(artists))


def _marked(pictures: Iterable[Picture], *, held_out: bool) -> list[Picture]:
    return [replace(picture, held_out=held_out) for picture in pictures]
