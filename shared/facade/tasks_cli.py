"""``locavore tasks``: what can be generated, and how each task is done and judged."""

from __future__ import annotations

import sys
from typing import Annotated, Optional

import typer
from rich.console import Console
from rich.table import Table

from .shared.metric_names import METRICS
from .shared.tasks import TASKS, Task

__all__ = ["markdown", "tasks"]

console = Console(width=None if sys.stdout.isatty() else 100)

_MANY = {  # columns of a row besides its id
    "context": "context",
    "instruction": "instruction",
    "output": "output",
    "engine": "engine",
    "user_model": "user model",
    "guidance": "guidance",
    "objectives": "objectives",
    "quality": "quality",
    "alignment": "alignment",
    "personalization": "personalization",
    "systems": "stands for",
    "note": "note",
}
_METRICS = ("quality", "alignment", "personalization")


def tasks(
    id: Annotated[
        Optional[str],  # noqa: UP045  # typer reads this form
        typer.Argument(help="A task, to show all of its row."),
    ] = None,
    as_markdown: Annotated[
        bool, typer.Option("--markdown", help="The whole table in Markdown.")
    ] = False,
) -> None:
    """List the tasks of personalized generation, or show one."""
    if as_markdown:
        sys.stdout.write(markdown())
    elif id is None:
        table = Table("task", "context", "given", "output", "objectives")
        table.columns[0].no_wrap = True
        for task in TASKS.values():
            table.add_row(
                task.id, task.context, _cell(task, "instruction"), task.output,
                _cell(task, "objectives"),
            )  # fmt: skip
        console.print(table)
    else:
        task = Task.of(id)
        for field, title in _MANY.items():
            console.print(f"{title:16} {_cell(task, field)}", highlight=False, markup=False)


def markdown() -> str:
    """Every row and every metric as two Markdown tables."""
    rows = [[f"`{task.id}`", *(_cell(task, field) for field in _MANY)] for task in TASKS.values()]
    metrics = [[f"`{metric.printed}`", metric.how] for metric in METRICS.values()]
    return (
        _table(["task", *_MANY.values()], rows)
        + "\n"
        + _table(["metric", "computed with"], metrics)
    )


def _cell(task: Task, field: str) -> str:
    value = getattr(task, field)
    words = (value,) if isinstance(value, str) else value
    if field in _METRICS:
        words = tuple(METRICS[name].printed for name in words)
    return ", ".join(words) or "–"


def _table(titles: list[str], rows: list[list[str]]) -> str:
    lines = [titles, ["---"] * len(titles), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
