"""Judging the arms on each device's held-out later writing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ...client.runtime import Generation
from ...client.sampling import Sampling
from ...shared.metrics import paired_bootstrap, perplexity, rouge_l
from .authorship import AuthorshipScorer
from .config import SimulationConfig
from .person import SimulatedPerson, Written

__all__ = ["Scores", "score_losses", "score_writing", "summarize"]

Scores = dict[str, dict[str, dict[str, Any]]]  # arm -> device -> figures


def score_losses(
    people: Sequence[SimulatedPerson], config: SimulationConfig, on_arm: Callable[[str], None]
) -> tuple[Scores, dict[str, dict[str, list[float]]]]:
    """Held-out loss of every arm on every device.

    Returns:
        Figures by arm and device, and every passage's mean loss for the bootstrap.
    """
    scores: Scores = {arm: {} for arm in config.arms}
    passages: dict[str, dict[str, list[float]]] = {arm: {} for arm in config.arms}
    for arm in config.arms:
        for person in people:
            adapters = person.adapters_of(arm)
            if adapters is not None and person.held_out:
                losses = person.losses(adapters, passages=_passages(arm, config))
                tokens = np.concatenate(losses)
                scores[arm][person.name] = {"nll": float(tokens.mean()), "tokens": len(tokens)}
                passages[arm][person.name] = [float(values.mean()) for values in losses]
            on_arm(f"{arm}: {person.name}")
    return scores, passages


def score_writing(
    people: Sequence[SimulatedPerson],
    config: SimulationConfig,
    scorer: AuthorshipScorer,
    scores: Scores,
    on_arm: Callable[[str], None],
) -> dict[str, dict[str, list[Written]]]:
    """Write continuations in every arm and add ROUGE-L and authorship to ``scores``."""
    how = Generation(
        max_tokens=config.written_tokens,
        sampling=Sampling(temperature=0.7, top_p=0.9, seed=config.seed),
    )
    written: dict[str, dict[str, list[Written]]] = {arm: {} for arm in config.arms}
    truths = {p.name: p.truths(config.written, config.written_tokens) for p in people}
    for arm in config.arms:
        for person in people:
            adapters = person.adapters_of(arm)
            if adapters is not None and person.held_out:
                texts = person.write(
                    adapters, how, passages=_passages(arm, config), count=config.written
                )
                written[arm][person.name] = texts
                scores[arm][person.name] |= _judge(person, texts, truths, scorer)
            on_arm(f"{arm}: {person.name}")
    return written


def _passages(arm: str, config: SimulationConfig) -> int:
    return config.passages if arm.endswith("retrieval") else 0


def _judge(
    person: SimulatedPerson,
    written: Sequence[Written],
    truths: Mapping[str, Sequence[str]],
    scorer: AuthorshipScorer,
) -> dict[str, Any]:
    texts = [w.text or "." for w in written]
    own = truths[person.name]
    rouge = [rouge_l(text, truth) for text, truth in zip(texts, own, strict=True)]
    others = {name: texts for name, texts in truths.items() if name != person.name and texts}
    reference = person.device.training_texts(federate=False)
    score = None
    if others and reference:
        score = scorer.calibrated(texts, reference, own, others).score
    return {"rouge_l": float(np.mean(rouge)), "authorship": score}


def summarize(
    scores: Scores, passages: Mapping[str, Mapping[str, Sequence[float]]], seed: int
) -> dict[str, dict[str, Any]]:
    """Mean over devices, worst device, and the gain over the base with its interval."""
    summary = {}
    for arm, devices in scores.items():
        if not devices:
            continue
        worst = max(devices, key=lambda name: devices[name]["nll"])
        mean = float(np.mean([figures["nll"] for figures in devices.values()]))
        summary[arm] = {
            "nll": mean,
            "perplexity": perplexity(mean),
            "worst_nll": devices[worst]["nll"],
            "worst_device": worst,
            "rouge_l": _mean([figures.get("rouge_l") for figures in devices.values()]),
            "authorship": _mean([figures.get("authorship") for figures in devices.values()]),
            "gain": None if arm == "base" else _gain(passages["base"], passages[arm], seed),
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
