"""The figures of audits, as SVG elements; see :mod:`~locavore.server.simulation.plots`."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ...privacy.audit.sections import AT_LEAST, CLAIMED, Figure
from .plots import INK, MUTED, SERIES, beside, draw, rows_of
from .table import label, number

__all__ = ["found_at", "plot"]

_BAR = 0.24  # inches
_BINS = 36
_RATES = (0.001, 0.01)  # of false alarms, at which attacks are compared
_LEAST_RATE = 5e-4  # that is drawn
_STYLES = ("-", "--", "-.", ":")


def plot(figure: Figure, name: str) -> str:
    """A figure of the kinds ``roc``, ``bars`` or ``histogram``, drawn.

    Args:
        figure: what is to be seen.
        name: for the ids of its parts, of its own on the page.
    """
    return _PLOTS[figure.kind](figure, name)


def found_at(curve: Sequence[Sequence[float]], rate: float) -> float | None:
    """The share of members that is found at this rate of false alarms.

    Args:
        curve: false and true positive rates.
        rate: of false alarms, at most.

    Returns:
        None where too few others were tried for such a rate to be seen.
    """
    false, true = (np.asarray(side, float) for side in curve)
    if not np.any((false > 0) & (false <= rate)):
        return None
    return float(true[false <= rate].max())


def _roc(figure: Figure, name: str) -> str:
    curves: Mapping[str, Any] = figure.data["curves"]

    def paint(canvas: Any) -> None:
        axes = canvas.subplots()
        axes.set(xscale="log", yscale="log", xlim=(_LEAST_RATE, 1), ylim=(_LEAST_RATE, 1.15))
        axes.plot([_LEAST_RATE, 1], [_LEAST_RATE, 1], color=MUTED, lw=1, ls=":", label="by chance")
        for rate in _RATES:
            axes.axvline(rate, color=MUTED, lw=0.8, ls="--")
        for place, (attack, curve) in enumerate(curves.items()):
            colour, style = SERIES[(place + 1) % len(SERIES)], _STYLES[place % len(_STYLES)]
            false, true = (np.maximum(side, _LEAST_RATE / 2) for side in curve)
            said = f"{label(attack, 30)}: {_at_rates(curve)}"
            axes.step(false, true, style, where="post", color=colour, lw=1.8, label=said)
            marks = [(rate, found_at(curve, rate)) for rate in _RATES]
            seen = [(rate, found) for rate, found in marks if found]
            axes.plot([x for x, _ in seen], [y for _, y in seen], "o", color=colour, ms=6)
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(lambda value, _: f"{100 * value:g} %")
        axes.minorticks_off()
        axes.grid()
        axes.set_xlabel("false alarms: others who are taken for members")
        axes.set_ylabel("members who are found")
        canvas.legend(loc="outside upper left")

    return draw(name, figure.title, 4.2 + 0.2 * len(curves), paint)


def _at_rates(curve: Sequence[Sequence[float]]) -> str:
    """What is found at the rates that are compared, or that it cannot be said."""
    found = [(rate, found_at(curve, rate)) for rate in _RATES]
    said = [
        f"{100 * share:.3g} % at {100 * rate:g} %"
        if share is not None
        else f"not stated at {100 * rate:g} %"
        for rate, share in reversed(found)
    ]
    return ", ".join(said)


def _bars(figure: Figure, name: str) -> str:
    names: list[str] = list(figure.data["labels"])
    series: Mapping[str, list[float | None]] = figure.data["values"]
    numbers = [v for values in series.values() for v in values if v is not None]
    most = max((v for v in numbers if math.isfinite(v) and v > 0), default=1.0)
    of_epsilon = CLAIMED in series
    end = 1.05 * (most if of_epsilon else max(most, 1.0))  # others are shares, seen against all

    def paint(canvas: Any) -> None:
        axes = rows_of(canvas.subplots(), [label(one, 34) for one in names])
        high = 0.8 / len(series)
        for place, (what, values) in enumerate(series.items()):
            rows = np.arange(len(names)) - 0.4 + high * (place + 0.5)
            lengths = [0 if v is None else min(v, end) for v in values]
            colour = _colour(what, place)
            axes.barh(rows, lengths, high * 0.86, color=colour, label=what)
            for row, value in zip(rows, values, strict=True):
                beside(axes, row, number(value, 2))
        axes.set_xlim(0, end)
        if of_epsilon:
            axes.set_xlabel("ε (left is more private)")
        canvas.legend(loc="outside upper left", ncols=min(3, len(series)))

    height = 1.0 + _BAR * (len(series) + 0.8) * len(names)
    return draw(name, figure.title, height, paint)


def _colour(what: str, place: int) -> str:
    """Claims are grey and bounds orange, on every page."""
    known = {CLAIMED: SERIES[0], AT_LEAST: SERIES[3]}
    return known.get(what, SERIES[(place + 1) % len(SERIES)])


def _histogram(figure: Figure, name: str) -> str:
    groups: Mapping[str, list[float]] = figure.data["values"]
    every = [value for values in groups.values() for value in values if math.isfinite(value)]
    low, high = (min(every), max(every)) if every else (0.0, 1.0)
    edges = np.linspace(low, high if high > low else low + 1, _BINS + 1)

    def paint(canvas: Any) -> None:
        axes = canvas.subplots()
        for place, (group, values) in enumerate(groups.items()):
            shares = np.full(len(values), 100 / max(1, len(values)))
            heights, _ = np.histogram(np.clip(values, low, high), edges, weights=shares)
            colour = SERIES[(place + 1) % len(SERIES)]
            said = f"{label(group, 44)} ({len(values)})"
            axes.stairs(heights, edges, fill=True, color=colour, alpha=0.3)
            axes.stairs(heights, edges, color=colour, lw=1.6, label=said)
            if values:
                axes.axvline(float(np.mean(values)), color=colour, lw=1, ls=":")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g} %")
        axes.set_ylabel("share of its group")
        axes.tick_params(labelcolor=INK)
        axes.grid(axis="y")
        canvas.legend(loc="outside upper left")

    return draw(name, figure.title, 2.6 + 0.2 * len(groups), paint)


_PLOTS: Mapping[str, Callable[[Figure, str], str]] = {
    "roc": _roc,
    "bars": _bars,
    "histogram": _histogram,
}
