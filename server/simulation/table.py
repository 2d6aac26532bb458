"""A finished run as a terminal table and in plain sentences; the HTML report uses the same words.

The run is the dictionary that is written as ``result.json``, version 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.cells import cell_len, set_cell_size
from rich.table import Table
from rich.text import Text

from ...shared.errors import BadInputError
from .config import BASE, REFERENCE

__all__ = [
    "best_arm",
    "check_result",
    "headline",
    "label",
    "noise_line",
    "number",
    "paired_losses",
    "privacy_line",
    "result_table",
    "size",
    "spread",
    "summary_lines",
    "unhelpful_line",
    "verdict",
]

HELPS, UNCLEAR, HURTS = "helps", "no clear help", "hurts"

_VERSION = 1
_KEYS = (
    *("started", "wall_seconds", "seconds", "base", "data", "plan", "epsilon", "arms", "scores"),
    *("items", "summary", "wire", "rounds", "checks", "samples", "notes", "measures"),
)
_TRUST = {
    "local": "local, nobody but the device itself, since its updates are noised before they leave",
    "secure-aggregation": "secure aggregation: enough devices that do not collude with the server, "
    "which sees only sums that hold the noise",
    "central": "central: the server sees clipped updates, and adds the noise to their sum",
}
_COLOURS = {HELPS: "green", UNCLEAR: "yellow", HURTS: "red"}


def check_result(result: Mapping[str, Any]) -> None:
    """Refuse what is not a run of this version.

    Raises:
        BadInputError: another version, or parts are missing.
    """
    if result.get("version") != _VERSION:
        raise BadInputError(
            f"this reads results of version {_VERSION}, got {result.get('version')!r}"
        )
    missing = [key for key in _KEYS if key not in result]
    if missing:
        raise BadInputError(f"the result lacks {', '.join(missing)}; run the simulation again")


def label(text: object, cells: int = 24) -> str:
    """A name on one line of ``cells`` columns, without control characters; cut in its middle."""
    flat = " ".join("".join(c if c.isprintable() else " " for c in str(text)).split())
    if cell_len(flat) <= cells:
        return flat
    head = set_cell_size(flat, cells * 2 // 3).rstrip()
    tail = flat[-(cells // 3) :]  # names often differ at their end only
    while cell_len(head) + 1 + cell_len(tail) > cells:
        tail = tail[1:]
    return f"{head}…{tail}"


def number(value: float | None, digits: int = 3, *, sign: bool = False) -> str:
    """A figure with ``digits`` decimals; ``–`` where there is none, ``∞`` where it is infinite."""
    if value is None or math.isnan(value):
        return "–"
    if math.isinf(value):
        return "∞" if value > 0 else "-∞"
    return f"{value:{'+' if sign else ''},.{digits}f}"


def size(count: float) -> str:
    """Bytes in decimal units, as in ``10.8 kB``."""
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} B" if unit == "B" else f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} GB"


def spread(values: Iterable[float], unit: str = "") -> str:
    """``2.10 to 2.41``, or one figure where all are the same; ``unit="bytes"`` for sizes."""
    ordered = sorted(values)
    shown = [size(v) if unit == "bytes" else number(v, 2) for v in (ordered[0], ordered[-1])]
    return shown[0] if shown[0] == shown[1] else f"{shown[0]} to {shown[1]}"


def verdict(gain: Mapping[str, float] | None) -> str:
    """Whether the 95 % interval of a gain over the base lies above 0; empty for the base."""
    if gain is None:
        return ""
    if gain["low"] > 0:
        return HELPS
    return HURTS if gain["high"] < 0 else UNCLEAR


def best_arm(result: Mapping[str, Any]) -> str | None:
    """The arm with the largest gain, of those that help if any does; never a reference arm."""
    gains = {arm: gain for arm, gain in _gains(result).items() if arm != REFERENCE}
    return max(
        gains,
        key=lambda arm: (verdict(gains[arm]) == HELPS, gains[arm]["mean"]),
        default=None,
    )


def paired_losses(result: Mapping[str, Any], arm: str) -> list[tuple[str, float, float]]:
    """Device, base loss and loss of ``arm``, for the devices that have both."""
    base, scores = result["scores"].get(BASE, {}), result["scores"].get(arm, {})
    return [(name, base[name]["loss"], scores[name]["loss"]) for name in scores if name in base]


def headline(result: Mapping[str, Any]) -> str:
    """Whether personalization helped, in one sentence."""
    best = best_arm(result)
    paired = paired_losses(result, best) if best else []
    if best is None or not paired:
        return "Nothing is known about personalization here: only the base was measured."
    before, after = (sum(p[i] for p in paired) / len(paired) for i in (1, 2))  # type: ignore[misc]
    improved = sum(p[2] < p[1] for p in paired)
    which = " with this arm" if len(paired) < len(result["scores"][BASE]) else ""
    count = f"{improved} of {len(paired)} {_devices(len(paired))}{which}"
    count += " improves" if improved == 1 else " improve"
    gain = result["summary"][best]["gain"]
    change = f"from {number(before)} (base) to {number(after)} ({best})"
    if verdict(gain) == HELPS:
        return f"Personalization helps here: the mean loss falls {change}, and {count}."
    said = "makes it worse" if verdict(gain) == HURTS else "is not shown to help"
    return (
        f"Personalization {said} here: even with the best arm the mean loss goes {change}, a gain "
        f"of {_interval(gain)}; {count}."
    )


def unhelpful_line(result: Mapping[str, Any]) -> str:
    """The arms whose gain over the base is not above 0 with 95 % confidence."""
    gains = _gains(result)
    bad = [arm for arm, gain in gains.items() if verdict(gain) != HELPS]
    if not gains:
        return "No arm was compared with the base."
    if len(bad) == len(gains):
        return "No arm is shown to be better than the base."
    if not bad:
        return "Every arm has a lower loss than the base."
    named = "; ".join(f"{arm}, {_interval(gains[arm])}" for arm in bad)
    return f"Not shown to be better than the base: {named}."


def privacy_line(result: Mapping[str, Any]) -> str:
    """What ε is, at which δ, for which unit and neighbours, and who has to be trusted."""
    plan = result["plan"]
    spent = [math.inf if e is None else float(e) for e in result["epsilon"].values()]
    claim = (
        f"δ = {plan['delta']:g}; unit: one {plan['unit']}; neighbouring data: "
        f"{plan['relation']}; trust: {_TRUST.get(plan['trust'], plan['trust'])}"
    )
    if not spent:
        return "No device trained the shared adapter, so no ε is spent."
    finite = [e for e in spent if math.isfinite(e)]
    shown = f"{spread(finite)} per device" if finite else ""
    if len(finite) < len(spent):
        unbounded = f"{len(spent) - len(finite)} of {len(spent)} {_devices(len(spent))}"
        others = f"; elsewhere it is {shown}" if finite else ""
        shown = f"infinite on {unbounded}, where no privacy is claimed{others}"
    return f"ε of the shared adapter is {shown} ({claim})."


def summary_lines(result: Mapping[str, Any]) -> list[str]:
    """The run in plain sentences, for a terminal.

    They hold text from the data: print them with ``markup=False``.

    Raises:
        BadInputError: ``result`` is of another version, or incomplete.
    """
    check_result(result)
    lines = [headline(result), unhelpful_line(result), privacy_line(result), noise_line(result)]
    lines += [_wire_line(result), _worst_line(result)]
    return [" ".join(line.split()) for line in lines if line]


def result_table(result: Mapping[str, Any]) -> Table:
    """The arms of a run, one a row; fits 100 columns.

    Raises:
        BadInputError: ``result`` is of another version, or incomplete.
    """
    check_result(result)
    table = Table(box=SIMPLE_HEAD, padding=(0, 1), title=Text(_title(result)), title_justify="left")
    table.add_column("arm", min_width=9, max_width=28)
    table.add_column("mean\nloss", justify="right", no_wrap=True)
    table.add_column("gain over base\n95 % interval", no_wrap=True)
    table.add_column("worst\ndevice", no_wrap=True)
    metrics = result["measures"]["metrics"]
    for metric in metrics:
        table.add_column(_narrow(metric["title"]), justify="right", no_wrap=True)
    for arm in result["arms"]:
        if arm in result["summary"]:
            table.add_row(*_row(arm, result["summary"][arm], metrics))
    return table


def _narrow(title: str) -> str:
    """A head on several lines; a tower's name is broken as well."""
    name, at, tower = title.replace(" ", "\n").partition("@")
    return name + at + tower.replace("-", "-\n")


def _row(arm: str, summary: Mapping[str, Any], metrics: Iterable[Mapping[str, Any]]) -> list[Text]:
    gain = summary["gain"]
    shown = Text("–")
    if gain is not None:
        shown = Text(f"{number(gain['mean'], sign=True)} ")
        shown.append(verdict(gain), style=_COLOURS[verdict(gain)])
        shown.append(f"\n{number(gain['low'])} to {number(gain['high'])}", style="dim")
    return [
        Text(label(arm, 58)),
        Text(number(summary["loss"])),
        shown,
        Text(f"{number(summary['worst_loss'])}\n{label(summary['worst_device'], 16)}"),
        *(Text(number(summary.get(metric["key"]), metric["digits"])) for metric in metrics),
    ]


def _title(result: Mapping[str, Any]) -> str:
    base, count = result["base"], len(result["data"]["devices"])
    name = f"{label(base['name'], 40)} ({label(base['precision'], 10)})"
    return f"{label(result['data']['name'], 32)} on {name}, {count} {_devices(count)}"


def noise_line(result: Mapping[str, Any]) -> str:
    """That the noise can be repeated, where it can and an ε is claimed; empty elsewhere."""
    source = str(result["plan"]["noise_source"])
    claimed = any(e is not None and math.isfinite(e) for e in result["epsilon"].values())
    if not source.startswith("seeded") or not claimed:
        return ""
    return (
        f"The noise was {source}: this run itself hides nothing; ε is what the same plan gives "
        "with noise that nobody can repeat."
    )


def _wire_line(result: Mapping[str, Any]) -> str:
    wire, base = result["wire"].values(), f"the base ({size(result['base']['bytes'])})"
    if not wire:
        return f"No adapter travelled; {base} is downloaded once."
    down, up = (spread((w[way] for w in wire), "bytes") for way in ("down", "up"))
    return f"A device downloads {down} and uploads {up} in all; {base} comes down once before that."


def _worst_line(result: Mapping[str, Any]) -> str:
    arm = best_arm(result) or BASE
    summary = result["summary"].get(arm)
    if not summary:
        return ""
    return (
        f"Worst served is {label(summary['worst_device'], 40)}, with a loss of "
        f"{number(summary['worst_loss'])} ({arm})."
    )


def _gains(result: Mapping[str, Any]) -> dict[str, Mapping[str, float]]:
    summaries = ((arm, result["summary"].get(arm)) for arm in result["arms"])
    return {arm: summary["gain"] for arm, summary in summaries if summary and summary["gain"]}


def _interval(gain: Mapping[str, float]) -> str:
    low, high = number(gain["low"]), number(gain["high"])
    return f"{number(gain['mean'], sign=True)} (95 % interval {low} to {high})"


def _devices(count: int) -> str:
    return "device" if count == 1 else "devices"
