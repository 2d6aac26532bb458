"""onnxruntime-genai's worker: ``python -m tests.benchmarks.work.genai FOLDER THREADS``.

Runs in the peers' environment, which holds neither locavore nor torch.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

from .protocol import serve

__all__ = ["Genai"]

og: Any = importlib.import_module("onnxruntime_genai")  # not a dependency of ours

_LONGEST = 1024


class Genai:
    """A folder that onnxruntime-genai's model builder wrote."""

    def __init__(self, folder: str, threads: int) -> None:
        getattr(og, "disable_telemetry_events", lambda: None)()
        config = og.Config(folder)
        options = {"session_options": {"intra_op_num_threads": threads}}
        config.overlay(json.dumps({"model": {"decoder": options}}))
        self._model = og.Model(config)
        self.nbytes = sum(path.stat().st_size for path in Path(folder).iterdir())
        self._generator: Any = None

    def swap(self) -> float | None:
        """This peer runs without an adapter."""
        return None

    def prefill(self, ids: list[int]) -> int:
        """Read a prompt with a new generator."""
        parameters = og.GeneratorParams(self._model)
        parameters.set_search_options(do_sample=False, max_length=_LONGEST, min_length=_LONGEST)
        self._generator = og.Generator(self._model, parameters)
        self._generator.append_tokens(ids)
        return self._next()

    def step(self, token: int) -> int:
        """Go on; the generator has kept the token itself."""
        return self._next()

    def _next(self) -> int:
        self._generator.generate_next_token()
        return int(self._generator.get_next_tokens()[0])


if __name__ == "__main__":
    serve(Genai(sys.argv[1], int(sys.argv[2])))
