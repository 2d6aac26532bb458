"""The command line, as a new user meets it."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import locavore
from locavore.home import bases_folder
from locavore.shared.adapters import Adapter, save_adapter
from locavore.shared.pictures import Picture

from .tiny_images import public_pictures


def locavore_command(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "locavore.cli", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        check=False,
    )


def test_the_version_is_the_installed_one() -> None:
    assert locavore.__version__.count(".") == 2


@pytest.mark.parametrize(
    "command",
    [
        (),
        ("simulate",),
        ("generate",),
        ("base",),
        ("audit",),
        ("audit", "mechanism"),
        ("audit", "membership"),
        ("audit", "training"),
        ("audit", "update"),
        ("audit", "wire"),
        ("audit", "report"),
        ("base", "build"),
        ("base", "fetch"),
        ("base", "list"),
        ("tasks",),
        ("repo",),
        *(
            ("repo", name)
            for name in (
                *("key", "init", "add", "withdraw", "sign", "rotate", "publish", "refresh"),
                *("tidy", "show", "serve"),
            )
        ),
        ("device",),
        *(
            ("device", name)
            for name in (
                *("init", "remember", "import", "list", "show", "recall", "forget", "learn"),
                *("export", "rekey", "check", "stats"),
            )
        ),
    ],
)
def test_every_command_has_help(command: tuple[str, ...]) -> None:
    done = locavore_command(*command, "--help")
    assert done.returncode == 0
    assert "Usage" in done.stdout
    assert len(done.stdout.splitlines()) > 4


def test_bases_are_listed_verified_and_shown(installed: str) -> None:
    assert installed in locavore_command("base", "list").stdout
    assert locavore_command("base", "verify", installed).stdout.startswith("ok: ")
    shown = locavore_command("base", "show", installed).stdout
    assert "Check: graph vs twin" in shown
    assert "model.onnx.data" in shown


def test_generate_prints_the_prompts_continuation(installed: str) -> None:
    done = locavore_command(
        "generate", "--base", installed, "--max-tokens", "5", "The nurse walked to"
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_generate_names_the_documents_that_it_used(installed: str, tmp_path: Path) -> None:
    (tmp_path / "note.md").write_text("The nurse walked to the harbour and sang.")
    done = locavore_command(
        *("generate", "--base", installed, "--max-tokens", "3"),
        *("--documents", str(tmp_path), "The nurse walked"),
    )
    assert "used: note.md" in done.stdout


def test_a_thing_of_ones_own_is_learned_and_drawn(
    installed_images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAVORE_PASSPHRASE", "word")
    picture = tmp_path / "bar.png"
    public_pictures()[0][0].save(picture)
    assert locavore_command("device", "init").returncode == 0
    learned = locavore_command(
        *("device", "subject", "my-bar", "bar", str(picture), "--base", installed_images),
        *("--way", "textual-inversion", "--steps", "2"),
    )
    assert learned.stdout.startswith("learned <my-bar> from 1 pictures"), learned.stderr
    drawing = ("generate", "--task", "image.subject", "--base", installed_images, "--vault")
    out = tmp_path / "drawn.png"
    done = locavore_command(*drawing, "--steps", "2", "--out", str(out), "a <my-bar>")
    assert "personalised by <my-bar>" in done.stdout, done.stderr
    drawn = Picture.load(out)
    assert drawn.size == (32, 32)
    again = locavore_command(*drawing, "--steps", "2", "--out", str(out), "a <my-bar>")
    assert again.returncode == 0
    assert np.array_equal(Picture.load(out).pixels, drawn.pixels)
    plain = locavore_command(*drawing, "--steps", "2", "--out", str(out), "a bar")
    assert "names nothing of the person's own" in plain.stdout
    assert not np.array_equal(Picture.load(out).pixels, drawn.pixels)


def test_an_adapter_of_another_base_is_refused_in_one_line(installed: str, tmp_path: Path) -> None:
    ones = np.ones((4, 1), np.float32)
    save_adapter(Adapter("another-base", {"model.layers.0.mlp.up_proj": (ones, ones.T)}), tmp_path)
    done = locavore_command("generate", "--base", installed, "--adapter", str(tmp_path), "Hello")
    assert done.returncode == 4
    assert done.stderr.count("\n") == 1
    assert "another-base" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("base", "verify", "nothing"), 3, "locavore base build"),
        (("generate", "--base", "nothing", "Hello"), 3, "none yet"),
        (("simulate", "--data", "nowhere"), 2, "nowhere"),
        (("simulate", "--noise", "-1"), 2, "noise_multiplier"),
        (("simulate", "--resume"), 2, "--out"),
        (("simulate", "--policy", "magic"), 2, "policy must be one of core, ffa"),
        (("simulate", "--server-optimizer", "lion"), 2, "'fedyogi', got 'lion'"),
        (("simulate", "--robust", "mode"), 2, "got 'mode'"),
        (("simulate", "--unit", "user", "--policy", "fedex"), 2, "has no bounded sensitivity"),
        (("simulate", "--policy", "alternate-step"), 2, "2 local steps or more, got 1"),
        (("simulate", "--no-such-option"), 2, "No such option"),
    ],
)
def test_mistakes_are_one_clear_line_and_an_exit_code(
    arguments: tuple[str, ...], code: int, said: str
) -> None:
    done = locavore_command(*arguments)
    assert done.returncode == code, done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_tampered_base_is_refused(installed: str) -> None:
    data = bases_folder() / installed / "model.onnx.data"
    raw = bytearray(data.read_bytes())
    raw[100] ^= 1
    data.write_bytes(raw)
    done = locavore_command("generate", "--base", installed, "Hello")
    assert done.returncode == 3
    assert "SHA-256" in done.stderr


def test_the_life_of_a_vault(
    installed: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAVORE_VAULT", str(tmp_path / "vault"))
    monkeypatch.setenv("LOCAVORE_PASSPHRASE", "old")
    notes = tmp_path / "notes"
    notes.mkdir()
    (notes / "a.md").write_text("Water the tomatoes in the evening.")
    (notes / "b.json").write_text("no JSON")

    def done(*arguments: str) -> str:
        run = locavore_command(*arguments)
        assert run.returncode == 0, run.stderr
        return run.stdout

    def refused(*arguments: str) -> tuple[int, str]:
        run = locavore_command(*arguments)
        assert "Traceback" not in run.stderr
        return run.returncode, run.stderr

    code, said = refused("device", "list")
    assert (code, "make one with 'locavore device init'" in said) == (2, True)
    assert "made an empty vault" in done("device", "init")
    assert refused("device", "init")[0] == 2
    assert "1 new, 0 known already, 1 left out" in done("device", "import", str(notes))
    assert "0 new, 1 known already" in done("device", "import", str(notes))
    tulips = done("device", "remember", "Ann likes tulips", "--train").split()[-1]
    assert tulips in done("device", "list", "--source", "shell")
    assert "may be used to: retrieve train" in done("device", "show", tulips)
    assert "words #1" in done("device", "recall", "tomatoes")
    assert "nothing that may be retrieved" in done("device", "recall", "zebra")
    written = done("generate", "Ann likes", "--vault", "--base", installed, "--max-tokens", "3")
    assert f"used: {tulips}" in written
    assert (
        refused("generate", "x", "--vault", "--documents", str(notes), "--base", installed)[0] == 2
    )
    assert "learned 1 records" in done("device", "learn", "--base", installed, "--steps", "1")
    assert "trained slice 1" in done("device", "show", tulips)
    stats = done("device", "stats")
    assert ": 1 slices of a private adapter, 0 to be trained again" in stats
    (base_id,) = re.findall("^base (.*): 1 slices", stats, re.MULTILINE)
    done("device", "unlearn", base_id)
    assert "base " not in done("device", "stats")
    assert refused("device", "unlearn", base_id)[0] == 2
    assert "learned 1 records" in done("device", "learn", "--base", installed, "--steps", "1")
    said = done("device", "forget", tulips, "--certificate", str(tmp_path / "said.json"))
    assert "1 records forgotten (asked)" in said
    assert "private adapter" in said
    assert refused("device", "show", tulips)[0] == 2
    assert (tmp_path / "said.json").is_file()
    monkeypatch.setenv("LOCAVORE_NEW_PASSPHRASE", "new")
    done("device", "rekey")
    assert refused("device", "check")[0] == 9
    monkeypatch.setenv("LOCAVORE_PASSPHRASE", "new")
    assert "ok: 1 records" in done("device", "check")
    assert "1 records in" in done("device", "export", str(tmp_path / "me.zip"))
    assert refused("device", "forget", "--everything", "--source", "x")[0] == 2
    assert "(everything)" in done("device", "forget", "--everything")
    assert "0 records" in done("device", "stats")


def test_what_was_liked_and_disliked_trains(
    installed_images: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAVORE_VAULT", str(tmp_path / "vault"))
    key = ("--key-file", str(tmp_path / "key"))

    def done(*arguments: str) -> str:
        run = locavore_command(*arguments, *key)
        assert run.returncode == 0, run.stderr
        return run.stdout

    done("device", "init")
    for number, verdict in enumerate(("liked", "disliked")):
        path = tmp_path / f"{number}.png"
        path.write_bytes(public_pictures()[number][0].encoded("png"))
        assert "remembered" in done("device", "rate", str(path), "red apple", verdict)
    learning = ("device", "learn", "--base", installed_images, "--steps", "1", "--rank", "2")
    assert "learned 2 records" in done(*learning, "--objective", "dpo")
    assert f"of {installed_images}" in done(*learning)  # nothing is left to imitate
    wrong = locavore_command("device", "learn", "--base", "x", "--objective", "rlhf", *key)
    assert wrong.returncode == 2
    assert "Traceback" not in wrong.stderr


def test_a_vault_opened_by_a_key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAVORE_VAULT", str(tmp_path / "vault"))
    key = ("--key-file", str(tmp_path / "key"))
    assert locavore_command("device", "init", *key).returncode == 0
    assert (tmp_path / "key").stat().st_mode & 0o077 == 0
    assert "0 records" in locavore_command("device", "stats", *key).stdout
    done = locavore_command("device", "stats", "--key-file", str(tmp_path / "none"))
    assert "there is no key file" in done.stderr


def test_an_audit_says_one_verdict_and_writes_all(installed: str, tmp_path: Path) -> None:
    pytest.importorskip("torch", reason="needs the extra 'train'")
    out = tmp_path / "audit.json"
    done = locavore_command("audit", "training", "--base", installed, "--out", str(out))
    assert done.returncode == 0, done.stderr
    section = json.loads(out.read_text())
    findings = section["findings"]
    assert done.stdout.splitlines()[-1] == f"no claim refuted in {len(findings)} audits"
    assert {finding["audit"] for finding in findings} >= {"sensitivity", "canaries", "sampling"}
    assert section["name"] == "training"
    assert [figure["kind"] for figure in section["figures"]] == ["bars", "histogram"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("membership", "--records", "24", "--tokens", "12", "--targets", "2", "--shadows", "4"),
        ("update", "--tokens", "8", "--devices", "3"),
    ],
    ids=["membership", "update"],
)
def test_an_attack_writes_a_section(
    installed: str, tmp_path: Path, arguments: tuple[str, ...]
) -> None:
    pytest.importorskip("torch", reason="needs the extra 'train'")
    from locavore.privacy.audit.sections import Section

    out = tmp_path / "section.json"
    done = locavore_command("audit", *arguments, "--base", installed, "--out", str(out))
    assert done.returncode == 0, done.stderr
    section = Section.from_json(out.read_text())
    assert section.name == arguments[0]
    assert done.stdout.splitlines()[-1] == f"no claim refuted in {len(section.findings)} audits"


def test_an_attack_names_what_it_does_not_know(installed: str) -> None:
    pytest.importorskip("torch", reason="needs the extra 'train'")
    done = locavore_command("audit", "membership", "--base", installed, "--adapter", "both")
    assert done.returncode != 0
    assert "--adapter must be private or shared, got 'both'" in done.stderr


def test_a_claim_that_cannot_be_audited_is_one_line() -> None:
    pytest.importorskip("flwr", reason="needs the extra 'federate'")
    done = locavore_command("audit", "mechanism", "--noise", "0")
    assert done.returncode != 0
    assert "claims nothing" in done.stderr
    assert "Traceback" not in done.stderr
