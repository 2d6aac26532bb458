"""Passes over a traced float graph that make it small, fast and ready for quantization."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir
import onnxscript.optimizer
import onnxscript.rewriter.onnx_fusions
from onnx_ir.passes.common import CommonSubexpressionEliminationPass, RemoveUnusedNodesPass

from ..shared.errors import PackageError

__all__ = [
    "LINEAR_SUFFIX",
    "accept_rows",
    "expose_hidden",
    "flatten_heads",
    "fuse_attention",
    "in_block",
    "members",
    "merge_siblings",
    "optimize",
    "pin_linears",
    "prepare",
    "strip_wrapper",
]

LINEAR_SUFFIX = ".transposed"  # marks the (in, out) initializer of a linear layer
_SWAP_HEADS = (0, 2, 1, 3)  # (B, S, H, D) to (B, H, S, D) and back
_JOIN = "+"  # between the names of layers that were merged into one
_WIDTHS = ".widths"  # marks the initializer that splits a merged layer's output
_WRAPPER = "model."  # the tracer's wrapper module in front of every parameter name
_BLOCK = re.compile(r"(^|\.)(blocks|layers|transformer_blocks)\.\d+\.")


def in_block(name: str) -> bool:
    """Whether a parameter belongs to one of a network's repeated blocks of attention.

    There its linear layers take adapters and bear the fewest bits; what lies before and behind the
    blocks is more sensitive.
    """
    return _BLOCK.search(name) is not None


def prepare(model: ir.Model) -> dict[str, int]:
    """Run every pass in order and return how often each rewrote something."""
    linears = pin_linears(model)
    optimize(model)
    fused = fuse_attention(model)
    flat = flatten_heads(model)
    merged = merge_siblings(model)
    return {"linears": linears, "attentions": fused, "flat": flat, "merged": merged}


def strip_wrapper(model: ir.Model) -> None:
    """Give initializers the parameter names of the Hugging Face model."""
    for value in list(model.graph.initializers.values()):
        if value.name is not None and value.name.startswith(_WRAPPER):
            value.name = value.name.removeprefix(_WRAPPER)


def pin_linears(model: ir.Model) -> int:
    """Turn ``MatMul(x, Transpose(W))`` into ``MatMul(x, W^T)`` with a named initializer.

    Done before any optimizer, which would fold the transpose into a nameless constant.
    """
    graph, pinned = model.graph, 0
    for node in list(graph):
        if node.op_type == "Gemm":
            _split_gemm(graph, node)
    for node in list(graph):
        if node.op_type not in ("MatMul", "Gemm"):
            continue
        weight = node.inputs[1]
        producer = weight.producer() if weight is not None else None
        if producer is None or producer.op_type != "Transpose":
            continue
        source = producer.inputs[0]
        if source is None or source.const_value is None or source.const_value.shape is None:
            continue
        if len(source.const_value.shape) != 2:
            continue
        node.replace_input_with(1, _transposed(graph, source))
        pinned += 1
    RemoveUnusedNodesPass()(model)
    return pinned


def _split_gemm(graph: ir.Graph, node: ir.Node) -> None:
    """Write ``Gemm(x, W, b)`` with a transposed ``W`` as what the tracer makes of larger inputs."""
    scales = [node.attributes[name].as_float() for name in ("alpha", "beta")]
    turned = [node.attributes[name].as_int() for name in ("transA", "transB")]
    x, weight, bias = (*node.inputs, None)[:3]
    if scales != [1.0, 1.0] or turned != [0, 1] or bias is None:
        return
    turn = ir.node("Transpose", [weight], attributes={"perm": [1, 0]})
    product = ir.node("MatMul", [x, turn.outputs[0]])
    total = ir.node("Add", [product.outputs[0], bias])
    graph.insert_before(node, [turn, product, total])
    old, new = node.outputs[0], total.outputs[0]
    for value in (product.outputs[0], new):
        value.type, value.shape = old.type, old.shape
    old.replace_all_uses_with(new)
    graph.remove(node, safe=True)


def accept_rows(model: ir.Model, table: str) -> None:
    """Let token ids beyond a vocabulary look up the rows of a new input, ``token_rows (n, D)``.

    Done before :func:`prepare`, which may store the vocabulary's own table in 8 bits.

    Args:
        table: name of the token embedding.
    """
    graph = model.graph
    weight = graph.initializers[table]
    assert weight.shape is not None
    size, width = (int(n) for n in weight.shape)
    rows = ir.Value(
        name="token_rows", shape=ir.Shape(["rows", width]), type=ir.TensorType(ir.DataType.FLOAT)
    )
    graph.inputs.append(rows)
    numbers = {n: np.array(n, np.int64) for n in (0, size - 1, size)}
    held = {n: new_initializer(graph, f"{table}.{n}", ir.tensor(v)) for n, v in numbers.items()}
    last = new_initializer(graph, f"{table}.last_axis", ir.tensor(np.array([-1], np.int64)))
    for use in list(weight.uses()):
        gather = use.node
        ids, found = gather.inputs[1], gather.outputs[0]
        known = ir.node("Min", [ids, held[size - 1]])
        beyond = ir.node("Sub", [ids, held[size]])
        own = ir.node("Max", [beyond.outputs[0], held[0]])
        row = ir.node("Gather", [rows, own.outputs[0]], attributes={"axis": 0})
        is_own = ir.node("GreaterOrEqual", [ids, held[size]])
        mask = ir.node("Unsqueeze", [is_own.outputs[0], last])
        chosen = ir.node("Where", [mask.outputs[0], row.outputs[0], found])
        graph.insert_before(gather, [known, beyond, own, row, is_own, mask])
        graph.insert_after(gather, chosen)
        chosen.outputs[0].type, chosen.outputs[0].shape = found.type, found.shape
        for reader in list(found.uses()):
            if reader.node is not chosen:
                reader.node.replace_input_with(reader.idx, chosen.outputs[0])
        gather.replace_input_with(1, known.outputs[0])


def _transposed(graph: ir.Graph, source: ir.Value) -> ir.Value:
    name = f"{source.name}{LINEAR_SUFFIX}"
    if name in graph.initializers:
        return graph.initializers[name]
    assert source.const_value is not None
    array = np.ascontiguousarray(source.const_value.numpy().T)
    return new_initializer(graph, name, ir.tensor(array, name=name))


def expose_hidden(model: ir.Model) -> None:
    """Add the output head's input as the graph output ``hidden``: it costs nothing."""
    value: ir.Value | None = model.graph.outputs[0]
    while value is not None and (node := value.producer()) is not None:
        if node.op_type in ("MatMul", "Gemm"):
            hidden = ir.node("Identity", [node.inputs[0]])
            hidden.outputs[0].name = "hidden"
            hidden.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
            hidden.outputs[0].shape = node.inputs[0].shape if node.inputs[0] else None
            model.graph.insert_before(node, hidden)
            model.graph.outputs.append(hidden.outputs[0])
            return
        value = node.inputs[0]
    raise PackageError("the graph has no output head")


def new_initializer(graph: ir.Graph, name: str, tensor: ir.TensorProtocol) -> ir.Value:
    """Register a constant in the graph and return its value."""
    value = ir.Value(
        name=name,
        shape=ir.Shape(tensor.shape),
        type=ir.TensorType(tensor.dtype),
        const_value=tensor,
    )
    graph.register_initializer(value)
    return value


def optimize(model: ir.Model) -> None:
    """Fold constants, fuse normalizations and rotary embeddings, and merge equal nodes."""
    onnxscript.optimizer.optimize_ir(model)
    onnxscript.rewriter.onnx_fusions.fuse(model)
    CommonSubexpressionEliminationPass()(model)
    RemoveUnusedNodesPass()(model)


def fuse_attention(model: ir.Model) -> int:
    """Let ``Attention`` take the cache itself and share key heads between query heads.

    The tracer writes grouped-query attention as Concat(past, new), Unsqueeze, Expand, Reshape
    in front of ``Attention``; the operator (ONNX opset 23) does all of it. Layers that do not
    match the pattern are left as they are.
    """
    graph, fused = model.graph, 0
    for node in list(graph):
        if node.op_type != "Attention" or len(node.inputs) > 4:
            continue
        key, value = (_cache_concat(v) for v in node.inputs[1:3])
        if key is None or value is None:
            continue
        _replace_attention(graph, node, key, value)
        fused += 1
    RemoveUnusedNodesPass()(model)
    return fused


def flatten_heads(model: ir.Model) -> int:
    """Let ``Attention`` and ``RotaryEmbedding`` take ``(B, S, H * D)`` as linear layers give it.

    The tracer splits heads off, transposes, and undoes both afterwards; the operators (ONNX
    opset 23) do it themselves. Attentions that do not match the pattern are left as they are.
    """
    graph, flattened = model.graph, 0
    for node in list(graph):
        if node.op_type != "Attention":
            continue
        split = [_split_heads(value) for value in node.inputs[:3]]
        together = _joined_heads(node.outputs[0])
        if together is None or None in split:
            continue
        query, key, _ = (int(heads) for _, _, heads in split)  # type: ignore[misc]
        for index, (source, rotary, heads) in enumerate(split):  # type: ignore[misc]
            if rotary is not None:
                attributes = {name: attr.value for name, attr in rotary.attributes.items()}
                attributes["num_heads"] = int(heads)
                turned = ir.node("RotaryEmbedding", [source, *rotary.inputs[1:]], attributes)
                graph.insert_before(node, turned)
                source = turned.outputs[0]
            node.replace_input_with(index, source)
        node.attributes["q_num_heads"] = ir.AttrInt64("q_num_heads", query)
        node.attributes["kv_num_heads"] = ir.AttrInt64("kv_num_heads", key)
        node.outputs[0].shape, node.outputs[0].type = together.shape, together.type
        together.replace_all_uses_with(node.outputs[0])
        flattened += 1
    RemoveUnusedNodesPass()(model)
    return flattened


def _split_heads(value: ir.Value | None) -> tuple[ir.Value, ir.Node | None, int] | None:
    """What ``[RotaryEmbedding of] Transpose of Reshape`` starts from, and the number of heads."""
    node = value.producer() if value is not None else None
    rotary = node if node is not None and node.op_type == "RotaryEmbedding" else None
    if rotary is not None:
        inner = rotary.inputs[0]
        node = inner.producer() if inner is not None else None
    reshape = _swap_heads_source(node)
    if node is None or reshape is None or reshape.op_type != "Reshape":
        return None
    source, shape = reshape.inputs[0], node.outputs[0].shape
    if source is None or source.shape is None or len(source.shape) != 3 or shape is None:
        return None
    return (source, rotary, int(shape[1])) if isinstance(shape[1], int) else None


def _joined_heads(value: ir.Value) -> ir.Value | None:
    """The ``Reshape of Transpose`` that is all that is made of an attention's result."""
    for wanted in ("Transpose", "Reshape"):
        uses = list(value.uses())
        if len(uses) != 1 or uses[0].node.op_type != wanted:
            return None
        node = uses[0].node
        if wanted == "Transpose" and tuple(node.attributes["perm"].as_ints()) != _SWAP_HEADS:
            return None
        value = node.outputs[0]
    return value if value.shape is not None and len(value.shape) == 3 else None


def _swap_heads_source(node: ir.Node | None) -> ir.Node | None:
    if node is None or node.op_type != "Transpose" or node.inputs[0] is None:
        return None
    swaps = tuple(node.attributes["perm"].as_ints()) == _SWAP_HEADS
    return node.inputs[0].producer() if swaps else None


def merge_siblings(model: ir.Model) -> int:
    """Compute the linear layers of one module that read the same value as one product.

    Query, key and value (or an MLP's gate and up projection) become columns of one weight,
    ``...q_proj+k_proj+v_proj``: fewer and larger products, and one adapter branch instead of
    three. Returns how many layers were merged.
    """
    siblings: dict[tuple[str, ir.Value], list[ir.Node]] = {}
    for node in model.graph:
        x, weight = (node.inputs[0], node.inputs[1]) if node.op_type == "MatMul" else (None, None)
        if x is None or weight is None or not str(weight.name).endswith(LINEAR_SUFFIX):
            continue
        module = str(weight.name).removesuffix(LINEAR_SUFFIX).rsplit(".", 2)[0]
        siblings.setdefault((module, x), []).append(node)
    groups = [nodes for nodes in siblings.values() if len(nodes) > 1]
    for nodes in groups:
        _merge(model.graph, nodes)
    RemoveUnusedNodesPass()(model)
    return sum(map(len, groups))


def _merge(graph: ir.Graph, nodes: Sequence[ir.Node]) -> None:
    weights = [node.inputs[1] for node in nodes]
    arrays = [w.const_value.numpy() for w in weights if w is not None and w.const_value is not None]
    module, leaves = "", []
    for weight in weights:
        assert weight is not None
        module, leaf, parameter = str(weight.name).removesuffix(LINEAR_SUFFIX).rsplit(".", 2)
        leaves.append(leaf)
    name = f"{module}.{_JOIN.join(leaves)}.{parameter}{LINEAR_SUFFIX}"
    joined = new_initializer(graph, name, ir.tensor(np.concatenate(arrays, axis=1), name=name))
    widths = np.array([array.shape[1] for array in arrays], np.int64)
    sizes = new_initializer(graph, f"{name}{_WIDTHS}", ir.tensor(widths))
    product = ir.node("MatMul", [nodes[0].inputs[0], joined])
    product.outputs[0].type = nodes[0].outputs[0].type
    split = ir.node(
        "Split", [product.outputs[0], sizes], attributes={"axis": -1}, num_outputs=len(nodes)
    )
    graph.insert_before(nodes[0], [product, split])
    for node, part in zip(nodes, split.outputs, strict=True):
        old = node.outputs[0]
        part.type, part.shape = old.type, old.shape
        old.replace_all_uses_with(part)
        graph.remove(node, safe=True)
    for weight in weights:
        assert weight is not None
        if not weight.uses():
            del graph.initializers[str(weight.name)]


def members(graph: ir.Graph, weight: ir.Value) -> dict[str, int]:
    """The linear layers behind a pinned weight, merged or not, each with its output width."""
    assert weight.shape is not None
    layer, _ = str(weight.name).removesuffix(LINEAR_SUFFIX).rsplit(".", 1)
    module, dot, leaves = layer.rpartition(".")
    names = [f"{module}{dot}{leaf}" for leaf in leaves.split(_JOIN)]
    if len(names) == 1:
        return {names[0]: int(weight.shape[1])}
    widths = graph.initializers[f"{weight.name}{_WIDTHS}"].const_value
    assert widths is not None
    return dict(zip(names, widths.numpy().tolist(), strict=True))


def _cache_concat(value: ir.Value | None) -> ir.Node | None:
    while value is not None and (node := value.producer()) is not None:
        if node.op_type == "Concat":
            past = node.inputs[0]
            is_cache = past is not None and past.is_graph_input() and len(node.inputs) == 2
            return node if is_cache else None
        if node.op_type not in ("Reshape", "Expand", "Unsqueeze"):
            return None
        value = node.inputs[0]
    return None


def _replace_attention(graph: ir.Graph, node: ir.Node, key: ir.Node, value: ir.Node) -> None:
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    fused = ir.node(
        "Attention",
        [node.inputs[0], key.inputs[1], value.inputs[1], mask, key.inputs[0], value.inputs[0]],
        attributes={name: attr.value for name, attr in node.attributes.items()},
        num_outputs=3,
    )
    graph.insert_before(node, fused)
    node.outputs[0].replace_all_uses_with(fused.outputs[0])
    for concat, present in ((key, fused.outputs[1]), (value, fused.outputs[2])):
        take_over_output(graph, concat.outputs[0], present)


def take_over_output(graph: ir.Graph, old: ir.Value, new: ir.Value) -> None:
    """Let ``new`` become the graph output that ``old`` was, under its name."""
    name = old.name
    new.shape, new.type = old.shape, old.type
    for index, output in enumerate(graph.outputs):
        if output is old:
            graph.outputs[index] = new
    old.name, new.name = f"{name}.unused", name
