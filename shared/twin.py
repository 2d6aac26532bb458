"""The torch twin of a text package: the model with exactly the weights that the graph runs.

Training against the twin, and not against the float original, keeps an adapter's effect on
the quantized base what training made it. torch and transformers are imported on first use.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .causal_graph import DATA
from .errors import MissingExtraError, PackageError
from .packages import Package
from .quantized import WeightTable

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

__all__ = ["CONFIG", "WEIGHTS", "cast_weights", "fast_dtype", "fast_twin", "open_twin"]

CONFIG = "config.json"
WEIGHTS = "weights.json"


def open_twin(package: Package, dtype: torch.dtype | None = None) -> PreTrainedModel:
    """Build the frozen torch model from the package's own dequantized weights.

    Args:
        package: a verified text package.
        dtype: of the weights; float32 when not given.

    Raises:
        MissingExtraError: torch or transformers is not installed.
        PackageError: the package lacks a parameter of the model.
    """
    try:
        import torch
        from transformers import AutoConfig, AutoModelForCausalLM
    except ImportError:
        raise MissingExtraError("train", "the torch twin of a base") from None
    config = AutoConfig.from_pretrained(package.path(CONFIG).parent, local_files_only=True)
    model = AutoModelForCausalLM.from_config(config)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    filled = set()
    with torch.no_grad():
        for name, value in WeightTable.load(package.path(WEIGHTS), package.path(DATA)):
            if name not in parameters:
                raise PackageError(f"package {package.base_id!r} has an unknown weight {name!r}")
            parameters[name].copy_(torch.tensor(value))
            filled.add(id(parameters[name]))
    missing = [name for name, value in parameters.items() if id(value) not in filled]
    if missing:
        raise PackageError(f"package {package.base_id!r} lacks {', '.join(missing[:3])}")
    model.requires_grad_(False).eval()
    return model if dtype is None else cast_weights(model, dtype)


def fast_twin(package: Package) -> PreTrainedModel:
    """The twin where this machine trains fastest: on its GPU in bfloat16, or on the processor.

    Raises:
        MissingExtraError, PackageError: as :func:`open_twin`.
    """
    model = open_twin(package)
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


def cast_weights(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Cast parameters, in place, but no buffers: rotary frequencies need full precision."""
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model
