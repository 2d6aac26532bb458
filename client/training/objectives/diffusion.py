"""Losses of diffusion and flow models: what was the noise, a sample at a time.

The times and the noise of a batch are drawn before, by :func:`drawn`, and lie in it. Whatever else
is in it goes to the model under its own name: ``encoder_hidden_states``, ``pooled_projections``...
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import nn
from torch.nn.functional import logsigmoid

from ....shared.errors import BadInputError
from ..cohort import Batch, Objective
from .pairs import side_by_side

__all__ = ["Diffusion", "DiffusionDPO", "PriorPreservation", "drawn"]

_OWN = ("clean", "noise", "time")  # the others are the model's


def drawn(clean: torch.Tensor, generator: torch.Generator, *, pairs: bool = False) -> Batch:
    """Times and noise for samples.

    Args:
        clean: ``(B, ...)``, or ``(B, 2, ...)`` for pairs.
        generator: where they come from.
        pairs: whether a sample is a pair, whose two get the same time and noise.

    Returns:
        ``clean``, ``noise`` like it, and ``time (B,)`` or ``(B, 2)``, uniform in [0, 1).
    """
    shape = (len(clean), *clean.shape[2:]) if pairs else clean.shape
    noise = torch.randn(shape, generator=generator)
    time = torch.rand(len(clean), generator=generator)
    if pairs:
        noise, time = (x[:, None].expand(-1, 2, *x.shape[1:]) for x in (noise, time))
    return {"clean": clean, "noise": noise.to(clean), "time": time}


@dataclass(frozen=True, kw_only=True)
class Diffusion:
    """Mean squared error of what a denoiser predicts, ``(B,)``.

    Args:
        predicts: ``epsilon``, the noise (Ho et al., arXiv:2006.11239, Equation 14); ``v``,
            ``alpha noise - sigma clean`` (Salimans and Ho, arXiv:2202.00512, Appendix D); or
            ``flow``, ``noise - clean`` on the straight line between them (Lipman et al.,
            arXiv:2210.02747; Esser et al., arXiv:2403.03206).
        alphas_cumprod: ``(T,)`` of the noise schedule, as diffusers' schedulers call it; not for
            ``flow``.
        time_scale: what a flow's time 0..1 is multiplied by for the model; diffusers' take 0..1000,
            but for Flux.
        shift: of a flow's times towards noise: ``shift t / (1 + (shift - 1) t)`` (Esser et al.,
            Section 5.3.2); 1 leaves them.
        fixed: further arguments of the model that are the same for all samples.
    """

    predicts: Literal["epsilon", "v", "flow"]
    alphas_cumprod: torch.Tensor | None = None
    time_scale: float = 1000.0
    shift: float = 1.0
    fixed: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.predicts not in ("epsilon", "v", "flow"):
            raise BadInputError(f"predicts must be epsilon, v or flow, got {self.predicts!r}")
        if (self.predicts == "flow") != (self.alphas_cumprod is None):
            raise BadInputError("alphas_cumprod is needed for epsilon and v, and not for flow")
        for name in ("time_scale", "shift"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                raise BadInputError(f"{name} must be above 0, got {getattr(self, name)}")

    def __call__(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Losses ``(B,)`` of a batch with ``clean``, ``noise``, ``time`` and what the model takes.

        The model is called as diffusers' denoisers are: the noisy samples as its first argument,
        ``timestep``, and the rest by name. It returns a tensor, or what holds it first.
        """
        clean, noise = batch["clean"], batch["noise"]
        alpha, sigma, time = self.levels(batch["time"])
        alpha, sigma = (x.view(-1, *[1] * (clean.ndim - 1)).to(clean) for x in (alpha, sigma))
        found = self.predicted(model, alpha * clean + sigma * noise, time, batch)
        wanted = {
            "epsilon": lambda: noise,
            "v": lambda: alpha * noise - sigma * clean,
            "flow": lambda: noise - clean,
        }[self.predicts]()
        losses: torch.Tensor = (found - wanted).float().square().flatten(1).mean(1)
        return losses

    def levels(self, time: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """How much of a sample and of noise there is at a time 0..1, and what the model is told."""
        if self.alphas_cumprod is None:
            noisy = self.shift * time / (1 + (self.shift - 1) * time)
            return 1 - noisy, noisy, noisy * self.time_scale
        steps = (time * len(self.alphas_cumprod)).long()
        kept = self.alphas_cumprod.to(time.device)[steps]
        return kept.sqrt(), (1 - kept).sqrt(), steps

    def predicted(
        self, model: nn.Module, noisy: torch.Tensor, time: torch.Tensor, batch: Batch
    ) -> torch.Tensor:
        """What the model says about noisy samples."""
        given = {name: value for name, value in batch.items() if name not in _OWN}
        found = model(noisy, timestep=time, **given, **self.fixed)
        if not isinstance(found, torch.Tensor):
            (found, *_) = found if isinstance(found, tuple) else found.values()
        predicted: torch.Tensor = found
        return predicted


@dataclass(frozen=True, kw_only=True)
class DiffusionDPO:
    """DPO on denoising errors: of a liked and a disliked sample with the same time and noise.

    ``-log sigmoid(-beta ((e_liked - ref_liked) - (e_disliked - ref_disliked)))``. Source: Wallace
    et al., arXiv:2311.12908, Equation 14; ``beta`` is its ``beta T omega``.

    Args:
        diffusion: the errors, one a sample: a :class:`Diffusion`, or their mean over several draws,
            as near as which the expectation inside of Equation 13 is taken.
        beta: how strongly the model is held to the frozen one; there 2000..5000 for images, with
            ``e`` a mean, as here.
    """

    diffusion: Objective
    beta: float = 2500.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.beta) and self.beta > 0):
            raise BadInputError(f"beta must be above 0, got {self.beta}")

    def errors(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Denoising errors ``(B, 2)``; without adapters, what ``reference`` must hold."""
        given = {name: value for name, value in batch.items() if name != "reference"}
        return self.diffusion(model, side_by_side(given)).view(-1, 2)

    def __call__(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Losses ``(B,)``; every tensor is ``(B, 2, ...)``: liked, then disliked."""
        liked, disliked = (self.errors(model, batch) - batch["reference"]).unbind(1)
        return -logsigmoid(-self.beta * (liked - disliked))


@dataclass(frozen=True, kw_only=True)
class PriorPreservation:
    """``own + weight public``: errors of a person's sample and of one that the base has made.

    Keeps what the base knows of the class of things that a person's own thing belongs to. Source:
    Ruiz et al., arXiv:2208.12242, Equation 2. The two are one sample to the privacy of the core.

    Args:
        diffusion: the errors, one a sample: a :class:`Diffusion`, or their mean over several draws.
        weight: of the public sample.
    """

    diffusion: Objective
    weight: float = 1.0

    def __post_init__(self) -> None:
        if not (math.isfinite(self.weight) and self.weight > 0):
            raise BadInputError(f"weight must be above 0, got {self.weight}")

    def __call__(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Losses ``(B,)``; every tensor is ``(B, 2, ...)``: the own, then the public one."""
        own, public = self.diffusion(model, side_by_side(batch)).view(-1, 2).unbind(1)
        return own + self.weight * public
