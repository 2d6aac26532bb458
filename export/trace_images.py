"""Trace the parts of an image base to float ONNX graphs.

The graphs follow the contract of :mod:`locavore.shared.diffusion_graph`, still without ports; their
initializers are called as the parameters of :class:`~locavore.shared.image_networks.DiffusionTwin`.
"""

from __future__ import annotations

import copy
from typing import Any

import onnx_ir as ir
import torch
from diffusers import WanTransformer3DModel
from torch import nn
from torch.nn.functional import scaled_dot_product_attention

from ..shared.image_networks import DiffusionTwin
from .graph import accept_rows
from .trace import trace_module

__all__ = ["trace_image_part"]

_BATCH = 2  # of the example; 1 would be specialised by the tracer


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
    networks = (twin.text_encoder, _exportable(twin.denoiser), twin.autoencoder)
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
        return _traced(_Denoiser(*networks), given, "prediction")
    if part == "decoder":
        given = {"latents": torch.randn(_BATCH, *latent)}
        return _traced(_Decoder(*networks), given, "pictures")
    return _traced(_Encoder(*networks), {"pictures": torch.rand(_BATCH, 3, *picture)}, "latents")


def _traced(module: nn.Module, given: dict[str, torch.Tensor], output: str) -> tuple[ir.Model, int]:
    batch = torch.export.Dim("batch")
    return trace_module(
        module,
        tuple(given.values()),
        inputs=list(given),
        outputs=[output],
        dynamic_shapes=tuple({0: batch} for _ in given),
    )


def _exportable(denoiser: nn.Module) -> nn.Module:
    if not isinstance(denoiser, WanTransformer3DModel):
        return denoiser
    found = copy.deepcopy(denoiser)
    found.set_attn_processor(_RotaryAttention())
    exportable: nn.Module = found
    return exportable


class _RotaryAttention:
    """Wan's attention with ONNX's own rotary embedding; diffusers' scatters into empty tensors."""

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        read = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        query, key = attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(read))
        query, key, value = (
            x.unflatten(2, (attn.heads, -1)).transpose(1, 2)  # (B, nh, S, hs)
            for x in (query, key, attn.to_v(read))
        )
        if rotary_emb is not None:
            query, key = (_rotated(x, *rotary_emb) for x in (query, key))
        found = scaled_dot_product_attention(query, key, value, attention_mask)
        result: torch.Tensor = attn.to_out[0](found.transpose(1, 2).flatten(2))
        return result


def _rotated(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Turn pairs of neighbours; ``cos`` and ``sin`` are ``(1, S, 1, hs)``, each value twice."""
    caches = (c[0, :, 0, ::2].expand(x.shape[0], -1, -1) for c in (cos, sin))  # (B, S, hs / 2)
    return torch.onnx.ops.rotary_embedding(x, *caches, interleaved=True)
