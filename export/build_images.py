"""Build an image base-model package: its graphs, its public directions, its check."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ..shared.diffusion_graph import MODULES, PARTS, config_file, graph_file, table_file
from ..shared.errors import BadInputError
from ..shared.forms import Directions
from ..shared.image_networks import module_config
from ..shared.image_tokens import TOWER
from ..shared.packages import Package, open_package
from ..shared.pictures import Picture
from ..shared.twin import cast_weights, fast_dtype
from .check_images import ImageReport, check_image_package
from .directions import Denoising, denoising_loss, public_directions
from .image_sources import CaptionedPicture, ImageSource
from .part import SavedPart, save_part, used_parameters
from .quantize import Precision
from .staging import DIRECTIONS, TOKENIZER, public_key, sign_checked, staged
from .trace_images import trace_image_part

__all__ = ["IMAGE_PRECISIONS", "ImagePlan", "build_image_base"]

IMAGE_PRECISIONS: tuple[Precision, ...] = ("int8", "int4", "float32")
_DRAWS = 4  # of time and noise for each public picture


@dataclass(frozen=True, kw_only=True)
class ImagePlan:
    """How an image base is built.

    Args:
        precision: ``int8``, ``int4`` or ``float32``; see :mod:`locavore.export.quantize`.
        direction_rank: public directions per site, 1..64.
        public: captioned pictures for directions and the export check; none of them may come from
            a device.
    """

    precision: Precision = "int8"
    direction_rank: int = 4
    public: Sequence[CaptionedPicture]

    def __post_init__(self) -> None:
        problems = []
        if self.precision not in IMAGE_PRECISIONS:
            problems.append(
                f"precision of an image base must be one of {IMAGE_PRECISIONS}, "
                f"got {self.precision!r}"
            )
        if not 1 <= self.direction_rank <= 64:
            problems.append(f"direction_rank must be 1..64, got {self.direction_rank}")
        if len(self.public) < 2:
            problems.append(f"public must hold at least 2 pictures, got {len(self.public)}")
        if problems:
            raise BadInputError("; ".join(problems))


def build_image_base(
    source: ImageSource,
    folder: Path,
    plan: ImagePlan,
    key: Ed25519PrivateKey,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[Package, ImageReport]:
    """Build, check and sign a package in ``folder``, where it appears only when it is whole.

    Raises:
        BadInputError: the networks cannot take adapters, or ``folder`` holds something else.
        ExportMismatchError: graphs and twin disagree.
        PackageError: a network cannot be expressed in ONNX.
    """
    with staged(folder) as work:
        saved = {part: _save(part, source, work, plan, say) for part in PARTS}
        (work / TOKENIZER).write_text(source.tokenizer_json)
        if source.tower is not None:
            shutil.copyfile(source.tower[0], work / TOWER)
        for name in MODULES:
            config = module_config(source.twin.get_submodule(name))
            (work / config_file(name)).write_text(json.dumps(config, indent=1))
        denoiser = saved["denoiser"]
        _directions(source, denoiser, plan, say).save(work / DIRECTIONS)
        say("checking the graphs against their twin")
        report = _check_and_sign(source, work, plan, key, denoiser)
    return open_package(folder, trusted=[public_key(key)]), report


def _save(
    part: str, source: ImageSource, work: Path, plan: ImagePlan, say: Callable[[str], None]
) -> SavedPart:
    say(f"tracing the {part.replace('_', ' ')} to ONNX")
    model, _ = trace_image_part(
        part,
        source.twin,
        sample=source.sample,
        latent=source.latent,
        picture=source.picture,
        tokens=source.tokens,
    )
    parameters = dict(source.twin.named_parameters(remove_duplicate=False))
    return save_part(
        model,
        work / graph_file(part),
        work / table_file(part),
        plan.precision,
        used_parameters(model, parameters),
        ports=part == "denoiser",
    )


def _directions(
    source: ImageSource, denoiser: SavedPart, plan: ImagePlan, say: Callable[[str], None]
) -> Directions:
    twin = cast_weights(copy.deepcopy(source.twin), fast_dtype())
    return public_directions(
        twin,
        denoiser.sites,
        _denoising(source, plan.public),
        denoising_loss(twin, source.sampler, source.unknown()),
        rank=min(plan.direction_rank, denoiser.narrowest),
        progress=lambda done: say(f"computing public directions {done:.0%}"),
    )


@torch.no_grad()
def _denoising(source: ImageSource, public: Sequence[CaptionedPicture]) -> list[Denoising]:
    """Every public picture at several times, which are spread evenly over all of them.

    A base that looks at pictures sees each among others: alone, its key would tell nothing.
    """
    generator = torch.Generator().manual_seed(0)
    signals = torch.from_numpy(Picture.stacked(p.resized(source.picture) for p, _ in public))
    latents = source.twin.latents(signals)
    ids = torch.from_numpy(source.prompts.ids([caption for _, caption in public]))
    looks = source.look([picture for picture, _ in public])
    count = _DRAWS * len(public)
    times = (torch.randperm(count, generator=generator) + 0.5) / count
    noise = torch.randn(count, *source.latent, generator=generator)
    each = [i % len(public) for i in range(count)]
    return [
        Denoising(
            latents[row], noise[i], ids[row], float(times[i]), None if looks is None else looks[row]
        )
        for i, row in enumerate(each)
    ]


def _check_and_sign(
    source: ImageSource,
    work: Path,
    plan: ImagePlan,
    key: Ed25519PrivateKey,
    denoiser: SavedPart,
) -> ImageReport:
    details = source.details | {"ports": denoiser.manifest, "rewrites": denoiser.rewrites}

    captions = [caption for _, caption in plan.public]
    return sign_checked(
        work,
        key,
        name=source.name,
        modality="image",
        precision=plan.precision,
        details=details,
        check=lambda package: check_image_package(package, source, captions, plan.precision),
        card=lambda report: _card(source, plan, report),
    )


def _card(source: ImageSource, plan: ImagePlan, report: ImageReport) -> str:
    parameters = sum(p.numel() for p in source.twin.parameters())
    height, width = source.picture
    return f"""# {source.name} ({plan.precision})

- Origin: {source.origin}
- Licence of the weights: {source.licence}
- Parameters: {parameters / 1e6:.1f} million; pictures of {height} x {width} pixels; prompts of
  {source.tokens} tokens
- Check: {report.sentence()}
- Public directions: rank {plan.direction_rank}, from the gradients of {len(plan.public)} public
  pictures

Every linear layer of the denoiser's blocks takes a LoRA adapter as plain inputs of the graph.
The float weights that the graphs compute with can be rebuilt from their tables and data files.
"""
