"""Workers as child processes: each runtime has a process, and thus a peak memory, of its own."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from locavore.shared.errors import LocavoreError

__all__ = ["ROOT", "Measured", "Worker", "WorkerError"]

ROOT = Path(__file__).parents[2]


class WorkerError(LocavoreError):
    """A worker ended or wrote something else than a reply."""


@dataclass(frozen=True, kw_only=True)
class Measured:
    """One reply: seconds, and the greedy ``tokens``; see ``work/protocol.py``."""

    swap: float | None
    prefill: float
    decode: float
    tokens: list[int]


class Worker:
    """A running worker."""

    def __init__(self, command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        """Start and load; returns when the worker is ready.

        Args:
            env: settings beyond this process' own.

        Raises:
            WorkerError: it did not start; the message quotes its last words.
        """
        self._command = command
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=os.environ
            | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", **(env or {})},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.ready = self._reply()
        """What the worker said when it had loaded."""

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.communicate()  # closes its input: it ends by itself

    def measure(self, ids: Sequence[int], new: int) -> Measured:
        """Read ``ids``, then decode ``new`` tokens more than the first."""
        return Measured(**self.ask({"ids": list(ids), "new": new}))

    def ask(self, request: Mapping[str, Any]) -> dict[str, Any]:
        """Send a request and wait for its reply."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        return self._reply()

    def peak_bytes(self) -> int | None:
        """The largest resident set so far (``VmHWM``); none where there is no ``/proc``.

        Not ``ru_maxrss``: that also counts the parent's memory at the moment of the fork.
        """
        try:
            status = Path(f"/proc/{self._process.pid}/status").read_text()
        except OSError:
            return None
        kilobytes = next(x.split()[1] for x in status.splitlines() if x.startswith("VmHWM"))
        return int(kilobytes) * 1024

    def _reply(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.startswith("{"):  # some libraries chat on their standard output
                reply: dict[str, Any] = json.loads(line)
                return reply
        words = self._process.communicate()[1].strip().splitlines() or ["it said nothing"]
        raise WorkerError(f"worker {' '.join(self._command[:4])} ended: {words[-1]}")
