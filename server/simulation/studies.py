"""Which study simulates which task: the one place of the simulation that lists them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib import import_module
from pathlib import Path
from typing import Any

from ...shared.errors import BadInputError
from .study import Study

__all__ = ["STUDIES", "Setting", "setting"]


@dataclass(frozen=True, kw_only=True)
class Setting:
    """How a task is simulated unless somebody says otherwise.

    Args:
        study: module and function that make the study, from a folder of data or none, the number
            of devices, whether little work is wanted, and a seed.
        base: name of the base.
        rounds, local_steps, batch, clip, learning_rate, rank: of the shared adapter; ``clip`` for
            records.
        private: fields of :class:`~locavore.client.training.private.PrivateTraining`.
        made: held-out items for which is generated.
        quick: what of these a smoke run takes instead.
        unit: what a plan protects, ``record`` or ``user``.
        options: further arguments of the function that makes the study.
    """

    study: tuple[str, str]
    base: str
    rounds: int = 3
    local_steps: int = 1
    batch: int = 16
    clip: float = 6.0
    learning_rate: float = 0.05
    rank: int = 2
    private: Mapping[str, Any] = field(default_factory=dict)
    made: int = 6
    quick: Mapping[str, Any] = field(default_factory=dict)
    unit: str = "record"
    options: Mapping[str, Any] = field(default_factory=dict)

    def load(self, data: Path | None, devices: int, *, quick: bool, seed: int) -> Study:
        """Read the data and make the study."""
        module, name = self.study
        make: Callable[..., Study] = getattr(import_module(module, __package__), name)
        return make(data, devices, quick=quick, seed=seed, **self.options)


STUDIES = {
    "text.writing_assistant": Setting(
        study=(".writing", "writing_study"),
        base="smollm2-135m-instruct",
        quick={"rounds": 2, "batch": 4, "private": {"steps": 2, "batch": 4}, "made": 2},
    ),
    "image.general": Setting(
        study=(".picturing", "picture_study"),
        base="drawings-32",
        rounds=4,
        local_steps=2,
        batch=64,
        learning_rate=0.015,
        rank=4,
        private={"rank": 4, "steps": 100, "batch": 16, "learning_rate": 2e-3},
        made=12,
        quick={"rounds": 1, "batch": 16, "private": {"steps": 20, "batch": 8}, "made": 4},
    ),
}
STUDIES |= {
    task: replace(STUDIES["image.general"], batch=16, options={"task": task})
    for task in (
        "image.fashion_design.behaviors",
        "image.product.behaviors",
        "image.fashion_design.profiles",
        "image.product.profiles",
        "image.face",
        "image.tryon",
    )
}
STUDIES["image.subject"] = replace(
    STUDIES["image.general"],
    study=(".subjects", "subject_study"),
    batch=4,
    rounds=1,  # one, and few numbers: of few people, noise drowns more with each
    rank=1,
    unit="user",  # single pictures of so few cannot hide
    options={"task": "image.subject"},
)


def setting(task: str) -> Setting:
    """How a task is simulated.

    Raises:
        BadInputError: it is not.
    """
    if task not in STUDIES:
        raise BadInputError(f"task {task!r} is not simulated; choose of {', '.join(STUDIES)}")
    return STUDIES[task]
