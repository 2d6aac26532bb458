"""Pictures as latents, and back: a linear code of 8 x 8 pixel patches, and a network that mends it.

The code is the principal components of the base's own patches (orthonormal, found in a second, one
strided convolution on a device), so 32 x 32 x 3 numbers become 4 x 4 x 48. What it loses are fine
edges, and a denoiser's small errors show as seams between patches; :class:`Decoder` is a small
convolutional network that is trained to undo both. A learned encoder would save perhaps a third of
the numbers, but its training would take a quarter of the processor time that there was.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle, silu

from .drawings import SIDE, Pixels

__all__ = ["Decoder", "PatchCode", "fit_patch_code", "picture_tensor", "pixels_of"]

PATCH = 8
_CELL = (
    2  # the decoder works on cells of 2 x 2 pixels: at full size it would take four times as long
)
_EVENING = 0.5  # 0: latents spread as pixels do, and fine ones drown in noise; 1: all alike


def picture_tensor(pixels: Pixels) -> torch.Tensor:
    """``(B, 32, 32, 3)`` bytes to ``(B, 3, 32, 32)`` in -1..1."""
    tensor = torch.from_numpy(np.ascontiguousarray(pixels)).permute(0, 3, 1, 2)
    return tensor.float() / 127.5 - 1


def pixels_of(pictures: torch.Tensor) -> Pixels:
    """Undo :func:`picture_tensor`; what is outside -1..1 is cut."""
    levels = ((pictures.clamp(-1, 1) + 1) * 127.5).round().to(torch.uint8)
    return np.ascontiguousarray(levels.permute(0, 2, 3, 1).numpy())


@dataclass(frozen=True)
class PatchCode:
    """A linear code of patches.

    Args:
        basis: ``(C, 192)``, orthonormal rows; a patch's values lie as channel, row, column.
        mean: ``(192,)``.
        spread: ``(C,)``, what coefficients are divided by.
    """

    basis: torch.Tensor
    mean: torch.Tensor
    spread: torch.Tensor

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
