"""The export check: a package is refused when its graph and its torch twin disagree.

Logits are compared on real text, with and without an adapter. "rel" is the relative L2 distance
of the logits. Weight-only precisions round activations to 8 bits inside the kernels and
``int8-dynamic`` rounds them in the graph, so their tolerances are wider than that of float32.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from transformers import PreTrainedModel

from ..shared.adapters import Adapter, Array
from ..shared.causal_graph import CausalGraph
from ..shared.errors import ExportMismatchError
from ..shared.packages import Package
from ..shared.twin import open_twin
from .quantize import Precision

__all__ = [
    "CLEAR",
    "TOLERANCE",
    "Adaptable",
    "ExportReport",
    "adapted",
    "check_package",
    "clear_probe",
    "probe_adapter",
    "relative",
]

TOLERANCE: dict[Precision, float] = {
    "float32": 1e-4,
    "int8": 0.04,
    "int4": 0.06,
    "int8-dynamic": 0.2,
}
CLEAR = 1.5  # times the tolerance that the probe adapter must change the logits by
_STRONGEST = 30.0


@dataclass(frozen=True, kw_only=True)
class ExportReport:
    """What the check measured.

    Args:
        rel_base: graph against twin, bare base.
        rel_adapter: graph against twin, with a random adapter on every site.
        effect: adapted twin against bare twin; well above the tolerance, so that a graph which
            ignores the adapter cannot pass.
        tolerance: the bound that both stayed under.
        nll_float: mean next-token loss (nats) of the float original on the texts.
        nll_graph: the same for the exported graph.
        size_ratio: bytes of the package's data over bytes of the float32 parameters.
    """

    rel_base: float
    rel_adapter: float
    effect: float
    tolerance: float
    nll_float: float
    nll_graph: float
    size_ratio: float

    def sentence(self) -> str:
        """One line for people."""
        return (
            f"graph vs twin: base {self.rel_base:.1e}, with adapter {self.rel_adapter:.1e} "
            f"of an effect of {self.effect:.1e} (tolerance {self.tolerance:.0e}); "
            f"loss {self.nll_float:.3f} float -> {self.nll_graph:.3f}; "
            f"size {self.size_ratio:.3f} of float32"
        )


def check_package(
    package: Package,
    original: PreTrainedModel,
    texts: Sequence[Sequence[int]],
    precision: Precision,
) -> ExportReport:
    """Compare graph, twin and float original on ``texts`` (token ids).

    Raises:
        ExportMismatchError: graph and twin differ by more than the stated tolerance.
    """
    graph, twin = CausalGraph(package), open_twin(package)
    base = [_graph_logits(graph, text) for text in texts]

    def run() -> Array:
        return np.concatenate([_torch_logits(twin, text) for text in texts])

    twin_base = run()
    rel_base = relative(np.concatenate(base), twin_base)
    bound = CLEAR * TOLERANCE[precision]
    adapter, twin_adapted, effect = clear_probe(graph, twin, run, twin_base, bound)
    graph.attach(adapter)
    found = np.concatenate([_graph_logits(graph, text) for text in texts])
    rel_adapter = relative(found, twin_adapted)
    parameters = sum(p.numel() * 4 for p in original.parameters())
    report = ExportReport(
        rel_base=rel_base,
        rel_adapter=rel_adapter,
        effect=effect,
        tolerance=TOLERANCE[precision],
        nll_float=_nll([_torch_logits(original, text) for text in texts], texts),
        nll_graph=_nll(base, texts),
        size_ratio=package.path("model.onnx.data").stat().st_size / parameters,
    )
    if not (rel_base <= report.tolerance and rel_adapter <= report.tolerance):  # NaN fails too
        raise ExportMismatchError(f"{package.base_id} is refused: {report.sentence()}")
    return report


class Adaptable(Protocol):
    """What takes adapters: a graph of any modality."""

    @property
    def base_id(self) -> str: ...  # noqa: D102

    @property
    def sites(self) -> Mapping[str, tuple[int, int]]: ...  # noqa: D102


def probe_adapter(graph: Adaptable, strength: float, rank: int = 4) -> Adapter:
    """A random adapter on every site of a graph; ``strength`` scales what it adds."""
    rng = np.random.default_rng(0)
    factors = {}
    for site, (width_in, width_out) in graph.sites.items():
        a = rng.standard_normal((width_in, rank)).astype(np.float32) / np.float32(width_in**0.5)
        b = rng.standard_normal((rank, width_out)).astype(np.float32)
        factors[site] = (a, b * np.float32(strength / width_out**0.5))
    return Adapter(graph.base_id, factors)


@contextmanager
def adapted(twin: torch.nn.Module, adapter: Adapter) -> Iterator[None]:
    """Add an adapter to a torch model for the duration of the block."""

    def hook(a: torch.Tensor, b: torch.Tensor):  # type: ignore[no-untyped-def]
        return lambda _m, inputs, output: output + (inputs[0] @ a) @ b

    handles = [
        twin.get_submodule(site).register_forward_hook(hook(torch.tensor(a), torch.tensor(b)))
        for site, (a, b) in adapter.factors.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def clear_probe(
    graph: Adaptable, twin: torch.nn.Module, run: Callable[[], Array], bare: Array, bound: float
) -> tuple[Adapter, Array, float]:
    """An adapter whose effect no rounding hides.

    Args:
        graph: that takes adapters.
        twin: of it.
        run: what the twin computes now.
        bare: what it computed without an adapter.
        bound: relative distance that the adapter must change it by.

    Returns:
        The adapter, what the twin computes with it, and the distance that it made.
    """
    effect, strength = 0.0, 0.1
    while effect < bound and strength < _STRONGEST:
        strength *= 2
        adapter = probe_adapter(graph, strength)
        with adapted(twin, adapter):
            changed = run()
        effect = relative(changed, bare)
    return adapter, changed, effect


def _graph_logits(graph: CausalGraph, text: Sequence[int]) -> Array:
    ids = np.array([text], np.int64)
    positions = np.arange(len(text))[None]
    step = graph.run(ids, np.ones_like(ids), positions, positions[0], graph.empty_past(1))
    logits: Array = step.logits[0]
    return logits


def _torch_logits(model: PreTrainedModel, text: Sequence[int]) -> Array:
    with torch.no_grad():
        out = model(input_ids=torch.tensor([list(text)]), use_cache=False)
    logits: Array = out.logits[0].numpy()
    return logits


def relative(found: Array, expected: Array) -> float:
    """Relative L2 distance."""
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def _nll(logits: list[Array], texts: Sequence[Sequence[int]]) -> float:
    losses = []
    for values, text in zip(logits, texts, strict=True):
        peak = values.max(axis=1, keepdims=True)
        total = np.log(np.exp(values - peak).sum(axis=1)) + peak[:, 0]
        rows = np.arange(len(text) - 1)
        losses.append(total[:-1] - values[rows, np.array(text[1:])])
    return float(np.concatenate(losses).mean())
