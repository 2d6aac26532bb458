"""How recognisable pictures are: whether the nearest real drawing is the one that was asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from .drawings import Drawings, Pixels
from .model import ImageBase
from .sample import draw
from .tokens import style_token

__all__ = ["Recognised", "nearest_ranks", "recognised"]


@dataclass(frozen=True)
class Recognised:
    """Shares of pictures whose own drawing is the nearest, or among the five nearest.

    Args:
        first: with chance ``1 / among``.
        in_five: with chance ``5 / among``.
        among: drawings that each picture was compared with.
    """

    first: float
    in_five: float
    among: int

    def sentence(self) -> str:
        """For a person to read."""
        return (
            f"nearest of {self.among} is the right drawing for {self.first:.0%}, "
            f"one of the five nearest for {self.in_five:.0%} (chance {1 / self.among:.1%} "
            f"and {5 / self.among:.1%})"
        )


def nearest_ranks(pictures: Pixels, drawings: Pixels) -> np.ndarray:
    """For each picture, how many of the drawings are nearer than its own, ``(N,)``.

    Distance is of pixels at half size, which forgives a line that is one pixel off.
    """
    seen, known = (
        torch.nn.functional.avg_pool2d(torch.from_numpy(x).permute(0, 3, 1, 2).float(), 2).flatten(
            1
        )
        for x in (pictures, drawings)
    )
    distances = torch.cdist(seen, known)
    return (distances < distances.diagonal()[:, None]).sum(1).numpy()


def recognised(base: ImageBase, drawings: Drawings, *, seed: int, guidance: float) -> Recognised:
    """Draw every caption in its style and look for its drawing among all of them."""
    pairs = zip(drawings.styles, drawings.captions, strict=True)
    captions = [f"{style_token(style)} {caption.text}" for style, caption in pairs]
    pictures = draw(base, captions, seed=seed, guidance=guidance)
    ranks = nearest_ranks(pictures, drawings.pixels)
    return Recognised(float((ranks == 0).mean()), float((ranks < 5).mean()), len(drawings))
