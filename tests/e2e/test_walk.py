"""The walk of ``docs/deployment.md``, command by command: serve, invite, join, leave."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

pytest.importorskip("flwr", reason="a coordinator needs the extra 'serve'")
pytest.importorskip("torch", reason="devices need the extra 'train'")

PASSPHRASE = "for this walk only"


class Shell:
    """Runs commands as a person would, with logs of those in the background."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def environment(self, **more: str) -> dict[str, str]:
        return {
            **os.environ,
            "LOCAVORE_PASSPHRASE": PASSPHRASE,
            "OMP_NUM_THREADS": "1",
            "PYTHONUNBUFFERED": "1",
            **more,
        }

    def run(self, *arguments: str, **more: str) -> str:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "locavore.cli", *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.folder,
            env=self.environment(**more),
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def start(self, name: str, *arguments: str, **more: str) -> None:
        with (self.folder / f"{name}.log").open("wb") as log:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-W", "ignore", "-m", "locavore.cli", *arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
                env=self.environment(**more),
            )

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def settle(self, name: str, there: Callable[[str], object], seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while not there(self.log(name)):
            alive = self.running[name].poll() is None
            assert alive and time.monotonic() < end, f"{name}:\n{self.log(name)}"  # noqa: PT018
            time.sleep(0.1)

    def stop(self, name: str) -> int:
        self.running[name].terminate()
        return self.running[name].wait(30)


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    made = Shell(tmp_path)
    try:
        yield made
    finally:
        for process in made.running.values():
            process.kill()
            process.wait()


@pytest.mark.slow
def test_the_walk(
    shell: Shell, installed: str, private_texts: list[str], free_port: int, tmp_path: Path
) -> None:
    shell.start("first", "serve", "--dev", "here", "--base", installed, "--devices", "2")
    shell.settle("first", lambda log: "and then there: locavore device join" in log)
    shell.stop("first")
    file = tmp_path / "here" / "coordinator.toml"
    said = re.sub(r"port = \d+", "port = 0", file.read_text())
    file.write_text(
        said.replace("port = 0", f"port = {free_port}", 1).replace("rounds = 3", "rounds = 2")
    )
    url = f"https://127.0.0.1:{free_port}"
    shell.start("coordinator", "serve", str(file))
    shell.settle("coordinator", lambda log: "operator's page" in log)

    people = {}
    for name in ("ida", "sven"):
        own = {
            "LOCAVORE_VAULT": str(tmp_path / f"vault-{name}"),
            "LOCAVORE_CACHE": str(tmp_path / f"cache-{name}"),
            "LOCAVORE_DATA": str(tmp_path / f"data-{name}"),
            "LOCAVORE_CONFIG": str(tmp_path / f"config-{name}"),
        }
        notes = tmp_path / "notes" / name
        notes.mkdir(parents=True)
        for number, text in enumerate(private_texts):
            (notes / f"{number}.txt").write_text(f"{text} {name} says so, twice at least.")
        shell.run("device", "init", **own)
        shell.run("device", "import", str(notes), "--federate", **own)
        shell.run("federation", "invite", str(file), f"invitation-{name}")
        shell.start(name, "device", "join", url, f"invitation-{name}", "--yes", **own)
        people[name] = own
    shell.settle("coordinator", lambda log: "all rounds are done" in log)
    assert "round 2: 2 of 2 devices, change" in shell.log("coordinator")
    for name in people:
        shell.settle(name, lambda log: "round 2: the new shared adapter is in the vault" in log)
        log = shell.log(name)
        assert re.search(r"fetched tiny 1, tiny-llama-float32-\w+: [\d.]+ MB received", log)
        assert "Nobody has to be trusted" in log
        assert re.search(r"is hidden with epsilon [\d.]+ at delta 1e-05", log)
        assert "40 of your records may be federated; beyond epsilon" in log

    page = re.search(r"http://127.0.0.1:(\d+)/", shell.log("coordinator"))
    assert page is not None
    status = httpx.get(f"{page[0]}status.json").json()
    assert (status["round"], status["admitted"], status["state"]) == (2, 2, "done")

    assert shell.stop("ida") == 0
    printed = shell.run("device", "leave", **people["ida"])
    assert "the server lets them in no more" in printed
    rows = shell.run("federation", "devices", str(file)).splitlines()
    assert sum("│" in row and row.count("-") == 4 for row in rows) == 1, "one is revoked"
    own = people["ida"]
    written = shell.run(
        "generate", "--vault", "Note to", "--base", "tiny", "--max-tokens", "5", **own
    )
    assert "used: " in written
    assert shell.stop("sven") == 0
    assert shell.stop("coordinator") == 0
    assert "stopped; started again, it goes on where it was" in shell.log("coordinator")
