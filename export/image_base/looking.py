"""The part of the base that looks at pictures: added keys and values, and their file.

Everything else of the base stays as it is, and without pictures it draws as it did (decoupled
cross-attention: Ye et al., arXiv:2308.06721). Keys and values are stored as products of two narrow
matrices, ``NAME.down (D, r)`` and ``NAME.up (r, D)``, as they are trained.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from diffusers import WanTransformer3DModel
from safetensors.torch import load_file, save_file
from torch import nn

from .model import ImageBase
from .packing import packed, unpacked

__all__ = ["FEATURES", "LOOKS", "looking", "read_looks", "write_looks"]

FEATURES = ("looks", "styles", "concepts")
"""What a token tells of a picture: outputs of the tower of image metrics."""
LOOKS = "looks.safetensors"

Factors = Mapping[str, tuple[torch.Tensor, torch.Tensor]]
"""``down`` and ``up`` of every added projection, by its name in the denoiser."""


def looking(base: ImageBase, factors: Factors) -> ImageBase:
    """The base with added keys and values; its other networks are shared with the one given."""
    old = base.denoiser
    config = {name: value for name, value in old.config.items() if not name.startswith("_")}
    made = WanTransformer3DModel.from_config(config | {"added_kv_proj_dim": base.plan.width})
    made.load_state_dict(old.state_dict(), strict=False)
    with torch.no_grad():
        for name, (down, up) in factors.items():
            layer = made.get_submodule(name)
            layer.get_parameter("weight").copy_((down @ up).T)
            nn.init.zeros_(layer.get_parameter("bias"))
    return replace(base, denoiser=made.eval())


def write_looks(factors: Factors, path: Path) -> None:
    """Store added projections, a byte a number."""
    parts = {f"{n}.{k}": v for n, pair in factors.items() for k, v in zip(_PAIR, pair, strict=True)}
    save_file(packed(parts), path)


def read_looks(path: Path) -> Factors:
    """Read what :func:`write_looks` stored."""
    parts = unpacked(load_file(path))
    names = sorted({name.rpartition(".")[0] for name in parts})
    return {name: (parts[f"{name}.down"], parts[f"{name}.up"]) for name in names}


_PAIR = ("down", "up")
