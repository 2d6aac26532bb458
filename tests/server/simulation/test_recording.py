"""Recordings of what travelled, and their audit from the shell."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("flwr", reason="the federation needs the extra 'federate'")

from locavore.privacy.audit.wire import wire_findings, wire_section
from locavore.server.simulation.grid import from_bytes
from locavore.server.simulation.recording import (
    Recorder,
    load_recording,
    recording_to,
    terms_of,
)
from locavore.shared.adapters import Adapter, save_adapter
from locavore.shared.errors import BadInputError

from ..summing import DIM, Fleet


@pytest.fixture
def recorder(tmp_path: Path) -> Recorder:
    found = Recorder()
    Fleet().run(tmp_path / "run", tap=found.tap)
    return found


def test_a_recording_survives_its_file(recorder: Recorder, tmp_path: Path) -> None:
    recorder.save(tmp_path / "messages.jsonl")
    again = load_recording(tmp_path / "messages.jsonl")
    assert len(again) == len(recorder.messages) == 50
    assert [one.raw for one in again] == [one.raw for one in recorder.messages]
    width, plan = terms_of(again)
    assert width == DIM
    assert all(finding.holds for finding in wire_findings(again, {}, width=width, plan=plan))


def test_a_tap_into_a_file_keeps_the_same(recorder: Recorder, tmp_path: Path) -> None:
    tap = recording_to(tmp_path / "messages.jsonl")
    for one in recorder.messages:
        tap(from_bytes(one.raw), one.way)
    kept = load_recording(tmp_path / "messages.jsonl")
    assert [(m.way, m.phase) for m in kept] == [(m.way, m.phase) for m in recorder.messages]


def test_a_section_shows_every_kind_of_message(recorder: Recorder) -> None:
    width, plan = terms_of(recorder.messages)
    section = wire_section(recorder.messages, {}, width=width, plan=plan)
    (shown,) = section.figures
    kinds = {(row[0], row[1]): row for row in shown.data["rows"]}
    assert sum(row[2] for row in kinds.values()) == 50
    assert sum(row[4] for row in kinds.values()) == sum(len(m.raw) for m in recorder.messages)
    assert "arrays.masked" in kinds["mask", "up"][3]
    assert "none were given" in section.untested[0]


def test_no_update_is_in_the_bytes_of_a_secure_sum(recorder: Recorder) -> None:
    width, plan = terms_of(recorder.messages)
    secrets = {"an update": Fleet().devices[1].contribution(1)}
    assert all(f.holds for f in wire_findings(recorder.messages, secrets, width=width, plan=plan))


def test_what_is_no_recording_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "messages.jsonl"
    for text in (
        "no json",
        '{"way": "up"}',
        '{"way": "up", "raw": "!"}',
        '{"way":"up","raw":"AAAA"}',
    ):
        path.write_text(text)
        with pytest.raises(BadInputError, match="line 1 is no recorded message"):
            load_recording(path)
    with pytest.raises(BadInputError, match="broadcasts"):
        terms_of([])


def audited(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "locavore.cli", "audit", "wire", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_shell_says_whether_a_secret_travelled(recorder: Recorder, tmp_path: Path) -> None:
    path, secrets, folder = tmp_path / "messages.jsonl", tmp_path / "secrets", tmp_path / "mine"
    recorder.save(path)
    drawn = np.random.default_rng(0).normal(size=(4, 2)).astype(np.float32)
    save_adapter(Adapter("tiny-float32-0123", {"model.q": (drawn, drawn.T.copy())}), folder)
    secrets.write_text("the goat squeaks\n")
    held = audited(str(path), "--secrets", str(secrets), "--adapter", str(folder))
    assert held.returncode == 0, held.stderr
    assert held.stdout.splitlines()[-1] == "no claim refuted in 3 audits"
    secrets.write_text(recorder.messages[0].records["config"]["base"])  # type: ignore[arg-type]
    told = audited(str(path), "--secrets", str(secrets))
    assert told.returncode != 0
    assert "REFUTED 1 of 3: no planted secret is in the bytes" in told.stderr
    assert "there is no file" in audited("nowhere").stderr
