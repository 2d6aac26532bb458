"""Pictures as latents, and back: a linear code of 8 x 8 pixel patches, and a network that mends it.

The code is the principal components of the base's own patches (orthonormal, found in a second, one
strided convolution on a device), so 32 x 32 x 3 numbers become 4 x 4 x 48. What it loses are fine
edges, and a denoiser's small errors show as seams between patches; the decoder is a small
convolutional network that is trained to undo both. A learned encoder would save perhaps a third of
the numbers, but its training would take a quarter of the processor time that there was.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn.functional import pixel_unshuffle

from ...shared.image_networks import PATCH, PatchCode
from .drawings import SIDE, Pixels

__all__ = ["fit_patch_code", "picture_tensor", "pixels_of"]

_EVENING = 0.5  # 0: latents spread as pixels do, and fine ones drown in noise; 1: all alike


def picture_tensor(pixels: Pixels) -> torch.Tensor:
    """``(B, 32, 32, 3)`` bytes to ``(B, 3, 32, 32)`` in -1..1."""
    tensor = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2)
    return tensor.float() / 127.5 - 1


def pixels_of(pictures: torch.Tensor) -> Pixels:
    """Undo :func:`picture_tensor`; what is outside -1..1 is cut."""
    levels = ((pictures.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return np.ascontiguousarray(levels.permute(0, 2, 3, 1).numpy())


def fit_patch_code(pixels: Pixels, weights: torch.Tensor, channels: int) -> PatchCode:
    """Principal components of the patches of ``pixels (N, 32, 32, 3)``, weighted by ``(N,)``."""
    patches = pixel_unshuffle(picture_tensor(pixels), PATCH)  # (N, 192, 4, 4)
    rows = patches.permute(0, 2, 3, 1).flatten(0, 2).double()
    weight = (weights / weights.sum()).double().repeat_interleave((SIDE // PATCH) ** 2)
    weight = weight / weight.sum()
    mean = weight @ rows
    centred = rows - mean
    variances, vectors = torch.linalg.eigh(centred.T @ (centred * weight[:, None]))
    basis = vectors.flip(1)[:, :channels].T
    signs = torch.sign(basis.gather(1, basis.abs().argmax(1, keepdim=True)))  # the same anywhere
    deviations = variances.flip(0)[:channels].clamp_min(1e-8).sqrt()
    spread = deviations**_EVENING
    spread = spread * (deviations / spread).square().mean().sqrt()
    return PatchCode((basis * signs).float(), mean.float(), spread.float())
