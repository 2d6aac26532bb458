"""What a task brings to a simulation: its people, and how what they get is judged.

The simulation itself trains, federates, accounts and reports; it knows no modality. A study knows
one: it makes devices of its data, says what their held-out items cost an arm, lets arms generate,
and names the figures of that.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ...client.retrieval import Hit
from ...shared.packages import Package
from .config import SimulationConfig
from .person import SimulatedPerson

__all__ = ["Made", "Metric", "Study"]


@dataclass(frozen=True)
class Metric:
    """A figure of an arm.

    Args:
        key: in ``result.json``.
        title: in tables.
        said: what it means, for the report.
        digits: that are shown.
        of_loss: computes it from a mean loss; otherwise it is judged on what was generated.
    """

    key: str
    title: str
    said: str
    digits: int = 2
    of_loss: Callable[[float], float] | None = None


@dataclass(frozen=True)
class Made:
    """Something generated for a held-out item, and what of the person's was used for it."""

    output: Any
    hits: tuple[Hit, ...] = ()


class Study(ABC):
    """A task with data, engine and judges.

    Args:
        data_name: of its data, for people.
        devices: how many there are.
        loss: the figure that is compared in pairs, lower being better; its title has the unit.
        metrics: further figures.
        held_out: what of a person's is held out, for people.
        arms: that are compared, the bare base first.
        notes: what a reader must know.
        glossary: terms of its own.
    """

    data_name: str
    devices: int
    loss: ClassVar[Metric]
    metrics: ClassVar[tuple[Metric, ...]]
    held_out: ClassVar[str]
    arms: ClassVar[tuple[str, ...]]
    notes: ClassVar[tuple[str, ...]] = ()
    glossary: ClassVar[Mapping[str, str]] = {}

    def arms_of(self, package: Package) -> tuple[str, ...]:
        """The arms that a base can take part in."""
        return self.arms

    @abstractmethod
    def people(
        self, package: Package, config: SimulationConfig, folder: Path
    ) -> Sequence[SimulatedPerson]:
        """A device for everybody, in ``folder / name``, all on one runtime of the base."""

    @abstractmethod
    def judge(
        self, person: SimulatedPerson, made: Sequence[Made], everybody: Sequence[SimulatedPerson]
    ) -> dict[str, float | None]:
        """Figures of what was generated for the first of a person's held-out items."""

    @abstractmethod
    def cost(self, config: SimulationConfig) -> tuple[float, float, float]:
        """Roughly, in any one unit: training on a record, scoring an arm, generating in an arm."""

    @abstractmethod
    def sample(self, person: SimulatedPerson, made: Mapping[str, Sequence[Made]]) -> dict[str, Any]:
        """What the report shows of a person, by arm: ``prompt``, ``truth``, ``arms``, ``trace``."""
