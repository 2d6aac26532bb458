"""Where image bases come from: built in, a folder in diffusers' layout, or a hub id."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from huggingface_hub import hf_hub_download
from tokenizers import Tokenizer
from transformers import AutoTokenizer, CLIPTextModel, CLIPTextModelWithProjection
from transformers.utils import logging as transformers_logging

from ..shared.errors import BadInputError, PackageNotFoundError
from ..shared.image_networks import PATCH, DiffusionTwin
from ..shared.image_tokens import MOST_PICTURES, ImageTower
from ..shared.metrics.towers import FOLDER
from ..shared.pictures import Picture
from ..shared.prompts import Prompts
from ..shared.sampler_config import Kind, SamplerConfig, from_diffusers
from .image_base.drawings import SIDE
from .image_base.looking import FEATURES, LOOKS, looking, read_looks
from .image_base.model import ImageBase
from .image_base.sample import GUIDANCE
from .image_base.tokens import PAD_ID
from .sources import DRAWINGS

__all__ = [
    "CaptionedPicture",
    "ImageSource",
    "load_image_source",
    "load_public",
    "own_source",
]

CaptionedPicture = tuple[Picture, str]

_EMBEDDED = Path(__file__).parent / "image_base" / "weights"
_PUBLIC = "public.npz"
_FLOW = SamplerConfig(kind="flow", prediction="flow", timestep_spacing="trailing")
_OTHER_KIND: dict[str, Kind] = {  # schedules whose own samplers are not built
    "DDPMScheduler": "ddim",
    "LMSDiscreteScheduler": "dpmsolver++",
    "PNDMScheduler": "dpmsolver++",
}
_CONDITIONS: dict[int, tuple[tuple[str, int], ...]] = {
    4: (),
    9: (("mask", 1), ("masked_latents", 4)),  # Stable Diffusion for in-painting
}
_UNSUPPORTED = (
    "class_embed_type",
    "addition_embed_type",
    "encoder_hid_dim_type",
    "time_cond_proj_dim",
)
_STEPS, _GUIDANCE = 25, 7.5


@dataclass(frozen=True, kw_only=True)
class ImageSource:
    """A float text-to-image base, ready to be exported.

    Args:
        twin: its networks in float32, in evaluation mode.
        tokenizer_json: contents of a ``tokenizer.json``.
        special: ids of ``bos`` and ``eos`` (or none), and of ``pad``.
        tokens: of every prompt, padded.
        latent: ``(C, H, W)``.
        picture: height and width in pixels.
        conditions: further channels of the denoiser's input: their names and numbers.
        sampler: its noise schedule, what it predicts, and how it is usually run.
        steps: of a drawing, usually.
        guidance: of a drawing, usually.
        tower: what it sees pictures with, where it looks at some, and the features that it takes;
            see :mod:`locavore.shared.image_tokens`.
    """

    name: str
    twin: DiffusionTwin
    tokenizer_json: str
    special: Mapping[str, int | None]
    tokens: int
    latent: tuple[int, int, int]
    picture: tuple[int, int]
    conditions: tuple[tuple[str, int], ...] = ()
    sampler: SamplerConfig
    steps: int
    guidance: float
    licence: str
    origin: str
    tower: tuple[Path, tuple[str, ...]] | None = None

    @property
    def sample(self) -> tuple[int, int, int]:
        """``(C, H, W)`` of what the denoiser takes."""
        channels, height, width = self.latent
        return channels + sum(count for _, count in self.conditions), height, width

    @property
    def prompts(self) -> Prompts:
        """How its prompts become token ids."""
        table = self.twin.text_encoder.get_input_embeddings()  # type: ignore[operator]
        return Prompts(
            tokenizer=Tokenizer.from_str(self.tokenizer_json),
            tokens=self.tokens,
            vocabulary=table.num_embeddings,
            special=self.special,
        )

    @property
    def details(self) -> dict[str, Any]:
        """What a package's manifest says about it; see :mod:`locavore.shared.diffusion_graph`."""
        table = self.twin.text_encoder.get_input_embeddings()  # type: ignore[operator]
        names = ("latent", "picture", "tokens", "steps", "guidance", "licence", "origin")
        return {name: getattr(self, name) for name in names} | {
            "vocabulary": table.num_embeddings,
            "token_width": table.embedding_dim,
            "special": dict(self.special),
            "conditions": self.conditions,
            "sampler": self.sampler.plain(),
            **self._image_tokens(),
        }

    def _image_tokens(self) -> dict[str, Any]:
        if self.tower is None:
            return {}
        width, features = self.twin.image_width, self.tower[1]
        return {"image_tokens": {"width": width, "features": features}}

    def look(self, pictures: Sequence[Picture]) -> torch.Tensor | None:
        """Image tokens ``(N, 4, D)``, of each picture and the next three; None without a tower."""
        if self.tower is None:
            return None
        tower = ImageTower(*self.tower, self.twin.image_width)
        seen = tower.tokens(np.stack([p.resized(self.picture).pixels for p in pictures]))
        nearby = np.arange(len(seen))[:, None] + np.arange(MOST_PICTURES)
        return torch.from_numpy(seen[nearby % len(seen)])

    @torch.no_grad()
    def unknown(self) -> torch.Tensor:
        """Conditions ``(K, H, W)`` that ask for all of a picture."""
        blank = torch.zeros(1, 3, *self.picture)
        values = {
            "mask": lambda: torch.ones(1, *self.latent[1:]),
            "masked_latents": lambda: self.twin.latents(blank)[0],
        }
        none = torch.zeros(0, *self.latent[1:])
        return torch.cat([none, *(values[name]() for name, _ in self.conditions)])


def load_image_source(spec: str, say: Callable[[str], None] = lambda _: None) -> ImageSource:
    """Load an image base.

    Args:
        spec: ``drawings-32``, a folder in diffusers' layout, or a hub id.
        say: told what is happening.

    Raises:
        PackageNotFoundError: nothing under that name could be loaded.
        BadInputError: its networks are of another kind than Stable Diffusion's.
    """
    if spec == DRAWINGS:
        return _embedded()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    say(f"loading {spec}")
    try:
        return _from_pipeline(spec)
    except BadInputError:
        raise
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise PackageNotFoundError(
            f"no image base {spec!r}: neither {DRAWINGS}, nor a folder or a hub id in "
            f"diffusers' layout that could be loaded ({reason})"
        ) from None


def load_public(folder: Path | None = None) -> list[CaptionedPicture]:
    """Captioned pictures that belong to nobody's device.

    Args:
        folder: pictures, each with a ``.txt`` caption of its own name beside it; if not given,
            drawings that the built-in base has learned from.

    Raises:
        PackageNotFoundError: this installation does not hold those drawings.
        BadInputError: the folder holds no captioned picture, or one that cannot be read.
    """
    if folder is None:
        if not (_EMBEDDED / _PUBLIC).is_file():
            raise PackageNotFoundError(
                "this installation holds no public drawings; give --public-text FOLDER with "
                "pictures and a .txt caption beside each"
            )
        with np.load(_EMBEDDED / _PUBLIC) as held:
            pairs = zip(held["pixels"], held["captions"].tolist(), strict=True)
            return [(Picture(pixels), caption) for pixels, caption in pairs]
    captions = {path: path.with_suffix(".txt") for path in sorted(folder.glob("*"))}
    found = [
        (Picture.load(path), caption.read_text("utf-8").strip())
        for path, caption in captions.items()
        if path != caption and caption.is_file()
    ]
    if not found:
        raise BadInputError(f"{folder} holds no picture with a .txt caption beside it")
    return found


def own_source(base: ImageBase, name: str, *, origin: str, licence: str) -> ImageSource:
    """A base of the built-in kind."""
    twin = base.twin().requires_grad_(False).eval()
    return ImageSource(
        name=name,
        twin=twin,
        tower=(FOLDER / "images.onnx", FEATURES) if twin.image_width else None,
        tokenizer_json=base.tokenizer.to_str(),
        special={"bos": None, "eos": None, "pad": PAD_ID},
        tokens=base.plan.tokens,
        latent=(base.plan.channels, SIDE // PATCH, SIDE // PATCH),
        picture=(SIDE, SIDE),
        sampler=_FLOW,
        steps=24,
        guidance=GUIDANCE,
        licence=licence,
        origin=origin,
    )


def _embedded() -> ImageSource:
    if not (_EMBEDDED / "model.safetensors").is_file():
        raise PackageNotFoundError(
            f"this installation does not hold the weights of {DRAWINGS!r} in {_EMBEDDED}; "
            "docs/base-image.md says how they are made"
        )
    base = ImageBase.load(_EMBEDDED)
    if (_EMBEDDED / LOOKS).is_file():
        base = looking(base, read_looks(_EMBEDDED / LOOKS))
    return own_source(
        base,
        DRAWINGS,
        origin="trained by locavore on freely licensed drawings; docs/base-image.md says how",
        licence="Apache-2.0",
    )


def _from_pipeline(spec: str) -> ImageSource:
    index = _settings(spec, "model_index.json")
    _require_stable_diffusion(spec, index)
    tower = CLIPTextModel
    if index["text_encoder"][1] == "CLIPTextModelWithProjection":
        tower = CLIPTextModelWithProjection
    text = tower.from_pretrained(
        spec, subfolder="text_encoder", dtype=torch.float32, use_safetensors=True
    )
    unet, autoencoder = (
        kind.from_pretrained(spec, subfolder=part, torch_dtype=torch.float32, use_safetensors=True)
        for kind, part in ((UNet2DConditionModel, "unet"), (AutoencoderKL, "vae"))
    )
    twin = DiffusionTwin(getattr(text, "text_model", text), unet, autoencoder)
    tokenizer = AutoTokenizer.from_pretrained(spec, subfolder="tokenizer")
    side = unet.config.sample_size
    height, width = (side, side) if isinstance(side, int) else side
    shrink = 2 ** (len(autoencoder.config.block_out_channels) - 1)
    return ImageSource(
        name=Path(spec).name.lower(),
        twin=twin.requires_grad_(False).eval(),
        tokenizer_json=_tokenizer_json(spec, tokenizer),
        special={role: getattr(tokenizer, f"{role}_token_id") for role in ("bos", "eos", "pad")},
        tokens=int(min(tokenizer.model_max_length, text.config.max_position_embeddings)),
        latent=(autoencoder.config.latent_channels, height, width),
        picture=(height * shrink, width * shrink),
        conditions=_conditions(unet, autoencoder),
        sampler=_sampler(spec),
        steps=_STEPS,
        guidance=_GUIDANCE,
        licence="see its publisher",
        origin=spec if not Path(spec).exists() else Path(spec).name,
    )


def _require_stable_diffusion(spec: str, index: Mapping[str, Any]) -> None:
    wanted = {
        "unet": ("UNet2DConditionModel",),
        "vae": ("AutoencoderKL",),
        "text_encoder": ("CLIPTextModel", "CLIPTextModelWithProjection"),
    }
    found = {part: (index.get(part) or (None, None))[1] for part in wanted}
    wrong = [f"{part} {found[part]}" for part in wanted if found[part] not in wanted[part]]
    if index.get("text_encoder_2") is not None:
        wrong.append("a second text encoder")
    if wrong:
        raise BadInputError(
            f"{spec!r} has {', '.join(wrong)}; supported are pipelines of a UNet2DConditionModel, "
            "an AutoencoderKL and one CLIPTextModel"
        )


def _conditions(unet: Any, autoencoder: Any) -> tuple[tuple[str, int], ...]:
    used = [name for name in _UNSUPPORTED if getattr(unet.config, name, None) is not None]
    if used:
        raise BadInputError(f"the UNet uses {', '.join(used)}, which is not supported")
    channels, own = unet.config.in_channels, autoencoder.config.latent_channels
    if channels == own:
        return ()
    if channels in _CONDITIONS and own == 4:
        return _CONDITIONS[channels]
    raise BadInputError(
        f"the UNet takes {channels} channels where latents have {own}; supported are {own}, and 9 "
        "for in-painting (a mask and masked latents)"
    )


def _tokenizer_json(spec: str, tokenizer: Any) -> str:
    backend: Tokenizer | None = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise BadInputError(f"base {spec!r} has no fast tokenizer")
    text: str = backend.to_str()
    return text


def _sampler(spec: str) -> SamplerConfig:
    config = _settings(spec, "scheduler/scheduler_config.json")
    return from_diffusers(config, kind=_OTHER_KIND.get(config.get("_class_name", "")))


def _settings(spec: str, name: str) -> dict[str, Any]:
    """A JSON file of a folder, or of a hub's repository."""
    path = Path(spec) / name if Path(spec).exists() else Path(hf_hub_download(spec, name))
    found: dict[str, Any] = json.loads(path.read_text())
    return found
