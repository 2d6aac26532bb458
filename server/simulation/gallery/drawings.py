"""Galleries of real drawings: teams and artists, and the subjects that recur in them."""

from __future__ import annotations

import io
import json
import lzma
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from ....shared.errors import BadInputError
from .pictures import Artist, Gallery, Picture, Pixels

__all__ = ["load_drawings", "load_subjects", "read_packed"]

_DATA = Path(__file__).parents[1] / "data"
_HELD_OUT = 4  # of a subject's drawings, one in so many is held out
_FEWEST = 4  # a drawing of a subject to judge by, and three to learn from


def load_drawings() -> Gallery:
    """Drawings at 32 pixels by five design teams and five clip-art artists; a device each.

    Captions that are held out are so for all of them. Source: ``data/SOURCE.md``.
    """
    by_device: dict[str, list[Picture]] = defaultdict(list)
    for device, picture in _drawings():
        by_device[device].append(picture)
    artists = (Artist(name=name, pictures=tuple(mine)) for name, mine in by_device.items())
    return Gallery(name="drawings", kind="real", artists=tuple(artists))


def load_subjects(drawings: int = 5) -> Gallery:
    """Subjects, each the only one of its device: drawn several times by one artist, or by many.

    A subject is a caption that one device has drawn ``drawings`` times, all different (named
    ``artist/caption``), or that so many devices have drawn (``everyone/caption``). Every fourth of
    its drawings is held out.

    Args:
        drawings: how many a subject must have, at least 4.

    Raises:
        BadInputError: ``drawings`` is too few, or so many that there is no such subject.
    """
    if drawings < _FEWEST:
        raise BadInputError(f"drawings must be at least {_FEWEST}, got {drawings}")
    by_artist: dict[str, list[Picture]] = defaultdict(list)
    by_concept: dict[str, dict[str, Picture]] = defaultdict(dict)
    for device, picture in _drawings():
        by_artist[f"{device}/{picture.caption}"].append(picture)
        by_concept[f"everyone/{picture.caption}"].setdefault(device, picture)
    found = {**by_artist, **{name: list(seen.values()) for name, seen in by_concept.items()}}
    subjects = ((name, _different(pictures)) for name, pictures in sorted(found.items()))
    artists = tuple(
        _subject(name, pictures) for name, pictures in subjects if len(pictures) >= drawings
    )
    if not artists:
        raise BadInputError(f"no subject has {drawings} drawings; ask for fewer")
    return Gallery(name="subjects", kind="real", artists=artists)


def _different(pictures: Iterable[Picture]) -> list[Picture]:
    return list({picture.pixels.tobytes(): picture for picture in pictures}.values())


def _subject(name: str, pictures: list[Picture]) -> Artist:
    concept = name.partition("/")[2]
    marked = tuple(
        replace(picture, held_out=i % _HELD_OUT == _HELD_OUT - 1, attributes={"subject": concept})
        for i, picture in enumerate(pictures)
    )
    return Artist(name=name, pictures=marked, truth={"subject": concept})


def _drawings() -> Iterable[tuple[str, Picture]]:
    """Every drawing with its device, in the data's order."""
    pixels, lines = read_packed("drawings")
    for drawn, line in zip(pixels, lines, strict=True):
        yield (
            line["device"],
            Picture(
                pixels=drawn,
                caption=line["caption"],
                tags=tuple(line["tags"]),
                held_out=line["held_out"],
            ),
        )


@cache
def read_packed(name: str) -> tuple[Pixels, tuple[dict[str, Any], ...]]:
    """Pixels ``(N, H, W, C)``, not writable, and a JSON object for each, of a built-in data set."""
    with lzma.open(_DATA / f"{name}.npy.xz") as raw:
        pixels = np.load(io.BytesIO(raw.read()))
    pixels.setflags(write=False)
    with lzma.open(_DATA / f"{name}.jsonl.xz", "rt", encoding="utf-8") as lines:
        return pixels, tuple(json.loads(line) for line in lines)
