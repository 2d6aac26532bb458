"""What drawn pictures are judged by: a row for each figure.

Some compare with a person's own pictures. Others need to know what is true of a picture, such as
where the garment is; nobody knows that of photographs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ...shared.metrics.images import psnr, ssim
from ...shared.metrics.local import (
    StyleClassifier,
    clip_i,
    clip_t,
    dino_i,
    paired_distance,
    personalization,
)
from ...shared.metrics.towers import DrawingTowers
from ...shared.pictures import Picture, Pixels
from .gallery import Artist
from .gallery import Picture as Shown
from .gallery.asked import dressed
from .gallery.pictures import Mask
from .gallery.products import advertisements, click_chance
from .gallery.wardrobe import COLOURS, CREAM, PALETTES, Garment, compatibility
from .study import Metric

__all__ = [
    "CLICKS", "COMPATIBLE", "CONCEPT", "HEADS", "IN_MASK", "LOOKS", "PAIRED", "PALETTE",
    "PERSONAL", "SHOWS", "STRUCTURE", "WHOSE", "Judged", "Measure", "worn_colour",
]  # fmt: skip

_TOWER = 32  # pixels a side that towers see, or a multiple
_EQUAL = 60.0  # decibels that count as equal
_HEAD = ("face", "hair")
_CLOTHES = ("garment", "clothes")  # masks of one worn thing; a picture has one of them


@dataclass(frozen=True, kw_only=True)
class Judged:
    """What an arm drew for a person, and all that it is compared with, in one size.

    Args:
        drawn: ``(H, W, 3)`` each.
        asked: the person's own held-out picture for each of them.
        own: all of the person's held-out pictures.
        known: of those that the device has.
        others: other people's held-out pictures.
        artist: the person, with what is true of them.
        towers: whose features pictures are compared in.
    """

    drawn: Sequence[Pixels]
    asked: Sequence[Shown]
    own: Sequence[Shown]
    known: Sequence[Shown]
    others: Mapping[str, Sequence[Shown]]
    artist: Artist
    towers: DrawingTowers


@dataclass(frozen=True)
class Measure:
    """A figure, and how it is computed; None where it says nothing.

    Args:
        invented: whether it needs what only the maker of a picture knows.
    """

    metric: Metric
    of: Callable[[Judged], float | None]
    invented: bool = False


def _paired(judged: Judged) -> float:
    return paired_distance(judged.towers.looks, _seen(judged.drawn), _shown(judged.asked)).value


def _personal(judged: Judged) -> float | None:
    if not judged.others:
        return None
    others = {name: _shown(theirs) for name, theirs in judged.others.items()}
    drawn, known, own = _seen(judged.drawn), _shown(judged.known), _shown(judged.own)
    return personalization(judged.towers.styles, drawn, known, own, others).score


def _clip_t(judged: Judged) -> float:
    captions = [shown.caption for shown in judged.asked]
    return clip_t(judged.towers.concepts, _seen(judged.drawn), captions).value


def _clip_i(judged: Judged) -> float:
    own = _shown([*judged.own, *judged.known])
    return clip_i(judged.towers.concepts, _seen(judged.drawn), own).value


def _dino_i(judged: Judged) -> float:
    own = _shown([*judged.own, *judged.known])
    return dino_i(judged.towers.looks, _seen(judged.drawn), own).value


def _ssim(judged: Judged) -> float:
    return float(ssim(np.stack(judged.drawn), np.stack(_pixels(judged.asked))).mean())


def _in_mask(judged: Judged) -> float:
    """Decibels, where something was to be drawn: errors are of that part of the picture alone."""
    values = []
    for drawn, shown in zip(judged.drawn, judged.asked, strict=True):
        _, mask = dressed(shown)
        only = np.where(mask[..., None], drawn, shown.pixels)
        whole = min(float(psnr(only[None], shown.pixels[None])[0]), _EQUAL)
        values.append(whole + 10 * np.log10(mask.mean()))
    return float(np.mean(values))


def _heads(judged: Judged) -> float | None:
    """Calibrated as personalization is, on heads alone."""
    if not judged.others:
        return None
    return personalization(
        judged.towers.looks,
        _heads_of(judged, judged.drawn),
        _heads_of(judged, _pixels(judged.known)),
        _heads_of(judged, _pixels(judged.own)),
        {name: _heads_of(judged, _pixels(theirs)) for name, theirs in judged.others.items()},
    ).score


def _whose(judged: Judged) -> float | None:
    if not judged.others:
        return None
    people = {**judged.others, judged.artist.name: judged.own}
    heads = {name: _heads_of(judged, _pixels(theirs)) for name, theirs in people.items()}
    classifier = StyleClassifier.fit(judged.towers.looks, heads)
    found = classifier.people_of(_heads_of(judged, judged.drawn))
    return float(np.mean([name == judged.artist.name for name in found]))


def _palette(judged: Judged) -> float | None:
    liked = PALETTES[judged.artist.truth["palette"]]
    return float(np.mean([colour in liked for colour in _colours(judged)]))


def _compatible(judged: Judged) -> float | None:
    """With the outfit's other garments; kind and pattern are taken for right."""
    found = []
    for colour, shown in zip(_colours(judged), judged.asked, strict=True):
        drawn = replace(_garment(shown), colour=colour)
        for other in judged.artist.held_out:
            same = other.attributes["outfit"] == shown.attributes["outfit"]
            if same and other.attributes["category"] != shown.attributes["category"]:
                found.append(compatibility((drawn, _garment(other))))
    return float(np.mean(found)) if found else None


def _clicks(judged: Judged) -> float:
    group, chances = judged.artist.truth["group"], []
    for drawn, shown in zip(judged.drawn, judged.asked, strict=True):
        behind = ~shown.masks["product"]
        apart = {
            real.attributes["scene"]: np.abs(
                drawn[behind].astype(float) - real.at_size(drawn.shape[:2]).pixels[behind]
            ).mean()
            for real in advertisements(64)
            if real.attributes["product"] == shown.attributes["product"]
        }
        chances.append(click_chance(group, min(apart, key=lambda scene: apart[scene])))
    return float(np.mean(chances))


def worn_colour(pixels: Pixels, mask: Mask) -> str:
    """The wardrobe's colour that is nearest to most pixels under the mask; patterns are left out.

    Without pixels of any colour it is the first.
    """
    names = [*COLOURS, "cream"]
    table = np.array([*COLOURS.values(), CREAM], float)
    inside = pixels[mask].astype(float)  # (N, 3)
    nearest = np.square(inside[:, None] - table).sum(axis=2).argmin(axis=1)
    votes = Counter(names[i] for i in nearest if names[i] != "cream")
    return max(COLOURS, key=lambda name: votes[name])


def _colours(judged: Judged) -> list[str]:
    """Of what is worn, in each drawn picture, where the person's own picture shows it."""
    found = []
    for drawn, shown in zip(judged.drawn, judged.asked, strict=True):
        mask = next(shown.masks[name] for name in _CLOTHES if name in shown.masks)
        found.append(worn_colour(drawn, mask))
    return found


def _garment(shown: Shown) -> Garment:
    return Garment(*(shown.attributes[name] for name in ("kind", "colour", "pattern")))


def _heads_of(judged: Judged, pixels: Sequence[Pixels]) -> Pixels:
    """Only what is where anybody's head may be: a person's own outline would tell who it is."""
    everybody = [*judged.own, *(shown for theirs in judged.others.values() for shown in theirs)]
    where = np.any([shown.masks[name] for shown in everybody for name in _HEAD], axis=0)
    return _seen([np.where(where[..., None], own, np.uint8(255)) for own in pixels])


def _pixels(pictures: Sequence[Shown]) -> list[Pixels]:
    return [shown.pixels for shown in pictures]


def _shown(pictures: Sequence[Shown]) -> Pixels:
    return _seen(_pixels(pictures))


def _seen(pixels: Sequence[Pixels]) -> Pixels:
    """``(N, H, W, 3)``, in a size that the towers see."""
    height, width = pixels[0].shape[:2]
    if height == width and height % _TOWER == 0:
        return np.stack(pixels)
    return np.stack([Picture(own).resized((_TOWER, _TOWER)).pixels for own in pixels])


PAIRED = Measure(
    Metric(
        "paired",
        "paired distance@ drawings-looks",
        "How far a picture drawn for a caption is from the person's own of the same caption: "
        "1 - cosine in a small tower of ours; 0 is the same. Lower is better.",
        3,
    ),
    _paired,
)
PERSONAL = Measure(
    Metric(
        "personal",
        "Personal P@ drawings-styles",
        "P = (s - floor) / (ceiling - floor). s is the similarity in style of the drawn "
        "pictures to the person's; floor is that of other people's real pictures, ceiling that "
        "of the person's own unseen ones. 0 looks like anybody's, 1 like the person's. A dash: "
        "the measure cannot tell these people apart.",
    ),
    _personal,
)
SHOWS = Measure(
    Metric(
        "clip_t",
        "clip_t@ drawings-concepts",
        "Cosine of a drawn picture and its caption, in a small tower of ours: does it show "
        "what was asked for? Higher is better.",
    ),
    _clip_t,
)
CONCEPT = Measure(
    Metric(
        "clip_i",
        "clip_i@ drawings-concepts",
        "Mean cosine of the drawn pictures and all of the person's, in a small tower of ours that "
        "sees what is shown. Higher is better.",
        3,
    ),
    _clip_i,
)
LOOKS = Measure(
    Metric(
        "dino_i",
        "dino_i@ drawings-looks",
        "As clip_i, in a tower that sees shapes and colours. Higher is better.",
        3,
    ),
    _dino_i,
)
STRUCTURE = Measure(
    Metric(
        "ssim",
        "SSIM",
        "Structural similarity of the drawn picture and the true one; 1 is the same. What was not "
        "to be drawn is equal in all arms, and counted.",
        3,
    ),
    _ssim,
)
IN_MASK = Measure(
    Metric(
        "psnr",
        "PSNR in the mask",
        "Peak signal-to-noise ratio against the true picture, in decibels, where something was to "
        "be drawn. Higher is better.",
        1,
    ),
    _in_mask,
)
HEADS = Measure(
    Metric(
        "face_sim",
        "face P@ drawings-looks",
        "As P, on heads alone, in a small tower of ours: 0 is anybody's head, 1 the person's. "
        "A dash: the measure cannot tell them apart.",
    ),
    _heads,
    invented=True,
)
WHOSE = Measure(
    Metric(
        "whose",
        "recognized@ drawings-looks",
        "Share of drawn heads to which the person's own held-out heads are nearer, on average, "
        "than those of any other device's person.",
    ),
    _whose,
    invented=True,
)
PALETTE = Measure(
    Metric(
        "palette",
        "liked palette",
        "Share of drawn garments whose colour is of the palette that the person likes, which only "
        "the data's maker knows: 0.33 by chance, about 0.9 of the true pictures.",
    ),
    _palette,
    invented=True,
)
COMPATIBLE = Measure(
    Metric(
        "compatibility",
        "goes together",
        "Share of the outfit's other garments with which the drawn colour goes together, by the "
        "rule that made the data.",
    ),
    _compatible,
    invented=True,
)
CLICKS = Measure(
    Metric(
        "ctr",
        "true chance of a click",
        "Of the scene that the drawn background is nearest to, for this person, which only the "
        "data's maker knows: 0.08 before most scenes, up to 0.68 before the one liked best.",
    ),
    _clicks,
    invented=True,
)
