"""Trace the parts of an image base to float ONNX graphs.

The graphs follow the contract of :mod:`locavore.shared.diffusion_graph`, still without ports; their
initializers are called as the parameters of :class:`~locavore.shared.image_networks.DiffusionTwin`.
"""

from __future__ import annotations

import copy

import onnx_ir as ir
import torch
from diffusers import WanTransformer3DModel
from torch import nn

from ..shared.image_networks import DecoupledAttention, DiffusionTwin
from .graph import accept_rows
from .trace import trace_module

__all__ = ["trace_image_part"]

_BATCH, _PICTURES = 2, 3  # of the example; 1 would be specialised by the tracer


class _TextEncoder(DiffusionTwin):
    forward = DiffusionTwin.embed  # type: ignore[assignment]


class _Denoiser(DiffusionTwin):
    forward = DiffusionTwin.predict  # type: ignore[assignment]


class _Decoder(DiffusionTwin):
    forward = DiffusionTwin.pictures  # type: ignore[assignment]


class _Encoder(DiffusionTwin):
    forward = DiffusionTwin.latents  # type: ignore[assignment]


def trace_image_part(
    part: str,
    twin: DiffusionTwin,
    *,
    sample: tuple[int, ...],
    latent: tuple[int, ...],
    picture: tuple[int, ...],
    tokens: int,
) -> tuple[ir.Model, int]:
    """Trace one part and return its graph and opset.

    Args:
        part: one of :data:`locavore.shared.diffusion_graph.PARTS`.
        twin: the float networks.
        sample: ``(C, H, W)`` of what the denoiser takes.
        latent: ``(C, H, W)`` of latents.
        picture: ``(h, w)``.
        tokens: of a prompt.

    Raises:
        PackageError: no opset could express it.
    """
    networks = (twin.text_encoder, _exportable(twin.denoiser, tokens), twin.autoencoder)
    ids = torch.arange(_BATCH * tokens).view(_BATCH, tokens) % 7 + 1
    if part == "text_encoder":
        model, opset = _traced(_TextEncoder(*networks), {"input_ids": ids}, "hidden")
        table = twin.text_encoder.get_input_embeddings().weight  # type: ignore[operator]
        names = {id(value): name for name, value in twin.named_parameters()}
        accept_rows(model, names[id(table)])
        return model, opset
    if part == "denoiser":
        given = {
            "sample": torch.randn(_BATCH, *sample),
            "timestep": torch.tensor([3.0, 700.0]),
            "hidden": twin.embed(ids),
        }
        if twin.takes_image_tokens:
            given["image_tokens"] = torch.randn(_BATCH, _PICTURES, twin.image_width)
        return _traced(_Denoiser(*networks), given, "prediction")
    if part == "decoder":
        given = {"latents": torch.randn(_BATCH, *latent)}
        return _traced(_Decoder(*networks), given, "pictures")
    return _traced(_Encoder(*networks), {"pictures": torch.rand(_BATCH, 3, *picture)}, "latents")


def _traced(module: nn.Module, given: dict[str, torch.Tensor], output: str) -> tuple[ir.Model, int]:
    batch, pictures = (torch.export.Dim(name) for name in ("batch", "pictures"))
    moving = {name: {0: batch} for name in given} | {"image_tokens": {0: batch, 1: pictures}}
    return trace_module(
        module,
        tuple(given.values()),
        inputs=list(given),
        outputs=[output],
        dynamic_shapes=tuple(moving[name] for name in given),
    )


def _exportable(denoiser: nn.Module, tokens: int) -> nn.Module:
    if not isinstance(denoiser, WanTransformer3DModel):
        return denoiser
    found = copy.deepcopy(denoiser)
    found.set_attn_processor(_RotaryAttention(tokens))
    exportable: nn.Module = found
    return exportable


class _RotaryAttention(DecoupledAttention):
    """The same with ONNX's own rotary embedding; diffusers' scatters into empty tensors."""

    def rotated(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        caches = (c[0, :, 0, ::2].expand(x.shape[0], -1, -1) for c in (cos, sin))  # (B, S, hs / 2)
        return torch.onnx.ops.rotary_embedding(x, *caches, interleaved=True)
