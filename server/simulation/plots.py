"""The plots of a run, as SVG elements to be put into an HTML page.

Colours are CSS variables (``--ink``, ``--muted``, ``--grid``, ``--paper``, ``--s1`` … ``--s6``)
that the page defines, so the plots follow its light or dark scheme. The same run gives the same
bytes. Needs the ``simulate`` extra: every function raises MissingExtraError without it.
"""

from __future__ import annotations

import io
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from xml.etree import ElementTree

from ...shared.errors import MissingExtraError
from .config import BASE
from .table import label, number, size

__all__ = [
    "INK",
    "MUTED",
    "SERIES",
    "beside",
    "bytes_by_device",
    "draw",
    "epsilon_by_device",
    "loss_by_arm",
    "loss_by_device",
    "loss_by_round",
    "rows_of",
]

Result = Mapping[str, Any]

# Placeholders that matplotlib can draw with, and the variables that take their place.
INK, MUTED, _GRID, _PAPER = "#010101", "#010102", "#010103", "#010104"
SERIES = tuple(f"#0202{n:02x}" for n in range(1, 7))
_THEME = {INK: "var(--ink)", MUTED: "var(--muted)", _GRID: "var(--grid)", _PAPER: "var(--paper)"}
_THEME |= {colour: f"var(--s{n})" for n, colour in enumerate(SERIES, 1)}
_MARKERS = "osD^vP"

_WIDTH = 7.2  # inches; 518 user units of the SVG
_ROW = 0.26  # inches a device takes
_PANELS = 4  # panels side by side
_SMALLEST_SPAN = 0.02  # of a loss; below it a panel would show rounding
_STYLE = {
    "svg.fonttype": "none",  # text stays text: it can be searched, and every script is shown
    "text.parse_math": False,  # a name may hold dollar signs
    "axes.unicode_minus": False,
    "font.size": 9.5,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": MUTED,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
    "text.color": INK,
    "xtick.color": _GRID,
    "ytick.color": _GRID,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": INK,
    "ytick.major.size": 0,
}


def loss_by_arm(result: Result) -> str:
    """Held-out loss: a row an arm, best on top, a dot a device, a bar and figure for the mean."""
    summary, scores = result["summary"], result["scores"]
    arms = sorted((a for a in result["arms"] if scores.get(a)), key=lambda a: _worth(result, a))

    def paint(figure: Any) -> None:
        axes = rows_of(figure.subplots(), [label(arm, 32) for arm in arms])
        for row, arm in enumerate(arms):
            dots, mean = [s["loss"] for s in scores[arm].values()], summary[arm]["loss"]
            colour, marker = _look(result, arm)
            axes.plot(dots, [row] * len(dots), marker, color=colour, alpha=0.6, mew=0, ms=7)
            axes.plot([mean], [row], "|", color=INK, ms=20, mew=2.5)
            beside(axes, row, number(mean))
        axes.set_xlabel(f"{_unit(result)} (left is better); | mean of the devices")

    return draw("arms", "Held-out loss of every device, by arm", 0.9 + 0.36 * len(arms), paint)


def loss_by_device(result: Result) -> str:
    """Held-out loss: a row a device, highest base loss on top, a mark an arm; first the means."""
    scores, arms = result["scores"], [a for a in result["arms"] if result["scores"].get(a)]
    base = scores.get(BASE, {})
    names = sorted(base, key=lambda name: (-base[name]["loss"], name))

    def paint(figure: Any) -> None:
        axes = rows_of(figure.subplots(), ["mean of the devices", *(label(name) for name in names)])
        axes.axhline(0.5, color=MUTED, lw=0.8)
        for place, arm in enumerate(arms):
            points = {0: result["summary"][arm]["loss"]}
            own = scores[arm]
            points |= {i: own[n]["loss"] for i, n in enumerate(names, 1) if n in own}
            shift = (place - (len(arms) - 1) / 2) * 0.12
            rows = [row + shift for row in points]
            colour, marker = _look(result, arm)
            axes.plot(list(points.values()), rows, marker, color=colour, ms=5, mew=0, label=arm)
        axes.set_xlabel(f"{_unit(result)} (left is better)")
        figure.legend(loc="outside upper left", ncols=2, handletextpad=0.2)

    height = 1.5 + 0.34 * (len(names) + 1)
    return draw("devices", "Held-out loss of every arm, by device", height, paint)


def loss_by_round(result: Result) -> str:
    """Loss after each round: a panel a device, all of the same span; dashed: the base's loss."""
    rounds, base = result["rounds"], result["scores"].get(BASE, {})
    names = sorted({name for entry in rounds for name in entry["loss"]})
    lines = {n: [(r["round"], r["loss"][n]) for r in rounds if n in r["loss"]] for n in names}
    dashed = {n: base[n]["loss"] for n in names if n in base}

    def extent(name: str) -> tuple[float, float]:
        levels = [loss for _, loss in lines[name]] + ([dashed[name]] if name in dashed else [])
        return min(levels), max(levels)

    def paint(figure: Any) -> None:
        span = 1.3 * max(_SMALLEST_SPAN, *(high - low for low, high in map(extent, names)))
        panels = figure.subplots(rows, columns, squeeze=False, sharex=True).flat
        for axes, name in zip(panels, names, strict=False):
            _panel(axes, name, lines[name], dashed.get(name), sum(extent(name)) / 2, span)
        for axes in list(figure.axes)[len(names) :]:
            axes.set_axis_off()
        figure.get_layout_engine().set(h_pad=0.08, w_pad=0.06)
        figure.supxlabel("round", color=MUTED, fontsize=9.5)

    columns = min(_PANELS, len(names))
    rows = math.ceil(len(names) / columns)
    return draw("rounds", "Held-out loss after each round, by device", 0.5 + 1.15 * rows, paint)


def epsilon_by_device(result: Result) -> str:
    """ε that each device has spent, largest on top; an arrow where it is infinite."""
    spent = {n: math.inf if e is None else float(e) for n, e in result["epsilon"].items()}
    names = sorted(spent, key=lambda name: (-spent[name], name))
    end = 1.1 * max((e for e in spent.values() if math.isfinite(e) and e > 0), default=1.0)

    def paint(figure: Any) -> None:
        axes = rows_of(figure.subplots(), [label(name) for name in names])
        for row, name in enumerate(names):
            finite = math.isfinite(spent[name])
            reach, colour = (spent[name], SERIES[1]) if finite else (end, SERIES[3])
            axes.plot([0, reach], [row, row], color=colour, lw=2)
            axes.plot([reach], [row], "o" if finite else ">", color=colour, ms=7, clip_on=False)
            beside(axes, row, number(spent[name], 2))
        axes.set_xlim(0, end)
        axes.set_xlabel("ε over the whole federation (left is more private)")

    return draw("epsilon", "Privacy cost ε by device", 0.9 + _ROW * len(names), paint)


def bytes_by_device(result: Result) -> str:
    """Adapter traffic of each device, on a log scale; dashed: the one-off download of the base."""
    wire, base = result["wire"], result["base"]["bytes"]
    names = sorted(wire, key=lambda name: (-wire[name]["down"] - wire[name]["up"], name))
    sent = [wire[n][way] for n in names for way in ("down", "up") if wire[n][way] > 0]

    def paint(figure: Any) -> None:
        axes = rows_of(figure.subplots(), [label(name) for name in names])
        axes.set_xscale("log")
        axes.set_xlim(min([*sent, base]) / 3, max([*sent, base]) * 3)
        axes.axvline(base, color=MUTED, ls="--", lw=1.2, label=f"base, once: {size(base)}")
        for way, marker, shift, colour in (("down", "v", -0.13, 1), ("up", "^", 0.13, 2)):
            rows = {row + shift: wire[n][way] for row, n in enumerate(names) if wire[n][way] > 0}
            look = {"color": SERIES[colour], "ms": 6, "mew": 0}
            axes.plot(list(rows.values()), list(rows), marker, label=f"adapters {way}", **look)
        axes.xaxis.set_major_formatter(lambda value, _: size(value))
        axes.minorticks_off()
        axes.set_xlabel("bytes over the whole federation, log scale")
        figure.legend(loc="outside upper left", ncols=3, handletextpad=0.4)

    height = 1.2 + 1.15 * _ROW * len(names)
    return draw("bytes", "Bytes on the wire by device, next to the base", height, paint)


def _panel(
    axes: Any,
    name: str,
    line: Sequence[tuple[int, float]],
    base: float | None,
    middle: float,
    span: float,
) -> None:
    """One device's losses, around ``middle`` in a window of ``span``."""
    if base is not None:
        axes.axhline(base, color=MUTED, ls="--", lw=1)
    axes.plot(*zip(*line, strict=True), "o-", color=SERIES[1], ms=4, lw=1.5)
    axes.set_ylim(middle - span / 2, middle + span / 2)
    axes.set_title(label(name, 20), fontsize=8.5, loc="left", pad=3)
    axes.locator_params(axis="y", nbins=3)
    axes.xaxis.get_major_locator().set_params(integer=True, nbins=5)
    axes.margins(x=0.12)
    axes.tick_params(labelsize=8, labelcolor=MUTED)
    axes.grid(axis="y")


def rows_of(axes: Any, names: Sequence[str]) -> Any:
    """Axes with a named row for each of ``names``, the first on top."""
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="x")
    axes.spines["left"].set_visible(False)
    return axes


def beside(axes: Any, row: int, text: str) -> None:
    """Write at the right end of a row."""
    axes.annotate(text, (1.02, row), xycoords=("axes fraction", "data"), va="center")


def _look(result: Result, arm: str) -> tuple[str, str]:
    """Colour and marker of an arm, the same in every plot."""
    place = list(result["arms"]).index(arm)
    return SERIES[place % len(SERIES)], _MARKERS[place % len(_MARKERS)]


def _unit(result: Result) -> str:
    return f"held-out loss, {result['measures']['loss']['title']}"


def _worth(result: Result, arm: str) -> tuple[float, str]:
    return float(result["summary"][arm]["loss"]), arm


def draw(name: str, title: str, height: float, paint: Callable[[Any], None]) -> str:
    """Let ``paint`` fill a figure of ``height`` inches, and return it as an SVG element."""
    try:
        import matplotlib.style
        from matplotlib.backends.backend_svg import FigureCanvasSVG
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingExtraError("simulate", "the run report") from error
    page = io.StringIO()
    style = _STYLE | {"svg.hashsalt": f"locavore-{name}"}
    with warnings.catch_warnings(), matplotlib.style.context(["default", style]):
        # Only used to measure a name; the reader's browser has the glyphs.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure = Figure(figsize=(_WIDTH, height), dpi=72, layout="constrained")
        paint(figure)
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        FigureCanvasSVG(figure).print_svg(page, metadata=metadata)
    return _element(page.getvalue(), name, title)


def _element(page: str, name: str, title: str) -> str:
    """Turn an SVG file into an element of an HTML page: ids of its own, a title, the theme."""
    root = ElementTree.fromstring(page)  # noqa: S314 - written by matplotlib just above
    for node in root.iter():
        node.tag = node.tag.rpartition("}")[2]
        for key in list(node.attrib):
            node.set(key.rpartition("}")[2], _own(node.attrib.pop(key), name))
        if "id" in node.attrib:
            node.set("id", f"{name}-{node.attrib['id']}")
        if node.tag == "g":
            node.attrib.pop("id", None)  # nothing refers to groups
    for definitions in root.findall("defs"):
        for rule in definitions.findall("style"):  # it would reach the whole page
            definitions.remove(rule)
    root.attrib = {"viewBox": root.attrib["viewBox"], "role": "img"}
    root.set("aria-labelledby", f"{name}-title")
    heading = ElementTree.Element("title", {"id": f"{name}-title"})
    heading.text = title
    root.insert(0, heading)
    return ElementTree.tostring(root, encoding="unicode")


def _own(value: str, name: str) -> str:
    """An attribute's value with references into its own plot, and the theme's colours."""
    if value.startswith("#") and value not in _THEME:
        return f"#{name}-{value[1:]}"
    value = value.replace("url(#", f"url(#{name}-")
    for colour, variable in _THEME.items():
        value = value.replace(colour, variable)
    return value
