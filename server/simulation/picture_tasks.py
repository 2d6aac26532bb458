"""What an image task brings to its study: a row for each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

from . import judging as by
from .gallery import Gallery, load_gallery
from .gallery import Picture as Shown
from .gallery.asked import clicked, dressed, every, spread, staged, told, untold
from .gallery.avatar_people import load_faces, load_tryon
from .gallery.folders import load_folder
from .gallery.outfits import load_outfits, load_styled
from .gallery.pictures import Mask, Pixels
from .gallery.products import load_ads, load_group_ads
from .judging import Measure

__all__ = ["PICTURE_TASKS", "PictureTask"]

# Per person, so many that records can hide among each other (MIN_RECORDS, client/federated.py).
_PICTURES = 48  # a quarter of them held out
_OUTFITS = 12  # of four garments
_SHOWN = 600  # advertisements in a person's log
_SHOWN_TO_GROUP = 3000


@dataclass(frozen=True, kw_only=True)
class PictureTask:
    """How a task is simulated on pictures.

    Args:
        people: by the name of a built-in gallery, the usual one first, what makes it of the number
            of people and a seed.
        measures: what drawn pictures are judged by.
        drawn_on: the picture that drawing begins from, and where it may change; None where all is
            drawn anew.
        layout: of a published data set, in :data:`~.gallery.folders.LAYOUTS`.
        note: what a reader must know of the task.
        data_note: and of its built-in data.
    """

    people: Mapping[str, Callable[[int, int], Gallery]]
    measures: tuple[Measure, ...]
    drawn_on: Callable[[Shown], tuple[Pixels, Mask]] | None = None
    layout: str | None = None
    note: str = ""
    data_note: str = ""

    def gallery(self, data: Path | None, people: int, seed: int) -> Gallery:
        """The people: the usual ones, those of another built-in gallery, or those of a folder.

        Raises:
            BadInputError: the folder cannot be read.
        """
        name = next(iter(self.people)) if data is None else str(data)
        if name in self.people:
            return self.people[name](people, seed)
        assert data is not None  # its name is not built in
        plain = self.drawn_on is None
        return load_folder(data, self.layout, people, plain=plain)


def _drawings(people: int, seed: int) -> Gallery:
    gallery = load_gallery("drawings")
    return Gallery(name=gallery.name, kind=gallery.kind, artists=gallery.artists[:people])


def _loaded(name: str, people: int, seed: int) -> Gallery:
    return spread(load_gallery(name), people)


def _faces(people: int, seed: int) -> Gallery:
    return load_faces(people, _PICTURES, seed=seed)


def _tryon(people: int, seed: int) -> Gallery:
    return load_tryon(people, _PICTURES, seed=seed)


def _outfits(people: int, seed: int) -> Gallery:
    gallery = load_outfits(people, _OUTFITS, seed=seed)
    return every(gallery, partial(untold, attribute="category"))


def _styled(people: int, seed: int) -> Gallery:
    return every(load_styled(people, _PICTURES, seed=seed), told)


def _ads(people: int, seed: int) -> Gallery:
    gallery = every(load_ads(people, _SHOWN, seed=seed), partial(clicked, seed=seed))
    return every(gallery, partial(untold, attribute="product"))


def _group_ads(people: int, seed: int) -> Gallery:
    gallery = spread(load_group_ads(_SHOWN_TO_GROUP, seed=seed), people)
    gallery = every(gallery, partial(clicked, seed=seed))
    return every(every(gallery, partial(untold, attribute="product")), told)


_RESERVED = "Held-out garments were worn by nobody in training."
_REPLAYED = (
    "A device learns from the advertisements that its person clicked, as if every one had been "
    "shown equally often, and is asked for products that nobody trained on."
)

PICTURE_TASKS: Mapping[str, PictureTask] = MappingProxyType(
    {
        "image.general": PictureTask(
            people={"drawings": _drawings, "glyphs": partial(_loaded, "glyphs")},
            measures=(by.PAIRED, by.PERSONAL, by.SHOWS),
        ),
        "image.fashion_design.behaviors": PictureTask(
            people={"outfits": _outfits},
            measures=(by.PALETTE, by.COMPATIBLE, by.PAIRED),
            layout="Polyvore",
            data_note="Captions name a garment's category; what it is to look like is learned from "
            f"what the person wore. {_RESERVED}",
        ),
        "image.product.behaviors": PictureTask(
            people={"ads": _ads},
            measures=(by.CLICKS, by.PAIRED),
            drawn_on=staged,
            data_note=_REPLAYED,
        ),
        "image.fashion_design.profiles": PictureTask(
            people={"styled": _styled},
            measures=(by.PALETTE, by.PAIRED),
            data_note="What the person tells of their taste stands before every caption, in all "
            f"arms. {_RESERVED}",
        ),
        "image.product.profiles": PictureTask(
            people={"group ads": _group_ads},
            measures=(by.CLICKS, by.PAIRED),
            drawn_on=staged,
            data_note=f"{_REPLAYED} A device is a group's, whose name stands before every caption.",
        ),
        "image.subject": PictureTask(
            people={"subjects": partial(_loaded, "subjects")},
            measures=(by.LOOKS, by.CONCEPT, by.SHOWS),
            layout="DreamBench",
            data_note="A device has a handful of pictures of one thing.",
        ),
        "image.face": PictureTask(
            people={"faces": _faces},
            measures=(by.WHOSE, by.HEADS, by.PAIRED),
            data_note=f"Captions say clothes, mood and gaze, and nothing of who it is. {_RESERVED}",
        ),
        "image.tryon": PictureTask(
            people={"tryon": _tryon},
            measures=(by.STRUCTURE, by.IN_MASK, by.PAIRED),
            drawn_on=dressed,
            layout="VITON-HD",
            note="Only where any top could be seen is drawn; the rest is the person's picture. "
            "The base takes no picture of the garment: it is told in words.",
            data_note=_RESERVED,
        ),
    }
)
"""By the task's id."""
