"""Tiny real models of every family that the training core serves, with a per-sample loss each.

All are built from the libraries' own classes with random weights: what counts is how each one
folds samples, tokens, frames and pixels into the rows of its layers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from locavore.client.training.objectives.diffusion import Diffusion, drawn
from locavore.client.training.objectives.language import sequence_loss

__all__ = ["FAMILIES", "Family", "family"]

Batch = Mapping[str, torch.Tensor]
_VOCAB = 96


@dataclass(frozen=True)
class Family:
    """A model, its batches and its loss.

    Args:
        build: makes the model.
        batch: ``(samples, generator)`` to a batch with the samples first.
        losses: ``(model, batch)`` to one loss a sample.
        skip: parts of the names of layers that bypass their own forward pass or the loss.
    """

    build: Callable[[], Any]
    batch: Callable[[int, torch.Generator], dict[str, torch.Tensor]]
    losses: Callable[[Any, Batch], torch.Tensor]
    skip: tuple[str, ...] = ()

    def model(self) -> nn.Module:
        """The frozen model, always with the same weights, in evaluation mode."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model: nn.Module = self.build()
            for value in model.parameters():  # zero-initialised gates would hide what is behind
                if not value.any():
                    nn.init.normal_(value, std=0.05)
        return model.requires_grad_(False).eval()

    def sites(self, model: nn.Module) -> list[str]:
        """Every layer that can carry a low-rank adapter of rank 2."""
        from locavore.client.training.chains import site_kind, site_shape
        from locavore.shared.errors import AdapterError

        found = []
        for name, module in model.named_modules():
            if site_kind(module) is None or any(part in name for part in self.skip):
                continue
            try:
                if min(site_shape(module, name)) >= 2:
                    found.append(name)
            except AdapterError:  # grouped convolutions carry none
                continue
        return found


def _token_losses(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Mean loss of a sample's labels that are not negative, ``(B,)``."""
    scores = logits.float().log_softmax(-1)
    picked = -scores.gather(-1, labels.clamp(min=0)[..., None])[..., 0] * (labels >= 0)
    return picked.flatten(1).sum(1) / (labels >= 0).flatten(1).sum(1)


# --- language -------------------------------------------------------------------------------


def _text(count: int, generator: torch.Generator, length: int = 9) -> dict[str, torch.Tensor]:
    ids = torch.randint(3, _VOCAB, (count, length), generator=generator)
    lengths = torch.randint(length // 2, length + 1, (count, 1), generator=generator)
    mask = (torch.arange(length) < lengths).long()
    return {"ids": ids * mask, "mask": mask}


def _causal_losses(model: nn.Module, batch: Batch) -> torch.Tensor:
    """With all logits, so that the output head can carry an adapter as well."""
    out = model(input_ids=batch["ids"], attention_mask=batch["mask"], use_cache=False)
    labels = torch.where(batch["mask"] > 0, batch["ids"], -1)[:, 1:]
    return _token_losses(out.logits[:, :-1], labels)


def _causal(config: str, model: str, *, skip: tuple[str, ...] = (), **sizes: Any) -> Family:
    def build() -> Any:
        import transformers

        return getattr(transformers, model)(getattr(transformers, config)(**sizes))

    return Family(build, _text, _causal_losses, skip)


_LLAMA: dict[str, Any] = {
    "vocab_size": _VOCAB,
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}


def _t5() -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    return T5ForConditionalGeneration(
        T5Config(vocab_size=_VOCAB, d_model=16, d_kv=4, d_ff=24, num_layers=2, num_heads=4)
    )


def _t5_batch(count: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    return _text(count, generator) | {
        "answer": torch.randint(3, _VOCAB, (count, 5), generator=generator),
        "target": torch.arange(5) < torch.randint(2, 6, (count, 1), generator=generator),
    }


# --- diffusion ------------------------------------------------------------------------------


def _denoiser(
    name: str,
    latent: tuple[int, ...],
    given: Mapping[str, tuple[int, ...]],
    losses: Diffusion | None = None,
    *,
    skip: tuple[str, ...] = (),
    **sizes: Any,
) -> Family:
    """A denoiser of samples of shape ``latent``; ``given`` are its other arguments' shapes."""

    def build() -> Any:
        import diffusers

        return getattr(diffusers, name)(**sizes)

    def batch(count: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
        clean = torch.randn(count, *latent, generator=generator)
        others = {n: torch.randn(count, *s, generator=generator) for n, s in given.items()}
        return {**drawn(clean, generator), **others}

    return Family(build, batch, losses or _FLOW, skip)


class _PerFrame(Diffusion):
    """AnimateDiff's pipeline repeats the text for every frame."""

    def predicted(
        self, model: nn.Module, noisy: torch.Tensor, time: torch.Tensor, batch: Batch
    ) -> torch.Tensor:
        text = batch["encoder_hidden_states"].repeat_interleave(noisy.shape[2], 0)
        return super().predicted(model, noisy, time, {**batch, "encoder_hidden_states": text})


_KEPT = torch.linspace(0.9999, 0.98, 1000).cumprod(0)
_EPSILON = Diffusion(predicts="epsilon", alphas_cumprod=_KEPT)
_FLOW = Diffusion(predicts="flow")
_PLACES = torch.stack([torch.zeros(6), torch.arange(6.0), torch.zeros(6)], 1)
_TEXT = {"encoder_hidden_states": (3, 12)}

_UNET: dict[str, Any] = {
    "sample_size": 8,
    "in_channels": 4,
    "out_channels": 4,
    "layers_per_block": 1,
    "block_out_channels": (8, 16),
    "norm_num_groups": 4,
    "cross_attention_dim": 12,
    "attention_head_dim": 4,
}


# --- several senses, music, decisions -------------------------------------------------------


def _llava() -> Any:
    from transformers import (
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
    )

    vision = CLIPVisionConfig(
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        image_size=8,
        patch_size=4,
    )
    config = LlavaConfig(
        vision_config=vision, text_config=LlamaConfig(**_LLAMA), image_token_index=1
    )
    return LlavaForConditionalGeneration(config)


def _llava_batch(count: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    text = _text(count, generator)
    image = torch.ones(count, 4, dtype=torch.long)
    return {
        "ids": torch.cat([image, text["ids"]], 1),
        "mask": torch.cat([image, text["mask"]], 1),
        "pixels": torch.randn(count, 3, 8, 8, generator=generator),
    }


def _llava_losses(model: nn.Module, batch: Batch) -> torch.Tensor:
    out = model(
        input_ids=batch["ids"],
        attention_mask=batch["mask"],
        pixel_values=batch["pixels"],
        use_cache=False,
    )
    labels = torch.where((batch["mask"] > 0) & (batch["ids"] > 1), batch["ids"], -1)[:, 1:]
    return _token_losses(out.logits[:, :-1], labels)


def _musicgen() -> Any:
    from transformers import MusicgenDecoderConfig, MusicgenForCausalLM

    return MusicgenForCausalLM(
        MusicgenDecoderConfig(
            vocab_size=32,
            hidden_size=16,
            ffn_dim=24,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_codebooks=2,
            max_position_embeddings=64,
        )
    )


def _musicgen_batch(count: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    return {
        "codes": torch.randint(0, 32, (count, 2, 7), generator=generator),
        "text": torch.randn(count, 3, 16, generator=generator),
    }


def _musicgen_losses(model: nn.Module, batch: Batch) -> torch.Tensor:
    codes = batch["codes"]
    out = model(input_ids=codes.flatten(0, 1), encoder_hidden_states=batch["text"], use_cache=False)
    logits = out.logits.view(*codes.shape, -1)
    return _token_losses(logits[:, :, :-1], codes[:, :, 1:])


def _decisions() -> Any:
    from transformers import DecisionTransformerConfig, DecisionTransformerModel

    return DecisionTransformerModel(
        DecisionTransformerConfig(
            state_dim=5, act_dim=3, hidden_size=16, n_layer=2, n_head=4, max_ep_len=20
        )
    )


def _decision_batch(count: int, generator: torch.Generator) -> dict[str, torch.Tensor]:
    sizes = {"states": 5, "actions": 3, "rewards": 1, "returns_to_go": 1}
    drawn = {n: torch.randn(count, 6, s, generator=generator) for n, s in sizes.items()}
    starts = torch.randint(0, 14, (count, 1), generator=generator)
    return {**drawn, "timesteps": starts + torch.arange(6)}


def _decision_losses(model: nn.Module, batch: Batch) -> torch.Tensor:
    mask = torch.ones_like(batch["timesteps"])
    out = model(**batch, attention_mask=mask, return_dict=True)
    losses: torch.Tensor = (out.action_preds - batch["actions"]).square().flatten(1).mean(1)
    return losses


FAMILIES: dict[str, Family] = {
    "decision-transformer": Family(
        _decisions,
        _decision_batch,
        _decision_losses,
        skip=("predict_state", "predict_return", "wpe", "wte"),
    ),
    "flux": _denoiser(
        "FluxTransformer2DModel",
        (6, 8),
        {**_TEXT, "pooled_projections": (10,), "guidance": ()},
        Diffusion(
            predicts="flow",
            time_scale=1.0,
            fixed={"img_ids": _PLACES, "txt_ids": torch.zeros(3, 3)},
        ),
        patch_size=1,
        in_channels=8,
        num_layers=1,
        num_single_layers=1,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        pooled_projection_dim=10,
        guidance_embeds=True,
        axes_dims_rope=(2, 2, 4),
    ),
    "gemma3": _causal(
        "Gemma3TextConfig", "Gemma3ForCausalLM", **_LLAMA, head_dim=4, sliding_window=4
    ),
    "gpt2": _causal(
        "GPT2Config",
        "GPT2LMHeadModel",
        skip=("wpe",),
        vocab_size=_VOCAB,
        n_embd=16,
        n_layer=2,
        n_head=4,
        n_positions=32,
    ),
    "llama": _causal("LlamaConfig", "LlamaForCausalLM", **_LLAMA),
    "llava": Family(
        _llava,
        _llava_batch,
        _llava_losses,
        # The last vision layer and the pooled output are not what the language model reads.
        skip=("position_embedding", "encoder.layers.1", "vision_model.layers.1"),
    ),
    "musicgen": Family(_musicgen, _musicgen_batch, _musicgen_losses),
    "opt": _causal(
        "OPTConfig",
        "OPTForCausalLM",
        skip=("embed_positions",),
        vocab_size=_VOCAB,
        hidden_size=16,
        ffn_dim=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        word_embed_proj_dim=16,
        max_position_embeddings=32,
    ),
    "prior": _denoiser(
        "PriorTransformer",
        (16,),
        {"encoder_hidden_states": (3, 16), "proj_embedding": (16,)},
        _EPSILON,
        num_attention_heads=2,
        attention_head_dim=8,
        num_layers=2,
        embedding_dim=16,
        num_embeddings=3,
        additional_embeddings=4,
    ),
    "qwen3": _causal("Qwen3Config", "Qwen3ForCausalLM", **_LLAMA, head_dim=4),
    "sd3": _denoiser(
        "SD3Transformer2DModel",
        (4, 8, 8),
        {**_TEXT, "pooled_projections": (10,)},
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        caption_projection_dim=16,
        pooled_projection_dim=10,
        out_channels=4,
        pos_embed_max_size=8,
    ),
    "t5": Family(_t5, _t5_batch, sequence_loss, skip=("relative_attention_bias", "shared")),
    "unet2d": _denoiser(
        "UNet2DConditionModel",
        (4, 8, 8),
        _TEXT,
        _EPSILON,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        **_UNET,
    ),
    "unet3d": _denoiser(
        "UNet3DConditionModel",
        (4, 3, 8, 8),
        _TEXT,
        _EPSILON,
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        **_UNET,
    ),
    "unet-motion": _denoiser(
        "UNetMotionModel",
        (4, 3, 8, 8),
        _TEXT,
        _PerFrame(predicts="v", alphas_cumprod=_KEPT),
        down_block_types=("CrossAttnDownBlockMotion", "DownBlockMotion"),
        up_block_types=("UpBlockMotion", "CrossAttnUpBlockMotion"),
        motion_num_attention_heads=2,
        **{name: value for name, value in _UNET.items() if name != "attention_head_dim"},
        num_attention_heads=2,
    ),
    "wan": _denoiser(
        "WanTransformer3DModel",
        (4, 2, 8, 8),
        _TEXT,
        patch_size=(1, 2, 2),
        num_attention_heads=2,
        attention_head_dim=12,
        in_channels=4,
        out_channels=4,
        text_dim=12,
        freq_dim=16,
        ffn_dim=24,
        num_layers=2,
        rope_max_seq_len=32,
    ),
}


def family(name: str) -> Family:
    """The family called ``name``."""
    return FAMILIES[name]
