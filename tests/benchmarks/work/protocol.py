"""How a worker talks to the benchmark: one JSON object per line, requests in, replies out.

After loading a worker writes ``{"bytes": ...}``, the size of its weights on disk. A request
``{"ids": [...], "new": n}`` is answered with the seconds of ``prefill`` (the prompt, up to and
with the first token), of ``decode`` (``n`` more tokens) and, where the worker has an adapter,
of ``swap``, and with all ``tokens``. Every worker decodes greedily and feeds its own tokens on.
Only the standard library: peers run in an environment of their own.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Protocol

__all__ = ["Engine", "serve"]


class Engine(Protocol):
    """A runtime with a model in it. ``prefill`` starts a new text."""

    nbytes: int

    def swap(self) -> float | None:
        """Put another adapter in place; return the seconds, or none without an adapter."""

    def prefill(self, ids: list[int]) -> int:
        """Read a prompt and return the next token."""

    def step(self, token: int) -> int:
        """Read one more token and return the next."""


def serve(engine: Engine) -> None:
    """Answer requests until there are no more."""
    _say({"bytes": engine.nbytes})
    for line in sys.stdin:
        request = json.loads(line)
        _say(_measure(engine, request["ids"], request["new"]))


def _measure(engine: Engine, ids: list[int], new: int) -> dict[str, object]:
    swap = engine.swap()
    begun = time.perf_counter()
    tokens = [engine.prefill(ids)]
    read = time.perf_counter()
    for _ in range(new):
        tokens.append(engine.step(tokens[-1]))
    ended = time.perf_counter()
    return {"swap": swap, "prefill": read - begun, "decode": ended - read, "tokens": tokens}


def _say(reply: dict[str, object]) -> None:
    sys.stdout.write(json.dumps(reply) + "\n")
    sys.stdout.flush()
