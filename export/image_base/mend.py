"""Train the decoder that mends pictures: on the code's own losses, and on noise in latents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn.functional import l1_loss

from ...shared.image_networks import Decoder, PatchCode
from .drawings import Pixels
from .pictures import picture_tensor

__all__ = ["MendPlan", "mending_loss", "train_decoder"]


@dataclass(frozen=True, kw_only=True)
class MendPlan:
    """How the decoder is trained.

    Args:
        steps: in all.
        batch: pictures a step.
        rate: the highest learning rate; it warms up over 5 % of the steps and falls to zero.
        noise: the largest standard deviation of what is added to latents, for a denoiser's errors.
        edges: weight of the error of differences between neighbouring pixels.
        seed: of everything random.
    """

    steps: int = 1500
    batch: int = 32
    rate: float = 2e-3
    noise: float = 0.2
    edges: float = 0.5
    seed: int = 0


def mending_loss(
    decoder: Decoder, code: PatchCode, pictures: torch.Tensor, noise: torch.Tensor, edges: float
) -> torch.Tensor:
    """Error of mended pixels and of their edges; a number.

    Args:
        decoder: that mends.
        code: that loses detail.
        pictures: ``(B, 3, 32, 32)``.
        noise: ``(B, C, 4, 4)``, added to their latents.
        edges: weight of the second.
    """
    found = decoder(code.pictures(code.latents(pictures) + noise))
    steps = [l1_loss(found.diff(dim=axis), pictures.diff(dim=axis)) for axis in (2, 3)]
    return l1_loss(found, pictures) + edges * (steps[0] + steps[1])


def train_decoder(
    decoder: Decoder,
    code: PatchCode,
    pixels: Pixels,
    weights: torch.Tensor,
    plan: MendPlan,
    say: Callable[[int, float], None] = lambda step, loss: None,
) -> None:
    """Train in place on ``pixels (N, 32, 32, 3)``, drawn by ``weights (N,)``, half mirrored."""
    generator = torch.Generator().manual_seed(plan.seed)
    optimizer = torch.optim.AdamW(decoder.parameters(), plan.rate, (0.9, 0.98), weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, plan.rate, total_steps=plan.steps, pct_start=0.05
    )
    for step in range(plan.steps):
        rows = torch.multinomial(weights, plan.batch, replacement=True, generator=generator)
        pictures = picture_tensor(pixels[rows.numpy()])
        mirrored = torch.rand(plan.batch, generator=generator) < 0.5
        pictures = torch.where(mirrored[:, None, None, None], pictures.flip(3), pictures)
        level = plan.noise * torch.rand(plan.batch, 1, 1, 1, generator=generator)
        noise = level * torch.randn(plan.batch, len(code.basis), 4, 4, generator=generator)
        loss = mending_loss(decoder, code, pictures, noise, plan.edges)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(decoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        say(step, float(loss.detach()))
