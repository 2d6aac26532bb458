"""Every example runs and creates the files that it promises."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(name: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", str(EXAMPLES / name), *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_example_is_tested() -> None:
    assert {path.name for path in EXAMPLES.glob("*.py")} == {
        "on_device.py",
        "private_federation.py",
    }


def test_on_device(installed: str, tmp_path: Path) -> None:
    printed = run("on_device.py", "--base", installed, "--out", str(tmp_path / "letter.txt"))
    assert (tmp_path / "letter.txt").read_text().startswith("Dear Ann, the tomatoes")
    assert "built from the letter of 2026-03-02" in printed


def test_private_federation(installed: str, private_texts: list[str], tmp_path: Path) -> None:
    pytest.importorskip("flwr", reason="needs the extra 'simulate'")
    for owner in ("ida", "sven"):
        folder = tmp_path / "people" / owner
        folder.mkdir(parents=True)
        (folder / "notes.txt").write_text("\n\n".join(f"{owner} {t * 4}" for t in private_texts))
    out = tmp_path / "run"
    printed = run(
        "private_federation.py", str(tmp_path / "people"), "--base", installed, "--out", str(out)
    )
    assert "ε = " in printed
    assert "shared + private + retrieval" in printed
    assert (out / "result.json").is_file()
    assert (out / "report.html").is_file()
