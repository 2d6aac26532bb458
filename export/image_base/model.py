"""The three networks of the base, and their files: text encoder, denoiser, decoder."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import nn

from ...shared.errors import BadInputError
from ...shared.image_networks import (
    Decoder,
    DiffusionTwin,
    PatchAutoencoder,
    PatchCode,
    TextEncoder,
)
from .packing import packed, unpacked
from .tokens import PAD_ID

__all__ = ["ImageBase", "ModelPlan", "build_denoiser"]

WEIGHTS = "model.safetensors"
_CODE = ("basis", "mean", "spread")


@dataclass(frozen=True, kw_only=True)
class ModelPlan:
    """Sizes of the text encoder and the denoiser.

    Args:
        vocabulary: tokens, at most.
        tokens: of a caption; longer ones are cut.
        text_width: of the text encoder.
        text_layers: of it.
        width: of the denoiser.
        heads: of its attention.
        layers: of it.
        hidden: of its feed-forward layers.
        channels: of a latent.
        decoder_width: of the convolutions that mend pictures.
        decoder_blocks: of two convolutions each.
    """

    vocabulary: int = 4096
    tokens: int = 12
    text_width: int = 128
    text_layers: int = 2
    width: int = 256
    heads: int = 4
    layers: int = 6
    hidden: int = 768
    channels: int = 48
    decoder_width: int = 64
    decoder_blocks: int = 3


def build_denoiser(plan: ModelPlan) -> WanTransformer3DModel:
    """An untrained denoiser of latents ``(B, C, 1, 4, 4)`` that starts by saying zero.

    Every block adds nothing at first (adaLN-Zero: Peebles and Xie, arXiv:2212.09748, Section 3.2).
    """
    model = WanTransformer3DModel(
        patch_size=(1, 1, 1),
        num_attention_heads=plan.heads,
        attention_head_dim=plan.width // plan.heads,
        in_channels=plan.channels,
        out_channels=plan.channels,
        text_dim=plan.text_width,
        freq_dim=128,
        ffn_dim=plan.hidden,
        num_layers=plan.layers,
        rope_max_seq_len=32,
    )
    silent = [model.condition_embedder.time_proj, model.proj_out]
    silent += [block.attn2.to_out[0] for block in model.blocks]
    for layer in silent:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    for part in (model, *model.blocks):
        nn.init.zeros_(part.scale_shift_table)
    return model


@dataclass(frozen=True)
class ImageBase:
    """Everything that turns a caption into a picture."""

    plan: ModelPlan
    tokenizer: Tokenizer
    code: PatchCode
    text_encoder: TextEncoder
    denoiser: WanTransformer3DModel
    decoder: Decoder

    @classmethod
    def untrained(cls, plan: ModelPlan, tokenizer: Tokenizer, code: PatchCode) -> ImageBase:
        """New networks, drawn from torch's global generator."""
        encoder = TextEncoder(plan.vocabulary, plan.tokens, plan.text_width, plan.text_layers)
        decoder = Decoder(plan.decoder_width, plan.decoder_blocks)
        return cls(plan, tokenizer, code, encoder, build_denoiser(plan), decoder)

    def ids(self, captions: Sequence[str]) -> torch.Tensor:
        """Token ids ``(B, T)``; ``""`` is the empty caption."""
        rows = [self.tokenizer.encode(c).ids[: self.plan.tokens] for c in captions]
        return torch.tensor([row + [PAD_ID] * (self.plan.tokens - len(row)) for row in rows])

    def networks(self) -> nn.ModuleDict:
        """All three, by name."""
        return nn.ModuleDict(
            {
                "text_encoder": self.text_encoder,
                "denoiser": self.denoiser,
                "decoder": self.decoder,
            }
        )

    def twin(self) -> DiffusionTwin:
        """The same networks as one model, as packages are built from."""
        autoencoder = PatchAutoencoder(self.code, self.decoder)
        return DiffusionTwin(self.text_encoder, self.denoiser, autoencoder)

    def save(self, folder: Path, *, pack: bool = False) -> None:
        """Write ``config.json``, ``tokenizer.json`` and ``model.safetensors``.

        Args:
            folder: made if it is not there.
            pack: one byte a weight; see :mod:`.packing`.
        """
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "config.json").write_text(json.dumps(asdict(self.plan), indent=2) + "\n", "utf-8")
        tensors = {**self.networks().state_dict()}
        tensors |= {f"code.{name}": value for name, value in self.code.state_dict().items()}
        save_file(packed(tensors) if pack else tensors, folder / WEIGHTS)

    @classmethod
    def load(cls, folder: Path) -> ImageBase:
        """Read what :meth:`save` wrote, as float32.

        Raises:
            BadInputError: a file is missing.
        """
        try:
            plan = ModelPlan(**json.loads((folder / "config.json").read_text("utf-8")))
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            saved = load_file(folder / WEIGHTS)
        except OSError as error:
            raise BadInputError(f"no image base in {folder}: {error}") from error
        tensors = unpacked(saved)
        code = PatchCode(*(tensors.pop(f"code.{name}") for name in _CODE))
        base = cls.untrained(plan, tokenizer, code)
        base.networks().load_state_dict(tensors)
        base.networks().eval()
        return base
