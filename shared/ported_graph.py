"""A session over one graph of a verified package, with LoRA ports as plain inputs.

A port is a pair of required float32 inputs, ``{port}.lora_A (in, r)`` and
``{port}.lora_B (r, out)`` with a dynamic rank; rank 0 is "no adapter". A port serves one linear
layer, or several that the graph computes as one product (query, key and value): a package's
manifest lists the sites of every port with their output widths.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from .adapters import Adapter, Array
from .errors import AdapterError
from .packages import Package

__all__ = ["PortedGraph", "data_file", "value"]

A_PORT = ".lora_A"
B_PORT = ".lora_B"

Ports = Mapping[str, Iterable[tuple[str, int]]]
"""Port name to its sites with their output widths, in the order in which they stand in it."""


def data_file(graph: str) -> str:
    """The file of a graph's weights."""
    return f"{graph}.data"


class PortedGraph:
    """An ONNX Runtime session over one graph of a verified package."""

    def __init__(
        self, package: Package, graph: str, *, ports: Ports | None = None, threads: int = 0
    ) -> None:
        """Load the graph.

        Args:
            package: a verified package.
            graph: file name of the graph; its weights lie in :func:`data_file`.
            ports: as in the manifest; none for a graph that takes no adapters.
            threads: intra-op threads; 0 lets ONNX Runtime choose.
        """
        package.path(data_file(graph))
        options = ort.SessionOptions()
        options.log_severity_level = 3
        options.intra_op_num_threads = threads
        # int8 activations in the fused block-quantized kernels: several times faster, and
        # within the tolerance that the export check states.
        options.add_session_config_entry("session.qdq_matmulnbits_accuracy_level", "4")
        # Idle threads of one run must not take processors from whatever comes after it.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        self._session = ort.InferenceSession(
            str(package.path(graph)), options, providers=["CPUExecutionProvider"]
        )
        self.inputs = {i.name: i.shape for i in self._session.get_inputs()}
        self._outputs = [o.name for o in self._session.get_outputs()]
        self.base_id = package.base_id
        self._ports = {name: dict(sites) for name, sites in (ports or {}).items()}
        self.sites: dict[str, tuple[int, int]] = {
            site: (self.inputs[port + A_PORT][0], width)
            for port, widths in self._ports.items()
            for site, width in widths.items()
        }  # site to (in, out) of every layer that takes an adapter
        self._no_adapter = {
            name: _rank0(shape)
            for name, shape in self.inputs.items()
            if name.endswith((A_PORT, B_PORT))
        }
        self._live, self._bare = (self._session.io_binding() for _ in range(2))
        self._held = [_bound(feeds, self._no_adapter) for feeds in (self._live, self._bare)]
        self.adapter: Adapter | None = None  # changed by attach()

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
        self._held[0] = _bound(self._live, feeds)
        self.adapter = adapter

    def run_values(
        self, given: Mapping[str, ort.OrtValue], *, bare: bool = False
    ) -> dict[str, ort.OrtValue]:
        """Run once under the live adapter: the other inputs by name, to all outputs by name.

        Args:
            given: the other inputs.
            bare: without the adapter, which stays live for later runs.
        """
        binding = self._bare if bare else self._live
        for name, fed in given.items():
            binding.bind_ortvalue_input(name, fed)
        for name in self._outputs:
            binding.bind_output(name)
        self._session.run_with_iobinding(binding)
        found = dict(zip(self._outputs, binding.get_outputs(), strict=True))
        binding.clear_binding_outputs()  # or outputs would outlive their last reader
        return found

    def _require_fit(self, site: str, a: Array, b: Array) -> None:
        expected = self.sites.get(site)
        if expected is None:
            raise AdapterError(f"base {self.base_id!r} has no adapter port at {site!r}")
        if (a.shape[0], b.shape[1]) != expected:
            raise AdapterError(
                f"adapter at {site!r} is ({a.shape[0]} -> {b.shape[1]}), the base's layer is "
                f"({expected[0]} -> {expected[1]})"
            )


def value(array: npt.NDArray[Any]) -> ort.OrtValue:
    """An array as ONNX Runtime takes it."""
    return ort.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))


def _bound(binding: Any, feeds: Mapping[str, Array]) -> list[ort.OrtValue]:
    """What a binding was made to read; the caller keeps it for as long as the binding runs."""
    held = {name: value(array) for name, array in feeds.items()}
    for name, fed in held.items():
        binding.bind_ortvalue_input(name, fed)
    return list(held.values())


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
