"""Every example runs and creates the files that it promises."""

from __future__ import annotations

import mailbox
import subprocess
import sys
from email.message import EmailMessage
from pathlib import Path

import pytest

from locavore.privacy.audit.sections import Section

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
        "audit_deployments.py",
        "on_device.py",
        "private_federation.py",
        "vault_walk.py",
    }


def test_on_device(installed: str, tmp_path: Path) -> None:
    printed = run("on_device.py", "--base", installed, "--out", str(tmp_path / "letter.txt"))
    assert (tmp_path / "letter.txt").read_text().startswith("Dear Ann, the tomatoes")
    assert "built from the letter of 2026-03-02" in printed


def test_audit_deployments(installed: str, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs the extra 'train'")
    printed = run("audit_deployments.py", "--base", installed, "--out", str(tmp_path))
    careless, careful = printed.split("careful:")
    assert "REFUTED: update, clipped" in careless
    assert careful.count("holds: update") == 2
    for name in ("careless", "careful"):
        section = Section.from_json((tmp_path / f"{name}.json").read_text())
        assert section.figures


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


def test_vault_walk(installed: str, tmp_path: Path) -> None:
    box = mailbox.mbox(tmp_path / "sent.mbox")
    for number, text in enumerate(("the tomatoes are red", "the boat leaks", "more tomatoes")):
        letter = EmailMessage()
        letter["From"], letter["To"] = "Ann <ann@example.org>", "tom@example.org"
        letter["Subject"], letter["Message-ID"] = "News", f"<{number}@example.org>"
        letter.set_content(f"Dear Tom, {text}.\n\n> What news?\n")
        box.add(letter)
    box.close()
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "garden.md").write_text("Water the tomatoes in the evening.")
    printed = run(
        "vault_walk.py",
        *("--mbox", str(tmp_path / "sent.mbox"), "--me", "ann@example.org"),
        *("--folder", str(tmp_path / "notes"), "--about", "tomatoes", "--base", installed),
        *("--vault", str(tmp_path / "vault"), "--out", str(tmp_path / "said.json")),
    )
    assert "sent.mbox: 3 records" in printed
    assert "notes: 1 records" in printed
    assert "written from 3 of your records" in printed
    assert "3 records forgotten (asked)" in printed
    assert "bytes of the vault searched: 0 of 3 found" in printed
    assert (tmp_path / "said.json").is_file()
