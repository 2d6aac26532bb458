"""The contract of an image base's ONNX graphs, and sessions over them.

Four graphs, ``PART.onnx``, with a dynamic batch and everything else fixed; all float32 but ids:

- ``text_encoder``: ``input_ids (B, T)`` int64 and ``token_rows (n, D)`` to ``hidden (B, T, D)``.
  Ids from the vocabulary's size on are rows of ``token_rows``: a device's own words (textual
  inversion, Gal et al., arXiv:2208.01618). One zero row stands for none.
- ``denoiser``: ``sample (B, C, H, W)``, ``timestep (B,)``, ``hidden`` and LoRA ports
  (:mod:`.ported_graph`) to ``prediction``, shaped like latents. ``C`` is the latents' channels and
  after them those of the manifest's ``conditions``, in their order. A base that looks at pictures
  also takes ``image_tokens (B, n, D)`` (:mod:`.image_tokens`).
- ``decoder``: ``latents (B, C, H, W)`` to ``pictures (B, 3, h, w)`` in -1..1; ``encoder`` undoes
  it.

The manifest's details: ``ports``, ``latent`` ``[C, H, W]``, ``picture`` ``[h, w]``, ``tokens`` (T),
``vocabulary``, ``token_width`` (D), ``special`` (ids of ``bos``, ``eos``, ``pad``), ``conditions``
(name and channels), ``sampler``, ``steps`` and ``guidance``, and ``image_tokens`` where it looks at
pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property

import numpy as np
import numpy.typing as npt

from .adapters import Adapter, Array
from .errors import BadInputError
from .packages import Package
from .ported_graph import PortedGraph, value

__all__ = ["MODULES", "PARTS", "DiffusionGraph", "config_file", "graph_file", "table_file"]

Ints = npt.NDArray[np.int64]

PARTS = ("text_encoder", "denoiser", "decoder", "encoder")
MODULES = ("text_encoder", "denoiser", "autoencoder")


def graph_file(part: str) -> str:
    """Name of a part's graph."""
    return f"{part}.onnx"


def table_file(part: str) -> str:
    """Name of a part's table of weights."""
    return f"{part}.weights.json"


def config_file(module: str) -> str:
    """Name of the settings that a network of the twin is made from."""
    return f"{module}.json"


class DiffusionGraph:
    """ONNX Runtime sessions over a verified image package."""

    def __init__(self, package: Package, *, threads: int = 0) -> None:
        """Load the graphs; the encoder is loaded when it is first needed.

        Args:
            package: a verified package.
            threads: intra-op threads; 0 lets ONNX Runtime choose.

        Raises:
            BadInputError: it is no image package.
        """
        if package.manifest.modality != "image":
            raise BadInputError(
                f"{package.base_id!r} is a base of modality {package.manifest.modality!r}, "
                "an image base is needed"
            )
        self._package, self._threads = package, threads
        self.details = package.manifest.details
        self.latent: tuple[int, ...] = tuple(self.details["latent"])
        self._text = self._part("text_encoder")
        self._denoiser = PortedGraph(
            package, graph_file("denoiser"), ports=self.details["ports"], threads=threads
        )
        self._decoder = self._part("decoder")

    def _part(self, part: str) -> PortedGraph:
        return PortedGraph(self._package, graph_file(part), threads=self._threads)

    @cached_property
    def _encoder(self) -> PortedGraph:
        return self._part("encoder")

    @property
    def base_id(self) -> str:
        """The base that adapters must belong to."""
        return self._denoiser.base_id

    @property
    def sites(self) -> Mapping[str, tuple[int, int]]:
        """Site name to ``(in, out)`` of every layer that takes an adapter."""
        return self._denoiser.sites

    @property
    def adapter(self) -> Adapter | None:
        """The live adapter."""
        return self._denoiser.adapter

    def attach(self, adapter: Adapter | None) -> None:
        """Swap the live adapter; see :meth:`.PortedGraph.attach`."""
        self._denoiser.attach(adapter)

    def embed(self, ids: Ints, rows: Array | None = None) -> Array:
        """Texts ``(B, T)`` to ``hidden (B, T, D)``.

        Args:
            ids: token ids; the vocabulary's size and more are ``rows``.
            rows: ``(n, D)`` of a device's own words.
        """
        none = np.zeros((1, self.details["token_width"]), np.float32)
        fed = {"input_ids": ids, "token_rows": none if rows is None else rows}
        return self._ran(self._text, fed, "hidden")

    def predict(
        self,
        sample: Array,
        timestep: Array,
        hidden: Array,
        image_tokens: Array | None = None,
        *,
        bare: bool = False,
    ) -> Array:
        """What the denoiser says about noisy latents (and conditions).

        Args:
            sample: ``(B, C, H, W)``.
            timestep: ``(B,)``.
            hidden: ``(B, T, D)``.
            image_tokens: ``(B, n, D)``, where the base looks at pictures; none if not given.
            bare: whether it says it as if no adapter were live.
        """
        fed = {"sample": sample, "timestep": timestep, "hidden": hidden}
        if "image_tokens" in self._denoiser.inputs:
            width = self._denoiser.inputs["image_tokens"][2]
            none = np.zeros((len(sample), 1, width), np.float32)
            fed["image_tokens"] = none if image_tokens is None else image_tokens
        return self._ran(self._denoiser, fed, "prediction", bare=bare)

    def pictures(self, latents: Array) -> Array:
        """``(B, C, H, W)`` to ``(B, 3, h, w)``, about -1..1."""
        return self._ran(self._decoder, {"latents": latents}, "pictures")

    def latents(self, pictures: Array) -> Array:
        """``(B, 3, h, w)`` in -1..1 to ``(B, C, H, W)``."""
        return self._ran(self._encoder, {"pictures": pictures}, "latents")

    @staticmethod
    def _ran(
        graph: PortedGraph,
        given: Mapping[str, npt.NDArray[np.generic]],
        output: str,
        *,
        bare: bool = False,
    ) -> Array:
        fed = {name: value(array) for name, array in given.items()}
        found = graph.run_values(fed, bare=bare)
        result: Array = found[output].numpy()
        return result
