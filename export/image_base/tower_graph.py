"""The trained tower as two ONNX graphs with one byte a weight, and what it can tell apart."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from onnx import helper, numpy_helper
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from ...shared.errors import ExportMismatchError
from ...shared.metrics.images import Pixels
from ...shared.metrics.local import StyleClassifier
from ...shared.metrics.towers import DrawingTowers, drawing_towers
from ..trace import quiet_export
from .drawings import SIDE, Drawings
from .split import TEAMS, held_out
from .tower import ImageTower, Towers, tower_input

__all__ = ["judged", "write_tower"]

_Numbers = npt.NDArray[np.float32]
_OPSET = 21
_SMALLEST = 512  # numbers; what is smaller stays as it is
_TOLERANCE = 1e-4  # of the graphs from torch with the same rounded weights
_OUTPUTS = ["concepts", "styles", "looks", "fine", "middle", "coarse"]


class _FromPixels(nn.Module):
    """The image tower on ``uint8 (N, 32, 32, 3)``."""

    def __init__(self, tower: ImageTower) -> None:
        super().__init__()
        self.tower = tower

    def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found: tuple[torch.Tensor, ...] = self.tower(tower_input(pixels.permute(0, 3, 1, 2)))
        return found


def write_tower(towers: Towers, folder: Path) -> list[Path]:
    """Write ``images.onnx``, ``texts.onnx`` and ``tokenizer.json``; the files.

    Raises:
        ExportMismatchError: a graph and torch with the same rounded weights disagree.
    """
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    pixels = torch.from_numpy(rng.integers(0, 256, (3, SIDE, SIDE, 3), dtype=np.uint8))
    shape = (3, towers.plan.tokens)
    ids = torch.from_numpy(rng.integers(0, towers.tokenizer.get_vocab_size(), shape))
    images = _rounded(_FromPixels(_without_norms(towers.images)))
    texts = _rounded(towers.texts)
    files = [folder / name for name in ("images.onnx", "texts.onnx", "tokenizer.json")]
    _write(images, pixels, "pixels", _OUTPUTS, files[0])
    _write(texts, ids, "ids", ["vectors"], files[1])
    towers.tokenizer.save(str(files[2]))
    return files


def _without_norms(tower: ImageTower) -> ImageTower:
    """A copy whose convolutions do what their batch norms did."""
    tower = copy.deepcopy(tower).eval()
    for layer in [m for m in tower.modules() if isinstance(m, nn.Sequential)]:
        if isinstance(layer[0], nn.Conv2d) and isinstance(layer[1], nn.BatchNorm2d):
            layer[0] = fuse_conv_bn_eval(layer[0], layer[1])
            layer[1] = nn.Identity()
    return tower


def _rounded(module: nn.Module) -> nn.Module:
    """A copy whose larger weights are whole multiples of a scale a row."""
    module = copy.deepcopy(module).eval().requires_grad_(False)
    for weight in module.parameters():
        if weight.ndim > 1 and weight.numel() >= _SMALLEST:
            levels, scale = _levels(weight.numpy())
            weight.copy_(torch.from_numpy(levels * _column(scale, weight.ndim)))
    return module


def _levels(weight: _Numbers) -> tuple[npt.NDArray[np.int8], _Numbers]:
    scale = np.abs(weight).reshape(len(weight), -1).max(axis=1) / 127
    scale = np.maximum(scale, 1e-12).astype(np.float32)
    return np.rint(weight / _column(scale, weight.ndim)).astype(np.int8), scale


def _column(scale: _Numbers, dimensions: int) -> _Numbers:
    return scale.reshape(-1, *[1] * (dimensions - 1))


def _write(
    module: nn.Module, example: torch.Tensor, name: str, outputs: list[str], path: Path
) -> None:
    with torch.no_grad(), quiet_export():
        program = torch.onnx.export(
            module,
            (example,),
            dynamo=True,
            opset_version=_OPSET,
            verbose=False,
            input_names=[name],
            output_names=outputs,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
        )
    assert program is not None
    model = _in_bytes(program.model_proto)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    with torch.no_grad():
        wanted = module(example)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    found = session.run(None, {name: example.numpy()})
    pairs = zip(found, wanted if isinstance(wanted, tuple) else (wanted,), strict=True)
    worst = max(float(np.abs(a - b.numpy()).max()) for a, b in pairs)
    if not worst <= _TOLERANCE:
        raise ExportMismatchError(
            f"{path.name} differs from torch by {worst:.2g}, above {_TOLERANCE:g}"
        )


def _in_bytes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The graph with its larger weights as int8 and a scale a row, put together on loading."""
    graph = model.graph
    for tensor in list(graph.initializer):
        weight = numpy_helper.to_array(tensor)
        if weight.dtype != np.float32 or weight.ndim < 2 or weight.size < _SMALLEST:
            continue
        levels, scale = _levels(weight)
        parts = (f"{tensor.name}.levels", f"{tensor.name}.scale")
        graph.initializer.remove(tensor)
        graph.initializer.append(numpy_helper.from_array(levels, parts[0]))
        graph.initializer.append(numpy_helper.from_array(scale, parts[1]))
        node = helper.make_node("DequantizeLinear", [*parts], [tensor.name], axis=0)
        graph.node.insert(0, node)
    del graph.value_info[:]
    for node in graph.node:  # the tracer's notes, with paths of this machine
        del node.metadata_props[:]
        node.doc_string = ""
    return model


def judged(measured: Drawings, devices: Drawings, folder: Path) -> Iterator[str]:
    """Say how well a written tower sees drawings that it never saw.

    Args:
        measured: by the teams and artists that it learned from.
        devices: by those that it did not.
        folder: of the graphs.
    """
    towers = drawing_towers(folder)
    yield f"unseen drawings: {_retrieval(towers, measured)}"
    teams = [i for i, s in enumerate(devices.styles) if s in TEAMS]
    yield f"device teams: {_retrieval(towers, devices.take(teams))}"
    held = [i for i in teams if held_out(devices.captions[i].concept)]
    yield f"device teams, held-out concepts: {_retrieval(towers, devices.take(held))}"
    sides: tuple[dict[str, Pixels], dict[str, Pixels]] = ({}, {})
    concepts = [held_out(c.concept) for c in devices.captions]
    for side, kept in zip(sides, (False, True), strict=True):
        for device in dict.fromkeys(devices.styles):
            rows = [i for i, s in enumerate(devices.styles) if s == device and concepts[i] == kept]
            side[device] = devices.pixels[rows]
    for name, tower in vars(towers).items():
        accuracy = StyleClassifier.fit(tower, sides[0]).accuracy(sides[1])
        yield f"whose is a held-out drawing, of {len(sides[1])} devices, by {name}: {accuracy}"


def _retrieval(towers: DrawingTowers, drawings: Drawings) -> str:
    """How often a drawing's caption is the nearest of all captions."""
    texts = list(dict.fromkeys(c.text for c in drawings.captions))
    right = np.array([texts.index(c.text) for c in drawings.captions])
    scores = towers.concepts.embed_images(drawings.pixels) @ towers.concepts.embed_texts(texts).T
    own = scores[np.arange(len(right)), right]
    places = (scores > own[:, None]).sum(axis=1)  # 0 is the nearest
    first, five = (float((places < n).mean()) for n in (1, 5))
    return (
        f"{len(right)} drawings, {len(texts)} captions: the right one first for {first:.1%}, "
        f"of the first five for {five:.1%}"
    )
