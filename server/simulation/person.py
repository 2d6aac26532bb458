"""A simulated person: a device with records, and items of theirs that it never sees."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from ...client.device import Device
from ...client.federated import MIN_RECORDS
from ...client.training.adapted import AdaptedTwin
from ...privacy.ledger import Ledger
from ...shared.adapters import Adapter, Array
from ...shared.forms import Directions
from .config import PRIVATE, REFERENCE, RETRIEVAL, SHARED

if TYPE_CHECKING:
    from .study import Made

__all__ = ["SimulatedPerson"]

_ROUNDS = "rounds.jsonl"


@dataclass
class SimulatedPerson(ABC):
    """One device of a simulation.

    Args:
        name: of the person.
        device: with the records that may be used.
        folder: the device's own folder: ledger, private adapter, measurements.
        reference: the shared adapter trained without privacy, for comparison.
    """

    name: str
    device: Device
    folder: Path
    reference: Adapter | None = None

    @property
    @abstractmethod
    def held_out(self) -> Sequence[Any]:
        """Items that the device does not have."""

    @abstractmethod
    def losses(self, adapters: Sequence[Adapter], *, retrieval: bool = False) -> list[Array]:
        """What each held-out item costs with these adapters live; one figure or more an item."""

    @abstractmethod
    def make(
        self, adapters: Sequence[Adapter], count: int, *, retrieval: bool = False
    ) -> list[Made]:
        """Generate for the first ``count`` held-out items."""

    @property
    def records(self) -> int:
        """How many records may be federated."""
        return len(self.device.training_records("federate"))

    @property
    def trains(self) -> bool:
        """Whether there is enough to train on; otherwise the device only retrieves."""
        return self.records >= MIN_RECORDS

    def examples(self, twin: AdaptedTwin[Any]) -> list[Any]:
        """What the private adapter is trained on."""
        records = self.device.training_records("train")
        return twin.together(twin.examples([r for r in records if twin.takes(r)]))

    def ledger(self, delta: float) -> Ledger:
        """What the device's records have paid."""
        return Ledger(self.folder / "ledger.jsonl", delta=delta)

    def adapters_of(self, arm: str) -> list[Adapter] | None:
        """The adapters that are live in an arm; None where the arm does not exist here."""
        if arm == REFERENCE:
            wanted = [self.reference]
        else:
            parts = arm.split(" + ")
            wanted = [self.device.shared] if SHARED in parts else []
            wanted += [self.device.private] if PRIVATE in parts else []
        present = [adapter for adapter in wanted if adapter is not None]
        return present if len(present) == len(wanted) else None

    def in_arm(self, arm: str) -> Self:
        """The person as an arm asks them; the same in all arms where a study says no other."""
        return self

    def learn(self, twin: AdaptedTwin[Any], directions: Directions) -> None:
        """Learn on the device what the study's own arms take beside adapters; here, nothing."""
        return

    def measure_shared(self, adapter: Adapter, round: int) -> None:
        """Keep the held-out loss under a round's shared adapter; it stays on the device."""
        if not self.held_out:
            return
        row = {"round": round, "loss": float(np.concatenate(self.losses([adapter])).mean())}
        with (self.folder / _ROUNDS).open("a") as stream:
            stream.write(json.dumps(row) + "\n")

    def round_losses(self) -> dict[int, float]:
        """What :meth:`measure_shared` kept, by round."""
        kept = self.folder / _ROUNDS
        rows = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
        return {row["round"]: row["loss"] for row in rows}


def retrieves(arm: str) -> bool:
    """Whether an arm is told what the device finds."""
    return RETRIEVAL in arm.split(" + ")
