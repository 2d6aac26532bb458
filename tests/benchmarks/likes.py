"""Liked and disliked drawings: what learning from choices gives beside imitating what was liked.

Somebody likes one team's drawing of a caption and dislikes another team's. Judged are captions
that were not trained on. *Reward* is how much less the adapted base errs on the liked team's
drawing than before, minus the same for the disliked team's, in thousandths, and *right* the share
of captions where that is above 0. What is drawn is held to the liked team's drawing (*paired*
distance) and to either team's style (*P*: 0 looks like the other's, 1 like the team's own);
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
from locavore.server.simulation.gallery import Artist, load_gallery
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
ARMS: Mapping[str, tuple[PrivateObjective, ...]] = {
    "base": (),
    "imitated": ("sft",),
    "chosen": ("dpo",),
    "imitated, then chosen": ("sft", "dpo"),
}
GOALS = (
    Goal(name="chosen: right", bound=0.9),
    Goal(name="chosen: P above the base's", bound=0.1),
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
    """Drawings of both teams of the same captions."""

    captions: tuple[str, ...]
    liked: tuple[Picture, ...]
    disliked: tuple[Picture, ...]


def run(options: Options) -> Report:
    """Train every arm on each taste, and draw."""
    package = find_base(options.bases[0] if options.bases else BASE)
    model = ImageModel(package)
    steps = 2 if options.quick else TRAINING.steps
    training = PrivateTraining(
        steps=steps, batch=TRAINING.batch, learning_rate=TRAINING.learning_rate
    )
    trainers = {name: SliceTrainer.of(package, training, objective=name) for name in ("sft", "dpo")}
    rows: dict[str, list[_Figures]] = {name: [] for name in ARMS}
    for taste in TASTES[: 1 if options.quick else None]:
        liked, disliked = (load_gallery("drawings").artist(name) for name in taste)
        judged = _judged(liked, disliked, 4 if options.quick else JUDGED)
        errors = _errors(model, judged, None)
        for arm, objectives in ARMS.items():
            device = Device(model)
            _remember(device, liked, disliked)
            for objective in objectives:
                device.learn(trainers[objective])
            rows[arm].append(_figures(model, device.private, judged, errors, (liked, disliked)))
    return _report({arm: _mean(found) for arm, found in rows.items()}, len(rows["base"]))


def _remember(device: Device, liked: Artist, disliked: Artist) -> None:
    """Pairs of training pictures."""
    ones, others = (
        {p.caption: Picture(p.pixels) for p in artist.train} for artist in (liked, disliked)
    )
    for caption in sorted(ones.keys() & others.keys())[::2][:PAIRS]:
        for picture, action in ((ones[caption], "liked"), (others[caption], "disliked")):
            device.remember(
                picture_record(picture, caption, action=action, consent=Consent(train=True))
            )


def _judged(liked: Artist, disliked: Artist, count: int) -> _Judged:
    ones, others = (
        {p.caption: Picture(p.pixels) for p in artist.held_out} for artist in (liked, disliked)
    )
    captions = sorted(ones.keys() & others.keys())[:count]
    return _Judged(
        tuple(captions), tuple(ones[c] for c in captions), tuple(others[c] for c in captions)
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
    model: ImageModel,
    adapter: Adapter | None,
    judged: _Judged,
    before: Array,
    teams: tuple[Artist, Artist],
) -> _Figures:
    gained, lost = before - _errors(model, judged, adapter)
    model.attach(*([adapter] if adapter else []))
    drawn = _pixels(model.generate(list(judged.captions), DRAWN))
    model.attach()
    towers, own, other = drawing_towers(), _pixels(judged.liked), _pixels(judged.disliked)
    shown = [_pixels([Picture(p.pixels) for p in team.train[:64]]) for team in teams]
    styles = [
        personalization(towers.styles, drawn, reference, mine, {"other": others}).score
        for reference, mine, others in ((shown[0], own, other), (shown[1], other, own))
    ]
    return _Figures(
        reward=float((gained - lost).mean()) * 1000,
        right=float((gained > lost).mean()),
        paired=float(paired_distance(towers.looks, drawn, own).value),
        personal=float("nan") if styles[0] is None else styles[0],
        other=float("nan") if styles[1] is None else styles[1],
        clip_t=float(clip_t(towers.concepts, drawn, judged.captions).value),
    )


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
            GOALS[0].name: rows["chosen"].right,
            GOALS[1].name: rows["chosen"].personal - rows["base"].personal,
        },
        goals=GOALS,
    )
