"""The ledger: what was spent on a person's records, written before it is spent.

- One JSON object a line, appended and synced to disk before training begins. A charge that was
  written but not used was spent; nothing is ever given back.
- In a file, a last line without its end was never acknowledged, so nothing was trained on it: the
  next charge removes it. Any other line that cannot be read, or does not follow from the one before
  it (each holds a hash of its predecessor), stops everything: somebody changed the ledger.
- Charges of different tasks and modalities compose into one ε, by privacy loss distributions; one ε
  a unit. What protects a whole user protects each record too, but not the other way round.
- What would exceed the budget, or claims more than its mechanism gives, is refused and not written.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from io import BufferedRandom
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

from ..shared.errors import PrivacyError
from .accounting import Relation, epsilon_of_charges

__all__ = ["Charge", "FileJournal", "Journal", "Ledger", "Unit"]

_AFTER = "after"

Unit = Literal["record", "user"]
"""What is protected: one record of a person, or a person with all of them."""


@dataclass(frozen=True, kw_only=True)
class Charge:
    """One use of the records: noisy sums over a Poisson sample of the units.

    Args:
        purpose: what it is for, such as a task and the plan's digest.
        round: of the federation, from 1.
        unit: what is protected.
        relation: which neighbours are compared; there is no default, it changes ε up to twofold.
        noise_multiplier: noise standard deviation over the clipping norm.
        sampling_rate: probability with which a unit entered each step.
        steps: number of noisy sums; 0 for a round that an earlier charge of this purpose covers.
        sampling: how units were chosen. Only ``poisson`` can be claimed at a rate below 1.
        composed: whether the same use is charged for the other unit as well, so that it has a
            guarantee of its own there.
        cohort: contributions in the sum, where the noise is made by the contributors together.
        accounted_cohort: contributions that must be in it for ``noise_multiplier`` to hold.
    """

    purpose: str
    round: int
    unit: Unit
    relation: Relation
    noise_multiplier: float
    sampling_rate: float
    steps: int = 1
    sampling: str = "poisson"
    composed: bool = False
    cohort: int | None = None
    accounted_cohort: int | None = None

    @property
    def mechanism(self) -> tuple[float, float, int]:
        """Noise multiplier, sampling rate and steps, as the accountants take them."""
        return self.noise_multiplier, self.sampling_rate, self.steps

    def __post_init__(self) -> None:
        problems = []
        if self.relation not in get_args(Relation):
            problems.append(f"a charge needs a neighbouring relation, got {self.relation!r}")
        if self.unit not in get_args(Unit):
            problems.append(f"a charge needs a unit, record or user, got {self.unit!r}")
        if self.sampling != "poisson" and self.sampling_rate < 1:
            problems.append(
                f"{self.sampling!r} batches are not a Poisson sample and get no amplification: "
                f"sampling_rate must be 1, got {self.sampling_rate}"
            )
        if not (math.isfinite(self.noise_multiplier) and self.noise_multiplier > 0):
            problems.append(
                f"noise_multiplier must be above 0, got {self.noise_multiplier}: a figure without "
                "noise may not leave the device"
            )
        if not 0 < self.sampling_rate <= 1:
            problems.append(f"sampling_rate must be in (0, 1], got {self.sampling_rate}")
        if self.steps < 0:
            problems.append(f"steps must be at least 0, got {self.steps}")
        if self.round < 1:
            problems.append(f"round must be at least 1, got {self.round}")
        if (self.cohort or 0) < (self.accounted_cohort or 0):
            problems.append(
                f"the noise of {self.cohort or 0} contributions is less than the one accounted: "
                f"that is made by {self.accounted_cohort}"
            )
        if problems:
            raise PrivacyError("; ".join(problems))


class Journal(Protocol):
    """Where a ledger's lines are kept: a file of their own, or a device's vault."""

    def lines(self) -> list[bytes]:
        """Every acknowledged line, in order."""

    def append(self, make: Callable[[list[bytes]], list[bytes]]) -> None:
        """Add the lines that ``make`` gives for those that are there; synced when it returns.

        Nobody else adds lines meanwhile, and none are added where ``make`` raises.
        """


class FileJournal:
    """A :class:`Journal` in a file, made with the first line."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __str__(self) -> str:
        return str(self.path)

    def lines(self) -> list[bytes]:
        """Every whole line."""
        return _whole(self.path.read_bytes()) if self.path.exists() else []

    def append(self, make: Callable[[list[bytes]], list[bytes]]) -> None:
        """Add lines under a lock, in the place of one that was torn."""
        with _locked(self.path) as stream:
            before = _whole(stream.read())
            added = b"".join(make(before))
            stream.truncate(sum(map(len, before)))
            stream.seek(0, os.SEEK_END)
            stream.write(added)
            stream.flush()
            os.fsync(stream.fileno())


class Ledger:
    """The charges of one device, or of one federation.

    Args:
        journal: where they are kept; a path is a file of its own.
        delta: the δ at which ε is stated.
        budgets: ε per unit that all charges together may reach; a unit without one is only
            written down.
    """

    def __init__(
        self, journal: Journal | Path, *, delta: float, budgets: Mapping[Unit, float] | None = None
    ) -> None:
        self.journal = FileJournal(journal) if isinstance(journal, Path) else journal
        self.delta, self.budgets = delta, dict(budgets or {})
        for unit, budget in self.budgets.items():
            if unit not in get_args(Unit):
                raise PrivacyError(f"a budget is for record or user, got {unit!r}")
            if not budget >= 0:
                raise PrivacyError(f"budget must be at least 0, got {budget}")
        if not 0 < delta < 1:
            raise PrivacyError(f"delta must be between 0 and 1, got {delta}")

    @property
    def charges(self) -> list[Charge]:
        """Everything that was spent, in order.

        Raises:
            PrivacyError: the journal was changed or damaged.
        """
        return _read(self.journal.lines(), self.journal)[0]

    def epsilon(self, unit: Unit = "record") -> float:
        """ε of everything that was spent, at :attr:`delta`, for one unit.

        A record is protected by what was charged for records and by what was charged for users
        alone. A user is protected by what was charged for users, and not at all where something
        was charged for records alone: infinite.

        Raises:
            PrivacyError: the charges have different relations.
        """
        return _epsilon(self.charges, unit, self.delta)

    def rounds(self, purpose: str) -> list[int]:
        """The rounds that were charged for a purpose, in order."""
        return list(dict.fromkeys(c.round for c in self.charges if c.purpose == purpose))

    def charge(self, *charges: Charge) -> float:
        """Write charges of one use down, so that it may be spent; returns ε of the first's unit.

        Nothing is written and 0 returned where there are none.

        Raises:
            PrivacyError: it would exceed a budget, does not compose with what is there, or the
                file was changed. Nothing is written then.
        """
        if not charges:
            return 0.0
        total = 0.0

        def lines(written: list[bytes]) -> list[bytes]:
            nonlocal total
            spent, last = _read(written, self.journal)
            after = [*spent, *charges]
            _require_covered(after)
            self._require_budgets(after, charges[0])
            total = _epsilon(after, charges[0].unit, self.delta)
            added = []
            for charge in charges:
                added.append(_line(charge, last))
                last = hashlib.sha256(added[-1]).hexdigest()
            return added

        self.journal.append(lines)
        return total

    def _require_budgets(self, charges: Sequence[Charge], asked: Charge) -> None:
        for unit, budget in self.budgets.items():
            total = _epsilon(charges, unit, self.delta)
            if total > budget:
                raise PrivacyError(
                    f"round {asked.round} of {asked.purpose!r} would bring ε of a {unit} to "
                    f"{total:.3g}, above the budget of {budget:.3g} at δ = {self.delta:g}; "
                    "nothing was trained"
                )


def _require_covered(charges: Sequence[Charge]) -> None:
    paid: set[str] = set()
    for charge in charges:
        if charge.steps:
            paid.add(charge.purpose)
        elif charge.purpose not in paid:
            raise PrivacyError(
                f"round {charge.round} of {charge.purpose!r} claims to be covered by an earlier "
                "charge, and there is none"
            )


def _epsilon(charges: Sequence[Charge], unit: Unit, delta: float) -> float:
    relations = sorted({charge.relation for charge in charges})
    if len(relations) > 1:
        raise PrivacyError(
            f"charges by {' and '.join(relations)} do not add up to one ε; keep a ledger for each "
            "relation"
        )
    counted = [c for c in charges if c.steps and (c.unit == unit or not c.composed)]
    if unit == "user" and any(charge.unit == "record" for charge in counted):
        return math.inf
    if not counted:
        return 0.0
    return epsilon_of_charges(
        tuple(charge.mechanism for charge in counted),
        delta=delta,
        relation=counted[0].relation,
    )


@contextmanager
def _locked(path: Path) -> Iterator[BufferedRandom]:
    """The file, for this process alone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    with os.fdopen(handle, "r+b") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield stream


def _line(charge: Charge, last: str) -> bytes:
    return json.dumps({**asdict(charge), _AFTER: last}).encode() + b"\n"


def _whole(raw: bytes) -> list[bytes]:
    return [line for line in raw.splitlines(keepends=True) if line.endswith(b"\n")]


def _read(lines: Sequence[bytes], where: object) -> tuple[list[Charge], str]:
    """The charges, and the last line's hash."""
    charges, last = [], ""
    for number, line in enumerate(lines, 1):
        charges.append(_parse(line, last, f"{where}, line {number}"))
        last = hashlib.sha256(line).hexdigest()
    return charges, last


def _parse(line: bytes, last: str, where: str) -> Charge:
    try:
        row: dict[str, Any] = json.loads(line)
        if row.pop(_AFTER) != last or set(row) != {field.name for field in fields(Charge)}:
            raise ValueError
        return Charge(**row)
    except (ValueError, TypeError, AttributeError, KeyError, PrivacyError):
        raise PrivacyError(
            f"{where}: the ledger was changed or damaged; without it no ε can be claimed for this "
            "device's records"
        ) from None
