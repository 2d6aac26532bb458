"""The report of a run: one HTML file that asks nothing of the network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from . import plots
from .config import BASE, REFERENCE
from .page import (
    bullets,
    cards,
    escape,
    figure,
    plain,
    quote,
    section,
    shown,
    significant,
    table,
    terms,
    write_page,
)
from .table import (
    HELPS,
    HURTS,
    UNCLEAR,
    best_arm,
    check_result,
    number,
    paired_losses,
    size,
    spread,
    summary_lines,
    verdict,
)

__all__ = ["GLOSSARY", "write_report"]

Result = Mapping[str, Any]

GLOSSARY = {
    "Gain": "The base's loss minus the arm's, on the same held-out items. The interval holds 95 % "
    "of the means when the items are drawn again (paired bootstrap). An arm helps when the whole "
    "interval is above 0. Every item counts alike here, and every device in the mean loss, so "
    "the gain is not exactly the difference of two mean losses.",
    "ε and δ": "How much what leaves a device can tell about one unit of its data: whether the "
    "unit is there or not changes the probability of anything that can be observed by a factor "
    "of at most e^ε, apart from a chance of about δ. ε below 1 is strong, above 10 is little.",
    "Unit, neighbours and trust": "The unit is what is hidden: a record is one item, and not "
    "everything of a person. The neighbouring relation says how the two data sets that are "
    "compared differ. The trust assumption says who could still see more: “local” means nobody, "
    "as the noise is added on the device.",
    "Arms": "base: the downloaded model as it is. shared: the adapter that all devices trained "
    "together under the plan. "
    "private: an adapter that the device trains for itself and sends nowhere. without DP: a "
    "reference that shows what privacy costs.",
}


def write_report(result: Result, path: Path) -> None:
    """Write the report of a run to ``path``, as one HTML file of its own.

    Args:
        result: what is written as ``result.json``, version 1.
        path: is replaced if it is there.

    Raises:
        BadInputError: ``result`` is of another version, or incomplete.
        MissingExtraError: matplotlib is not installed.
    """
    check_result(result)
    sections = (
        _answer(result),
        _arms(result),
        _rounds(result),
        _privacy(result),
        _wire(result),
        _samples(result),
        _checks(result),
        _timings(result),
        _devices(result),
        section("Notes", bullets(result["notes"]) or "<p>None.</p>"),
        section("How to read this", terms(_terms_of(result))),
    )
    write_page(_name(result), sections, path)


def _terms_of(result: Result) -> dict[str, str]:
    measures = result["measures"]
    figures = [(f"Loss ({measures['loss']['title']})", measures["loss"]["said"])]
    figures += [(metric["title"], metric["said"]) for metric in measures["metrics"]]
    return {**dict(figures), **GLOSSARY, **measures["glossary"]}


def _answer(result: Result) -> str:
    first, *rest = summary_lines(result)
    started = escape(str(result["started"])[:16].replace("T", " "))
    return (
        f"<header><h1>{_name(result)}</h1>"
        f'<p class="small">Started {started}; took {number(result["wall_seconds"], 0)} s.</p>'
        f'</header>\n<p class="lead">{escape(first)}</p>\n{bullets(rest)}'
    )


def _arms(result: Result) -> str:
    if not result["summary"]:
        return section("Does it help?", "<p>No device had anything held out.</p>")
    heads = ("Arm", "Loss", "Gain over base", "Improved", "Worst device")
    titles = [metric["title"] for metric in result["measures"]["metrics"]]
    rows = [_arm_row(result, arm) for arm in result["arms"] if arm in result["summary"]]
    numbers = {1, 3, *range(5, 5 + len(titles))}
    figures = table((*heads, *titles), rows, numbers=numbers)
    per_arm = figure(
        plots.loss_by_arm(result),
        "A dot is a device. The bar and the figure are the mean of the devices that the arm has.",
    )
    per_device = figure(
        plots.loss_by_device(result),
        "Devices for which the base is worst come first. A device without a mark does not have "
        "that arm; a mean is that of the devices which do.",
    )
    said = f"<p>{escape(_compared(result))}</p>"
    body = f'{said}\n<div class="arms">{figures}</div>\n{per_arm}\n{per_device}'
    return section("Does it help?", body)


def _compared(result: Result) -> str:
    held = result["measures"]["held_out"]
    said = f"Loss on {held} of each person's that was kept from training; lower is better."
    if len({len(devices) for devices in result["scores"].values() if devices}) > 1:
        said += (
            " Not every device has every arm: compare mean losses with care. Gains compare an arm "
            "with the base on the devices that have it."
        )
    return said


def _arm_row(result: Result, arm: str) -> tuple[str, ...]:
    summary, paired = result["summary"][arm], paired_losses(result, arm)
    gain, improved = "–", "–"
    if summary["gain"] is not None:
        said = verdict(summary["gain"])
        low, high = (number(summary["gain"][end]) for end in ("low", "high"))
        kind = {HELPS: "helps", UNCLEAR: "not", HURTS: "not"}[said]
        gain = (
            f'{number(summary["gain"]["mean"], sign=True)} <span class="{kind}">{said}</span>'
            f'<span class="by">95 %: {low} to {high}</span>'
        )
        improved = f"{sum(p[2] < p[1] for p in paired)} of {len(paired)}"
    best = arm == best_arm(result) and verdict(summary["gain"]) == HELPS
    note = '<span class="by">best</span>' if best else ""
    note = '<span class="by">for reference only</span>' if arm == REFERENCE else note
    worst = (
        f'{number(summary["worst_loss"])} <span class="by">{escape(summary["worst_device"])}</span>'
    )
    metrics = result["measures"]["metrics"]
    figures = (number(summary.get(metric["key"]), metric["digits"]) for metric in metrics)
    return (f"{escape(arm)}{note}", number(summary["loss"]), gain, improved, worst, *figures)


def _rounds(result: Result) -> str:
    rounds = result["rounds"]
    if not any(entry["loss"] for entry in rounds):
        return section("Does it get better round by round?", "<p>No round was measured.</p>")
    caption = "Dashed: the base. All panels span the same range, so slopes can be compared."
    rows = [
        (
            *(escape(entry[k]) for k in ("round", "asked", "averaged", "failed")),
            significant(entry["change_norm"]),
        )
        for entry in rounds
    ]
    heads = ("Round", "Asked", "Averaged", "Failed", "Norm of the change")
    body = figure(plots.loss_by_round(result), caption) + table(heads, rows, numbers=range(5))
    return section("Does it get better round by round?", body)


def _privacy(result: Result) -> str:
    plan = result["plan"]
    apart = [device["name"] for device in result["data"]["devices"]]
    apart = [name for name in apart if name not in result["epsilon"]]
    caption = (
        f"ε of the shared adapter at δ = {plan['delta']:g}; unit: one {plan['unit']}; neighbours: "
        f"{plan['relation']}; trust: {plan['trust']}. Private adapters and retrieval stay on the "
        "device and spend nothing."
    )
    if apart:
        caption += f" Not in the federation: {', '.join(apart)}."
    plot = plots.epsilon_by_device(result) if result["epsilon"] else ""
    settings = {key.replace("_", " "): plain(value) for key, value in plan.items()}
    body = (
        f"{figure(plot, caption)}\n<h3>The plan</h3>\n<p>{escape(_signal(plan))}</p>\n"
        f"{terms(settings, 'plan')}"
    )
    return section("What does it cost in privacy?", body)


def _signal(plan: Mapping[str, Any]) -> str:
    ratio = plan["signal_to_noise"]
    said = (
        f"In one step, the largest possible averaged update is {number(ratio, 2)} times as long as "
        f"the averaged noise (policy {plan['policy']}, rank {plan['rank']}, {plan['dim']} numbers "
        "a device). "
    )
    if ratio is not None and ratio < 1:
        return f"{said}Below 1, the shared adapter is mostly noise."
    return f"{said}Real updates are shorter than that, so this is an upper bound."


def _wire(result: Result) -> str:
    wire, base = result["wire"], result["base"]
    if not wire:
        return section("What goes over the wire?", "<p>No adapter travelled.</p>")
    down, up = (spread((w[way] for w in wire.values()), "bytes") for way in ("down", "up"))
    caption = (
        f"A device receives {down} and sends {up} over the whole federation. The base "
        f"({base['name']}, {base['precision']}, {size(base['bytes'])}) is downloaded once."
    )
    return section("What goes over the wire?", figure(plots.bytes_by_device(result), caption))


def _samples(result: Result) -> str:
    if not result["samples"]:
        return ""
    return section("Before and after", "\n".join(map(_sample, result["samples"])))


def _sample(sample: Mapping[str, Any]) -> str:
    if "grid" in sample:
        rows = [tuple(map(shown, row)) for row in sample["grid"]["rows"]]
        grid = table(sample["grid"]["head"], rows)
        return (
            f'<article class="sample"><h3 dir="auto">{escape(sample["device"])}</h3>'
            f'<div class="pictures">{grid}</div></article>'
        )
    arms = dict(sample["arms"])
    cases = {f"Before: {BASE}": arms.pop(BASE)} if BASE in arms else {}
    if arms:
        last = list(arms)[-1]  # the arm with the most in it, which the trace belongs to
        cases[f"After: {last}"] = arms.pop(last)
    cases["What it really was"] = sample["truth"]
    more = f"<details><summary>Other arms</summary>{cards(arms)}</details>" if arms else ""
    return (
        f'<article class="sample"><h3 dir="auto">{escape(sample["device"])}</h3>'
        f'<div class="prompt"><span class="by">Prompt</span>{quote(sample["prompt"])}</div>'
        f"{cards(cases)}{more}{_trace(sample['trace'])}</article>"
    )


def _trace(trace: Sequence[Mapping[str, Any]]) -> str:
    if not trace:
        return ""
    passages = "".join(
        f"<li><code>{escape(hit['source'])}: {escape(hit['uri'])}</code> "
        f'<span dir="auto">{escape(hit["text"])}</span></li>'
        for hit in trace
    )
    count = f"{len(trace)} passage{'s' * (len(trace) > 1)} of the author's own"
    return f"<details open><summary>Retrieved: {count}</summary><ul>{passages}</ul></details>"


def _checks(result: Result) -> str:
    if not result["checks"]:
        return ""
    heads = ("Device", "Effect", "After saving", "Runtime, base", "Runtime, adapted")
    rows = [
        (
            escape(name),
            *(
                significant(check[k])
                for k in ("effect", "saved", "runtime_base", "runtime_adapted")
            ),
        )
        for name, check in result["checks"].items()
    ]
    body = (
        "<p>Relative distances of logits. The effect of the trained adapter must be above 0; the "
        "adapter read back from its file must differ by about 0; and the device runtime must be "
        "about as close to the trained model with the adapter as it is without.</p>\n"
    )
    return section(
        "Was the adapter trained, and does it run?", body + table(heads, rows, range(1, 5))
    )


def _timings(result: Result) -> str:
    wall = result["wall_seconds"]
    rows = [
        (escape(part), number(took, 1), f"{took / wall:.0%}" if wall else "–")
        for part, took in result["seconds"].items()
    ]
    rows.append(("whole run", number(wall, 1), ""))
    return section("Where did the time go?", table(("Part", "Seconds", "Share"), rows, {1, 2}))


def _devices(result: Result) -> str:
    heads = ("Device", "Training records", "Held out", "Personalized by", "Why")
    rows = [
        tuple(escape(device[key]) for key in ("name", "train", "held_out", "mode", "note"))
        for device in result["data"]["devices"]
    ]
    return section("The devices", table(heads, rows, {1, 2}))


def _name(result: Result) -> str:
    base = result["base"]
    return escape(f"Simulation: {result['data']['name']} on {base['name']} ({base['precision']})")
