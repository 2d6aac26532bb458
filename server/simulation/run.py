"""A whole simulated run: federation, private adapters, scoring, writing, report.

Phases, each with its own time in the result:

1. Load the base and its twin; put every person's records on a device.
2. Train the shared adapter with privacy, through the Flower apps; then the reference without.
3. Train each device's private adapter on top of the shared one, and check it.
4. Score every arm on what is held out, and let every arm generate.
5. Write ``result.json`` and ``report.html``.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from ...client.engines import open_trainer
from ...client.training.adapted import AdaptedTwin
from ...client.training.check import TrainingCheck, check_training
from ...client.training.private import train_private
from ...privacy.plan import PrivacyPlan, RecordPlan, UserPlan
from ...privacy.terms import plan_to
from ...shared.adapters import load_adapter, save_adapter
from ...shared.errors import FederationError
from ...shared.forms import Directions, SharedForm
from ...shared.packages import Package
from ..aggregation import POLICIES
from .config import REFERENCE, SimulationConfig
from .federation import SharedRun, Traffic, train_shared
from .person import SimulatedPerson
from .recording import recording_to
from .report import write_report
from .scoring import Losses, Scores, score_losses, score_made, summarize
from .study import Made, Metric, Study

__all__ = ["MESSAGES", "REPORT", "RESULT", "Progress", "run_simulation"]

DIRECTIONS = "directions.safetensors"
RESULT = "result.json"
REPORT = "report.html"
MESSAGES = "messages.jsonl"


class Progress(Protocol):
    """Told what a run is doing."""

    def plan(self, work: dict[str, tuple[int, float]]) -> None:
        """Phases in order, each with its number of steps and the expected cost of one."""

    def step(self, phase: str, what: str = "") -> None:
        """One step of a phase is done."""

    def note(self, text: str) -> None:
        """Something that a person should know before training begins."""


class _Silent:
    def plan(self, work: dict[str, tuple[int, float]]) -> None:
        """Nobody listens."""

    def step(self, phase: str, what: str = "") -> None:
        """Nobody listens."""

    def note(self, text: str) -> None:
        """Nobody listens."""


def run_simulation(
    package: Package,
    study: Study,
    config: SimulationConfig,
    folder: Path,
    *,
    resume: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Run everything and return the result that is also written to ``folder``.

    Args:
        package: a verified base of the study's engine.
        study: the task, with its people and judges.
        folder: the run's folder; must be new unless ``resume``.
        resume: go on from the last finished round and the private adapters already there.

    Raises:
        FederationError: the folder holds a run already, or the federation fails.
    """
    if folder.exists() and any(folder.iterdir()) and not resume:
        raise FederationError(f"{folder} holds a run already; resume it or choose another folder")
    return _Run(package, study, config, folder, resume, progress or _Silent()).go()


class _Run:
    def __init__(
        self,
        package: Package,
        study: Study,
        config: SimulationConfig,
        folder: Path,
        resume: bool,
        progress: Progress,
    ) -> None:
        self.package, self.study, self.config = package, study, config
        self.folder, self.resume, self.progress = folder, resume, progress
        self.arms = (*study.arms_of(package), *([REFERENCE] if config.reference else []))
        self.started = datetime.now(UTC)
        self.seconds: dict[str, float] = {}
        self.rounds: list[dict[str, Any]] = []
        self.checks: dict[str, TrainingCheck] = {}

    def go(self) -> dict[str, Any]:
        """Run the phases in order."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with self._timed("loading"):
            twin = open_trainer(self.package, fast=True)
            directions = Directions.load(self.package.path(DIRECTIONS))
            people = self.study.people(self.package, self.config, self.folder / "devices")
        self.progress.plan(_work(people, self.study, self.arms, self.config))
        form = POLICIES[self.config.policy].over(
            self.package.base_id,
            directions.limited(self.config.rank),
            carried=self.config.carried,
        )
        self.progress.note(_outlook(people, self.config, len(form.leaves(1))))
        traffic = self._train_shared(people, twin, form)
        self._train_private(people, twin, directions)
        with self._timed("scoring"):
            scores, items = score_losses(
                people, self.arms, lambda what: self.progress.step("scoring", what)
            )
        with self._timed("generating"):
            made = score_made(
                people,
                self.study,
                self.arms,
                self.config.made,
                scores,
                lambda what: self.progress.step("generating", what),
            )
        result = self._result(people, form, traffic, scores, items, made)
        (self.folder / RESULT).write_text(json.dumps(result, indent=1, ensure_ascii=False))
        write_report(result, self.folder / REPORT)
        return result

    def _train_shared(
        self, people: Sequence[SimulatedPerson], twin: AdaptedTwin[Any], form: SharedForm
    ) -> dict[str, Traffic]:
        run = self._federate("shared, private", people, twin, form, private=True)
        measured = {p.name: p.round_losses() for p in people}
        for row in run.rounds:
            number = int(row["round"])
            losses = {name: kept[number] for name, kept in measured.items() if number in kept}
            self.rounds.append({**row, "loss": losses})
        shared = form.to_adapter(run.theta)
        save_adapter(shared, self.folder / "shared")
        for person in people:
            person.device.shared = run.adapters.get(person.name)
        if self.config.reference:
            bare = self._federate("shared, no DP", people, twin, form, private=False)
            for person in people:
                person.reference = bare.adapters.get(person.name)
        return run.traffic

    def _federate(
        self,
        phase: str,
        people: Sequence[SimulatedPerson],
        twin: AdaptedTwin[Any],
        form: SharedForm,
        *,
        private: bool,
    ) -> SharedRun:
        recorded = private and self.config.record
        with self._timed(phase):
            return train_shared(
                people,
                twin,
                form,
                self.config,
                checkpoints=self.folder / ("checkpoints" if private else "reference"),
                resume=self.resume,
                private=private,
                on_update=lambda: self.progress.step(phase),
                tap=recording_to(self.folder / MESSAGES) if recorded else None,
            )

    def _train_private(
        self, people: Sequence[SimulatedPerson], twin: AdaptedTwin[Any], directions: Directions
    ) -> None:
        with self._timed("private adapters"):
            for person in (p for p in people if p.trains):
                place, examples = person.folder / "private", person.examples(twin)
                if self.resume and place.exists():
                    person.device.private = load_adapter(place)
                else:
                    person.device.private = train_private(
                        twin,
                        directions,
                        examples,
                        self.config.private,
                        shared=person.device.shared,
                    )
                    save_adapter(person.device.private, place)
                self.checks[person.name] = check_training(
                    twin, person.device.model, person.device.private, examples[0]
                )
                person.learn(twin, directions)
                self.progress.step("private adapters", person.name)

    @contextmanager
    def _timed(self, phase: str) -> Iterator[None]:
        begun = time.monotonic()
        yield
        self.seconds[phase] = round(time.monotonic() - begun, 1)

    def _result(
        self,
        people: Sequence[SimulatedPerson],
        form: SharedForm,
        traffic: dict[str, Traffic],
        scores: Scores,
        items: Losses,
        made: dict[str, dict[str, list[Made]]],
    ) -> dict[str, Any]:
        plan, members = self.config.plan, [p for p in people if p.trains]
        shared = len(form.leaves(1))  # numbers that leave a device in a round
        return {
            "version": 1,
            "started": self.started.isoformat(timespec="seconds"),
            "wall_seconds": round((datetime.now(UTC) - self.started).total_seconds(), 1),
            "seconds": self.seconds,
            "base": {
                "id": self.package.base_id,
                "name": self.package.manifest.name,
                "precision": self.package.manifest.precision,
                "bytes": self.package.nbytes,
            },
            "measures": _measures(self.study),
            "data": {"name": self.study.data_name, "devices": [_describe(p) for p in people]},
            "plan": {
                **plan_to(plan),
                "digest": plan.digest,
                "policy": self.config.policy,
                "rank": self.config.rank,
                "dim": shared,
                "signal_to_noise": _signal_to_noise(people, self.config, shared),
                "noise_source": "seeded (simulation on public data)",
            },
            "epsilon": {p.name: _spent(p, plan) for p in members},
            "arms": list(self.arms),
            "scores": scores,
            "items": items,
            "summary": summarize(scores, items, self.study, self.config.seed),
            "wire": {name: asdict(t) for name, t in traffic.items()},
            "rounds": self.rounds,
            "checks": {name: asdict(check) for name, check in self.checks.items()},
            "samples": _samples(people, self.study, made),
            "notes": [*self.study.notes, *_notes(people, self.config, shared)],
        }


def _measures(study: Study) -> dict[str, Any]:
    """What the figures are, for whoever reads the result."""

    def told(metric: Metric) -> dict[str, Any]:
        return {name: getattr(metric, name) for name in ("key", "title", "said", "digits")}

    return {
        "loss": told(study.loss),
        "metrics": [told(metric) for metric in study.metrics],
        "held_out": study.held_out,
        "glossary": dict(study.glossary),
    }


def _work(
    people: Sequence[SimulatedPerson], study: Study, arms: Sequence[str], config: SimulationConfig
) -> dict[str, tuple[int, float]]:
    """Expected cost of every phase's steps, in the study's unit."""
    members = sum(person.trains for person in people)
    record, scoring, generating = study.cost(config)
    update = _records_seen(people, config) * record
    private = config.private.steps * config.private.batch * record
    judged = len(arms) * len(people)
    trained = config.plan.rounds * min(config.cohort or members, members)
    measured = config.plan.rounds * members
    return {
        "shared, private": (trained + measured, update * trained / max(1, trained + measured)),
        "shared, no DP": (trained if config.reference else 0, update),
        "private adapters": (members, private),
        "scoring": (judged, scoring),
        "generating": (judged, generating),
    }


def _records_seen(people: Sequence[SimulatedPerson], config: SimulationConfig) -> float:
    """Passes of a record through the base in one device's round, on average."""
    inner = config.plan.within if isinstance(config.plan, UserPlan) else config.plan
    if isinstance(inner, RecordPlan):
        return inner.local_steps * inner.expected_batch
    batches = [config.locally.order(person.records) for person in people if person.trains]
    return sum(len(rows) for own in batches for rows in own) / max(1, len(batches))


def _spent(person: SimulatedPerson, plan: PrivacyPlan) -> float:
    """ε by the device's own ledger; infinite without noise."""
    return person.ledger(plan.delta).epsilon(plan.unit) if plan.private else math.inf


def _describe(person: SimulatedPerson) -> dict[str, Any]:
    enough = person.trains
    return {
        "name": person.name,
        "train": person.records,
        "held_out": len(person.held_out),
        "mode": "adapters" if enough else "retrieval only",
        "note": "" if enough else f"only {person.records} records: too few to train on",
    }


def _samples(
    people: Sequence[SimulatedPerson], study: Study, made: dict[str, dict[str, list[Made]]]
) -> list[dict[str, Any]]:
    """What every device got, in every arm but the reference."""
    samples = []
    for person in people:
        rows = {
            arm: by_device[person.name]
            for arm, by_device in made.items()
            if person.name in by_device and arm != REFERENCE
        }
        if rows:
            samples.append({"device": person.name, **study.sample(person, rows)})
    return samples


def _notes(people: Sequence[SimulatedPerson], config: SimulationConfig, dim: int) -> list[str]:
    notes = [
        "Noise and sampling are seeded, so that the run can be repeated; on a person's device "
        "they come from the operating system's generator.",
    ]
    few = [person.name for person in people if not person.trains]
    if few:
        notes.append(f"Retrieval only, for want of records: {', '.join(few)}.")
    if _signal_to_noise(people, config, dim) < 1:
        notes.append(_DROWNED)
    return notes


_DROWNED = "The plan's noise exceeds its largest signal: the shared adapter is mostly noise."


def _signal_to_noise(
    people: Sequence[SimulatedPerson], config: SimulationConfig, dim: int
) -> float:
    members = sum(person.trains for person in people)
    return config.plan.signal_to_noise(dim, max(1, min(config.cohort or members, members)))


def _outlook(people: Sequence[SimulatedPerson], config: SimulationConfig, dim: int) -> str:
    """What the plan promises, said before training."""
    ratio = _signal_to_noise(people, config, dim)
    text = f"signal to noise of the shared adapter's plan: {ratio:.2f} ({dim} shared numbers)"
    if ratio >= 1:
        return text
    return (
        f"{text}\nwarning: {_DROWNED} Take fewer shared numbers (a lower rank, the policy core), "
        "more devices, a larger batch or less noise."
    )
