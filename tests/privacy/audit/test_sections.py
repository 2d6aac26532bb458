from __future__ import annotations

import json

import pytest

from locavore.privacy.audit.findings import Finding
from locavore.privacy.audit.sections import Figure, Section
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
