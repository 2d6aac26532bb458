"""A run's result as a simulation writes it, with invented figures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

NAMES = (
    *("thomas_jefferson", "james_monroe", "andrew_jackson", "ulysses_s_grant"),
    *("grover_cleveland", "theodore_roosevelt", "woodrow_wilson", "harry_s_truman"),
)
GAINS = {
    "base": None,
    "base + retrieval": (0.031, 0.012, 0.052),
    "shared": (0.008, -0.004, 0.019),
    "shared + private": (0.121, 0.094, 0.150),
    "shared + private + retrieval": (0.138, 0.106, 0.171),
    "shared without DP": (0.042, 0.027, 0.058),
}
ROUNDS = 3

MakeResult = Callable[..., dict[str, Any]]


@pytest.fixture
def make_result() -> MakeResult:
    """Makes results: ``make_result(names, retrieval_only=names)``."""
    return _result


def _result(names: Sequence[str] = NAMES, retrieval_only: Sequence[str] = ()) -> dict[str, Any]:
    members = [name for name in names if name not in retrieval_only]
    scores = {arm: _scores(arm, names if "shared" not in arm else members) for arm in GAINS}
    return {
        "version": 1,
        "started": "2026-11-23T13:00:00+00:00",
        "wall_seconds": 326.7,
        "seconds": {"shared, private": 80.1, "private adapters": 60.3, "scoring": 70.2},
        "base": {
            "id": "smollm2-135m-instruct-int8-354ef202a60c",
            "name": "smollm2-135m-instruct",
            "precision": "int8",
            "bytes": 192_990_797,
        },
        "measures": _measures(),
        "data": {"name": "sotu", "devices": [_device(n, n in members) for n in names]},
        "plan": _plan(),
        "epsilon": {name: 2.1 + 0.07 * i for i, name in enumerate(members)},
        "arms": list(GAINS),
        "scores": scores,
        "items": {
            arm: {name: [s["loss"] + 0.1, s["loss"] - 0.1] for name, s in devices.items()}
            for arm, devices in scores.items()
        },
        "summary": {arm: _summary(arm, devices) for arm, devices in scores.items() if devices},
        "wire": {name: {"down": 12_044 + 7 * i, "up": 10_830} for i, name in enumerate(members)},
        "rounds": [_round(number, members) for number in range(1, ROUNDS + 1)],
        "checks": {
            name: {"effect": 0.051, "saved": 0.0, "runtime_base": 0.026, "runtime_adapted": 0.027}
            for name in members
        },
        "samples": [_sample(names[0])],
        "notes": ["Every held-out passage is later than all records on its author's device."],
    }


def _measures() -> dict[str, Any]:
    def told(key: str, title: str, digits: int = 2) -> dict[str, Any]:
        return {"key": key, "title": title, "said": f"What {title} means.", "digits": digits}

    return {
        "loss": told("loss", "nats per token", 3),
        "metrics": [
            told("perplexity", "Perplexity", 1),
            told("rouge_l", "ROUGE-L"),
            told("authorship", "Author P"),
        ],
        "held_out": "writing",
        "glossary": {"retrieval": "The author's own passages are put into the prompt."},
    }


def _loss(name: str) -> float:
    return 3.2 + 0.9 * (sum(map(ord, name)) % 97) / 97


def _scores(arm: str, names: Sequence[str]) -> dict[str, dict[str, Any]]:
    mean = (GAINS[arm] or (0.0,))[0]
    return {
        name: {
            "loss": _loss(name) - mean * (0.4 + 1.2 * i / max(1, len(names) - 1)),
            "tokens": 512,
            "rouge_l": 0.12 + mean / 3,
            "authorship": 0.15 + 2 * mean if i % 3 else None,
        }
        for i, name in enumerate(names)
    }


def _summary(arm: str, devices: dict[str, dict[str, Any]]) -> dict[str, Any]:
    losses = {name: figures["loss"] for name, figures in devices.items()}
    mean, worst = sum(losses.values()) / len(losses), max(losses, key=lambda name: losses[name])
    known = [f["authorship"] for f in devices.values() if f["authorship"] is not None]
    gain = GAINS[arm]
    return {
        "loss": mean,
        "perplexity": 2.718281828**mean,
        "worst_loss": losses[worst],
        "worst_device": worst,
        "rouge_l": sum(f["rouge_l"] for f in devices.values()) / len(devices),
        "authorship": sum(known) / len(known) if known else None,
        "gain": dict(zip(("mean", "low", "high"), gain, strict=True)) if gain else None,
    }


def _plan() -> dict[str, Any]:
    return {
        "clip": 6.0,
        "noise_multiplier": 1.0,
        "expected_batch": 16,
        "local_steps": 1,
        "rounds": ROUNDS,
        "learning_rate": 0.05,
        "delta": 1e-05,
        "unit": "record",
        "relation": "add-or-remove-one",
        "trust": "local",
        "digest": "5d" * 32,
        "policy": "core",
        "rank": 2,
        "dim": 840,
        "signal_to_noise": 1.56,
        "noise_source": "seeded (simulation on public data)",
    }


def _device(name: str, member: bool) -> dict[str, Any]:
    return {
        "name": name,
        "train": 200 if member else 12,
        "held_out": 8,
        "mode": "adapters" if member else "retrieval only",
        "note": "" if member else "only 12 records: too few to train on",
    }


def _round(number: int, members: Sequence[str]) -> dict[str, Any]:
    done = 0.008 * number / ROUNDS
    return {
        "round": number,
        "asked": len(members),
        "averaged": len(members),
        "failed": 0,
        "change_norm": 0.03,
        "loss": {name: _loss(name) - done * (1 + i % 3) for i, name in enumerate(members)},
    }


def _sample(name: str) -> dict[str, Any]:
    return {
        "device": name,
        "prompt": "Fellow citizens of the Senate and of the House of",
        "truth": "Representatives, to a people who sincerely desire the happiness and prosperity "
        "of other nations it must be a subject of congratulation",
        "arms": {
            "base": "Representatives, I am pleased to announce that we have reached an agreement "
            "on the budget for the year.",
            "base + retrieval": "Representatives, whilst in the execution of the act of the last "
            "session the budget was agreed.",
            "shared": "Representatives, I am pleased to report that the budget was agreed.",
            "shared + private": "Representatives, it is with satisfaction that I lay before you "
            "the state of our finances.",
            "shared + private + retrieval": "Representatives, whilst in the execution of the act "
            "of the last session I lay before you the state of our intercourse with nations.",
        },
        "trace": [
            {
                "source": "sotu",
                "uri": f"{name}/1804/12",
                "text": "Whilst in the execution of the act of the last session for the",
            }
        ],
    }
