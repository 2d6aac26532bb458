"""Weight quantization as standard ONNX operators.

``int8`` and ``int4`` store weights in blocks of 32 along the input axis behind
``DequantizeLinear``, which ONNX Runtime fuses into its block-quantized matrix multiplication.
``int8-dynamic`` stores one scale per output and quantizes activations at run time
(``DynamicQuantizeLinear`` and ``MatMulInteger``): the fastest prefill, at some accuracy. Kernels of
convolutions are stored in 8 bits with one scale per output channel in every precision but
``float32``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from ..shared.adapters import Array
from ..shared.errors import BadInputError
from ..shared.quantized import pack_int4
from .graph import LINEAR_SUFFIX, in_block, new_initializer

__all__ = [
    "PRECISIONS",
    "Precision",
    "Quantized",
    "QuantizedRows",
    "quantize_blocks",
    "quantize_graph",
    "quantize_rows",
]

Precision = Literal["float32", "int8", "int4", "int8-dynamic"]
PRECISIONS: tuple[Precision, ...] = ("int8-dynamic", "int8", "int4", "float32")

BLOCK = 32
Bits = Literal[4, 8]
Levels = np.ndarray[Any, np.dtype[np.int8]]


@dataclass(frozen=True)
class Quantized:
    """``levels (in, out)`` int8 (int4 values for 4 bits), ``scales (in / block, out)`` float32."""

    levels: Levels
    scales: Array
    bits: Bits
    block: int

    def dequantize(self) -> Array:
        """The float weights that the graph computes with."""
        rows, columns = self.levels.shape
        blocks = self.levels.astype(np.float32).reshape(-1, self.block, columns)
        value: Array = (blocks * self.scales[:, None]).reshape(rows, columns)
        return value


@dataclass(frozen=True)
class QuantizedRows:
    """``levels (out, ...)`` int8 and ``scales (out,)`` float32: one for each output channel."""

    levels: Levels
    scales: Array

    def dequantize(self) -> Array:
        """The float weights that the graph computes with."""
        scales = self.scales.reshape(-1, *[1] * (self.levels.ndim - 1))
        value: Array = self.levels.astype(np.float32) * scales
        return value


def quantize_rows(weight: Array) -> QuantizedRows:
    """Quantize a kernel ``(out, in, ...)`` symmetrically to 8 bits."""
    rows = weight.reshape(len(weight), 1, -1).transpose(1, 2, 0)  # one block of (in..., out)
    scales = (np.abs(rows).max(axis=1) / 127).astype(np.float32)
    levels = _round(rows, scales, -127, 127)
    return QuantizedRows(
        np.ascontiguousarray(levels[0].T).reshape(weight.shape), scales.reshape(-1)
    )


def quantize_blocks(weight: Array, bits: Bits, block: int) -> Quantized:
    """Quantize ``weight (in, out)`` symmetrically with one scale per block of the input axis.

    For 4 bits the scale of each block is the one of a few candidates around the largest
    magnitude that leaves the smallest squared error.

    Raises:
        BadInputError: the input axis is not divisible by the block.
    """
    rows, columns = weight.shape
    if rows % block:
        raise BadInputError(f"{rows} input rows cannot be cut into blocks of {block}")
    blocks = weight.reshape(rows // block, block, columns)
    if bits == 8:
        scales = np.abs(blocks).max(axis=1) / 127
        levels = _round(blocks, scales, -127, 127)
    else:
        levels, scales = _search_int4(blocks)
    return Quantized(levels.reshape(rows, columns), scales.astype(np.float32), bits, block)


def _round(blocks: Array, scales: Array, low: int, high: int) -> Levels:
    safe = np.where(scales == 0, 1, scales).astype(np.float32)
    levels: Levels = np.clip(np.rint(blocks / safe[:, None]), low, high).astype(np.int8)
    return levels


def _search_int4(blocks: Array) -> tuple[Levels, Array]:
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1)[:, None], axis=1)[:, 0]
    best = np.full(largest.shape, np.inf, np.float32)
    scales = np.zeros_like(largest)
    for divisor in (-8.0, -7.5, -7.0, -6.5, 7.0, 7.5):
        candidate = largest / np.float32(divisor)
        error = np.square(_round(blocks, candidate, -8, 7) * candidate[:, None] - blocks).sum(1)
        better = error < best
        best[better], scales[better] = error[better], candidate[better]
    return _round(blocks, scales, -8, 7), scales


def quantize_graph(model: ir.Model, precision: Precision) -> dict[str, Quantized | QuantizedRows]:
    """Quantize the pinned linear layers, token embeddings and kernels of a prepared graph.

    Outside of blocks, and in embeddings, 8 bits are kept under ``int4``: they are the most
    sensitive. Layers whose input width is not divisible by 32, and what has fewer than 32 outputs,
    stay float.

    Returns:
        Initializer base name to what was stored, for the weight table.
    """
    if precision == "float32":
        return {}
    stored: dict[str, Quantized | QuantizedRows] = {}
    for name, value in list(model.graph.initializers.items()):
        if not name.endswith(f".weight{LINEAR_SUFFIX}") or value.shape is None:
            continue
        rows, columns = (int(n) for n in value.shape)
        if rows % BLOCK or columns < BLOCK:
            continue
        assert value.const_value is not None
        weight = np.asarray(value.const_value.numpy(), np.float32)
        bits: Bits = 4 if precision == "int4" and in_block(name) else 8
        dynamic = precision == "int8-dynamic" and in_block(name) and not _has_outliers(name)
        block = rows if dynamic else BLOCK
        quantized = quantize_blocks(weight, bits, block)
        (_use_dynamic if dynamic else _use_blocks)(model.graph, value, quantized)
        stored[name.removesuffix(LINEAR_SUFFIX)] = quantized
    _quantize_embedding(model, stored)
    _quantize_kernels(model.graph, stored)
    RemoveUnusedNodesPass()(model)
    _drop_unused_initializers(model.graph)
    return stored


def _has_outliers(name: str) -> bool:
    """The input of an MLP's last layer holds "massive activations" (arXiv:2402.17762).

    One 8-bit scale for all of it costs half a nat on SmolLM2; such layers stay weight-only.
    """
    return name.split(".")[-3] in ("down_proj", "c_proj", "fc2", "w2")


def _constant(
    graph: ir.Graph, name: str, quantized: Quantized | QuantizedRows
) -> tuple[ir.Value, ir.Value]:
    if isinstance(quantized, Quantized) and quantized.bits == 4:
        levels: ir.TensorProtocol = ir.PackedTensor(
            np.frombuffer(pack_int4(quantized.levels), np.uint8),
            ir.DataType.INT4,
            shape=ir.Shape(quantized.levels.shape),
            name=f"{name}.levels",
        )
    else:
        levels = ir.tensor(quantized.levels, name=f"{name}.levels")
    scales = ir.tensor(quantized.scales, name=f"{name}.scales")
    return (
        new_initializer(graph, f"{name}.levels", levels),
        new_initializer(graph, f"{name}.scales", scales),
    )


def _use_blocks(graph: ir.Graph, weight: ir.Value, quantized: Quantized) -> None:
    name = str(weight.name).removesuffix(LINEAR_SUFFIX)
    levels, scales = _constant(graph, name, quantized)
    for use in list(weight.uses()):
        dequantize = ir.node(
            "DequantizeLinear",
            [levels, scales],
            attributes={"axis": 0, "block_size": quantized.block},
        )
        graph.insert_before(use.node, dequantize)
        use.node.replace_input_with(use.idx, dequantize.outputs[0])


def _use_dynamic(graph: ir.Graph, weight: ir.Value, quantized: Quantized) -> None:
    name = str(weight.name).removesuffix(LINEAR_SUFFIX)
    levels, scales = _constant(graph, name, quantized)
    zero = new_initializer(
        graph, f"{name}.zero", ir.tensor(np.zeros(quantized.levels.shape[1], np.int8))
    )
    for use in list(weight.uses()):
        matmul = use.node
        cast = ir.node("DynamicQuantizeLinear", [matmul.inputs[0]], num_outputs=3)
        product = ir.node("MatMulInteger", [cast.outputs[0], levels, cast.outputs[2], zero])
        as_float = ir.node("Cast", [product.outputs[0]], attributes={"to": ir.DataType.FLOAT})
        flat = ir.node("Squeeze", [scales, _axis0(graph)])
        scale = ir.node("Mul", [cast.outputs[1], flat.outputs[0]])
        result = ir.node("Mul", [as_float.outputs[0], scale.outputs[0]])
        graph.insert_before(matmul, [cast, product, as_float, flat, scale, result])
        old, new = matmul.outputs[0], result.outputs[0]
        new.type, new.shape = old.type, old.shape
        old.replace_all_uses_with(new)
        old.name, new.name = f"{old.name}.float", old.name


def _axis0(graph: ir.Graph) -> ir.Value:
    name = "axis.0"
    if name in graph.initializers:
        return graph.initializers[name]
    return new_initializer(graph, name, ir.tensor(np.zeros(1, np.int64), name=name))


def _quantize_kernels(graph: ir.Graph, stored: dict[str, Quantized | QuantizedRows]) -> None:
    for conv in list(graph):
        kernel = conv.inputs[1] if conv.op_type == "Conv" else None
        if kernel is None or kernel.const_value is None or kernel.name in stored:
            continue
        if len(kernel.const_value.shape) < 3 or int(kernel.const_value.shape[0]) < BLOCK:
            continue
        name = str(kernel.name)
        quantized = quantize_rows(np.asarray(kernel.const_value.numpy(), np.float32))
        levels, scales = _constant(graph, name, quantized)
        for use in list(kernel.uses()):
            dequantize = ir.node("DequantizeLinear", [levels, scales], attributes={"axis": 0})
            graph.insert_before(use.node, dequantize)
            use.node.replace_input_with(use.idx, dequantize.outputs[0])
        stored[name] = quantized


def _quantize_embedding(model: ir.Model, stored: dict[str, Quantized | QuantizedRows]) -> None:
    """Store the token embedding in 8 bits, in the orientation of a tied output head."""
    graph = model.graph
    for gather in list(graph):
        table = gather.inputs[0] if gather.op_type == "Gather" else None
        if table is None or table.const_value is None or table.shape is None:
            continue
        if len(table.shape) != 2 or int(table.shape[1]) % BLOCK:
            continue
        name = str(table.name)
        if name not in stored:
            weight = np.ascontiguousarray(table.const_value.numpy().T)
            stored[name] = quantize_blocks(weight, 8, BLOCK)
        # Names of its own: ONNX Runtime only fuses constants that nothing else uses.
        levels, scales = _constant(graph, f"{name}.rows", stored[name])
        _use_rows(graph, gather, levels, scales)


def _use_rows(graph: ir.Graph, gather: ir.Node, levels: ir.Value, scales: ir.Value) -> None:
    ids = gather.inputs[1]
    rows = ir.node("Gather", [levels, ids], attributes={"axis": 1})  # (D, B, S)
    steps = ir.node("Gather", [scales, ids], attributes={"axis": 1})  # (D / 32, B, S)
    value = ir.node(
        "DequantizeLinear",
        [rows.outputs[0], steps.outputs[0]],
        attributes={"axis": 0, "block_size": BLOCK},
    )
    turn = ir.node("Transpose", [value.outputs[0]], attributes={"perm": [1, 2, 0]})
    graph.insert_before(gather, [rows, steps, value, turn])
    old, new = gather.outputs[0], turn.outputs[0]
    new.type, new.shape = old.type, old.shape
    old.replace_all_uses_with(new)
    old.name, new.name = f"{old.name}.float", old.name


def _drop_unused_initializers(graph: ir.Graph) -> None:
    for name, value in list(graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.initializers[name]
