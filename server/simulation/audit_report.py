"""The report of a run's audits: one HTML file that asks nothing of the network.

It is read by a lawyer from the top and by an engineer to the end: the verdict, what was claimed,
every claimed ε beside the bound that an audit found, then each audit with its attacker, findings,
figures and what it does not say. Audits that were not made are named at the top, with the reason.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...privacy.audit.findings import Finding
from ...privacy.audit.sections import AT_LEAST, AUDITS, CLAIMED, Figure, Section
from .audit_plots import plot
from .page import (
    bullets,
    escape,
    figure,
    plain,
    quote,
    section,
    significant,
    table,
    terms,
    write_page,
)
from .report import GLOSSARY
from .table import check_result, noise_line, number, privacy_line

__all__ = ["write_audit_report"]

Result = Mapping[str, Any]

_NO_PROOF = (
    "That is no proof of privacy: an audit can refute a claim, and never show that it is true."
)
_PLAN = ("unit", "relation", "trust", "delta", "noise_multiplier", "clip", "rounds", "digest")
_TERMS = {
    "Claim, finding, verdict": "A finding puts one claimed sentence to the test. “Refuted” "
    "means that what was measured contradicts it. “Not refuted” means only that this audit "
    "found nothing against it.",
    "ε at least (lower bound)": "What an attack showed: the true ε is not below this figure, "
    "unless the audit was unlucky with the probability that is left to the stated confidence. A "
    "bound above the claim refutes it; a bound far below the claim says little. Each bound "
    "holds by itself: of several, the highest has less confidence than is stated. Point "
    "estimates, which have no confidence, are never shown as bounds.",
    "ROC, true and false positives": "An attacker says of candidates whether they were trained "
    "on. The curve shows which share of members they find at every rate of false alarms. What "
    "counts is the left end: who finds some members for certain does harm, however wrong they "
    "are about the others. The dotted line is guessing.",
    "Exposure": "How much likelier, in powers of two, a planted secret has become than others "
    "of its kind: 1 bit of exposure halves the guesses that finding it takes. A secret that was "
    "never there has 1.44 bits on average.",
}


def write_audit_report(
    result: Result, sections: Sequence[Section], path: Path, *, reasons: Mapping[str, str]
) -> None:
    """Write the report to ``path``.

    Args:
        result: of the run, what is written as ``result.json``.
        sections: of the audits that were made.
        path: is replaced if it is there.
        reasons: why an audit was not made, by its name.

    Raises:
        BadInputError: ``result`` is of another version, or incomplete.
        MissingExtraError: matplotlib is not installed.
    """
    check_result(result)
    order = {name: place for place, name in enumerate(AUDITS)}
    sections = sorted(sections, key=lambda one: order.get(one.name, len(order)))
    parts = [
        _answer(result, sections),
        _at_a_glance(sections, reasons),
        _claimed(result),
        _against(sections),
        *(_audit(place, one) for place, one in enumerate(sections)),
        section("How to read this", terms(_TERMS | _shared_terms())),
    ]
    write_page(_name(result), parts, path)


def _answer(result: Result, sections: Sequence[Section]) -> str:
    findings = [finding for one in sections for finding in one.findings]
    broken = [(one, finding) for one in sections for finding in one.findings if not finding.holds]
    audits = f"{len(sections)} audit{'s' * (len(sections) != 1)}"
    if broken:
        lead = f"Refuted: {len(broken)} of {len(findings)} claims do not hold."
        kind, more = "not", [f"{one.title}: {f.claim}. Found: {f.found}." for one, f in broken]
    else:
        lead = f"None of {len(findings)} claims was refuted in {audits}."
        kind, more = "helps", [_NO_PROOF]
    absent = [name for name in AUDITS if name not in {one.name for one in sections}]
    if seeded := noise_line(result):
        more.append(seeded)
    if absent:
        more.append(f"Not audited: {', '.join(absent)}.")
    started = escape(str(result["started"])[:16].replace("T", " "))
    return (
        f'<header><h1>{_name(result)}</h1><p class="small">Of the run that started {started}.</p>'
        f'</header>\n<p class="lead"><span class="{kind}" style="white-space:normal">'
        f"{escape(lead)}</span></p>\n{bullets(more)}"
    )


def _at_a_glance(sections: Sequence[Section], reasons: Mapping[str, str]) -> str:
    """What every audit asked, and what came of it or why it was not made."""
    rows = []
    for place, one in enumerate(sections):
        broken = sum(not finding.holds for finding in one.findings)
        link = f'<a href="#{_anchor(place)}">{escape(one.name)}</a>'
        said = f"{broken} of {len(one.findings)} refuted" if broken else "nothing"
        kind = "not" if broken else "helps"
        asked = escape(AUDITS.get(one.name, one.title))
        rows.append((link, asked, str(len(one.findings)), f'<span class="{kind}">{said}</span>'))
    made = {one.name for one in sections}
    rows += [
        (escape(name), escape(asked), "–", f"not made: {escape(reasons.get(name, _how(name)))}")
        for name, asked in AUDITS.items()
        if name not in made
    ]
    heads = ("Audit", "What it asks", "Claims tested", "Found against them")
    return section("At a glance", table(heads, rows, {2}))


def _anchor(place: int) -> str:
    return f"audit-{place}"


def _claimed(result: Result) -> str:
    plan = result["plan"]
    settings = {key.replace("_", " "): plain(plan[key]) for key in _PLAN}
    said = "".join(f"<p>{escape(line)}</p>" for line in (privacy_line(result), *_odds(result)))
    return section("What was claimed", f"{said}\n{terms(settings, 'plan')}")


def _odds(result: Result) -> Iterator[str]:
    """The largest ε in words, where there is one: what posterior odds may be over prior odds."""
    plan = result["plan"]
    spent = [math.inf if e is None else float(e) for e in result["epsilon"].values()]
    if not spent or not math.isfinite(max(spent)):
        return
    one = f"one {plan['unit']}" + " with all of their records" * (plan["unit"] == "user")
    what = f"whether {one} was in the data"
    if plan["relation"] == "replace-one":
        what = f"which of two {plan['unit']}s was in the data"
    most = significant(math.exp(max(spent)))
    yield (
        f"In words: whatever somebody believed about {what}, seeing all that is released "
        f"multiplies or divides the odds by {most} at most, so that 1 to 1 becomes no more than "
        f"{most} to 1. With a chance of about {plan['delta']:g} this does not hold."
    )


def _against(sections: Sequence[Section]) -> str:
    rows = [row for one in sections for figure in one.figures for row in _bound_rows(one, figure)]
    if not rows:
        body = "<p>No audit here gives a lower bound on ε.</p>"
    else:
        heads = ("Audit", "Attack", "ε claimed", "ε at least", "Verdict", "The bound in full")
        body = (
            "<p>The claim and the bound of a row are of the same mechanism, which is often one "
            "step, one round or fewer records, and not the whole run: compare along a row only. "
            "A bound of 0 shows nothing; a bound above its claim would refute it.</p>"
            + table(heads, rows, {2, 3})
        )
    return section("Claimed ε against what attacks showed", body)


def _bound_rows(one: Section, shown: Figure) -> Iterator[tuple[str, ...]]:
    if "bounds" not in shown.data:
        return
    values = shown.data["values"]
    for attack, claim, least, bound in zip(
        shown.data["labels"], values[CLAIMED], values[AT_LEAST], shown.data["bounds"], strict=True
    ):
        title = f'{escape(one.name)}<span class="by">{escape(shown.title)}</span>'
        figures = (number(claim, 2), number(least, 2))
        yield (title, escape(attack), *figures, _verdict(least <= claim), escape(bound))


def _audit(place: int, one: Section) -> str:
    figures = [_shown(f, f"s{place}-f{number}") for number, f in enumerate(one.figures)]
    body = (
        f'<p id="{_anchor(place)}"><strong>{escape(_outcome(one))}</strong></p>\n'
        f'<div class="threat"><strong>Who attacks.</strong> {escape(one.threat)}</div>\n'
        f"{_findings(one)}\n" + "\n".join(figures)
    )
    if one.untested:
        body += f"\n<h3>What was not tested here</h3>\n{bullets(one.untested)}"
    return section(f"{one.title} ({one.name})", body)


def _outcome(one: Section) -> str:
    """The question and the answer, in two sentences."""
    asks = f"This audit asks {AUDITS[one.name]}. " if one.name in AUDITS else ""
    broken = sum(not finding.holds for finding in one.findings)
    claims = f"{len(one.findings)} claim{'s' * (len(one.findings) != 1)}"
    answer = f"{broken} of {claims} did not hold." if broken else f"{claims} tested, none refuted."
    return asks + answer


def _findings(one: Section) -> str:
    rows = [
        (
            f'{escape(finding.claim)}<span class="by">{escape(_test(one, finding))}</span>',
            escape(finding.found),
            _verdict(finding.holds),
        )
        for finding in one.findings
    ]
    return table(("Claim, and how it was tested", "Found", "Verdict"), rows)


def _test(one: Section, finding: Finding) -> str:
    """Which of an audit's tests it was, where there are several."""
    return "" if finding.audit == one.name else finding.audit


def _verdict(holds: bool) -> str:
    kind, said = ("helps", "not refuted") if holds else ("not", "REFUTED")
    return f'<span class="{kind}">{said}</span>'


def _shown(shown: Figure, name: str) -> str:
    if shown.kind == "table":
        heads = [str(head) for head in shown.data["head"]]
        cells = [[escape(plain(cell)) for cell in row] for row in shown.data["rows"]]
        return f"<h3>{escape(shown.title)}</h3>\n{table(heads, cells, _numeric(shown))}"
    if shown.kind == "texts":
        pairs = "".join(_pair(*pair) for pair in shown.data["pairs"])
        return f"<h3>{escape(shown.title)}</h3>\n{pairs or '<p>None.</p>'}"
    return f"<h3>{escape(shown.title)}</h3>\n{figure(plot(shown, name), _captions[shown.kind])}"


_captions = {
    "roc": "Dots: members found at 0.1 % and 1 % false alarms, where enough others were tried.",
    "bars": "",
    "histogram": "Dotted: the mean of a group.",
}


def _numeric(shown: Figure) -> list[int]:
    """Columns of numbers alone."""
    columns = list(zip(*shown.data["rows"], strict=True))
    return [i for i, cells in enumerate(columns) if all(isinstance(c, int | float) for c in cells)]


def _pair(true: str, found: str) -> str:
    """A text beside what was recovered of it, whose words are marked as often as they are there."""
    left = Counter(word.casefold() for word in str(true).split())
    words = []
    for word in str(found).split():
        known = left[word.casefold()] > 0
        left[word.casefold()] -= known
        words.append(f"<mark>{escape(word)}</mark>" if known else escape(word))
    return (
        f'<div class="texts"><div><h4>What was there</h4>{quote(true)}</div>'
        f'<div><h4>What was recovered</h4><blockquote dir="auto">{" ".join(words)}</blockquote>'
        "</div></div><br>"
    )


def _how(name: str) -> str:
    return (
        f"no section was given; 'locavore audit {name} --out FILE' makes one, and 'locavore audit "
        "report RUN --base BASE --all' a quick one of whatever the base allows"
    )


def _shared_terms() -> dict[str, str]:
    return {name: GLOSSARY[name] for name in ("ε and δ", "Unit, neighbours and trust")}


def _name(result: Result) -> str:
    base, data = result["base"], result["data"]["name"]
    return escape(f"Privacy audit: {data} on {base['name']} ({base['precision']})")
