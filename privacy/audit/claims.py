"""Is the ε that was published of a run what the run cost?

Three figures are held against each other for every device: what was published, what its ledger's
charges cost, and what the plan costs in the rounds in which the device was. The last two are found
anew, by the accountant and by a figure that the true ε is not below.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ...shared.errors import PrivacyError
from ..accounting import epsilon_of_charges
from ..ledger import Charge, Ledger
from ..plan import PrivacyPlan
from .accounts import least_epsilon
from .findings import Finding
from .sections import CLAIMED, Figure, Section

__all__ = ["Published", "claims_section"]

_SLACK = 1e-3  # of either computation of ε
_THREAT = (
    "Somebody publishes figures of privacy that are better than what was done: an ε, a plan or a "
    "ledger was changed afterwards or never fitted. The auditor has what the run left behind: its "
    "result, every device's ledger and, where it was recorded, what travelled."
)
_UNTESTED = (
    "A run that was rewritten whole: result, plan, ledgers and messages that agree with each other "
    "and were all made up.",
    "Releases that left no trace in the run, and what else was ever learned from the same records.",
    "Whether the code did what the plan says: the audits 'training' and 'mechanism' look at that.",
)


@dataclass(frozen=True, kw_only=True)
class Published:
    """What a run says of one device.

    Args:
        name: of the device.
        epsilon: its ε, as published.
        records: of its that may be trained on, as published.
        ledger: its own.
    """

    name: str
    epsilon: float
    records: int
    ledger: Ledger


def claims_section(
    plan: PrivacyPlan, digest: str, devices: Sequence[Published], *, updates: int
) -> Section:
    """Hold a run's claims against its plan and its ledgers.

    Args:
        plan: as published.
        digest: of the plan to which everybody agreed.
        devices: that trained.
        updates: that devices sent, as counted in what travelled.
    """
    findings = [_digest(plan, digest)]
    if not plan.private:
        findings.append(_nothing(devices))
        return _section(findings, [])
    read = [_Read.of(plan, digest, one) for one in devices]
    findings += [
        _whole(read),
        _as_planned(read),
        _paid(read, updates),
        _enough(plan, read, "its ledger's charges cost", lambda one: one.spent),
        _enough(plan, read, "the plan costs in its rounds", lambda one: one.planned),
    ]
    return _section(findings, [_bars(plan, read)] if read else [])


@dataclass(frozen=True)
class _Read:
    """A device's ledger, as far as it can be read.

    Args:
        published: what is said of the device.
        problem: why the ledger cannot be relied on; empty if it can.
        strays: charges that are not the plan's.
        paid: how often it was charged for a round, those that were asked for again included.
        spent, planned: ε by the accountant, and a figure below which it is not; of the ledger's
            charges, and of the plan's in these rounds.
    """

    published: Published
    problem: str
    strays: Sequence[str]
    paid: int
    spent: tuple[float, float]
    planned: tuple[float, float]

    @classmethod
    def of(cls, plan: PrivacyPlan, digest: str, one: Published) -> _Read:
        try:
            charges = one.ledger.charges
        except PrivacyError as error:
            return cls(one, str(error), (), 0, (0.0, 0.0), (0.0, 0.0))
        mine = [charge for charge in charges if charge.purpose.endswith(f" {digest}")]
        rounds = list(dict.fromkeys(charge.round for charge in mine))
        planned, strays = _planned(plan, one.records, rounds)
        strays += [_stray(charge) for charge in charges if charge not in mine]
        strays += [_stray(charge) for charge in mine if _bare(charge) not in map(_bare, planned)]
        problem = "" if charges else "nothing is in it"
        costs = [_costs(plan, some) for some in (charges, planned)]
        paid = sum(charge.unit == plan.unit for charge in mine)
        return cls(one, problem, strays, paid, costs[0], costs[1])


def _planned(
    plan: PrivacyPlan, records: int, rounds: Sequence[int]
) -> tuple[list[Charge], list[str]]:
    """The plan's charges in these rounds, and why it has none for some."""
    found: list[Charge] = []
    strays = []
    for place, round in enumerate(rounds):
        try:
            found += plan.charges(round, records, rounds[:place])
        except PrivacyError as error:
            strays.append(str(error))
    return found, strays


def _costs(plan: PrivacyPlan, charges: Sequence[Charge]) -> tuple[float, float]:
    """ε of charges for the plan's unit, by the accountant and at least."""
    used = tuple(one.mechanism for one in charges if one.unit == plan.unit and one.steps)
    if not used:
        return 0.0, 0.0
    return (
        epsilon_of_charges(used, delta=plan.delta, relation=plan.relation),
        least_epsilon(used, delta=plan.delta, relation=plan.relation),
    )


def _bare(charge: Charge) -> Charge:
    """Without the words that say what it is for."""
    return replace(charge, purpose="")


def _stray(charge: Charge) -> str:
    return (
        f"round {charge.round} of {charge.purpose[:20]!r}: noise {charge.noise_multiplier:g}, rate "
        f"{charge.sampling_rate:.4g}, {charge.steps} steps, {charge.unit}, {charge.relation}"
    )


def _digest(plan: PrivacyPlan, digest: str) -> Finding:
    return Finding(
        audit="claims",
        claim="the plan that was published is the one to which devices agreed",
        found=f"its digest is {plan.digest[:12]}…, and {digest[:12]}… was agreed",
        holds=plan.digest == digest,
    )


def _nothing(devices: Sequence[Published]) -> Finding:
    claimed = [one.name for one in devices if math.isfinite(one.epsilon)]
    return Finding(
        audit="claims",
        claim="a plan without noise claims no ε",
        found=f"a finite ε is published of {len(claimed)} devices",
        holds=not claimed,
    )


def _whole(read: Sequence[_Read]) -> Finding:
    broken = [f"{one.published.name}: {one.problem}" for one in read if one.problem]
    return Finding(
        audit="claims",
        claim="every device's ledger is there, and each line follows from the one before",
        found=_counted(len(read), "ledgers", broken),
        holds=not broken,
    )


def _as_planned(read: Sequence[_Read]) -> Finding:
    strays = [f"{one.published.name}: {stray}" for one in read for stray in one.strays]
    return Finding(
        audit="claims",
        claim="the ledgers hold the plan's charges and no others",
        found=_counted(sum(one.paid for one in read), "rounds charged", strays),
        holds=not strays,
    )


def _paid(read: Sequence[_Read], updates: int) -> Finding:
    charged = sum(one.paid for one in read)
    return Finding(
        audit="claims",
        claim="every update that left a device was charged",
        found=f"{updates} left, {charged} charged",
        holds=updates <= charged,
    )


def _enough(
    plan: PrivacyPlan,
    read: Sequence[_Read],
    what: str,
    costs: Callable[[_Read], tuple[float, float]],
) -> Finding:
    """No published ε is below what was found anew, by either computation."""
    short = []
    for one in read:
        accounted, least = costs(one)
        stated, most = one.published.epsilon, max(accounted, least)
        if stated < most - _SLACK * max(1.0, most):
            short.append(f"{one.published.name}: {stated:.4g} published, {accounted:.4g} found")
    return Finding(
        audit="claims",
        claim=f"no device's ε of a {plan.unit} is below what {what}",
        found=_counted(len(read), "devices", short),
        holds=not short,
    )


def _counted(count: int, what: str, broken: Sequence[str]) -> str:
    return f"{count} {what}" + (f", {len(broken)} wrong: {broken[0]}" if broken else ", none wrong")


def _bars(plan: PrivacyPlan, read: Sequence[_Read]) -> Figure:
    return Figure(
        title=f"ε of a {plan.unit} over the run, as published and as found anew "
        f"(δ = {plan.delta:g}, {plan.relation})",
        kind="bars",
        data={
            "labels": [one.published.name for one in read],
            "values": {
                CLAIMED: [one.published.epsilon for one in read],
                "ε of the ledger's charges": [one.spent[0] for one in read],
                "ε of the plan": [one.planned[0] for one in read],
            },
        },
    )


def _section(findings: Sequence[Finding], figures: Sequence[Figure]) -> Section:
    return Section(
        name="claims",
        title="What was published, against what was charged",
        threat=_THREAT,
        findings=tuple(findings),
        figures=tuple(figures),
        untested=_UNTESTED,
    )
