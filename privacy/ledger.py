"""The ledger: what was spent on a person's records, written before it is spent.

- One JSON object a line, appended and synced to disk before training begins. A charge that was
  written but not used was spent; nothing is ever given back.
- A last line without its end was never acknowledged, so nothing was trained on it: the next charge
  removes it. Any other line that cannot be read, or does not follow from the one before it (each
  holds a hash of its predecessor), stops everything: somebody changed the ledger.
- Charges of different tasks and modalities compose into one ε, by privacy loss distributions.
- What would exceed the budget, or claims more than its mechanism gives, is refused and not written.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from io import BufferedRandom
from pathlib import Path
from typing import Any, Literal, get_args

from ..shared.errors import PrivacyError
from .accounting import Relation, epsilon_of_charges

__all__ = ["Charge", "Ledger"]

_AFTER = "after"


@dataclass(frozen=True, kw_only=True)
class Charge:
    """One use of the records: noisy sums over a Poisson sample of them.

    Args:
        purpose: what it is for, such as a task and the plan's digest.
        round: of the federation, from 1.
        unit: what is protected.
        relation: which neighbours are compared; there is no default, it changes ε up to twofold.
        noise_multiplier: noise standard deviation over the clipping norm.
        sampling_rate: probability with which a record entered each step.
        steps: number of noisy sums.
        sampling: how records were chosen. Only ``poisson`` can be claimed at a rate below 1.
    """

    purpose: str
    round: int
    unit: Literal["record", "user"]
    relation: Relation
    noise_multiplier: float
    sampling_rate: float
    steps: int = 1
    sampling: str = "poisson"

    def __post_init__(self) -> None:
        problems = []
        if self.relation not in get_args(Relation):
            problems.append(f"a charge needs a neighbouring relation, got {self.relation!r}")
        if self.unit not in ("record", "user"):
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
        if self.steps < 1 or self.round < 1:
            problems.append(f"steps and round must be at least 1, got {self.steps}, {self.round}")
        if problems:
            raise PrivacyError("; ".join(problems))


class Ledger:
    """The charges of one device, or of one federation, in a file.

    Args:
        path: of the file; made with the first charge.
        delta: the δ at which ε is stated.
        budget: ε that all charges together may reach; without one everything is only written down.
    """

    def __init__(self, path: Path, *, delta: float, budget: float | None = None) -> None:
        if budget is not None and not budget >= 0:
            raise PrivacyError(f"budget must be at least 0, got {budget}")
        if not 0 < delta < 1:
            raise PrivacyError(f"delta must be between 0 and 1, got {delta}")
        self.path, self.delta, self.budget = path, delta, budget

    @property
    def charges(self) -> list[Charge]:
        """Everything that was spent, in order.

        Raises:
            PrivacyError: the file was changed or damaged.
        """
        return _read(self.path.read_bytes(), self.path)[0] if self.path.exists() else []

    def epsilon(self) -> float:
        """ε of everything that was spent, at :attr:`delta`.

        Raises:
            PrivacyError: the charges have different units or relations.
        """
        return _epsilon(self.charges, self.delta)

    def charge(self, charge: Charge) -> float:
        """Write a charge down, so that it may be spent; returns ε with it.

        Raises:
            PrivacyError: it would exceed the budget, does not compose with what is there, or the
                file was changed. Nothing is written then.
        """
        with _locked(self.path) as stream:
            raw = stream.read()
            spent, end, last = _read(raw, self.path)
            total = _epsilon([*spent, charge], self.delta)
            if self.budget is not None and total > self.budget:
                raise PrivacyError(
                    f"round {charge.round} of {charge.purpose!r} would bring ε to {total:.3g}, "
                    f"above the budget of {self.budget:.3g} at δ = {self.delta:g}; nothing was "
                    "trained"
                )
            stream.truncate(end)
            stream.seek(end)
            stream.write(_line(charge, last))
            stream.flush()
            os.fsync(stream.fileno())
        return total


def _epsilon(charges: Sequence[Charge], delta: float) -> float:
    for name in ("unit", "relation"):
        kinds = sorted({getattr(charge, name) for charge in charges})
        if len(kinds) > 1:
            raise PrivacyError(
                f"charges by {' and '.join(kinds)} do not add up to one ε; keep a ledger for each "
                f"{name}"
            )
    if not charges:
        return 0.0
    return epsilon_of_charges(
        tuple((c.noise_multiplier, c.sampling_rate, c.steps) for c in charges),
        delta=delta,
        relation=charges[0].relation,
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


def _read(raw: bytes, path: Path) -> tuple[list[Charge], int, str]:
    """The charges, where the last whole line ends, and that line's hash."""
    charges, end, last = [], 0, ""
    for number, line in enumerate(raw.splitlines(keepends=True), 1):
        if not line.endswith(b"\n"):
            break  # torn: never acknowledged
        charges.append(_parse(line, last, f"{path}, line {number}"))
        end += len(line)
        last = hashlib.sha256(line).hexdigest()
    return charges, end, last


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
