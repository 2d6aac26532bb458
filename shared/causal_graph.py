"""The contract of a causal language model's ONNX graph, and one session over it.

Inputs (int64 unless said): ``input_ids (B, S)``, ``attention_mask (B, P + S)``,
``position_ids (B, S)``, ``logits_to_keep (K,)`` (indices into S), float32
``past.{layer}.{key|value} (B, H, P, D)`` and LoRA ports (:mod:`.ported_graph`).
Outputs: ``logits (B, K, V)``, ``present.{layer}.{key|value}`` and ``hidden (B, K, D)``, the last
hidden states behind the logits.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from .adapters import Array
from .packages import Package
from .ported_graph import PortedGraph, data_file, value

__all__ = ["CausalGraph", "Past", "Step"]

Ints = npt.NDArray[np.int64]
Past = dict[str, ort.OrtValue]

GRAPH = "model.onnx"
DATA = data_file(GRAPH)


@dataclass(frozen=True)
class Step:
    """What one run gives: ``logits (B, K, V)``, the next run's cache, ``hidden (B, K, D)``."""

    logits: Array
    past: Past
    hidden: Array


class CausalGraph(PortedGraph):
    """An ONNX Runtime session over a verified text package."""

    def __init__(self, package: Package, *, threads: int = 0) -> None:
        """Load the graph.

        Args:
            package: a verified package.
            threads: intra-op threads; 0 lets ONNX Runtime choose.
        """
        super().__init__(package, GRAPH, ports=package.manifest.details["ports"], threads=threads)
        self._past_shapes = {n: s for n, s in self.inputs.items() if n.startswith("past.")}

    def empty_past(self, batch: int) -> Past:
        """A cache that holds nothing, for ``batch`` rows."""
        return {
            name: value(np.zeros((batch, shape[1], 0, shape[3]), np.float32))
            for name, shape in self._past_shapes.items()
        }

    def run(self, ids: Ints, mask: Ints, positions: Ints, keep: Ints, past: Past) -> Step:
        """Run the graph once.

        Args:
            ids: ``(B, S)`` new tokens.
            mask: ``(B, P + S)``, 1 where a cached or new token is real.
            positions: ``(B, S)`` position of each new token.
            keep: ``(K,)`` indices into S whose logits are wanted.
            past: the cache of the P tokens before.
        """
        new = {
            "input_ids": ids,
            "attention_mask": mask,
            "position_ids": positions,
            "logits_to_keep": keep,
        }
        out = self.run_values({name: value(array) for name, array in new.items()} | past)
        present = {name: out["present" + name.removeprefix("past")] for name in past}
        return Step(out["logits"].numpy(), present, out["hidden"].numpy())
