"""Judging the arms on what each device's person keeps held out."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ...shared.metrics import paired_bootstrap
from .config import BASE
from .person import SimulatedPerson, retrieves
from .study import Made, Study

__all__ = ["Losses", "Scores", "score_losses", "score_made", "summarize"]

Scores = dict[str, dict[str, dict[str, Any]]]  # arm -> device -> figures
Losses = dict[str, dict[str, list[float]]]  # arm -> device -> mean loss of every held-out item


def score_losses(
    people: Sequence[SimulatedPerson], arms: Sequence[str], on_arm: Callable[[str], None]
) -> tuple[Scores, Losses]:
    """Held-out loss of every arm on every device, over all and of every item."""
    scores: Scores = {arm: {} for arm in arms}
    items: Losses = {arm: {} for arm in arms}
    for arm in arms:
        for person in people:
            adapters = person.adapters_of(arm)
            if adapters is not None and person.held_out:
                losses = person.in_arm(arm).losses(adapters, retrieval=retrieves(arm))
                scores[arm][person.name] = {"loss": float(np.concatenate(losses).mean())}
                items[arm][person.name] = [float(values.mean()) for values in losses]
            on_arm(f"{arm}: {person.name}")
    return scores, items


def score_made(
    people: Sequence[SimulatedPerson],
    study: Study,
    arms: Sequence[str],
    count: int,
    scores: Scores,
    on_arm: Callable[[str], None],
) -> dict[str, dict[str, list[Made]]]:
    """Let every arm generate, and add the study's figures to ``scores``; by arm and device."""
    made: dict[str, dict[str, list[Made]]] = {arm: {} for arm in arms}
    for arm in arms:
        for person in people:
            adapters = person.adapters_of(arm)
            if adapters is not None and person.held_out:
                rows = person.in_arm(arm).make(adapters, count, retrieval=retrieves(arm))
                made[arm][person.name] = rows
                scores[arm][person.name] |= study.judge(person, rows, people)
            on_arm(f"{arm}: {person.name}")
    return made


def summarize(scores: Scores, items: Losses, study: Study, seed: int) -> dict[str, dict[str, Any]]:
    """Mean over devices, worst device, and the gain over the base with its interval."""
    summary = {}
    for arm, devices in scores.items():
        if not devices:
            continue
        worst = max(devices, key=lambda name: devices[name]["loss"])
        mean = float(np.mean([figures["loss"] for figures in devices.values()]))
        summary[arm] = {
            "loss": mean,
            "worst_loss": devices[worst]["loss"],
            "worst_device": worst,
            **{
                metric.key: metric.of_loss(mean)
                if metric.of_loss
                else _mean([figures.get(metric.key) for figures in devices.values()])
                for metric in study.metrics
            },
            "gain": None if arm == BASE else _gain(items[BASE], items[arm], seed),
        }
    return summary


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


def _gain(
    base: Mapping[str, Sequence[float]], arm: Mapping[str, Sequence[float]], seed: int
) -> dict[str, float]:
    before = [loss for name in arm for loss in base[name]]
    after = [loss for name in arm for loss in arm[name]]
    mean, low, high = paired_bootstrap(before, after, seed=seed)
    return {"mean": mean, "low": low, "high": high}
