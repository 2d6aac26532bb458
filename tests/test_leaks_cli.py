"""The audits of what leaks, from the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from locavore.privacy.audit.sections import Section


def audit(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "locavore.cli", "audit", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def section(done: subprocess.CompletedProcess[str], out: Path) -> Section:
    """What was written, once it is sure that the last line says the same."""
    assert done.returncode == 0, done.stderr
    read = Section.from_json(out.read_text())
    *lines, last = done.stdout.splitlines()
    assert lines == [str(finding) for finding in read.findings]
    assert last == f"no claim refuted in {len(read.findings)} audits"
    return read


def test_secrets_are_planted_among_records_of_a_file(installed: str, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs the extra 'train'")
    records, out = tmp_path / "records.jsonl", tmp_path / "out.json"
    lines = [json.dumps({"text": f"Note {number} of the day."}) for number in range(40)]
    records.write_text("\n".join(lines))
    few = ("--canaries", "4", "--references", "15", "--private-steps", "2", "--rounds", "1")
    done = audit(
        "extraction", "--base", installed, "--records", str(records), *few, "--out", str(out)
    )
    kinds = {figure.kind for figure in section(done, out).figures}
    assert kinds == {"histogram", "table", "bars", "texts"}
    records.write_text('{"text": "fine"}\n{"body": 1}\n')
    done = audit("extraction", "--base", installed, "--records", str(records))
    assert done.returncode == 2
    assert "line 2 of" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_made_up_vault_and_ones_own_are_attacked(
    installed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out.json"
    few = ("--base", installed, "--attacks", "6", "--out", str(out))
    found = section(audit("retrieval", *few), out)
    assert found.name == "retrieval"
    assert len(found.findings) == 7
    monkeypatch.setenv("LOCAVORE_PASSPHRASE", "open sesame")
    done = audit("retrieval", "--mine", *few)
    assert done.returncode == 2
    assert "make one with 'locavore device init'" in " ".join(done.stderr.split())
    for words in (("device", "init"), ("device", "remember", "Ann likes the tulips in the park")):
        subprocess.run([sys.executable, "-W", "ignore", "-m", "locavore.cli", *words], check=True)
    assert "not looked for" in " ".join(section(audit("retrieval", "--mine", *few), out).untested)


def test_attributes_are_read_from_adapters(installed: str, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs the extra 'train'")
    out = tmp_path / "out.json"
    few = ("--people", "12", "--private-steps", "1", "--out", str(out))
    found = section(audit("attributes", "--base", installed, *few), out)
    assert [figure.kind for figure in found.figures] == ["bars", "table"]
    done = audit("attributes", "--base", installed, "--people", "2")
    assert done.returncode == 2
    assert "at least 8, got 2" in done.stderr
