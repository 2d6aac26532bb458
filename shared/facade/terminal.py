"""What the command line shows while it works."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.text import Text

from .shared.errors import MissingExtraError, PrivacyError

if TYPE_CHECKING:
    from .privacy.audit.sections import Section

__all__ = ["Clock", "end_on_sigterm", "require", "say_section", "status"]


def end_on_sigterm() -> None:
    """Let a service manager's SIGTERM end the program as Ctrl-C does.

    SIGINT itself is ignored in programs that a shell has put into the background.
    """

    def end(*_: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, end)


@contextmanager
def status(console: Console, title: str) -> Iterator[Callable[[str], None]]:
    """Show what is going on; where there is no terminal, print each step once."""
    if not console.is_terminal:
        console.print(title, highlight=False)
        yield lambda what: console.print(f"  {what}", highlight=False)
        return
    begun = time.monotonic()
    with console.status(title) as spinner:
        yield lambda what: spinner.update(f"{title}: {what} [{time.monotonic() - begun:.0f} s]")


class _TimeLeft(ProgressColumn):
    """Time left over all phases, from what the work done so far has cost."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock

    def render(self, task: Task) -> Text:
        left = self._clock.seconds_left() if task.description == Clock.OVERALL else None
        return Text("" if left is None else f"{left // 60:.0f}:{left % 60:02.0f} left")


class Clock:
    """Progress bars of a simulated run, with the time left overall."""

    OVERALL = "overall"

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.completed:.0f}/{task.total:.0f}"),
            _TimeLeft(self),
            TextColumn("{task.fields[what]}", style="dim"),
            console=console,
        )
        self._tasks: dict[str, TaskID] = {}
        self._costs: dict[str, float] = {}
        self._left: dict[str, int] = {}
        self._done = 0.0
        self._begun = time.monotonic()

    def __enter__(self) -> Clock:
        self._begun = time.monotonic()
        if self._console.is_terminal:
            self._bars.start()
        else:
            self._console.print("loading the base and the devices")
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._console.is_terminal:
            self._bars.stop()

    def plan(self, work: dict[str, tuple[int, float]]) -> None:
        """Set up a bar for every phase that has steps, and one for all of them."""
        self._begun = time.monotonic()
        for phase, (steps, cost) in work.items():
            self._costs[phase], self._left[phase] = cost, steps
            if steps:
                self._tasks[phase] = self._bars.add_task(phase, total=steps, what="")
        self._tasks[self.OVERALL] = self._bars.add_task(self.OVERALL, total=100, what="")

    def note(self, text: str) -> None:
        """Print a line above the bars."""
        self._bars.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def step(self, phase: str, what: str = "") -> None:
        """Advance one phase and the overall bar."""
        self._left[phase] = max(0, self._left[phase] - 1)
        self._done += self._costs[phase]
        self._bars.update(self._tasks[phase], advance=1, what=what)
        ahead = self._ahead()
        share = 100 * self._done / max(1e-9, self._done + ahead)
        self._bars.update(self._tasks[self.OVERALL], completed=share)
        if not self._console.is_terminal and not self._left[phase]:
            left = self.seconds_left() or 0
            self._console.print(f"{phase}: done; about {left:.0f} s left", highlight=False)

    def seconds_left(self) -> float | None:
        """Seconds until the run ends; None before anything is known."""
        if not self._done:
            return None
        return (time.monotonic() - self._begun) / self._done * self._ahead()

    def _ahead(self) -> float:
        return sum(left * self._costs[phase] for phase, left in self._left.items())


def require(extra: str, what: str, *modules: str) -> None:
    """Raise MissingExtraError, which names the extra, where a module is not installed."""
    from importlib.util import find_spec

    if any(find_spec(module) is None for module in modules):
        raise MissingExtraError(extra, what)


def say_section(console: Console, section: Section, out: Path | None) -> None:
    """Keep an audit's section in a file, if given; print a line a finding, the verdict last.

    Raises:
        PrivacyError: a claim is refuted.
    """
    from .privacy.audit.findings import verdict

    if out is not None:
        out.write_text(section.to_json() + "\n", "utf-8")
    for finding in section.findings:
        console.print(str(finding), highlight=False, markup=False, soft_wrap=True, style="dim")
    if not all(finding.holds for finding in section.findings):
        raise PrivacyError(verdict(section.findings))
    console.print(verdict(section.findings), highlight=False, soft_wrap=True)
