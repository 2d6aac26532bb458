"""LoRA ports: every linear layer of a graph takes an adapter as plain inputs.

Layers that were merged share one port: their ``A`` stand side by side in it and their ``B`` on
the block diagonal. ``y += (x @ A) @ B`` is injected after quantization, so the adapter's branch
stays float. The inputs are required and have a dynamic rank; rank 0 is "no adapter". Overridable
initializers would be ignored by some ONNX Runtime bindings and refused by others; plain inputs
work in all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import onnx_ir as ir

from ..shared.errors import BadInputError
from ..shared.ported_graph import A_PORT, B_PORT
from .graph import LINEAR_SUFFIX, in_block, members

__all__ = ["Port", "find_ports", "inject_ports"]


@dataclass(frozen=True)
class Port:
    """A linear layer: names of its input and output values, widths, and the sites behind it.

    ``sites`` gives every site's output width, in the order in which they stand in the layer.
    """

    x: str
    y: str
    width_in: int
    width_out: int
    sites: Mapping[str, int]


def find_ports(model: ir.Model) -> dict[str, Port]:
    """Every pinned linear layer inside the blocks, before quantization.

    Raises:
        BadInputError: there is none.
    """
    ports = {}
    for node in model.graph:
        weight = node.inputs[1] if node.op_type in ("MatMul", "Gemm") else None
        if weight is None or not str(weight.name).endswith(f".weight{LINEAR_SUFFIX}"):
            continue
        name = str(weight.name).removesuffix(f".weight{LINEAR_SUFFIX}")
        if not in_block(name) or weight.shape is None or node.inputs[0] is None:
            continue
        ports[name] = Port(
            str(node.inputs[0].name),
            str(node.outputs[0].name),
            int(weight.shape[0]),
            int(weight.shape[1]),
            members(model.graph, weight),
        )
    if not ports:
        raise BadInputError("the model has no linear layers that could take an adapter")
    return ports


def inject_ports(model: ir.Model, ports: Mapping[str, Port]) -> None:
    """Add the adapter branch and its two inputs at every port."""
    graph = model.graph
    values = {str(v.name): v for v in graph.inputs}
    for node in graph:
        values.update({str(v.name): v for v in node.outputs})
    for name, port in ports.items():
        rank = f"{name}.rank"  # a name of its own: an adapter may leave layers out or mix ranks
        a = _input(graph, name + A_PORT, [port.width_in, rank])
        b = _input(graph, name + B_PORT, [rank, port.width_out])
        _branch(graph, values[port.x], values[port.y], a, b)
    for node in graph:  # shapes inferred before quantization no longer hold
        for value in node.outputs:
            if not value.is_graph_output():
                value.shape = None


def _input(graph: ir.Graph, name: str, shape: list[int | str]) -> ir.Value:
    value = ir.Value(name=name, shape=ir.Shape(shape), type=ir.TensorType(ir.DataType.FLOAT))
    graph.inputs.append(value)
    return value


def _branch(graph: ir.Graph, x: ir.Value, y: ir.Value, a: ir.Value, b: ir.Value) -> None:
    producer = y.producer()
    assert producer is not None
    uses = list(y.uses())
    down = ir.node("MatMul", [x, a])
    up = ir.node("MatMul", [down.outputs[0], b])
    total = ir.node("Add", [y, up.outputs[0]])
    total.outputs[0].type = y.type
    for use in uses:
        use.node.replace_input_with(use.idx, total.outputs[0])
    name = y.name
    y.name, total.outputs[0].name = f"{name}.base", name
    graph.insert_after(producer, [down, up, total])
