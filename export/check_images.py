"""The export check of image bases: graphs against their torch twin, and whole pictures.

What the denoiser predicts is compared at several times of its schedule, with and without an
adapter, each side reading the prompts with its own text encoder; then pictures are drawn from the
same noise. Tolerances are those of a graph against its twin: kernels for block-quantized weights
round activations to 8 bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt
import torch

from ..shared.adapters import Array
from ..shared.diffusion_graph import PARTS, DiffusionGraph, Ints, graph_file
from ..shared.errors import ExportMismatchError
from ..shared.image_networks import DiffusionTwin
from ..shared.packages import Package
from ..shared.ported_graph import data_file
from ..shared.samplers import Sampler, denoise
from ..shared.twin import open_image_twin
from .check import CLEAR, clear_probe, relative
from .image_sources import ImageSource
from .quantize import Precision

__all__ = ["IMAGE_TOLERANCE", "PICTURE_TOLERANCE", "ImageReport", "check_image_package"]

IMAGE_TOLERANCE: dict[Precision, float] = {"float32": 1e-4, "int8": 0.04, "int4": 0.06}
PICTURE_TOLERANCE: dict[Precision, float] = {"float32": 0.1, "int8": 2.0, "int4": 3.0}
_STEPS = 8
_CAPTIONS = 4


@dataclass(frozen=True, kw_only=True)
class ImageReport:
    """What the check measured.

    Args:
        rel_base: relative L2 distance of predictions, graph against twin, bare base.
        rel_adapter: the same with a random adapter on every site.
        effect: adapted twin against bare twin; well above the tolerance, so that a graph which
            ignores the adapter cannot pass.
        tolerance: the bound that both stayed under.
        picture: mean absolute distance of finished pictures, graph against twin, in levels of
            0..255.
        picture_tolerance: the bound that it stayed under.
        picture_float: the same, graph against the float original: what quantization costs.
        size_ratio: bytes of the package's data over bytes of the float32 parameters.
    """

    rel_base: float
    rel_adapter: float
    effect: float
    tolerance: float
    picture: float
    picture_tolerance: float
    picture_float: float
    size_ratio: float

    def sentence(self) -> str:
        """One line for people."""
        return (
            f"graph vs twin: base {self.rel_base:.1e}, with adapter {self.rel_adapter:.1e} "
            f"of an effect of {self.effect:.1e} (tolerance {self.tolerance:.0e}); finished "
            f"pictures {self.picture:.2f} of 255 levels apart "
            f"(tolerance {self.picture_tolerance:g}), "
            f"{self.picture_float:.2f} from the float original; "
            f"size {self.size_ratio:.3f} of float32"
        )


def check_image_package(
    package: Package, source: ImageSource, captions: Sequence[str], precision: Precision
) -> ImageReport:
    """Compare graphs, twin and float original on captions.

    Raises:
        ExportMismatchError: graphs and twin differ by more than the stated tolerance.
    """
    graph, twin = DiffusionGraph(package), open_image_twin(package)
    case = _Case(source, captions[:_CAPTIONS])
    torch_twin = _Torch(twin)
    twin_base = case.predicted(torch_twin)
    rel_base = relative(case.predicted(graph), twin_base)
    drawn, by_twin, by_float = (case.drawn(n) for n in (graph, torch_twin, _Torch(source.twin)))
    bound = CLEAR * IMAGE_TOLERANCE[precision]
    adapter, twin_adapted, effect = clear_probe(
        graph, twin, lambda: case.predicted(torch_twin), twin_base, bound
    )
    graph.attach(adapter)
    rel_adapter = relative(case.predicted(graph), twin_adapted)
    data = sum(package.path(data_file(graph_file(part))).stat().st_size for part in PARTS)
    report = ImageReport(
        rel_base=rel_base,
        rel_adapter=rel_adapter,
        effect=effect,
        tolerance=IMAGE_TOLERANCE[precision],
        picture=_levels(drawn, by_twin),
        picture_tolerance=PICTURE_TOLERANCE[precision],
        picture_float=_levels(drawn, by_float),
        size_ratio=data / sum(p.numel() * 4 for p in source.twin.parameters()),
    )
    worst = max(rel_base, rel_adapter) / report.tolerance
    if not (worst <= 1 and report.picture <= report.picture_tolerance):  # NaN fails too
        raise ExportMismatchError(f"{package.base_id} is refused: {report.sentence()}")
    return report


class _Networks(Protocol):
    """The graphs, or torch networks called as they are."""

    def embed(self, ids: Ints) -> Array: ...

    def predict(
        self, sample: Array, timestep: Array, hidden: Array, image_tokens: Array | None = None
    ) -> Array: ...

    def pictures(self, latents: Array) -> Array: ...


class _Torch:
    def __init__(self, twin: DiffusionTwin) -> None:
        self._twin = twin

    def embed(self, ids: Ints) -> Array:
        return self._ran(self._twin.embed, ids)

    def predict(
        self, sample: Array, timestep: Array, hidden: Array, image_tokens: Array | None = None
    ) -> Array:
        looks = [] if image_tokens is None else [image_tokens]
        return self._ran(self._twin.predict, sample, timestep, hidden, *looks)

    def pictures(self, latents: Array) -> Array:
        return self._ran(self._twin.pictures, latents)

    @staticmethod
    def _ran(function: Callable[..., torch.Tensor], *given: npt.NDArray[np.generic]) -> Array:
        with torch.no_grad():
            found: Array = function(*map(torch.from_numpy, given)).numpy()
        return found


class _Case:
    """The same questions for all of them."""

    def __init__(self, source: ImageSource, captions: Sequence[str]) -> None:
        self._source, count = source, len(captions)
        self._ids = source.prompts.ids([*captions, *[""] * count])
        rng = np.random.default_rng(0)
        self._noise = rng.standard_normal((count, *source.latent), np.float32)
        self._conditions = source.unknown().numpy()
        width = source.twin.image_width
        self._looks = rng.standard_normal((2 * count, 3, width), np.float32) if width else None

    def predicted(self, networks: _Networks) -> Array:
        """Predictions at times that are spread over the schedule, ``(2 B, C, H, W)``.

        A base that looks at pictures is shown image tokens, which are noise.
        """
        noise = np.concatenate([self._noise, self._noise])
        share = (np.arange(len(noise), dtype=np.float32) + 0.5) / len(noise)
        timestep = np.floor(share * self._source.sampler.train_steps)
        hidden = networks.embed(self._ids)
        return networks.predict(self._shown(noise), timestep, hidden, self._looks)

    def drawn(self, networks: _Networks) -> Array:
        """Finished pictures ``(B, 3, h, w)``, cut to -1..1."""
        sampler = Sampler(self._source.sampler, _STEPS)
        hidden = networks.embed(self._ids)

        def predict(x: Array, timestep: npt.NDArray[np.number]) -> Array:
            return networks.predict(self._shown(x), timestep.astype(np.float32), hidden)

        start = sampler.initial(self._noise)
        latents = denoise(sampler, predict, start, guidance=self._source.guidance)
        return np.clip(networks.pictures(latents), -1, 1)

    def _shown(self, x: Array) -> Array:
        return np.concatenate([x, np.repeat(self._conditions[None], len(x), axis=0)], axis=1)


def _levels(found: Array, expected: Array) -> float:
    return float(np.abs(found - expected).mean() * 127.5)
