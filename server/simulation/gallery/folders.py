"""Pictures in a folder: a person's in a folder of theirs, each named by what it shows."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ....shared.errors import BadInputError
from ....shared.pictures import Picture as Plain
from .asked import dealt
from .layouts import load_dreambench, load_polyvore, load_viton_hd
from .pictures import Artist, Gallery, Picture

__all__ = ["LAYOUTS", "load_folder", "load_people"]

_ENDINGS = (".jpg", ".jpeg", ".png")
_MOST = 512  # pixels a side that are kept
_HELD_OUT = 4  # one in so many captions, or pictures where captions are few
_FEWEST = 4  # pictures of a person: one to judge by, and three to learn from
_NUMBERED = re.compile(r"[\s_.-]*\(?\d+\)?$")

LAYOUTS = {
    "DreamBench": ("dataset/prompts_and_classes.txt", load_dreambench),
    "VITON-HD": ("train_pairs.txt", load_viton_hd),
    "Polyvore": ("train_no_dup.json", load_polyvore),
}
"""The file by which a published layout is known, and its reader."""


def load_folder(folder: Path, layout: str | None, people: int, *, plain: bool = True) -> Gallery:
    """People with pictures out of a folder, in a published layout or a plain one.

    Args:
        folder: to be read.
        layout: a name in :data:`LAYOUTS` that is looked for first.
        people: to whom pictures are dealt that belong to nobody.
        plain: whether pictures and captions are enough.

    Raises:
        BadInputError: a file is missing or cannot be read, which is named; or neither layout is
            there.
    """
    if not folder.is_dir():
        raise BadInputError(f"there is no folder {folder}")
    if layout is not None:
        file, read = LAYOUTS[layout]
        if (folder / Path(file).parts[0]).exists():  # the reader names what else is missing
            gallery = read(folder)
            alone = not any(artist.train and artist.held_out for artist in gallery.artists)
            return dealt(gallery, people) if alone else gallery
    if plain and any(path.is_dir() for path in folder.iterdir()):
        return load_people(folder)
    wanted = [f"{LAYOUTS[layout][0]} ({layout})"] if layout is not None else []
    wanted += ["folder of pictures for each person"] if plain else []
    raise BadInputError(
        f"{folder} has no {' and no '.join(wanted)}"
        if wanted
        else f"{folder} is not read: this task needs more than pictures, and comes with its own"
    )


def load_people(folder: Path) -> Gallery:
    """Pictures ``PERSON/CAPTION.png`` or ``.jpg``; a number after the caption is not part of it.

    A quarter of all captions is held out, for everybody. Where somebody would be left without
    pictures on either side, every fourth of each person's pictures is instead.

    Args:
        folder: one that holds a folder for each person.

    Raises:
        BadInputError: somebody has fewer than 4 pictures, or a file is none; it is named.
    """
    found = {place.name: _pictures(place) for place in sorted(folder.iterdir()) if place.is_dir()}
    captions = sorted({caption for own in found.values() for caption in own.values()})
    reserved = frozenset(captions[_HELD_OUT - 1 :: _HELD_OUT])
    shares = [
        sum(caption in reserved for caption in own.values()) / len(own) for own in found.values()
    ]
    by_caption = all(0 < share <= 0.5 for share in shares)
    artists = (_artist(name, own, reserved if by_caption else None) for name, own in found.items())
    return Gallery(name=folder.name, kind="real", artists=tuple(artists))


def _pictures(place: Path) -> dict[Path, str]:
    """Files in order, each with its caption."""
    files = [file for file in sorted(place.iterdir()) if file.suffix.lower() in _ENDINGS]
    if len(files) < _FEWEST:
        raise BadInputError(
            f"{place} must hold {_FEWEST} pictures ({', '.join(_ENDINGS)}) or more, has "
            f"{len(files)}"
        )
    return {file: _caption(file.stem) for file in files}


def _caption(stem: str) -> str:
    words = _NUMBERED.sub("", stem) or stem
    return re.sub(r"[_\s]+", " ", words).strip()


def _artist(name: str, own: Mapping[Path, str], reserved: frozenset[str] | None) -> Artist:
    pictures = []
    for number, (file, caption) in enumerate(own.items()):
        picture = Plain.load(file)
        side = min(_MOST, *picture.size)
        held_out = number % _HELD_OUT == 3 if reserved is None else caption in reserved
        pixels = np.ascontiguousarray(picture.resized((side, side)).pixels)
        pictures.append(Picture(pixels=pixels, caption=caption, held_out=held_out))
    return Artist(name=name, pictures=tuple(pictures))
