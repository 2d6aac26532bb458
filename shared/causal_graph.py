"""The contract of a causal language model's ONNX graph, and one session over it.

Inputs (int64 unless said): ``input_ids (B, S)``, ``attention_mask (B, P + S)``,
``position_ids (B, S)``, ``logits_to_keep (K,)`` (indices into S), float32
``past.{layer}.{key|value} (B, H, P, D)`` and float32 LoRA ports
``{port}.lora_A (in, r)`` and ``{port}.lora_B (r, out)`` with a dynamic rank; rank 0 is
"no adapter". A port serves one linear layer, or several that the graph computes as one product
(query, key and value): the manifest's ``ports`` lists its sites with their output widths.
Outputs: ``logits (B, K, V)``, ``present.{layer}.{key|value}`` and ``hidden (B, K, D)``, the last
hidden states behind the logits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from .adapters import Adapter, Array
from .errors import AdapterError
from .packages import Package

__all__ = ["CausalGraph", "Past", "Step"]

Ints = npt.NDArray[np.int64]
Past = dict[str, ort.OrtValue]

GRAPH = "model.onnx"
DATA = "model.onnx.data"
A_PORT = ".lora_A"
B_PORT = ".lora_B"


@dataclass(frozen=True)
class Step:
    """What one run gives: ``logits (B, K, V)``, the next run's cache, ``hidden (B, K, D)``."""

    logits: Array
    past: Past
    hidden: Array


class CausalGraph:
    """An ONNX Runtime session over a verified text package."""

    def __init__(self, package: Package, *, threads: int = 0) -> None:
        """Load the graph.

        Args:
            package: a verified package.
            threads: intra-op threads; 0 lets ONNX Runtime choose.
        """
        package.path(DATA)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        # int8 activations in the fused block-quantized kernels: several times faster, and
        # within the tolerance that the export check states.
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "4")
        # Idle threads of one run must not take processors from whatever comes after it.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._session = ort.InferenceSession(
            str(package.path(GRAPH)), options, providers=["CPUExecutionProvider"]
        )
        inputs = {i.name: i.shape for i in self._session.get_inputs()}
        self._past_shapes = {n: s for n, s in inputs.items() if n.startswith("past.")}
        self._outputs = [o.name for o in self._session.get_outputs()]
        self.base_id = package.base_id
        self._ports = {n: dict(sites) for n, sites in package.manifest.details["ports"].items()}
        self.sites: dict[str, tuple[int, int]] = {
            site: (inputs[port + A_PORT][0], width)
            for port, widths in self._ports.items()
            for site, width in widths.items()
        }  # site to (in, out) of every layer that takes an adapter
        self._no_adapter = {n: _rank0(s) for n, s in inputs.items() if n.endswith((A_PORT, B_PORT))}
        self._binding = self._session.io_binding()  # holds the live adapter between runs
        self.adapter: Adapter | None = None  # changed by attach()
        self.attach(None)

    def attach(self, adapter: Adapter | None) -> None:
        """Swap the live adapter; ``None`` gives the bare base. No session is rebuilt.

        Raises:
            AdapterError: the adapter belongs to another base or does not fit a site.
        """
        feeds = dict(self._no_adapter)
        if adapter is not None:
            adapter.require_base(self.base_id)
            for site, (a, b) in adapter.factors.items():
                self._require_fit(site, a, b)
            for port, widths in self._ports.items():
                if any(site in adapter.factors for site in widths):
                    feeds[port + A_PORT], feeds[port + B_PORT] = _port_factors(widths, adapter)
        self._live = {name: _value(array) for name, array in feeds.items()}
        for name, value in self._live.items():
            self._binding.bind_ortvalue_input(name, value)
        self.adapter = adapter

    def _require_fit(self, site: str, a: Array, b: Array) -> None:
        expected = self.sites.get(site)
        if expected is None:
            raise AdapterError(f"base {self.base_id!r} has no adapter port at {site!r}")
        if (a.shape[0], b.shape[1]) != expected:
            raise AdapterError(
                f"adapter at {site!r} is ({a.shape[0]} -> {b.shape[1]}), the base's layer is "
                f"({expected[0]} -> {expected[1]})"
            )

    def empty_past(self, batch: int) -> Past:
        """A cache that holds nothing, for ``batch`` rows."""
        return {
            name: _value(np.zeros((batch, shape[1], 0, shape[3]), np.float32))
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
        fed = {name: _value(array) for name, array in new.items()} | past
        for name, value in fed.items():
            self._binding.bind_ortvalue_input(name, value)
        for name in self._outputs:
            self._binding.bind_output(name)
        self._session.run_with_iobinding(self._binding)
        out = dict(zip(self._outputs, self._binding.get_outputs(), strict=True))
        self._binding.clear_binding_outputs()  # or the cache would outlive its last reader
        present = {name: out["present" + name.removeprefix("past")] for name in past}
        return Step(out["logits"].numpy(), present, out["hidden"].numpy())


def _value(array: npt.NDArray[Any]) -> ort.OrtValue:
    return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))


def _port_factors(widths: Mapping[str, int], adapter: Adapter) -> tuple[Array, Array]:
    """``A`` of a port's sites side by side, their ``B`` on the block diagonal."""
    held = [(site, *adapter.factors[site]) for site in widths if site in adapter.factors]
    if len(widths) == 1:
        return held[0][1:]
    rank = sum(a.shape[1] for _, a, _ in held)
    up = np.zeros((rank, sum(widths.values())), np.float32)
    starts = dict(zip(widths, np.cumsum([0, *widths.values()]), strict=False))
    row = 0
    for site, _, b in held:
        up[row : row + len(b), starts[site] : starts[site] + widths[site]] = b
        row += len(b)
    return np.concatenate([a for _, a, _ in held], axis=1), up


def _rank0(shape: list[int | str]) -> Array:
    return np.zeros([0 if isinstance(axis, str) else axis for axis in shape], np.float32)
