"""The torch twin of a package: the model with exactly the weights that its graphs run.

Training against the twin, and not against the float original, keeps an adapter's effect on
the quantized base what training made it. torch, transformers and diffusers are imported on first
use.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import TYPE_CHECKING, TypeVar

from .adapters import Array
from .causal_graph import DATA
from .diffusion_graph import MODULES, PARTS, config_file, graph_file, table_file
from .errors import MissingExtraError, PackageError
from .packages import Package
from .ported_graph import data_file
from .quantized import WeightTable

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from .image_networks import DiffusionTwin

__all__ = [
    "CONFIG",
    "WEIGHTS",
    "cast_weights",
    "fast_dtype",
    "fast_twin",
    "fastest",
    "open_image_twin",
    "open_twin",
]

CONFIG = "config.json"
WEIGHTS = "weights.json"

Module = TypeVar("Module", bound="torch.nn.Module")


def open_twin(package: Package, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """Build a text base's frozen torch model from the package's own dequantized weights.

    Args:
        package: a verified text package.
        dtype: of the weights; float32 when not given.

    Raises:
        MissingExtraError: torch or transformers is not installed.
        PackageError: the package lacks a parameter of the model.
    """
    try:
        from transformers import AutoConfig, AutoModelForCausalLM
    except ImportError:
        raise MissingExtraError("train", "the torch twin of a base") from None
    config = AutoConfig.from_pretrained(package.path(CONFIG).parent, local_files_only=True)
    model = AutoModelForCausalLM.from_config(config)
    _fill(model, WeightTable.load(package.path(WEIGHTS), package.path(DATA)), package.base_id)
    return model if dtype is None else cast_weights(model, dtype)


def open_image_twin(package: Package, dtype: torch.dtype | None = None) -> DiffusionTwin:
    """Build an image base's frozen torch networks from the package's own dequantized weights.

    Args:
        package: a verified image package.
        dtype: of the weights; float32 when not given.

    Raises:
        MissingExtraError: torch or diffusers is not installed.
        PackageError: the package lacks a parameter, or needs a network that is not known.
    """
    try:
        from .image_networks import DiffusionTwin, build_module
    except ImportError:
        raise MissingExtraError("train", "the torch twin of a base") from None
    twin = DiffusionTwin(*(build_module(package.json(config_file(name))) for name in MODULES))
    tables = (
        WeightTable.load(package.path(table_file(part)), package.path(data_file(graph_file(part))))
        for part in PARTS
    )
    _fill(twin, chain.from_iterable(tables), package.base_id)
    return twin if dtype is None else cast_weights(twin, dtype)


def _fill(model: torch.nn.Module, weights: Iterable[tuple[str, Array]], base_id: str) -> None:
    import torch

    parameters = dict(model.named_parameters(remove_duplicate=False))
    filled = set()
    with torch.no_grad():
        for name, value in weights:
            if name not in parameters:
                raise PackageError(f"package {base_id!r} has an unknown weight {name!r}")
            parameters[name].copy_(torch.tensor(value))
            filled.add(id(parameters[name]))
    missing = [name for name, value in parameters.items() if id(value) not in filled]
    if missing:
        raise PackageError(f"package {base_id!r} lacks {', '.join(missing[:3])}")
    model.requires_grad_(False).eval()


def fast_twin(package: Package) -> PreTrainedModel:
    """A text base's twin as :func:`fastest` puts it.

    Raises:
        MissingExtraError, PackageError: as :func:`open_twin`.
    """
    return fastest(open_twin(package))


def fastest(model: Module) -> Module:
    """A model where this machine trains it fastest: in bfloat16 on a GPU, or on the processor."""
    import torch

    if torch.cuda.is_available():
        return cast_weights(model, torch.bfloat16).to("cuda")
    return cast_weights(model, fast_dtype())


def fast_dtype() -> torch.dtype:
    """bfloat16 where this processor multiplies it natively (about twice as fast), else float32."""
    import torch

    checks = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    native = any(getattr(torch.cpu, check, lambda: False)() for check in checks)
    return torch.bfloat16 if native else torch.float32


def cast_weights(model: Module, dtype: torch.dtype) -> Module:
    """Cast parameters, in place, but no buffers: rotary frequencies need full precision."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model
