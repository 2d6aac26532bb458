"""Liked and disliked drawings: what learning from choices gives beside imitating what was liked.

Somebody likes one team's drawing of a caption and dislikes another team's. Judged are captions
that were not trained on. *Reward* is how much less the adapted base errs on the liked team's
drawing than before, minus the same for the disliked team's, in thousandths, and *right* the share
of captions where that is above 0. What is drawn is held to the liked team's drawing (*paired*
distance) and to either team's style (*P*: 0 looks like anybody's, 1 like the team's own);
*clip_t* says whether it shows the caption.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from locavore.client.captioned import picture_record
from locavore.client.device import Device
from locavore.client.image_model import Drawing, ImageModel
from locavore.client.training.private import PrivateObjective, PrivateTraining, SliceTrainer
from locavore.home import find_base
from locavore.server.simulation.gallery import Artist, Gallery, load_gallery
from locavore.shared.adapters import Adapter, Array
from locavore.shared.contexts import Consent
from locavore.shared.metrics.local import clip_t, paired_distance, personalization
from locavore.shared.metrics.towers import drawing_towers
from locavore.shared.pictures import Picture, Pixels

from .report import Goal, Options, Report, machine_line

__all__ = ["run"]

BASE = "drawings-32-int8"
TASTES = (("streamline-emojis", "noto-v1"), ("fxemoji", "noto-v1"))  # liked, disliked
PAIRS, JUDGED, DRAWS = 96, 24, 16
DRAWN = Drawing(seed=1, guidance=3.5)
TRAINING = PrivateTraining(steps=100, batch=8, learning_rate=1e-3)
BASE_ARM, IMITATED, CHOSEN, BOTH = "base", "imitated", "chosen", "imitated, then chosen"
LOOSELY = f"{CHOSEN}, beta 25"
ARMS: Mapping[str, tuple[str, PrivateObjective, float | None]] = {  # goes on from, what, beta
    IMITATED: (BASE_ARM, "sft", None),
    BOTH: (IMITATED, "dpo", 25.0),
    CHOSEN: (BASE_ARM, "dpo", None),
    LOOSELY: (BASE_ARM, "dpo", 25.0),
}
GOALS = (
    Goal(name=f"{LOOSELY}: right", bound=0.9),
    Goal(name=f"{LOOSELY}: P above the base's", bound=0.1),
)


@dataclass(frozen=True)
class _Figures:
    reward: float
    right: float
    paired: float
    personal: float
    other: float
    clip_t: float


@dataclass(frozen=True)
class _Judged:
    """Drawings of both teams of the same captions, and what everybody's unseen ones look like."""

    captions: tuple[str, ...]
    liked: tuple[Picture, ...]
    disliked: tuple[Picture, ...]
    teams: tuple[Artist, Artist]
    unseen: Mapping[str, Pixels]


def run(options: Options) -> Report:
    """Train every arm on each taste, and draw."""
    package = find_base(options.bases[0] if options.bases else BASE)
    model = ImageModel(package)
    steps = 2 if options.quick else TRAINING.steps
    training = PrivateTraining(
        steps=steps, batch=TRAINING.batch, learning_rate=TRAINING.learning_rate
    )
    rows: dict[str, list[_Figures]] = {name: [] for name in (BASE_ARM, *ARMS)}
    gallery = load_gallery("drawings")
    for liked, disliked in TASTES[: 1 if options.quick else None]:
        teams = (gallery.artist(liked), gallery.artist(disliked))
        judged = _judged(gallery, teams, 4 if options.quick else JUDGED)
        before = _errors(model, judged, None)
        rows[BASE_ARM].append(_figures(model, None, judged, before))
        devices: dict[str, Device] = {}
        for arm, (begin, objective, beta) in ARMS.items():
            device = devices[arm] = devices.get(begin) or _person(model, *teams)
            trainer = SliceTrainer.of(package, training, objective=objective, beta=beta)
            device.learn(trainer)
            rows[arm].append(_figures(model, device.private, judged, before))
    return _report({arm: _mean(found) for arm, found in rows.items()}, len(rows[BASE_ARM]))


def _person(model: ImageModel, liked: Artist, disliked: Artist) -> Device:
    """Somebody with verdicts on the teams' drawings of the same captions."""
    device = Device(model)
    ones, others = (
        {p.caption: Picture(p.pixels) for p in artist.train} for artist in (liked, disliked)
    )
    for caption in sorted(ones.keys() & others.keys())[:PAIRS]:
        for picture, action in ((ones[caption], "liked"), (others[caption], "disliked")):
            device.remember(
                picture_record(picture, caption, action=action, consent=Consent(train=True))
            )
    return device


def _judged(gallery: Gallery, teams: tuple[Artist, Artist], count: int) -> _Judged:
    ones, others = ({p.caption: Picture(p.pixels) for p in artist.held_out} for artist in teams)
    shared = sorted(ones.keys() & others.keys())
    captions = [shared[int(i)] for i in np.linspace(0, len(shared) - 1, count)]
    return _Judged(
        captions=tuple(captions),
        liked=tuple(ones[c] for c in captions),
        disliked=tuple(others[c] for c in captions),
        teams=teams,
        unseen={a.name: np.stack([p.pixels for p in a.held_out[:64]]) for a in gallery.artists},
    )


def _errors(model: ImageModel, judged: _Judged, adapter: Adapter | None) -> Array:
    """Denoising errors of liked and disliked drawings at the same noise, ``(2, N)``."""
    model.attach(*([adapter] if adapter else []))
    found: Array = np.stack(
        [
            model.errors(pictures, judged.captions, draws=DRAWS).mean(1)
            for pictures in (judged.liked, judged.disliked)
        ]
    )
    model.attach()
    return found


def _figures(
    model: ImageModel, adapter: Adapter | None, judged: _Judged, before: Array
) -> _Figures:
    gained, lost = before - _errors(model, judged, adapter)
    model.attach(*([adapter] if adapter else []))
    drawn = _pixels(model.generate(list(judged.captions), DRAWN))
    model.attach()
    towers = drawing_towers()
    likeness = [_style(drawn, team, judged.unseen) for team in judged.teams]
    return _Figures(
        reward=float((gained - lost).mean()) * 1000,
        right=float((gained > lost).mean()),
        paired=float(paired_distance(towers.looks, drawn, _pixels(judged.liked)).value),
        personal=likeness[0],
        other=likeness[1],
        clip_t=float(clip_t(towers.concepts, drawn, judged.captions).value),
    )


def _style(drawn: Pixels, team: Artist, unseen: Mapping[str, Pixels]) -> float:
    """Personal P for a team, among all teams and artists."""
    reference = np.stack([picture.pixels for picture in team.train[:64]])
    others = {name: pixels for name, pixels in unseen.items() if name != team.name}
    styles = drawing_towers().styles
    score = personalization(styles, drawn, reference, unseen[team.name], others).score
    return float("nan") if score is None else score


def _pixels(pictures: Sequence[Picture]) -> Pixels:
    stacked: Pixels = np.stack([picture.pixels for picture in pictures])
    return stacked


def _mean(found: Sequence[_Figures]) -> _Figures:
    columns = [[getattr(one, name) for one in found] for name in _Figures.__annotations__]
    return _Figures(*(float(np.mean(column)) for column in columns))


def _report(rows: Mapping[str, _Figures], tastes: int) -> Report:
    return Report(
        benchmark="likes",
        lines=(
            machine_line(),
            f"{tastes} tastes, {PAIRS} choices each, {TRAINING.steps} steps of {TRAINING.batch} a "
            "slice; a base that never saw the teams' drawings; towers drawings-…",
        ),
        columns=("arm", "reward", "right", "paired", "P", "P of the disliked", "clip_t"),
        rows=tuple(
            (
                arm,
                *(f"{r.reward:+.1f}", f"{r.right:.2f}", f"{r.paired:.3f}"),
                *(f"{r.personal:.2f}", f"{r.other:.2f}", f"{r.clip_t:.2f}"),
            )
            for arm, r in rows.items()
        ),
        ratios={
            GOALS[0].name: rows[LOOSELY].right,
            GOALS[1].name: rows[LOOSELY].personal - rows[BASE_ARM].personal,
        },
        goals=GOALS,
    )
