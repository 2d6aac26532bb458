"""Attacks on what a run's base trains under the run's plan, in minutes on one processor core.

Each is one of the audits of :mod:`locavore.client.audit` at a stated small size, by the run's own
plan, form and rank. They are honest and weak: intervals are wide, and each section says how small
it is and what it could have shown at most.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

import numpy as np

from ...client.audit.attacked import attack_membership, attack_updates
from ...client.audit.attributes import AttributeAudit
from ...client.audit.base import audit_base
from ...client.audit.extraction import ExtractionAudit
from ...client.audit.people import notes
from ...client.audit.retrieval import RetrievalAudit, WatchedEmbedder
from ...client.audit.shelves import made_up_shelf
from ...client.embedding import ModelEmbedder
from ...client.runtime import Generation, TextModel
from ...client.training.private import PrivateTraining
from ...client.training.text import TextTwin
from ...privacy.audit.sections import Section
from ...privacy.plan import RecordPlan, UserPlan
from ...shared.forms import Directions
from ...shared.packages import Package
from .corpus import load_folder, load_sotu

__all__ = ["QUICK", "Trained", "candidates"]

_PER_USER = 4
_HELD_BACK = 8  # public authors whose texts calibrate attacks
_LEARNED = PrivateTraining(steps=24, learning_rate=1e-2)  # until it knows texts by heart
_SHORT = PrivateTraining(steps=2, batch=8)


@dataclass(frozen=True)
class Trained:
    """What a run trained, for attacks on more of its kind.

    Args:
        base: with public directions; of texts, but for the audit of training.
        plan: of the shared adapter, with noise.
        form, rank: of the shared adapter.
    """

    base: Package
    plan: RecordPlan
    form: Literal["core", "ffa"]
    rank: int

    @property
    def directions(self) -> Directions:
        """The base's public ones."""
        return Directions.load(self.base.path("directions.safetensors"))


def candidates(data: Path | None, unit: str, count: int) -> tuple[list[list[str]], list[str]]:
    """Units of texts that may have been trained on, and texts of nobody.

    Args:
        data: a folder with a subfolder of texts a person; the built-in corpus otherwise.
        unit: ``record``, a text each, or ``user``, a few texts each.
        count: of units, at most.
    """
    corpus = load_sotu() if data is None else load_folder(data)
    writers = [[document.body for document in person.train] for person in corpus.people]
    others = list(corpus.public.values())
    public = [text for texts in others[-_HELD_BACK:] for text in texts[:_PER_USER]]
    if unit == "record":
        turns = [text for texts in zip(*writers, strict=False) for text in texts]
        return [[text] for text in turns[:count]], public
    users = writers if data else [*writers, *map(list, others[:-_HELD_BACK])]
    return [texts[:_PER_USER] for texts in users[:count]], public


def _training(run: Trained) -> Section:
    audit = audit_base(run.base, run.plan, form=run.form, rank=run.rank, records=60, canaries=20)
    return audit.section()


def _membership(run: Trained) -> Section:
    units, public = candidates(None, "record", 64)
    audit = attack_membership(
        run.base,
        units,
        public[:16],
        run.plan,
        form=run.form,
        rank=run.rank,
        tokens=24,
        targets=4,
        shadows=8,
    )
    return _sized(
        audit.section(),
        "4 adapters are attacked, each trained by the run's plan on about half of 64 passages of "
        "24 tokens; the attacker trains 8. The ε that is tested is that of so few records: it is "
        "above the run's, because with fewer records each is in more steps.",
    )


def _update(run: Trained) -> Section:
    units, public = candidates(None, "record", 8)
    audit = attack_updates(
        run.base,
        [text for unit in units for text in unit],
        public[:3],
        run.plan,
        form=run.form,
        rank=run.rank,
        tokens=8,
        rounds=4,
        changes=0,
        likely=1,
    )
    return _sized(
        audit.section(),
        "8 texts of 8 tokens, a secure sum of 4 devices, and no exchanges of tokens after the "
        "first guess. Short texts and few devices are easier to read than long ones and many.",
    )


def _extraction(run: Trained) -> Section:
    audit = ExtractionAudit(
        twin=TextTwin.of(run.base),
        model=TextModel(run.base),
        directions=run.directions,
        records=notes(30, np.random.default_rng(0)),
        plan=run.plan,
        form=run.form,
        rank=run.rank,
        private=_LEARNED,
        canaries=6,
        references=63,
    )
    return _sized(
        audit.section(),
        "30 secrets among 30 made-up notes; exposure is at most 6 bits, as each is ranked among 63 "
        f"others. The private adapter is trained longer than a run's ({_LEARNED.steps} steps at a "
        f"rate of {_LEARNED.learning_rate:g}), so that there is something to be found.",
    )


def _retrieval(run: Trained) -> Section:
    model = TextModel(run.base)
    embedder = WatchedEmbedder(ModelEmbedder(model))
    with TemporaryDirectory(prefix="locavore-") as folder:
        shelf = made_up_shelf(Path(folder), model, embedder, np.random.default_rng(0), each=2)
        with shelf.device:
            section = RetrievalAudit(
                shelf=shelf,
                attacks=12,
                public=notes(120, np.random.default_rng(1)),
                how=Generation(max_tokens=32),
            ).section()
    return _sized(
        section,
        "A made-up person's vault on the run's base, 12 prompts, answers of 32 tokens; 120 texts "
        "of other people to invert vectors with. Nothing of the run's own devices is looked at.",
    )


def _attributes(run: Trained) -> Section:
    users = UserPlan(
        trust="local",
        cohort=1,
        rounds=1,
        clip=1.0,
        noise_multiplier=run.plan.noise_multiplier,
        delta=run.plan.delta,
        relation=run.plan.relation,
    )
    audit = AttributeAudit(
        twin=TextTwin.of(run.base),
        model=TextModel(run.base),
        directions=run.directions,
        plan=replace(run.plan, rounds=1),
        users=users,
        form=run.form,
        rank=run.rank,
        private=_SHORT,
        people=24,
        each=8,
    )
    return _sized(
        audit.section(),
        "24 made-up people with 8 notes each, half of whom train the attacker. The plan for users "
        "is none of the run's: it shows what noise for users does, with the run's noise "
        "multiplier, for one round.",
    )


def _sized(section: Section, size: str) -> Section:
    """With its size said before all that it does not say."""
    small = f"A quick audit: {size} 'locavore audit {section.name}' makes a thorough one."
    return replace(section, untested=(small, *section.untested))


def _of_texts(attack: Callable[[Trained], Section]) -> Callable[[Trained], Section | str]:
    def made(run: Trained) -> Section | str:
        modality = run.base.manifest.modality
        if modality != "text":
            return f"attacked by texts alone, and the run's base makes {modality}s"
        return attack(run)

    return made


QUICK: Mapping[str, Callable[[Trained], Section | str]] = {
    "training": _training,
    "membership": _of_texts(_membership),
    "update": _of_texts(_update),
    "extraction": _of_texts(_extraction),
    "retrieval": _of_texts(_retrieval),
    "attributes": _of_texts(_attributes),
}
"""By name, the audits that need a run's base: a section, or why it cannot be made of that base."""
