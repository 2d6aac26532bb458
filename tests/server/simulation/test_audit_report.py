"""The report of a run's audits: what it shows, what it names as missing, what it refutes."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="the report needs the extra 'simulate'")
pytest.importorskip("flwr", reason="the simulation needs the extra 'simulate'")
pytest.importorskip("dp_accounting", reason="the claims need the extra 'train'")

from locavore.audit_cli import audit_report
from locavore.privacy.audit.evidence import LowerBound
from locavore.privacy.audit.findings import Finding, against
from locavore.privacy.audit.sections import AUDITS, Figure, Section, epsilon_bars, histogram
from locavore.privacy.ledger import Ledger
from locavore.privacy.terms import plan_to
from locavore.server.simulation.audit import UserAudit
from locavore.server.simulation.audit_plots import found_at
from locavore.server.simulation.audit_report import write_audit_report
from locavore.server.simulation.recording import Recorder
from locavore.server.simulation.run_audit import audit_run, load_run
from locavore.shared.errors import BadInputError, PrivacyError

from ...plans import record_plan, user_plan
from ..summing import Fleet
from .test_report import ATTACK, Page, poisoned

MakeResult = Callable[..., dict[str, Any]]
PLAN = record_plan(rounds=3)


def attacked(epsilon: float) -> Section:
    """A section with every kind of figure."""
    bound = LowerBound(epsilon=epsilon, delta=1e-5, confidence=0.95, auditor="some", canaries=90)
    rng = np.random.default_rng(0)
    false = np.linspace(0, 1, 401)
    curves = {"loss": [false.tolist(), np.sqrt(false).tolist()], "guess": [[0, 1], [0, 1]]}
    return Section(
        name="membership",
        title="Membership inference",
        threat="Somebody sees the adapter.",
        findings=(against(4.0, bound, audit="membership"),),
        figures=(
            epsilon_bars("One step", [("loss", 4.0, bound)]),
            Figure(title="Curves", kind="roc", data={"curves": curves}),
            histogram("Scores", {"in": rng.normal(size=90), "out": rng.normal(size=9)}),
            Figure(title="Rates", kind="table", data={"head": ["a", "b"], "rows": [["x", 0.25]]}),
            Figure(title="Texts", kind="texts", data={"pairs": [["the old goat", "The new goat"]]}),
        ),
        untested=("Users.",),
    )


@pytest.fixture
def run(make_result: MakeResult, tmp_path: Path) -> Path:
    """A run's folder whose ledgers and result agree."""
    result, folder = make_result(), tmp_path / "run"
    for device in result["data"]["devices"]:
        (folder / "devices" / device["name"]).mkdir(parents=True)
        ledger = Ledger(folder / "devices" / device["name"] / "ledger.jsonl", delta=PLAN.delta)
        for round in range(1, PLAN.rounds + 1):
            ledger.charge(*PLAN.charges(round, device["train"], task="text"))
        result["epsilon"][device["name"]] = ledger.epsilon()
    result["plan"] |= {**plan_to(PLAN), "digest": PLAN.digest}
    (folder / "result.json").write_text(json.dumps(result))
    return folder


def page_of(folder: Path, *given: Section) -> Page:
    run = load_run(folder)
    made, reasons = audit_run(run, {one.name for one in given})
    path = folder / "audit.html"
    write_audit_report(run.result, [*made, *given], path, reasons=reasons)
    page = Page(path.read_text("utf-8"))
    assert not page.open
    return page


def change(folder: Path, how: Callable[[dict[str, Any]], None]) -> None:
    path = folder / "result.json"
    result = json.loads(path.read_text())
    how(result)
    path.write_text(json.dumps(result))


def test_it_asks_nothing_of_the_network(run: Path) -> None:
    page = page_of(run, attacked(2.0))
    source = (run / "audit.html").read_text("utf-8")
    assert "://" not in source
    assert "@import" not in source
    assert not {"script", "link", "img", "iframe", "object", "base"} & set(page.tags)
    assert all(target.startswith("#") for target in re.findall(r"url\((.)", source))
    assert page.tags.count("svg") == 4  # the claims' bars and three of the section's
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_it_shows_claims_bounds_attackers_and_what_was_not_tested(run: Path) -> None:
    page = page_of(run, attacked(2.0))
    assert "None of 7 claims was refuted in 2 audits." in page.text
    assert "this run itself hides nothing" in page.text
    assert "Somebody sees the adapter." in page.text
    assert "ε ≥ 2.00 at δ = 1e-05 with 95 % confidence" in page.text
    assert "What was not tested here Users." in page.text
    assert page.text.count("REFUTED") == 0
    assert page.tags.count("mark") == 2  # "The" and "goat" were recovered


def test_every_audit_is_answered_at_a_glance_and_its_claim_is_said_in_words(run: Path) -> None:
    early = Section(name="training", title="Training", threat="Anybody.", findings=())
    page = page_of(run, attacked(9.0), early)
    glance = page.text.partition("At a glance")[2].partition("What was claimed")[0]
    assert "claims whether the ε that was published" in glance
    assert "membership whether adapters or texts show who or what was trained on" in glance
    assert "1 of 1 refuted" in glance
    assert glance.index("claims") < glance.index("training") < glance.index("membership")
    links = [str(attributes["href"]) for tag, attributes in page.elements if tag == "a"]
    assert {link[1:] for link in links} <= {a["id"] for _, a in page.elements if "id" in a}
    assert len(links) == 3
    odds = math.exp(max(json.loads((run / "result.json").read_text())["epsilon"].values()))
    assert f"multiplies or divides the odds by {odds:.3g} at most" in page.text
    assert "1 of 1 claim did not hold." in page.text


def test_no_odds_are_promised_where_epsilon_is_infinite(run: Path) -> None:
    def unbounded(result: dict[str, Any]) -> None:
        result["epsilon"] = dict.fromkeys(result["epsilon"], None)

    change(run, unbounded)
    assert "the odds" not in page_of(run).text.partition("How to read this")[0]


def test_missing_audits_are_named_with_the_reason(run: Path) -> None:
    page = page_of(run)
    absent = [name for name in AUDITS if name != "claims"]
    assert f"Not audited: {', '.join(absent)}." in page.text
    assert "nothing was recorded: simulate with --record" in page.text
    assert "the run's plan claims nothing of users" in page.text
    assert "give it with --base" in page.text
    assert "'locavore audit membership --out FILE' makes one" in page.text
    assert "No audit here gives a lower bound" in page.text
    assert "Not audited: wire" in page_of(run, attacked(2.0)).text
    assert "membership" not in page_of(run, attacked(2.0)).text.partition("Not audited:")[2][:90]


def test_an_epsilon_that_was_lowered_in_the_result_is_refuted(run: Path) -> None:
    def lower(result: dict[str, Any]) -> None:
        result["epsilon"]["james_monroe"] *= 0.9

    change(run, lower)
    page = page_of(run)
    assert "Refuted: 2 of 6 claims do not hold." in page.text
    assert "1 wrong: james_monroe: " in page.text


def test_a_bound_above_the_claim_is_refuted_at_the_top(run: Path) -> None:
    page = page_of(run, attacked(4.5))
    assert "Refuted: 1 of 7 claims do not hold. Membership inference: ε is at most 4" in page.text
    assert page.text.count("REFUTED") == 2  # among the bounds and among the findings


def test_what_was_recorded_is_replayed(run: Path) -> None:
    recorder = Recorder()
    Fleet().run(run / "fleet", tap=recorder.tap)
    recorder.save(run / "messages.jsonl")
    sections, reasons = audit_run(load_run(run))
    assert [section.name for section in sections] == ["claims", "wire"]
    assert "wire" not in reasons
    quoted = str(recorder.messages[0].records["config"]["base"])
    change(run, lambda result: result["samples"][0]["trace"][0].update(text=quoted))
    (_, told), _ = audit_run(load_run(run))
    assert [finding.claim for finding in told.findings if not finding.holds] == [
        "no planted secret is in the bytes"
    ]


def test_a_plan_for_users_is_audited_by_its_mechanism(run: Path) -> None:
    plan = user_plan(cohort=3, rounds=3)

    def replace_plan(result: dict[str, Any]) -> None:
        added = {key: result["plan"][key] for key in ("policy", "rank", "dim", "noise_source")}
        result["plan"] = {**added, **plan_to(plan), "digest": plan.digest}

    change(run, replace_plan)
    sections, _ = audit_run(load_run(run), {"wire"})
    found = {section.name: section for section in sections}["mechanism"]
    assert all(finding.holds for finding in found.findings)
    assert any("rounds apart" in sentence for sentence in found.untested)
    assert [figure.kind for figure in found.figures] == ["bars", "histogram"]


def test_a_lying_server_is_a_part_of_the_section_under_secure_aggregation() -> None:
    plan = user_plan(trust="secure-aggregation", cohort=5, rounds=2)
    section = UserAudit(plan=plan, rounds=3).section()
    audits = {finding.audit for finding in section.findings}
    assert "lie in the protocol" in section.threat
    assert audits > {"sensitivity", "canary devices", "accounting"}
    assert len(section.findings) > len(UserAudit(plan=plan, rounds=3).findings())


def test_every_string_of_a_section_is_escaped(run: Path) -> None:
    clean = page_of(run, attacked(2.0))
    said = json.loads(attacked(2.0).to_json())
    kinds = [figure["kind"] for figure in said["figures"]]
    dirty = poisoned(said)
    for figure, kind in zip(dirty["figures"], kinds, strict=True):
        figure["kind"] = kind
    dirty["figures"][1]["data"]["curves"] = {
        f"{name}{ATTACK}": curve for name, curve in said["figures"][1]["data"]["curves"].items()
    }
    page = page_of(run, Section.from_json(json.dumps(dirty)))
    assert set(page.tags) == set(clean.tags)
    assert not any("onerror" in attributes for _, attributes in page.elements)


def test_a_rate_of_false_alarms_that_nobody_could_see_is_not_stated() -> None:
    curve = [[0.0, 0.0, 0.005, 1.0], [0.0, 0.2, 0.5, 1.0]]
    assert found_at(curve, 0.01) == 0.5
    assert found_at(curve, 0.001) is None


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="holds no finished run"):
        load_run(tmp_path)
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(BadInputError, match="is no result of a run"):
        load_run(tmp_path)


def test_the_command_joins_sections_that_lie_there_and_that_are_given(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (run / "audits").mkdir()
    (run / "audits" / "membership.json").write_text(attacked(2.0).to_json())
    more, out = run / "more.json", run / "page.html"
    finding = Finding(audit="update", claim="no text is read", found="none", holds=True)
    given = Section(name="update", title="Updates", threat="A server.", findings=(finding,))
    more.write_text(given.to_json())
    audit_report(run, [more], None, out)
    told = capsys.readouterr().out.splitlines()
    assert told == [str(out), "no claim refuted in 8 audits"]
    assert "None of 8 claims was refuted in 3 audits." in Page(out.read_text("utf-8")).text
    more.write_text(attacked(9.0).to_json())
    with pytest.raises(PrivacyError, match="REFUTED 1 of 8: ε is at most 4"):
        audit_report(run, [more], None, out)
    assert "REFUTED" in out.read_text("utf-8")
    with pytest.raises(BadInputError, match="give it with --base"):
        audit_report(run, [more], None, out, True)
    with pytest.raises(BadInputError, match=r"there is no file .*nowhere"):
        audit_report(run, [run / "nowhere.json"], None, out)
