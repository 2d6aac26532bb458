"""Very small image bases: one of our own kind, and one in Stable Diffusion's layout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from locavore.shared.pictures import Picture

if TYPE_CHECKING:
    from locavore.export.image_base.model import ImageBase
    from locavore.export.image_sources import CaptionedPicture, ImageSource
    from locavore.server.simulation.gallery import Artist

COLOURS = {"red": (220, 30, 30), "green": (30, 160, 60), "blue": (40, 60, 210)}


def public_pictures() -> list[CaptionedPicture]:
    """Bars and boxes in three colours."""
    found = []
    for colour, rgb in COLOURS.items():
        for shape, height in (("bar", 4), ("box", 11)):
            pixels = np.full((32, 32, 3), 255, np.uint8)
            pixels[16 - height : 16 + height, 5:27] = rgb
            found.append((Picture(pixels), f"{colour} {shape}"))
    return found


def tiny_artist(name: str, paper: int, seed: int) -> Artist:
    """Bars and boxes on paper of a colour of one's own; blue boxes are held out."""
    from locavore.server.simulation.gallery import Artist
    from locavore.server.simulation.gallery import Picture as Shown

    rng = np.random.default_rng(seed)
    pictures = []
    for i in range(42):
        colour = list(COLOURS)[i % 3]
        shape, half = (("bar", 4), ("box", 10))[i // 3 % 2]
        pixels = np.full((32, 32, 3), paper, np.uint8)
        top, left = rng.integers(12, 20), rng.integers(4, 8)
        pixels[top - half : top + half, left : left + 20] = COLOURS[colour]
        held_out = (colour, shape) == ("blue", "box")
        pictures.append(Shown(pixels=pixels, caption=f"{colour} {shape}", held_out=held_out))
    return Artist(name=name, pictures=tuple(pictures))


def own_tiny_source() -> ImageSource:
    """Our own kind, ready to be exported."""
    from locavore.export.image_sources import own_source

    return own_source(own_tiny_base(), "tiny-drawings", origin="made by a test", licence="none")


def looking_tiny_source() -> ImageSource:
    """The same, with random keys and values for image tokens."""
    from dataclasses import replace

    import torch

    from locavore.export.image_base.looking import looking
    from locavore.export.image_sources import own_source

    base = own_tiny_base()
    names = [
        f"blocks.{i}.attn2.{projection}"
        for i in range(base.plan.layers)
        for projection in ("add_k_proj", "add_v_proj")
    ]
    torch.manual_seed(2)
    width = base.plan.width
    factors = {
        name: (torch.randn(width, 8) / width**0.5, torch.randn(8, width) / 8**0.5) for name in names
    }
    source = own_source(
        looking(base, factors), "tiny-looking", origin="made by a test", licence="none"
    )
    assert source.tower is not None
    return replace(source, tower=(source.tower[0], ("concepts",)))  # as wide as this base


def own_tiny_base() -> ImageBase:
    """Our own kind, with random weights in every layer."""
    import torch

    from locavore.export.image_base.model import ImageBase, ModelPlan
    from locavore.export.image_base.pictures import fit_patch_code
    from locavore.export.image_base.tokens import build_tokenizer

    plan = ModelPlan(
        vocabulary=200,
        tokens=6,
        text_width=32,
        text_layers=1,
        width=64,
        heads=2,
        layers=2,
        hidden=96,
        channels=12,
        decoder_width=32,
        decoder_blocks=1,
    )
    public = public_pictures()
    pixels = np.stack([picture.pixels for picture, _ in public])
    tokenizer = build_tokenizer({c: 2 for _, c in public}, ["noto"], plan.vocabulary)
    code = fit_patch_code(pixels, torch.ones(len(pixels)), plan.channels)
    torch.manual_seed(0)
    base = ImageBase.untrained(plan, tokenizer, code)
    _unsilenced(base.networks())
    return base


def write_stable_diffusion(folder: Path, *, channels: int = 4, prediction: str = "epsilon") -> None:
    """A tiny random pipeline as diffusers lays it out; 9 channels are for in-painting."""
    import torch
    from diffusers import (
        AutoencoderKL,
        DDIMScheduler,
        StableDiffusionInpaintPipeline,
        StableDiffusionPipeline,
        UNet2DConditionModel,
    )
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(1)
    unet = UNet2DConditionModel(
        sample_size=8,
        in_channels=channels,
        out_channels=4,
        layers_per_block=1,
        block_out_channels=(32, 64),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        cross_attention_dim=32,
        attention_head_dim=8,
        norm_num_groups=8,
    )
    autoencoder = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(32, 32),
        latent_channels=4,
        norm_num_groups=8,
        sample_size=16,
    )
    tokenizer = _clip_tokenizer(folder / "made")
    text = CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=16,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    kind = StableDiffusionPipeline if channels == 4 else StableDiffusionInpaintPipeline
    schedule: Any = DDIMScheduler
    pipeline: Any = kind(
        vae=autoencoder,
        text_encoder=CLIPTextModel(text),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=schedule(
            beta_start=0.00085,
            beta_end=0.012,
            beta_schedule="scaled_linear",
            clip_sample=False,
            set_alpha_to_one=False,
            steps_offset=1,
            prediction_type=prediction,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)


def _clip_tokenizer(folder: Path) -> Any:
    """CLIP's tokenizer with letters, a few merges, and the two special tokens."""
    from transformers import CLIPTokenizer

    letters = "abcdefghijklmnopqrstuvwxyz<>-,."
    merges = [("r", "e"), ("re", "d</w>"), ("b", "o"), ("bo", "x</w>"), ("b", "a"), ("ba", "r</w>")]
    words = [*letters, *(f"{c}</w>" for c in letters), *("".join(pair) for pair in merges)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True)
    vocabulary = {word: i for i, word in enumerate(words)}
    (folder / "vocab.json").write_text(json.dumps(vocabulary))
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines))
    return CLIPTokenizer.from_pretrained(folder, model_max_length=16)


def _unsilenced(networks: Any) -> None:
    """Give what starts at zero something to say."""
    import torch

    for parameter in networks.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
