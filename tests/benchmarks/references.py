"""Pictures to draw like: what four of a person's own give the built-in base, without any training.

The people are the design teams and artists that the base never saw, the captions those that no
device trains on. *Error* is the denoising error on their own pictures of these captions; it knows
no tower. *Paired distance* is to the person's own picture of the caption (tower
``drawings-looks``), *P* is calibrated style (``drawings-styles``; 0 like anybody, 1 like the
person; people whom it cannot tell apart are left out), *clip_t* the cosine of picture and caption
(``drawings-concepts``). The base looks through the tower that these three come from, which flatters
them: an error that falls does not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from locavore.client.captioned import picture_record
from locavore.client.device import Device
from locavore.client.image_model import Drawing, ImageModel
from locavore.home import find_base
from locavore.server.simulation.gallery import Artist, load_gallery
from locavore.shared.contexts import Consent
from locavore.shared.image_tokens import MOST_PICTURES
from locavore.shared.metrics.local import clip_t, paired_distance, personalization
from locavore.shared.metrics.towers import drawing_towers
from locavore.shared.pictures import Picture, Pixels

from .report import Goal, Options, Report, machine_line

__all__ = ["run"]

BASE = "drawings-32-int8"
CAPTIONS = 16  # of a person
KNOWN = 64  # of a person's pictures, that styles are compared with
NONE, OWN, FOUND, OTHERS = "no pictures", "own, at random", "own, retrieved", "another person's"
GOALS = (
    Goal(name="own: error / no pictures", bound=0.99, at_most=True),
    Goal(name="own: error / another person's", bound=0.995, at_most=True),
    Goal(name="own: paired distance / no pictures", bound=0.97, at_most=True),
    Goal(name="own: P above no pictures", bound=0.05),
)


@dataclass(frozen=True)
class _Figures:
    error: float
    paired: float
    style: float
    clip_t: float


def run(options: Options) -> Report:
    """Draw everybody's held-out captions in every way."""
    model = ImageModel(find_base(options.bases[0] if options.bases else BASE))
    artists = load_gallery("drawings").artists[: 2 if options.quick else None]
    count = 2 if options.quick else CAPTIONS
    rows: dict[str, list[_Figures]] = {way: [] for way in (NONE, OWN, FOUND, OTHERS)}
    for place, artist in enumerate(artists):
        other = artists[(place + 1) % len(artists)]
        shown: dict[str, Sequence[Sequence[Picture]]] = {
            NONE: [[]] * count,
            OWN: _drawn_from(artist, count, place),
            FOUND: _retrieved(model, artist, count),
            OTHERS: _drawn_from(other, count, place),
        }
        for way, references in shown.items():
            rows[way].append(_figures(model, artist, artists, references))
    means = {way: _mean(found) for way, found in rows.items()}
    return _report(means, len(artists), count)


def _drawn_from(artist: Artist, count: int, seed: int) -> list[list[Picture]]:
    rng = np.random.default_rng(seed)
    chosen = (rng.choice(len(artist.train), MOST_PICTURES, replace=False) for _ in range(count))
    return [[Picture(artist.train[int(i)].pixels) for i in rows] for rows in chosen]


def _retrieved(model: ImageModel, artist: Artist, count: int) -> list[list[Picture]]:
    """What the device finds for each caption, and then its newest pictures."""
    device = Device(model)
    device.remember_all(
        [
            picture_record(Picture(p.pixels), p.caption, id=str(i), consent=Consent(retrieve=True))
            for i, p in enumerate(artist.train)
        ]
    )
    most = MOST_PICTURES
    guided = (
        device.guide(p.caption, k=most, budget=most, cost=lambda _: 1, about=False, newest=most)
        for p in artist.held_out[:count]
    )
    return [list(model.pictured(guidance.exemplars)[1]) for guidance in guided]


def _figures(
    model: ImageModel,
    artist: Artist,
    everybody: Sequence[Artist],
    references: Sequence[Sequence[Picture]],
) -> _Figures:
    held_out = artist.held_out[: len(references)]
    captions, real = [p.caption for p in held_out], _pixels(artist.held_out)
    own = real[: len(references)]
    drawn = np.stack(
        [p.pixels for p in model.generate(captions, Drawing(seed=1), references=references)]
    )
    others = {a.name: _pixels(a.held_out) for a in everybody if a is not artist}
    towers = drawing_towers()
    known = _pixels(artist.train[:KNOWN])
    errors = model.errors(
        [Picture(pixels) for pixels in own], captions, draws=8, references=references
    )
    score = personalization(towers.styles, drawn, known, real, others).score
    return _Figures(
        float(errors.mean()),
        paired_distance(towers.looks, drawn, own).value,
        np.nan if score is None else score,
        clip_t(towers.concepts, drawn, captions).value,
    )


def _pixels(pictures: Sequence[object]) -> Pixels:
    stacked: Pixels = np.stack([picture.pixels for picture in pictures])  # type: ignore[attr-defined]
    return stacked


def _mean(found: Sequence[_Figures]) -> _Figures:
    columns = [[getattr(one, name) for one in found] for name in _Figures.__annotations__]
    return _Figures(*(float(np.nanmean(column)) for column in columns))


def _report(rows: Mapping[str, _Figures], people: int, captions: int) -> Report:
    none, own = rows[NONE], rows[OWN]
    return Report(
        benchmark="references",
        lines=(
            machine_line(),
            f"{people} teams and artists that the base never saw, {captions} captions of each "
            "that nobody trained on; nothing was trained",
        ),
        columns=("shown", "error", "paired distance", "P", "clip_t"),
        rows=tuple(
            (way, f"{r.error:.4f}", f"{r.paired:.3f}", f"{r.style:.2f}", f"{r.clip_t:.2f}")
            for way, r in rows.items()
        ),
        ratios={
            GOALS[0].name: own.error / none.error,
            GOALS[1].name: own.error / rows[OTHERS].error,
            GOALS[2].name: own.paired / none.paired,
            GOALS[3].name: own.style - none.style,
        },
        goals=GOALS,
    )
