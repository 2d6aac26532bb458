"""What it costs to carry a federation's messages: a hundred embedded nodes, and stock SuperNodes.

python -m tests.benchmarks deployment [--quick]

Devices draw their updates instead of training, so that what is measured is Flower's protocol, TLS,
authentication and the secure sum. A server of ours and the nodes are processes on this machine; the
nodes are threads of one process, as they would be in an application, and one node alone in another.
Stock: a SuperLink and three SuperNodes of flwr 1.41, each with an app process a message.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .report import Goal, Options, Report, machine_line
from .workers import ROOT, WorkerError

_WORK = Path(__file__).parent / "work"
_STOCK_NODES = 3
_PATIENCE_S = 400
_MEMORY = Goal(name="memory a node over stock", bound=0.1, at_most=True)
_SPEED = Goal(name="seconds a round over stock, 3 nodes", bound=0.25, at_most=True)


@dataclass(frozen=True)
class _Measured:
    """Seconds of each round but the first, and MiB a node beyond the process it is in."""

    seconds: list[float]
    memory: float


def run(options: Options) -> Report:
    """Measure, and put it side by side."""
    many, rounds = (12, 3) if options.quick else (100, 6)
    rows: list[list[str]] = []
    ratios: dict[str, float] = {}
    failures: list[str] = []
    stock = None if options.quick else _stock(rounds)
    few = _ours(_STOCK_NODES, rounds, "plain", failures)
    for name, nodes, kind in (
        ("updates by themselves", many, "plain"),
        ("secure sums", many, "sums"),
    ):
        found = _ours(nodes, rounds, kind, failures)
        rows.append(_row(f"locavore, {nodes} nodes, {name}", found))
    rows.append(_row(f"locavore, {_STOCK_NODES} nodes, updates by themselves", few))
    if stock is not None:
        rows.append(_row(f"stock Flower, {_STOCK_NODES} nodes, updates by themselves", stock))
        seconds = statistics.median(few.seconds) / statistics.median(stock.seconds)
        ratios = {_SPEED.name: seconds, _MEMORY.name: few.memory / stock.memory}
    return Report(
        benchmark="deployment",
        lines=[
            machine_line(),
            "TLS and known keys on our side, neither on the stock one; 840 numbers an update",
            "MiB a node: what a node adds to its process; stock: all processes of a node",
        ],
        columns=["", "s a round", "slowest", "MiB a node"],
        rows=rows,
        ratios=ratios,
        goals=[] if options.quick else [_SPEED, _MEMORY],
        failures=failures,
    )


def _row(name: str, found: _Measured) -> list[str]:
    middle = statistics.median(found.seconds)
    return [name, f"{middle:.2f}", f"{max(found.seconds):.2f}", f"{found.memory:.1f}"]


def _ours(nodes: int, rounds: int, kind: str, failures: list[str]) -> _Measured:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        arguments = [str(folder), str(nodes), str(rounds), kind]
        with _process("toy_server.py", *arguments) as server:
            assert server.stdout is not None
            port = server.stdout.readline().split()[-1]
            given = [str(folder), port, "0", str(nodes), kind]
            with _process("toy_nodes.py", *given) as clients:
                seconds, averaged = _rounds(server, rounds)
                out, _ = clients.communicate(timeout=60)
            server.wait(60)
    said = json.loads(out.splitlines()[-1])
    if averaged != [nodes] * rounds:
        failures.append(f"{kind}: {averaged} of {nodes} nodes were averaged")
    return _Measured(seconds[1:], (said["after"] - said["before"]) / nodes)


def _rounds(server: subprocess.Popen[str], rounds: int) -> tuple[list[float], list[int]]:
    """Seconds of the rounds, and how many updates went into each, as the server says."""
    assert server.stdout is not None
    seconds, averaged = [], []
    for line in server.stdout:
        if line.startswith("ROUND"):
            _, _, took, many = line.split()
            seconds.append(float(took))
            averaged.append(int(many))
        if len(seconds) == rounds:
            return seconds, averaged
    raise WorkerError(f"the server ended after {len(seconds)} of {rounds} rounds")


def _stock(rounds: int) -> _Measured:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        env = {
            **os.environ,
            "FLWR_TELEMETRY_ENABLED": "0",
            "FLWR_DISABLE_UPDATE_CHECK": "1",
            "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
            "TOY_WORK": str(_WORK),
        }
        bin = Path(sys.executable).parent
        env["PATH"] = f"{bin}:{env['PATH']}"
        home = folder / "home"
        home.mkdir()
        connection = '[superlink.local]\naddress = "127.0.0.1:8000"\ninsecure = true\n'
        (home / "config.toml").write_text(connection)
        processes = [_started([str(bin / "flower-superlink"), "--insecure"], env, home)]
        try:
            time.sleep(8)  # it says when it listens only to a person
            for place in range(_STOCK_NODES):
                command = [
                    *(str(bin / "flower-supernode"), "--insecure"),
                    *("--superlink", "127.0.0.1:8000", "--port", str(9100 + place)),
                    *("--node-config", f"partition-id={place} num-partitions={_STOCK_NODES}"),
                ]
                processes.append(_started(command, env, folder / f"node-{place}"))
            time.sleep(5)
            config = f"rounds={rounds} nodes={_STOCK_NODES} folder='{folder / 'checkpoints'}'"
            command = [str(bin / "flwr"), "run", str(_WORK / "stock_app"), "local", "--stream"]
            ran = subprocess.Popen(
                [*command, "--run-config", config],
                env={**env, "FLWR_HOME": str(home)},
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            memory: list[float] = []
            seconds = []
            assert ran.stdout is not None
            for line in ran.stdout:
                if "ROUND " in line and line.split("ROUND ")[1].count(" ") == 2:
                    seconds.append(float(line.split("ROUND ")[1].split()[1]))
                    memory.append(sum(_tree_mb(p.pid) for p in processes[1:]) / _STOCK_NODES)
            ran.wait(_PATIENCE_S)
        finally:
            for process in processes:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        if len(seconds) < rounds:
            raise WorkerError(f"stock Flower ended after {len(seconds)} of {rounds} rounds")
        return _Measured(seconds[1:], statistics.median(memory))


def _started(command: list[str], env: dict[str, str], home: Path) -> subprocess.Popen[bytes]:
    """A process of stock Flower, with all that it starts in one group."""
    home.mkdir(exist_ok=True)
    return subprocess.Popen(
        command,
        env={**env, "FLWR_HOME": str(home)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def _tree_mb(pid: int) -> float:
    """MiB that a process and its descendants hold."""
    total = 0.0
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return 0.0
    for line in status.read_text().splitlines():
        if line.startswith("VmRSS:"):
            total += int(line.split()[1]) / 1024
    for task in Path(f"/proc/{pid}/task").glob("*/children"):
        total += sum(_tree_mb(int(child)) for child in task.read_text().split())
    return total


@contextmanager
def _process(script: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", str(_WORK / script), *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
