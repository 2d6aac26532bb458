from __future__ import annotations

import json

import pytest

from locavore.privacy.audit.evidence import Estimate, LowerBound
from locavore.privacy.audit.findings import Finding
from locavore.privacy.audit.sections import AT_LEAST, CLAIMED, Figure, Section, epsilon_bars
from locavore.shared.errors import BadInputError


def test_a_section_comes_back_from_json() -> None:
    finding = Finding(audit="noise", claim="ε is at most 4", found="ε ≥ 1.2", holds=True)
    roc = Figure(title="t", kind="roc", data={"curves": {"loss": [[0.0, 1.0], [0.0, 1.0]]}})
    section = Section(
        name="membership",
        title="Membership",
        threat="Somebody.",
        findings=(finding,),
        figures=(roc,),
        untested=("users",),
    )
    assert Section.from_json(section.to_json()) == section


@pytest.mark.parametrize("raw", ["", "[]", "{}", json.dumps({"name": "x", "findings": 3})])
def test_what_is_no_section_is_refused(raw: str) -> None:
    with pytest.raises(BadInputError, match="no section"):
        Section.from_json(raw)


def test_a_figure_without_its_data_is_refused() -> None:
    with pytest.raises(BadInputError, match="lacks values"):
        Figure(title="t", kind="bars", data={"labels": []})


def test_an_estimate_cannot_stand_in_a_bounds_place() -> None:
    bound = LowerBound(epsilon=1.5, delta=1e-5, confidence=0.95, auditor="some", canaries=9)
    shown = epsilon_bars("one step", [("canaries", 4.0, bound)])
    assert shown.data["values"] == {CLAIMED: [4.0], AT_LEAST: [1.5]}
    assert shown.data["bounds"] == [str(bound)]
    guess = Estimate(value=3.0, delta=1e-5, auditor="some", canaries=9)
    with pytest.raises(BadInputError, match="shown as a bound and is none: ε about 3"):
        epsilon_bars("one step", [("canaries", 4.0, guess)])  # type: ignore[list-item]
