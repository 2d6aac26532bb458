"""The quick attacks on a run's base: each says how small it is, and keeps to the run's plan."""

from __future__ import annotations

import json
from collections.abc import Callable
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("flwr", reason="the simulation needs the extra 'simulate'")
pytest.importorskip("dp_accounting", reason="the plans need the extra 'train'")

from locavore.privacy.audit.sections import AUDITS, Section
from locavore.privacy.terms import plan_to
from locavore.server.simulation import run_audit
from locavore.server.simulation.quick_audits import QUICK, Trained
from locavore.server.simulation.run_audit import audit_run, load_run
from locavore.shared.packages import Package

from ...plans import record_plan, user_plan

MakeResult = Callable[..., dict[str, Any]]
PLAN = record_plan(clip=1.0, expected_batch=4, rounds=2)


@pytest.mark.parametrize("name", [name for name in QUICK if name != "training"])
def test_a_quick_audit_says_its_size_and_refutes_no_true_claim(name: str, package: Package) -> None:
    section = QUICK[name](Trained(package, PLAN, "core", 2))
    assert isinstance(section, Section)
    assert section.name == name
    assert all(finding.holds for finding in section.findings)
    assert section.untested[0].startswith("A quick audit: ")
    assert f"'locavore audit {name}'" in section.untested[0]


@pytest.fixture
def folder(make_result: MakeResult, tmp_path: Path) -> Path:
    """Of a run with a plan for records, and no devices."""
    result = make_result()
    result["plan"] |= {**plan_to(PLAN), "digest": PLAN.digest}
    result["epsilon"] = {}
    (tmp_path / "result.json").write_text(json.dumps(result))
    return tmp_path


def test_attacks_are_made_when_asked_for_and_kept(
    folder: Path, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    def attack(name: str) -> Callable[[Trained], Section]:
        def made(run: Trained) -> Section:
            assert (run.plan, run.form, run.rank) == (PLAN, "core", 2)
            return Section(name=name, title=name, threat="Somebody.", findings=())

        return made

    for name in QUICK:
        monkeypatch.setitem(QUICK, name, attack(name))
    run, told = load_run(folder, package), list[str]()
    made, reasons = audit_run(run, {"update"}, attacks=True, progress=told.append)
    assert {one.name for one in made} == AUDITS.keys() - {"update", "wire", "mechanism"}
    assert reasons.keys() == {"wire", "mechanism"}
    assert told == [name for name in AUDITS if name != "update"]
    assert [path.stem for path in run.kept] == [
        "attributes",
        "extraction",
        "membership",
        "retrieval",
        "training",
    ]
    assert {one.name for one in audit_run(run)[0]} == {"claims", "training"}
    assert len(run.kept) == 5


def test_why_a_run_is_not_attacked_is_said(folder: Path, package: Package) -> None:
    result = load_run(folder).result

    def why(base: Package | None = package, **plan: Any) -> str:
        changed = {**result, "plan": {**result["plan"], **plan}}
        found = run_audit.FinishedRun(folder, changed, base).trained
        assert isinstance(found, str)
        return found

    assert "give it with --base" in why(None)
    assert "'lora' is not audited" in why(policy="lora")
    assert "claims nothing of records" in why(noise_multiplier=0.0)
    run = load_run(folder, package)
    vars(run)["plan"] = user_plan()
    assert "claims nothing of records" in str(run.trained)


def test_pictures_are_not_attacked_as_texts(
    folder: Path, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    pictures = copy(package)
    pictures.manifest = replace(package.manifest, modality="image")
    empty = Section(name="training", title="", threat="", findings=())
    monkeypatch.setitem(QUICK, "training", lambda _: empty)
    made, reasons = audit_run(load_run(folder, pictures), attacks=True)
    assert {one.name for one in made} == {"claims", "training"}
    assert "the run's base makes images" in reasons["membership"]
