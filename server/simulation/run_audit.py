"""The audits of a finished run: what its folder alone allows, and with its base quick attacks."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ...privacy.audit.claims import Published, claims_section
from ...privacy.audit.sections import Section
from ...privacy.audit.wire import Recorded, Secret, wire_section
from ...privacy.ledger import Ledger
from ...privacy.plan import RecordPlan, UserPlan
from ...privacy.terms import plan_from
from ...shared.adapters import load_adapter
from ...shared.errors import BadInputError
from ...shared.packages import Package
from .audit import UserAudit
from .correlated_audit import CorrelatedAudit
from .quick_audits import QUICK, Trained
from .recording import load_recording, terms_of
from .run import MESSAGES, RESULT
from .table import check_result

__all__ = ["FinishedRun", "audit_run", "load_run", "mechanism_section"]

_ADDED = ("digest", "policy", "rank", "dim", "signal_to_noise", "noise_source")  # to the plan
_UPDATES = ("train", "mask")  # messages that bring a device's update
_KEPT = "audits"  # folder of a run's sections


@dataclass(frozen=True)
class FinishedRun:
    """What a run left behind.

    Args:
        folder: the run's.
        result: its ``result.json``.
        base: with which the private training is audited as well, and attacked.
    """

    folder: Path
    result: Mapping[str, Any]
    base: Package | None = None

    @cached_property
    def plan(self) -> RecordPlan | UserPlan:
        """The plan as it was published."""
        said = self.result["plan"]
        return plan_from({key: value for key, value in said.items() if key not in _ADDED})

    @cached_property
    def messages(self) -> list[Recorded]:
        """What was recorded; nothing where nothing was."""
        path = self.folder / MESSAGES
        return load_recording(path) if path.exists() else []

    @property
    def kept(self) -> list[Path]:
        """Files of sections that lie with the run, in ``audits``."""
        return sorted((self.folder / _KEPT).glob("*.json"))

    def keep(self, section: Section) -> None:
        """Write a section beside the run, where :attr:`kept` finds it."""
        folder = self.folder / _KEPT
        folder.mkdir(exist_ok=True)
        (folder / f"{section.name}.json").write_text(section.to_json(), "utf-8")

    @property
    def trained(self) -> Trained | str:
        """What the run trained, or why that cannot be attacked."""
        plan = self.plan.within if isinstance(self.plan, UserPlan) else self.plan
        form, rank = self.result["plan"]["policy"], self.result["plan"]["rank"]
        if plan is None or not plan.private:
            return "the run's plan claims nothing of records"
        if form not in ("core", "ffa"):
            return f"a shared adapter of the policy {form!r} is not audited"
        if self.base is None:
            return "the run's base is needed: give it with --base"
        return Trained(self.base, plan, form, rank)


def load_run(folder: Path, base: Package | None = None) -> FinishedRun:
    """Read a run's folder.

    Raises:
        BadInputError: it holds no result, or one of another version.
    """
    path = folder / RESULT
    if not path.is_file():
        raise BadInputError(f"{folder} holds no finished run: there is no {path}")
    try:
        result: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise BadInputError(f"{path} is no result of a run: {error}") from None
    check_result(result)
    return FinishedRun(folder, result, base)


def audit_run(
    run: FinishedRun,
    given: Collection[str] = (),
    *,
    attacks: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[list[Section], dict[str, str]]:
    """Make the audits that can be made here.

    Args:
        run: what is audited.
        given: names of sections that are there; only the claims are audited again.
        attacks: make all of :data:`~.quick_audits.QUICK`, which takes minutes; each is kept with
            the run when it is done.
        progress: is told what is made next.

    Returns:
        The sections, and by name why others were not made.
    """
    sections, reasons = [], {}
    for name, make in {**_AUDITS, **(_ATTACKS if attacks else {})}.items():
        if name in given and name != "claims":
            continue
        progress(name)
        made = make(run)
        if isinstance(made, str):
            reasons[name] = made
            continue
        sections.append(made)
        if attacks and name in QUICK:
            run.keep(made)
    return sections, reasons


def _claims(run: FinishedRun) -> Section:
    sizes = {device["name"]: device["train"] for device in run.result["data"]["devices"]}
    devices = [
        Published(
            name=name,
            epsilon=math.inf if epsilon is None else float(epsilon),
            records=int(sizes.get(name, 0)),
            ledger=Ledger(run.folder / "devices" / name / "ledger.jsonl", delta=run.plan.delta),
        )
        for name, epsilon in run.result["epsilon"].items()
    ]
    sent = sum(one.way == "up" and one.phase in _UPDATES and not one.error for one in run.messages)
    averaged = sum(int(row["averaged"]) for row in run.result["rounds"])
    digest = str(run.result["plan"]["digest"])
    return claims_section(run.plan, digest, devices, updates=max(sent, averaged))


def _wire(run: FinishedRun) -> Section | str:
    if not run.messages:
        return "nothing was recorded: simulate with --record"
    width, plan = terms_of(run.messages)
    return wire_section(run.messages, _secrets(run), width=width, plan=plan)


def _mechanism(run: FinishedRun) -> Section | str:
    plan = run.plan
    if not (isinstance(plan, UserPlan) and plan.private):
        return "the run's plan claims nothing of users"
    try:
        return mechanism_section(plan)
    except BadInputError as error:  # a kind of plan that they do not know
        return str(error)


def mechanism_section(plan: UserPlan) -> Section:
    """What canary devices show of a plan for users."""
    return (UserAudit if plan.correlation is None else CorrelatedAudit)(plan=plan).section()


def _attack(name: str) -> Callable[[FinishedRun], Section | str]:
    def make(run: FinishedRun) -> Section | str:
        trained = run.trained
        if isinstance(trained, str):
            return trained
        try:
            return QUICK[name](trained)
        except BadInputError as error:  # a kind of plan that it does not know
            return str(error)

    return make


_AUDITS: Mapping[str, Callable[[FinishedRun], Section | str]] = {
    "claims": _claims,
    "wire": _wire,
    "mechanism": _mechanism,
    "training": _attack("training"),
}
"""By name: makes a section, or says why there is none."""

_ATTACKS = {name: _attack(name) for name in QUICK if name not in _AUDITS}


def _secrets(run: FinishedRun) -> dict[str, Secret]:
    """What stays on devices: private adapters' numbers, and passages that the result quotes."""
    found: dict[str, Secret] = {}
    for place in sorted((run.folder / "devices").glob("*/private")):
        factors = load_adapter(place).factors.values()
        numbers = np.concatenate([part.ravel() for pair in factors for part in pair])
        found[f"{place.parent.name}'s private adapter"] = numbers
    for sample in run.result["samples"]:
        for number, hit in enumerate(sample.get("trace", ()), 1):
            found[f"{sample['device']}'s passage {number}"] = str(hit["text"])
    return found
