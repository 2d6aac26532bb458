"""The torch networks of image bases: the built-in base's own, and a base as one model.

Imported on demand only: it imports torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle, scaled_dot_product_attention, silu

from .errors import PackageError

__all__ = [
    "Decoder",
    "DecoupledAttention",
    "DiffusionTwin",
    "PatchAutoencoder",
    "PatchCode",
    "TextEncoder",
    "build_module",
    "module_config",
]

_PAD = 0
PATCH = 8
_CELL = 2  # pixels a side: at full size the decoder would take four times as long
_OVERSHOOT = 1.2  # what the code may give beyond -1..1 before it is mended
_CLASS = "_class_name"  # as diffusers calls it in its own configs


class TextEncoder(nn.Module):
    """Captions to one vector a token, zero where the caption has ended.

    Called as text towers are: ``encoder(input_ids=ids)[0]`` is ``(B, T, D)``. Padding is token 0,
    so a caption of padding alone, the empty one, is all zeros.
    """

    def __init__(self, vocabulary: int, tokens: int, width: int, layers: int) -> None:
        super().__init__()
        self.config = {
            "vocabulary": vocabulary,
            "tokens": tokens,
            "width": width,
            "layers": layers,
        }
        self.embedding = nn.Embedding(vocabulary, width)
        self.place = nn.Parameter(torch.zeros(tokens, width))
        self.blocks = nn.ModuleList(_TextBlock(width) for _ in range(layers))
        self.norm = nn.LayerNorm(width)
        nn.init.normal_(self.embedding.weight, std=0.5)
        nn.init.normal_(self.place, std=0.1)

    def get_input_embeddings(self) -> nn.Embedding:
        """The table of tokens, as text towers are asked for it."""
        return self.embedding

    def forward(self, input_ids: torch.Tensor) -> tuple[torch.Tensor]:
        """``(B, T)`` whole numbers to ``((B, T, D),)``."""
        there = input_ids != _PAD
        x = self.embedding(input_ids) + self.place[: input_ids.shape[1]]
        seen = there | ~there.any(1, keepdim=True)  # an empty caption must look at something
        # (B, 1, T, T): ONNX Runtime does not broadcast masks over queries
        mask = seen[:, None, None, :].expand(-1, -1, seen.shape[1], -1)
        for block in self.blocks:
            x = block(x, mask)
        return (self.norm(x) * there[..., None],)


class _TextBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.heads = max(1, width // 32)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        q, k, v = (
            part.unflatten(2, (self.heads, -1)).transpose(1, 2)  # (B, nh, T, hs)
            for part in self.qkv(self.norm1(x)).chunk(3, 2)
        )
        x = x + self.out(scaled_dot_product_attention(q, k, v, mask).transpose(1, 2).flatten(2))
        changed: torch.Tensor = x + self.down(
            nn.functional.gelu(self.up(self.norm2(x)), approximate="tanh")
        )
        return changed


class PatchCode(nn.Module):
    """A linear code of patches of 8 x 8 pixels. It is fitted, never trained.

    Args:
        basis: ``(C, 192)``, orthonormal rows; a patch's values lie as channel, row, column.
        mean: ``(192,)``.
        spread: ``(C,)``, what coefficients are divided by.
    """

    def __init__(self, basis: torch.Tensor, mean: torch.Tensor, spread: torch.Tensor) -> None:
        super().__init__()
        self.basis = nn.Parameter(basis, requires_grad=False)
        self.mean = nn.Parameter(mean, requires_grad=False)
        self.spread = nn.Parameter(spread, requires_grad=False)

    def latents(self, pictures: torch.Tensor) -> torch.Tensor:
        """``(B, 3, 32, 32)`` to ``(B, C, 4, 4)``."""
        patches = pixel_unshuffle(pictures, PATCH) - self.mean[:, None, None]
        found = torch.einsum("cp,bphw->bchw", self.basis, patches)
        return found / self.spread[:, None, None]

    def pictures(self, latents: torch.Tensor) -> torch.Tensor:
        """``(B, C, 4, 4)`` to ``(B, 3, 32, 32)``, less what the code does not keep."""
        coefficients = latents * self.spread[:, None, None]
        patches = torch.einsum("cp,bchw->bphw", self.basis, coefficients)
        return pixel_shuffle(patches + self.mean[:, None, None], PATCH)


class Decoder(nn.Module):
    """Mends pictures from the linear code: adds what patches lack, smooths their seams."""

    def __init__(self, width: int, blocks: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(3 * _CELL**2, width, 3, padding=1)
        self.blocks = nn.ModuleList(_DecoderBlock(width) for _ in range(blocks))
        self.last = nn.Conv2d(width, 3 * _CELL**2, 3, padding=1)
        nn.init.zeros_(self.last.weight)
        nn.init.zeros_(self.last.bias)  # type: ignore[arg-type]

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        """Mended pictures, ``(B, 3, 32, 32)`` like those given."""
        x = self.first(pixel_unshuffle(pictures, _CELL))
        for block in self.blocks:
            x = block(x)
        return pictures + pixel_shuffle(self.last(silu(x)), _CELL)


class _DecoderBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.one = nn.Conv2d(width, width, 3, padding=1)
        self.two = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        changed: torch.Tensor = x + self.two(silu(self.one(silu(x))))
        return changed


class PatchAutoencoder(nn.Module):
    """The code and what mends it, as one autoencoder of pictures."""

    def __init__(self, code: PatchCode, decoder: Decoder) -> None:
        super().__init__()
        self.code, self.decoder = code, decoder

    @classmethod
    def empty(cls, channels: int, width: int, blocks: int) -> PatchAutoencoder:
        """One of a size, to be filled."""
        size = 3 * PATCH**2
        code = PatchCode(torch.zeros(channels, size), torch.zeros(size), torch.ones(channels))
        return cls(code, Decoder(width, blocks))

    @property
    def config(self) -> dict[str, int]:
        """Sizes, as :meth:`empty` takes them."""
        return {
            "channels": len(self.code.basis),
            "width": self.decoder.first.out_channels,
            "blocks": len(self.decoder.blocks),
        }

    def latents(self, pictures: torch.Tensor) -> torch.Tensor:
        """``(B, 3, h, w)`` in -1..1 to ``(B, C, h / 8, w / 8)``."""
        return self.code.latents(pictures)

    def pictures(self, latents: torch.Tensor) -> torch.Tensor:
        """Undo :meth:`latents`."""
        mended: torch.Tensor = self.decoder(
            self.code.pictures(latents).clamp(-_OVERSHOOT, _OVERSHOOT)
        )
        return mended


class DiffusionTwin(nn.Module):
    """A text encoder, a denoiser and an autoencoder of pictures as one model.

    A layer's name in it is its name as an adapter's site. Textual inversion (Gal et al.,
    arXiv:2208.01618) trains rows of ``text_encoder.get_input_embeddings()`` through it.
    """

    def __init__(
        self, text_encoder: nn.Module, denoiser: nn.Module, autoencoder: nn.Module
    ) -> None:
        super().__init__()
        self.text_encoder, self.denoiser = text_encoder, denoiser
        self.autoencoder = autoencoder
        if self.takes_image_tokens:
            _decouple(denoiser, text_encoder.config["tokens"])  # type: ignore[index,arg-type]

    @property
    def takes_image_tokens(self) -> bool:
        """Whether the denoiser looks at pictures beside the prompt."""
        return self.image_width > 0

    @property
    def image_width(self) -> int:
        """Of image tokens, ``D``; 0 where it takes none."""
        return getattr(self.denoiser.config, "added_kv_proj_dim", None) or 0

    def forward(
        self, sample: torch.Tensor, timestep: torch.Tensor, input_ids: torch.Tensor, **given: Any
    ) -> torch.Tensor:
        """What the denoiser says about noisy latents under a prompt ``input_ids (B, T)``.

        Args:
            sample: ``(B, C, H, W)``: latents, and conditions after them where the base has some.
            timestep: ``(B,)``, on the scale of the base's schedule.
            input_ids: the prompt.
            given: ``image_tokens (B, n, D)`` of pictures to look at, where the base takes them, and
                whatever else the denoiser takes, by its name.
        """
        return self.predict(sample, timestep, self.embed(input_ids), **given)

    def embed(self, input_ids: torch.Tensor) -> torch.Tensor:
        """``(B, T)`` token ids to ``(B, T, D)``."""
        hidden: torch.Tensor = self.text_encoder(input_ids=input_ids)[0]
        return hidden

    def predict(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        hidden: torch.Tensor,
        image_tokens: torch.Tensor | None = None,
        **given: Any,
    ) -> torch.Tensor:
        """:meth:`forward` for a prompt that :meth:`embed` has read."""
        dtype = next(self.denoiser.parameters()).dtype
        sample, hidden = sample.to(dtype), hidden.to(dtype)
        if image_tokens is not None:
            given["encoder_hidden_states_image"] = image_tokens.to(dtype)
        video = type(self.denoiser).__name__ in _VIDEO
        found: torch.Tensor = self.denoiser(
            sample[:, :, None] if video else sample,
            timestep=timestep,
            encoder_hidden_states=hidden,
            **given,
            return_dict=False,
        )[0]
        return found[:, :, 0] if video else found

    def latents(self, pictures: torch.Tensor) -> torch.Tensor:
        """``(B, 3, h, w)`` in -1..1 to latents ``(B, C, H, W)`` as the denoiser knows them."""
        pictures = pictures.to(next(self.autoencoder.parameters()).dtype)
        if isinstance(self.autoencoder, PatchAutoencoder):
            return self.autoencoder.latents(pictures)
        shift, scale = _scaling(self.autoencoder)
        coded: torch.Tensor = self.autoencoder.encode(pictures).latent_dist.mode()  # type: ignore[operator]
        return (coded - shift) * scale

    def pictures(self, latents: torch.Tensor) -> torch.Tensor:
        """Undo :meth:`latents`."""
        latents = latents.to(next(self.autoencoder.parameters()).dtype)
        if isinstance(self.autoencoder, PatchAutoencoder):
            return self.autoencoder.pictures(latents)
        shift, scale = _scaling(self.autoencoder)
        found: torch.Tensor = self.autoencoder.decode(latents / scale + shift).sample  # type: ignore[operator]
        return found


class DecoupledAttention:
    """Wan's attention to a prompt and, apart from it, to tokens of pictures: their sum.

    Keys of both are normalized, values are not, and no bias is added to them: tokens of zeros add
    nothing, and tokens ``s`` times as large add ``s`` times as much. diffusers' own processor
    takes a prompt of 512 tokens for granted. Source: Ye et al., arXiv:2308.06721, Equation 5.

    Args:
        prompt: tokens of a prompt; those of pictures stand in front of it.
    """

    def __init__(self, prompt: int) -> None:
        self.prompt = prompt

    def __call__(
        self,
        attn: Any,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        rotary_emb: tuple[torch.Tensor, torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Attend, as diffusers calls its processors; states are ``(B, S, D)``."""
        read = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        pictures = read[:, : -self.prompt] if attn.add_k_proj is not None else read[:, :0]
        read = read[:, pictures.shape[1] :]
        query, key = attn.norm_q(attn.to_q(hidden_states)), attn.norm_k(attn.to_k(read))
        query, key, value = (_heads(x, attn.heads) for x in (query, key, attn.to_v(read)))
        if rotary_emb is not None:
            query, key = (self.rotated(x, *rotary_emb) for x in (query, key))
        found = scaled_dot_product_attention(query, key, value, attention_mask)
        if pictures.shape[1]:
            key = _heads(attn.norm_added_k(attn.add_k_proj(pictures)), attn.heads)
            value = _heads(attn.add_v_proj(pictures), attn.heads)
            found = found + scaled_dot_product_attention(query, key, value)
        result: torch.Tensor = attn.to_out[0](found.transpose(1, 2).flatten(2))
        return result

    def rotated(self, x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        """Turn pairs of neighbours; ``cos`` and ``sin`` are ``(1, S, 1, hs)``, each value twice."""
        even, odd = x[..., ::2], x[..., 1::2]  # (B, nh, S, hs / 2)
        cos, sin = (c[0, :, 0, ::2] for c in (cos, sin))
        turned = torch.stack([even * cos - odd * sin, even * sin + odd * cos], -1)
        return turned.flatten(-2).type_as(x)


def _heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    batch, length, width = x.shape
    return x.view(batch, length, heads, width // heads).transpose(1, 2)  # (B, nh, S, hs)


def _decouple(denoiser: Any, prompt: int) -> None:
    """Let a denoiser read image tokens, which come in its own width, as they are."""
    denoiser.condition_embedder.image_embedder = nn.Identity()
    denoiser.set_attn_processor(DecoupledAttention(prompt))


_VIDEO = ("WanTransformer3DModel",)  # take a frame axis: a picture is one frame
_OWN = {"TextEncoder": TextEncoder, "PatchAutoencoder": PatchAutoencoder.empty}
_DIFFUSERS = ("AutoencoderKL", "UNet2DConditionModel", "WanTransformer3DModel")
_NOT_SETTINGS = ("architectures", "dtype", "torch_dtype", "transformers_version")


def _scaling(autoencoder: Any) -> tuple[float, float]:
    config = autoencoder.config
    return getattr(config, "shift_factor", None) or 0.0, config.scaling_factor


def build_module(config: Mapping[str, Any]) -> nn.Module:
    """An empty network from what :func:`module_config` gave.

    Raises:
        PackageError: its class is not known here.
    """
    settings = {name: value for name, value in config.items() if name != _CLASS}
    name = config.get(_CLASS)
    if name in _OWN:
        made: nn.Module = _OWN[name](**settings)  # type: ignore[operator]
        return made
    if name == "CLIPTextModel":
        from transformers import CLIPTextConfig, CLIPTextModel

        clip: nn.Module = CLIPTextModel(CLIPTextConfig(**settings))
        return clip
    if name in _DIFFUSERS:
        import diffusers

        known: nn.Module = getattr(diffusers, name).from_config(settings)
        return known
    known_names = ", ".join(sorted((*_OWN, *_DIFFUSERS, "CLIPTextModel")))
    raise PackageError(f"a network of class {name!r} is not known; known are {known_names}")


def module_config(module: nn.Module) -> dict[str, Any]:
    """A network's class and settings, ready for JSON."""
    config: Any = module.config
    settings = config.to_dict() if hasattr(config, "to_dict") else dict(config)
    kept = {n: v for n, v in settings.items() if n not in _NOT_SETTINGS and not n.startswith("_")}
    return {_CLASS: type(module).__name__, **kept}
