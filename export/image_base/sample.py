"""Draw: from captions to pictures, by Euler steps along the learned flow, with guidance."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch

from .drawings import Pixels
from .model import ImageBase
from .pictures import pixels_of

__all__ = ["GUIDANCE", "draw", "sheet"]

GUIDANCE = 2.5  # less is pale and vague, more is garish


@torch.no_grad()
def draw(
    base: ImageBase,
    captions: Sequence[str],
    *,
    seed: int,
    steps: int = 24,
    guidance: float = GUIDANCE,
    mend: bool = True,
) -> Pixels:
    """One picture a caption, ``(B, 32, 32, 3)``.

    Args:
        base: that draws.
        captions: may begin with a style token.
        seed: of the noise.
        steps: of the flow.
        guidance: how far to go from what the empty caption gives to what the caption does, and
            beyond (Ho and Salimans, arXiv:2207.12598); 1 is the caption alone.
        mend: whether the decoder goes over the picture.
    """
    generator = torch.Generator().manual_seed(seed)
    side, count = 4, len(captions)
    latents = torch.randn(count, base.plan.channels, side, side, generator=generator)
    text = base.text_encoder(base.ids([*captions, *[""] * count]))[0]
    times = torch.linspace(1, 0, steps + 1)
    for time, after in pairwise(times):
        both = torch.cat([latents, latents])[:, :, None]
        (flow,) = base.denoiser(
            both,
            timestep=(1000 * time).expand(2 * count),
            encoder_hidden_states=text,
            return_dict=False,
        )
        told, untold = flow[:, :, 0].chunk(2)
        latents = latents + (after - time) * (untold + guidance * (told - untold))
    pictures = base.code.pictures(latents)
    return pixels_of(base.decoder(pictures.clamp(-1.2, 1.2)) if mend else pictures)


def sheet(pixels: Pixels, columns: int, gap: int = 2) -> Pixels:
    """Pictures side by side on grey, row after row."""
    rows = -(-len(pixels) // columns)
    cell = pixels.shape[1] + gap
    page = np.full((rows * cell + gap, columns * cell + gap, 3), 208, np.uint8)
    for i, picture in enumerate(pixels):
        top, left = gap + i // columns * cell, gap + i % columns * cell
        page[top : top + cell - gap, left : left + cell - gap] = picture
    return page
