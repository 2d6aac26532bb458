"""The study of subjects: a thing of the person's own, known from a handful of pictures of it.

Beside the adapters of every study stand three ways in which a device learns the thing for itself
alone, under a word of its own. Nothing of that is shared.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Self

from ...client.concepts import Concept
from ...client.training.adapted import AdaptedTwin
from ...client.training.concepts import WAYS, SubjectTraining, learn_subject
from ...client.training.image import ImageTwin
from ...shared.adapters import Adapter
from ...shared.forms import Directions
from ...shared.packages import Package
from .config import SimulationConfig
from .picturing import Drawer, PictureStudy, picture_study

__all__ = ["Owner", "SubjectStudy", "subject_study"]

_WORD = "<mine>"
_HOW = {
    "textual-inversion": "embeddings of a new word",
    "custom-diffusion": "the word, and cross-attention's keys and values",
    "dreambooth": "the word, and an adapter of every layer",
}


@dataclass(kw_only=True)
class Owner(Drawer):
    """Somebody with a thing of their own.

    Args:
        training: how it is learned; None: not at all.
        concepts: what was learned of it, by way.
    """

    training: SubjectTraining | None = None
    concepts: dict[str, Concept] = field(default_factory=dict)

    def learn(self, twin: AdaptedTwin[Any], directions: Directions) -> None:
        """Learn the thing in every way, or read what was learned before."""
        if self.training is None:
            return
        assert isinstance(twin, ImageTwin)
        for way in WAYS:
            kept = self.folder / f"{way}.concept"
            if not kept.exists():
                concept = learn_subject(
                    twin,
                    self.model,
                    directions,
                    [item.picture for item in self.known],
                    _WORD,
                    self.known[0].caption,
                    replace(self.training, way=way),
                )
                kept.write_bytes(concept.to_bytes())
            self.concepts[way] = Concept.from_bytes(kept.read_bytes())

    def adapters_of(self, arm: str) -> list[Adapter] | None:
        """The adapter that goes with the word, where the way has one."""
        if arm not in WAYS:
            return super().adapters_of(arm)
        if arm not in self.concepts:
            return None
        adapter = self.concepts[arm].adapter
        return [] if adapter is None else [adapter]

    def in_arm(self, arm: str) -> Self:
        """The same person; where the thing was learned, it is asked for by its word."""
        if arm not in self.concepts:
            return self
        concept = self.concepts[arm]
        items = tuple(replace(item, caption=concept.word) for item in self.items)
        return replace(self, items=items, words={concept.word: concept.rows})


@dataclass(kw_only=True)
class SubjectStudy(PictureStudy):
    """People with a thing of their own each.

    Args:
        training: how a device learns it; the way is each of the three.
        learners: people of whom that is asked: it takes minutes each.
    """

    learners: int = 4
    training: SubjectTraining = field(default_factory=SubjectTraining)
    drawer: ClassVar = Owner
    arms: ClassVar = (*PictureStudy.arms, *WAYS)
    glossary: ClassVar = {
        way: f"What the device has learned of its thing alone: {what}. It spends no privacy."
        for way, what in _HOW.items()
    }

    def people(self, package: Package, config: SimulationConfig, folder: Path) -> list[Drawer]:
        """A device for everybody."""
        people = super().people(package, config, folder)
        for person in people[: self.learners]:
            assert isinstance(person, Owner)
            person.training = self.training
        return people


def subject_study(
    data: Path | None, devices: int, *, quick: bool, seed: int, task: str
) -> SubjectStudy:
    """The study of a task about subjects; arguments and errors as of :func:`picture_study`."""
    plain = picture_study(data, devices, quick=quick, seed=seed, task=task)
    training = SubjectTraining(steps=100, prior=16, seed=seed)
    if quick:
        training = replace(training, steps=20, prior=8)
    fields = ("gallery", "task", "most", "how", "draws")
    return SubjectStudy(training=training, **{name: getattr(plain, name) for name in fields})
