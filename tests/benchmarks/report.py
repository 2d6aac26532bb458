"""What a benchmark prints: a table for people, and one JSON line for programs."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field

__all__ = ["Goal", "Options", "Report", "format_table", "machine_line"]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What was asked for.

    Args:
        quick: tiny sizes, correctness only.
        bases: names or paths of built bases, instead of the benchmark's own.
    """

    quick: bool = False
    bases: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A bound on a ratio of the same name.

    Args:
        at_most: the ratio must not exceed the bound; else it must reach it.
        moonshot: reported, but missing it is no failure.
    """

    name: str
    bound: float
    at_most: bool = False
    moonshot: bool = False

    def met(self, ratio: float) -> bool:
        """Whether ``ratio`` is on the right side of the bound."""
        return ratio <= self.bound if self.at_most else ratio >= self.bound

    def sentence(self, ratio: float | None) -> str:
        """The goal, and what became of it."""
        wanted = f"{self.name}: goal {'<=' if self.at_most else '>='} {self.bound:g}"
        if ratio is None:
            return f"{wanted}, not measured here"
        verdict = "met" if self.met(ratio) else "missed"
        return f"{wanted}, measured {ratio:.3g}: {verdict}"


@dataclass(frozen=True, kw_only=True)
class Report:
    """The outcome of a benchmark.

    Args:
        lines: the machine, what was compared and how, and what was left out.
        columns: heads of the table.
        rows: cells of the table.
        ratios: name to figure; a goal of the same name bounds it.
        failures: what was found to be wrong; a benchmark with failures does not hold.
    """

    benchmark: str
    lines: Sequence[str]
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    ratios: dict[str, float]
    goals: Sequence[Goal] = ()
    failures: Sequence[str] = field(default=())

    @property
    def holds(self) -> bool:
        """No failure, and every goal that is no moonshot was measured and met."""
        hard = (goal for goal in self.goals if not goal.moonshot)
        return not self.failures and all(
            goal.name in self.ratios and goal.met(self.ratios[goal.name]) for goal in hard
        )

    def text(self) -> str:
        """Everything but the JSON line."""
        parts = [*self.lines, "", *format_table(self.columns, self.rows), ""]
        parts += [goal.sentence(self.ratios.get(goal.name)) for goal in self.goals]
        parts += [f"WRONG: {failure}" for failure in self.failures]
        return "\n".join(parts)

    def json_line(self) -> str:
        """The last line of a benchmark's output."""
        return json.dumps(
            {
                "benchmark": self.benchmark,
                "ratios": {name: float(f"{ratio:.5g}") for name, ratio in self.ratios.items()},
                "goals": {goal.name: goal.bound for goal in self.goals},
                "holds": self.holds,
            }
        )


def format_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table: the first column to the left, figures to the right."""
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]

    def line(cells: Sequence[str]) -> str:
        first, *others = (
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return "  ".join([first, *others]).rstrip()

    return [line(columns), "  ".join("-" * width for width in widths), *map(line, rows)]


def machine_line() -> str:
    """Processor, cores and load: figures from a busy machine are noisy."""
    load = ", ".join(f"{value:.2f}" for value in os.getloadavg())
    return f"machine: {_processor()}, {os.cpu_count()} cores, load {load}"


def _processor() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as stream:
            names = [line.split(":", 1)[1].strip() for line in stream if "model name" in line]
    except OSError:
        names = []
    return names[0] if names else platform.machine()
