"""The README and the program agree."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click import Command
from typer.main import get_command

from locavore.shared.packages import Package

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def commands() -> list[str]:
    from locavore.cli import app

    top = get_command(app).commands  # type: ignore[attr-defined]
    names = []
    for name, command in top.items():
        inner = getattr(command, "commands", None)
        names += [f"{name} {child}" for child in inner] if inner else [name]
    return names


def test_every_command_is_in_the_readme() -> None:
    missing = [name for name in commands() if f"locavore {name}" not in README]
    assert not missing


def test_the_readme_names_only_commands_and_options_that_exist() -> None:
    from locavore.cli import app

    known = {word for name in commands() for word in name.split()}
    options = {
        option
        for command in _walk(get_command(app))
        for parameter in command.params
        for option in (*parameter.opts, *parameter.secondary_opts)
    }
    for document in DOCUMENTS:
        for line in re.findall(r"^locavore (.+)$", document.read_text("utf-8"), re.MULTILINE):
            assert line.split()[0] in known, line
            for option in re.findall(r"(?<=\s)--[a-z-]+", line):
                assert option in options, line


def _walk(command: Command) -> Iterator[Command]:
    yield command
    for child in getattr(command, "commands", {}).values():
        yield from _walk(child)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", document.read_text("utf-8")):
        if "://" not in target:
            assert (document.parent / target).exists(), target


def test_the_makefile_has_the_readmes_commands() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for chore in re.findall(r"^make ([a-z0-9-]+)", README, re.MULTILINE):
        assert re.search(rf"^{chore}:", makefile, re.MULTILINE), chore


def test_the_integrators_example_runs(
    package: Package, trusted: list[bytes], tmp_path: Path
) -> None:
    (example, *_) = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    known: dict[str, Any] = {
        "package_folder": package.folder,
        "publisher_key": trusted[0],
        "vault_folder": tmp_path / "vault",
        "passphrase": "a long one",
    }
    exec(example, known)
    assert isinstance(known["content"].output, str)
    assert len(known["certificate"].records) == 1
