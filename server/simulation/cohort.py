"""Devices that train together: one cohort in one pass, while every ClientApp answers for itself.

The grid tells whom a round's messages go to; when the first of these devices is asked for its
update, all of them are trained, and each one's app finds its own. What a server or a device sees
is the same as without: the same messages, the same charges, the same updates up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

import numpy as np

from ...client.app import FederatedDevice
from ...client.secure_sum import SecureSums
from ...shared.adapters import Array
from ...shared.errors import LocavoreError

__all__ = ["CohortDevice", "TrainRound", "TrainsTogether"]

Record = TypeVar("Record", covariant=True)

TrainRound = Callable[[Array, int, Sequence[int], Sequence[Sequence[Any]]], Array]
"""``(theta (dim,), round, members, each member's records)`` to updates ``(members, dim)``."""


class CohortDevice(FederatedDevice, Protocol[Record]):
    """A device that leaves its training to others."""

    @property
    def width(self) -> int:
        """Length of the vector that it is sent; devices of one length train together."""
        ...

    def begin(self, round: int) -> Sequence[Record]:
        """Agree to a round, charge it, and hand out the records to train on."""
        ...


@dataclass
class TrainsTogether(Generic[Record]):
    """A federation's devices, by partition.

    Args:
        devices: all of them.
        train: trains some of them from one shared vector.
    """

    devices: Sequence[CohortDevice[Record]]
    train: TrainRound
    _due: list[int] = field(default_factory=list)
    _answers: dict[tuple[int, bytes, int], Array | LocavoreError] = field(default_factory=dict)

    def expect(self, partitions: Sequence[int]) -> None:
        """These devices are about to be asked."""
        self._due = list(partitions)

    def device(self, partition: int) -> FederatedDevice:
        """The device of a partition, as its ClientApp sees it."""
        return _Member(self, partition)

    def update(self, partition: int, theta: Array, round: int) -> Array:
        """A device's own update, trained with those that are due in the same round."""
        asked = (round, theta.tobytes())
        if (*asked, partition) not in self._answers:
            due = [p for p in self._due if self.devices[p].width == theta.size]
            due = due if partition in due else [partition]
            self._due = [p for p in self._due if p not in due]
            self._answers = {k: v for k, v in self._answers.items() if k[0] == round}
            self._answers |= {
                (*asked, p): answer for p, answer in self._train(due, theta, round).items()
            }
        answer = self._answers.pop((*asked, partition))
        if isinstance(answer, LocavoreError):
            raise answer
        return answer

    def _train(
        self, due: Sequence[int], theta: Array, round: int
    ) -> dict[int, Array | LocavoreError]:
        answers: dict[int, Array | LocavoreError] = {}
        ready: dict[int, Sequence[Record]] = {}
        for partition in due:
            try:
                ready[partition] = self.devices[partition].begin(round)
            except LocavoreError as error:  # this device's answer; the others go on
                answers[partition] = error
        if ready:
            updates = self.train(theta, round, list(ready), list(ready.values()))
            answers.update(zip(ready, updates, strict=True))
        return answers


@dataclass(frozen=True)
class _Member(Generic[Record]):
    together: TrainsTogether[Record]
    partition: int

    @property
    def _own(self) -> CohortDevice[Record]:
        return self.together.devices[self.partition]

    @property
    def base_id(self) -> str:
        return self._own.base_id

    @property
    def plan_digest(self) -> str:
        return self._own.plan_digest

    @property
    def sums(self) -> SecureSums | None:
        return self._own.sums

    def train_shared(self, theta: Array, *, round: int) -> Array:
        update = self.together.update(self.partition, theta, round)
        return np.ascontiguousarray(update, np.float32)

    def evaluate_shared(self, theta: Array, *, round: int) -> None:
        self._own.evaluate_shared(theta, round=round)
