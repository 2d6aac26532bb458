"""The report of a run: one HTML file that asks nothing of the network."""

from __future__ import annotations

import html
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import plots
from .config import BASE, REFERENCE
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

__all__ = ["write_report"]

Result = Mapping[str, Any]

_CSS = """
:root { color-scheme: light dark;
  --ink: #1b1f24; --muted: #59616b; --grid: #dfe3e8; --paper: #ffffff; --raised: #f5f7f9;
  --good: #00694b; --bad: #a83a00;
  --s1: #6b7580; --s2: #0072b2; --s3: #b87a00; --s4: #cc5a00; --s5: #a8487f; --s6: #008a64; }
@media (prefers-color-scheme: dark) { :root {
  --ink: #e8eaed; --muted: #a3abb5; --grid: #343b44; --paper: #14171b; --raised: #1d2127;
  --good: #4fd0a5; --bad: #ff9a5c;
  --s1: #9aa4af; --s2: #56b4e9; --s3: #f0c04a; --s4: #f08238; --s5: #e39ac3; --s6: #35c295; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 4rem; max-width: 62rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.2rem; margin: 3rem 0 .5rem; padding-top: .75rem;
  border-top: 1px solid var(--grid); }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; }
p, li, dd { max-width: 46rem; overflow-wrap: anywhere; }
.lead { font-size: 1.15rem; font-weight: 600; }
.small, figcaption, .by { color: var(--muted); font-size: .875rem; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .9rem; font-variant-numeric: tabular-nums; }
th, td { padding: .4rem .6rem; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--grid); }
thead th { color: var(--muted); font-weight: 600; vertical-align: bottom; }
td.n, th.n { text-align: right; white-space: nowrap; }
th .by, td .by { display: block; white-space: nowrap; font-weight: 400; }
.arms tbody th { min-width: 8.5rem; }
.helps, .not { font-weight: 600; white-space: nowrap; }
.helps { color: var(--good); }
.not { color: var(--bad); }
figure { margin: 1.5rem 0; max-width: 48rem; }
figure svg { display: block; width: 100%; min-width: 33rem; height: auto; }
figure svg * { stroke-linejoin: round; }
figure svg text { font-family: system-ui, -apple-system, "Segoe UI", sans-serif !important; }
.texts { display: grid; gap: .75rem; grid-template-columns: repeat(auto-fit, minmax(15rem, 1fr)); }
.texts > div { background: var(--raised); border-radius: .4rem; padding: .75rem 1rem; }
.texts h4 { margin: 0 0 .4rem; font-size: .875rem; color: var(--muted); }
blockquote { margin: 0; white-space: pre-wrap; overflow-wrap: anywhere; }
.sample { margin-bottom: 2.5rem; }
.pictures td { vertical-align: middle; max-width: 9rem; }
.pictures img { display: block; image-rendering: pixelated; border-radius: .3rem; }
.prompt { border-left: 3px solid var(--s2); padding-left: .75rem; margin: .5rem 0 1rem; }
details { margin-top: .75rem; font-size: .9rem; }
dt { font-weight: 600; margin-top: .75rem; }
dd { margin: 0; }
.plan { display: grid; gap: 0 1.5rem;
  grid-template-columns: repeat(auto-fill, minmax(12rem, 1fr)); }
.plan dt { color: var(--muted); font-size: .875rem; font-weight: 400; }
code { overflow-wrap: anywhere; font-size: .85em; }
@media (max-width: 40rem) { th, td { padding: .35rem .45rem; } .lead { font-size: 1.05rem; } }
"""

_GLOSSARY = {
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
        _section("Notes", _list(result["notes"]) or "<p>None.</p>"),
        _section("How to read this", _terms(_terms_of(result))),
    )
    page = (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{_name(result)}</title>\n<style>{_CSS}</style>\n</head>\n<body>\n<main>\n"
        + "\n".join(filter(None, sections))
        + "\n</main>\n</body>\n</html>\n"
    )
    path.write_text(page, encoding="utf-8", errors="replace")  # data may hold half characters


def _terms_of(result: Result) -> dict[str, str]:
    measures = result["measures"]
    figures = [(f"Loss ({measures['loss']['title']})", measures["loss"]["said"])]
    figures += [(metric["title"], metric["said"]) for metric in measures["metrics"]]
    return {**dict(figures), **_GLOSSARY, **measures["glossary"]}


def _answer(result: Result) -> str:
    first, *rest = summary_lines(result)
    started = _e(str(result["started"])[:16].replace("T", " "))
    return (
        f"<header><h1>{_name(result)}</h1>"
        f'<p class="small">Started {started}; took {number(result["wall_seconds"], 0)} s.</p>'
        f'</header>\n<p class="lead">{_e(first)}</p>\n{_list(rest)}'
    )


def _arms(result: Result) -> str:
    if not result["summary"]:
        return _section("Does it help?", "<p>No device had anything held out.</p>")
    heads = ("Arm", "Loss", "Gain over base", "Improved", "Worst device")
    titles = [metric["title"] for metric in result["measures"]["metrics"]]
    rows = [_arm_row(result, arm) for arm in result["arms"] if arm in result["summary"]]
    numbers = {1, 3, *range(5, 5 + len(titles))}
    table = _table((*heads, *titles), rows, numbers=numbers)
    per_arm = _figure(
        plots.loss_by_arm(result),
        "A dot is a device. The bar and the figure are the mean of the devices that the arm has.",
    )
    per_device = _figure(
        plots.loss_by_device(result),
        "Devices for which the base is worst come first. A device without a mark does not have "
        "that arm; a mean is that of the devices which do.",
    )
    body = (
        f'<p>{_e(_compared(result))}</p>\n<div class="arms">{table}</div>\n{per_arm}\n{per_device}'
    )
    return _section("Does it help?", body)


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
    worst = f'{number(summary["worst_loss"])} <span class="by">{_e(summary["worst_device"])}</span>'
    metrics = result["measures"]["metrics"]
    figures = (number(summary.get(metric["key"]), metric["digits"]) for metric in metrics)
    return (f"{_e(arm)}{note}", number(summary["loss"]), gain, improved, worst, *figures)


def _rounds(result: Result) -> str:
    rounds = result["rounds"]
    if not any(entry["loss"] for entry in rounds):
        return _section("Does it get better round by round?", "<p>No round was measured.</p>")
    caption = "Dashed: the base. All panels span the same range, so slopes can be compared."
    rows = [
        (
            *(_e(entry[k]) for k in ("round", "asked", "averaged", "failed")),
            _g(entry["change_norm"]),
        )
        for entry in rounds
    ]
    heads = ("Round", "Asked", "Averaged", "Failed", "Norm of the change")
    body = _figure(plots.loss_by_round(result), caption) + _table(heads, rows, numbers=range(5))
    return _section("Does it get better round by round?", body)


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
    settings = {key.replace("_", " "): _plain(value) for key, value in plan.items()}
    body = (
        f"{_figure(plot, caption)}\n<h3>The plan</h3>\n<p>{_e(_signal(plan))}</p>\n"
        f"{_terms(settings, 'plan')}"
    )
    return _section("What does it cost in privacy?", body)


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
        return _section("What goes over the wire?", "<p>No adapter travelled.</p>")
    down, up = (spread((w[way] for w in wire.values()), "bytes") for way in ("down", "up"))
    caption = (
        f"A device receives {down} and sends {up} over the whole federation. The base "
        f"({base['name']}, {base['precision']}, {size(base['bytes'])}) is downloaded once."
    )
    return _section("What goes over the wire?", _figure(plots.bytes_by_device(result), caption))


def _samples(result: Result) -> str:
    if not result["samples"]:
        return ""
    return _section("Before and after", "\n".join(map(_sample, result["samples"])))


def _sample(sample: Mapping[str, Any]) -> str:
    if "grid" in sample:
        rows = [tuple(map(_shown, row)) for row in sample["grid"]["rows"]]
        table = _table(sample["grid"]["head"], rows)
        return (
            f'<article class="sample"><h3 dir="auto">{_e(sample["device"])}</h3>'
            f'<div class="pictures">{table}</div></article>'
        )
    arms = dict(sample["arms"])
    shown = {f"Before: {BASE}": arms.pop(BASE)} if BASE in arms else {}
    if arms:
        last = list(arms)[-1]  # the arm with the most in it, which the trace belongs to
        shown[f"After: {last}"] = arms.pop(last)
    shown["What it really was"] = sample["truth"]
    more = f"<details><summary>Other arms</summary>{_cards(arms)}</details>" if arms else ""
    return (
        f'<article class="sample"><h3 dir="auto">{_e(sample["device"])}</h3>'
        f'<div class="prompt"><span class="by">Prompt</span>{_quote(sample["prompt"])}</div>'
        f"{_cards(shown)}{more}{_trace(sample['trace'])}</article>"
    )


def _cards(texts: Mapping[str, str]) -> str:
    cards = (f"<div><h4>{_e(title)}</h4>{_quote(text)}</div>" for title, text in texts.items())
    return f'<div class="texts">{"".join(cards)}</div>'


def _trace(trace: Sequence[Mapping[str, Any]]) -> str:
    if not trace:
        return ""
    passages = "".join(
        f"<li><code>{_e(hit['source'])}: {_e(hit['uri'])}</code> "
        f'<span dir="auto">{_e(hit["text"])}</span></li>'
        for hit in trace
    )
    count = f"{len(trace)} passage{'s' * (len(trace) > 1)} of the author's own"
    return f"<details open><summary>Retrieved: {count}</summary><ul>{passages}</ul></details>"


def _checks(result: Result) -> str:
    if not result["checks"]:
        return ""
    heads = ("Device", "Effect", "After saving", "Runtime, base", "Runtime, adapted")
    rows = [
        (_e(name), *(_g(check[k]) for k in ("effect", "saved", "runtime_base", "runtime_adapted")))
        for name, check in result["checks"].items()
    ]
    body = (
        "<p>Relative distances of logits. The effect of the trained adapter must be above 0; the "
        "adapter read back from its file must differ by about 0; and the device runtime must be "
        "about as close to the trained model with the adapter as it is without.</p>\n"
    )
    return _section(
        "Was the adapter trained, and does it run?", body + _table(heads, rows, range(1, 5))
    )


def _timings(result: Result) -> str:
    wall = result["wall_seconds"]
    rows = [
        (_e(part), number(took, 1), f"{took / wall:.0%}" if wall else "–")
        for part, took in result["seconds"].items()
    ]
    rows.append(("whole run", number(wall, 1), ""))
    return _section("Where did the time go?", _table(("Part", "Seconds", "Share"), rows, {1, 2}))


def _devices(result: Result) -> str:
    heads = ("Device", "Training texts", "Held out", "Personalized by", "Why")
    rows = [
        tuple(_e(device[key]) for key in ("name", "train", "held_out", "mode", "note"))
        for device in result["data"]["devices"]
    ]
    return _section("The devices", _table(heads, rows, {1, 2}))


def _name(result: Result) -> str:
    base = result["base"]
    return _e(f"Simulation: {result['data']['name']} on {base['name']} ({base['precision']})")


def _section(title: str, body: str) -> str:
    return f"<section>\n<h2>{_e(title)}</h2>\n{body}\n</section>"


def _figure(svg: str, caption: str) -> str:
    drawn = f'<div class="scroll" tabindex="0">{svg}</div>' if svg else ""
    return f"<figure>{drawn}<figcaption>{_e(caption)}</figcaption></figure>"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]], numbers: Iterable[int] = ()) -> str:
    """A table of cells that are HTML already; the first of each row is its heading."""
    right = set(numbers)
    kinds = [' class="n"' if i in right else "" for i in range(len(heads))]
    top = "".join(f'<th scope="col"{k}>{_e(h)}</th>' for h, k in zip(heads, kinds, strict=True))
    lines = []
    for first, *cells in rows:
        rest = "".join(f"<td{k}>{c}</td>" for c, k in zip(cells, kinds[1:], strict=True))
        lines.append(f'<tr><th scope="row" dir="auto"{kinds[0]}>{first}</th>{rest}</tr>')
    body = "\n".join(lines)
    return (
        f'<div class="scroll" tabindex="0"><table>\n<thead><tr>{top}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody>\n</table></div>"
    )


def _list(lines: Iterable[str]) -> str:
    items = "".join(f"<li>{_e(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""


def _terms(terms: Mapping[str, str], kind: str = "terms") -> str:
    pairs = (f"<div><dt>{_e(t)}</dt><dd>{_e(said)}</dd></div>" for t, said in terms.items())
    return f'<dl class="{kind}">{"".join(pairs)}</dl>'


def _shown(value: Any) -> str:
    """A text, or a picture: ``{"png": base64, "said": what it shows}``."""
    if not isinstance(value, Mapping):
        return _e(value)
    source = f"data:image/png;base64,{value['png']}"
    return f'<img src="{source}" alt="{_e(value["said"])}" width="96" height="96">'


def _quote(text: object) -> str:
    return f'<blockquote dir="auto">{_e(text)}</blockquote>'


def _plain(value: object) -> str:
    return _g(value) if isinstance(value, float) else str(value)


def _g(value: float | None) -> str:
    return "–" if value is None else f"{value:.3g}".replace("inf", "∞")


def _e(text: object) -> str:
    return html.escape(str(text))
