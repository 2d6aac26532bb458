"""The yardstick's worker: ``python -m tests.benchmarks.work.torch_float MODEL THREADS``.

``MODEL`` is a Hugging Face folder with the float weights, or a built base, whose twin has as
many. transformers keeps its own cache and computes logits of the last position only.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from locavore.home import find_base
from locavore.shared.packages import MANIFEST
from locavore.shared.twin import open_twin

from .protocol import serve

__all__ = ["TorchFloat"]


class TorchFloat:
    """transformers in float32."""

    def __init__(self, model: str, threads: int) -> None:
        torch.set_num_threads(threads)
        self._model: Any = (
            open_twin(find_base(model))
            if (Path(model) / MANIFEST).is_file()
            else AutoModelForCausalLM.from_pretrained(
                model, dtype=torch.float32, local_files_only=True
            ).eval()
        )
        self.nbytes = sum(p.numel() * 4 for p in self._model.parameters())
        self._past: Any = None

    def swap(self) -> float | None:
        """The yardstick is bare."""
        return None

    def prefill(self, ids: list[int]) -> int:
        """Read a prompt into a new cache."""
        self._past = None
        return self._run(ids)

    def step(self, token: int) -> int:
        """Read one token."""
        return self._run([token])

    def _run(self, ids: list[int]) -> int:
        with torch.inference_mode():
            out = self._model(
                input_ids=torch.tensor([ids]),
                past_key_values=self._past,
                use_cache=True,
                logits_to_keep=1,
            )
        self._past = out.past_key_values
        return int(out.logits[0, -1].argmax())


if __name__ == "__main__":
    serve(TorchFloat(sys.argv[1], int(sys.argv[2])))
