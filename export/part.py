"""One traced graph of a package: prepared, quantized, given ports, and saved with its weights.

Beside the graph lies a table of where every parameter is in its data file; parameters that
optimizing folded away, or left in the graph file, are appended there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from onnx_ir.passes.common import RemoveUnusedNodesPass

from ..shared.ported_graph import data_file
from ..shared.quantized import Span, StoredWeight, WeightTable
from . import graph as passes
from .ports import Port, find_ports, inject_ports
from .quantize import Precision, Quantized, QuantizedRows, quantize_graph

__all__ = ["SavedPart", "save_part"]

_INLINE_BYTES = 100  # shape constants stay in the graph file, every weight leaves it
_Stored = Mapping[str, Quantized | QuantizedRows]


@dataclass(frozen=True)
class SavedPart:
    """What became of a graph.

    Args:
        rewrites: how often each pass rewrote something.
        ports: that were injected, by name.
    """

    rewrites: Mapping[str, int]
    ports: Mapping[str, Port] = field(default_factory=dict)

    @property
    def sites(self) -> list[str]:
        """The layers that take an adapter."""
        return [site for port in self.ports.values() for site in port.sites]

    @property
    def narrowest(self) -> int:
        """The smallest width of a layer that takes an adapter."""
        return min(min(port.width_in, *port.sites.values()) for port in self.ports.values())

    @property
    def manifest(self) -> dict[str, list[tuple[str, int]]]:
        """The ports as a manifest lists them."""
        return {name: list(port.sites.items()) for name, port in self.ports.items()}


def save_part(
    model: ir.Model,
    path: Path,
    table: Path,
    precision: Precision,
    parameters: Mapping[str, torch.Tensor],
    *,
    ports: bool,
    hidden: bool = False,
) -> SavedPart:
    """Make a traced float graph ready to be shipped.

    Args:
        model: the graph; its initializers have the parameters' names. It is changed.
        path: of the graph; its data lie beside it.
        table: of its weights.
        precision: see :mod:`.quantize`.
        parameters: of the torch model that the graph must hold.
        ports: whether the layers in its blocks take adapters.
        hidden: whether the input of its output head becomes an output.

    Raises:
        BadInputError: ``ports`` are wanted and no layer could take an adapter.
    """
    rewrites = passes.prepare(model)
    if hidden:
        passes.expose_hidden(model)
    found = find_ports(model) if ports else {}
    columns = _merged_columns(model.graph)
    stored = quantize_graph(model, precision)
    inject_ports(model, found)
    data = path.with_name(data_file(path.name))
    ir.save(model, path, external_data=data.name, size_threshold_bytes=_INLINE_BYTES)
    entries = _entries(path, stored, parameters, columns)
    _append_lost(data, parameters, entries)
    WeightTable(entries, data).save(table)
    return SavedPart(rewrites, found)


def used_parameters(
    model: ir.Model, parameters: Mapping[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The parameters that a graph, as it was traced, computes with."""
    RemoveUnusedNodesPass()(model)
    held = {name for name, value in model.graph.initializers.items() if value.uses()}
    return {name: value for name, value in parameters.items() if name in held}


def _merged_columns(graph: ir.Graph) -> dict[str, tuple[str, tuple[int, int]]]:
    """Weights of merged layers: the weight that holds them, and which of its columns."""
    places = {}
    ending = f".weight{passes.LINEAR_SUFFIX}"
    for value in graph.initializers.values():
        name = str(value.name)
        layers = passes.members(graph, value) if name.endswith(ending) else {}
        if len(layers) > 1:
            stops = np.cumsum(list(layers.values())).tolist()
            for layer, start, stop in zip(layers, [0, *stops], stops, strict=False):
                places[f"{layer}.weight"] = (
                    name.removesuffix(passes.LINEAR_SUFFIX),
                    (start, stop),
                )
    return places


def _entries(
    path: Path,
    stored: _Stored,
    parameters: Mapping[str, torch.Tensor],
    columns: Mapping[str, tuple[str, tuple[int, int]]],
) -> dict[str, StoredWeight]:
    """Map parameters to the byte ranges that saving gave them."""
    saved = {
        name: value.const_value
        for name, value in ir.load(path).graph.initializers.items()
        if isinstance(value.const_value, ir.ExternalTensor)
    }
    entries = {}
    for parameter in parameters:
        name, part = columns.get(parameter, (parameter, None))
        linear = f"{name}{passes.LINEAR_SUFFIX}"
        if name in stored:
            entries[parameter] = _quantized(stored[name], name, saved, part)
        elif name in saved or linear in saved:
            found = name if name in saved else linear
            entries[parameter] = StoredWeight(
                kind="float32",
                shape=tuple(int(n) for n in saved[found].shape),
                transposed=found == linear,
                values=_span(saved[found]),
                columns=part,
            )
    return entries


def _quantized(
    stored: Quantized | QuantizedRows,
    name: str,
    saved: Mapping[str, ir.ExternalTensor],
    columns: tuple[int, int] | None,
) -> StoredWeight:
    prefix = name if f"{name}.levels" in saved else f"{name}.rows"
    values, scales = _span(saved[f"{prefix}.levels"]), _span(saved[f"{prefix}.scales"])
    shape = tuple(stored.levels.shape)
    if isinstance(stored, QuantizedRows):
        return StoredWeight(
            kind="int8-rows", shape=shape, transposed=False, values=values, scales=scales
        )
    return StoredWeight(
        kind="int4" if stored.bits == 4 else "int8",
        shape=shape,
        transposed=True,
        values=values,
        scales=scales,
        block=stored.block,
        columns=columns,
    )


def _span(tensor: ir.ExternalTensor) -> Span:
    assert tensor.offset is not None
    assert tensor.length is not None
    return Span(offset=tensor.offset, length=tensor.length)


def _append_lost(
    data: Path, parameters: Mapping[str, torch.Tensor], entries: dict[str, StoredWeight]
) -> None:
    """Append the small parameters that optimizing folded, merged or left in the graph file."""
    held = {id(parameters[name]) for name in entries}
    with data.open("ab") as stream:
        for name, value in parameters.items():
            if id(value) in held:  # tied to one that the graph holds
                continue
            raw = value.detach().float().contiguous().numpy().tobytes()
            entries[name] = StoredWeight(
                kind="float32",
                shape=tuple(value.shape),
                transposed=False,
                values=Span(offset=stream.tell(), length=len(raw)),
            )
            stream.write(raw)
            held.add(id(value))
