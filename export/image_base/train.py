"""Train text encoder and denoiser by flow matching on cached latents; resumable to the step.

Every random choice of a step comes from a generator seeded by the run's seed and the step's number,
so a run that was cut off and resumed makes the same steps as one that was not. Several processes
share a batch's parts where torch.distributed is set up: on few cores that is faster than threads.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import distributed as dist
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ...shared.errors import BadInputError
from .captions import Caption
from .drawings import Drawings
from .model import ImageBase
from .pictures import picture_tensor
from .tokens import style_token

__all__ = ["Examples", "Run", "TrainPlan", "drawing_weights", "fast"]


@dataclass(frozen=True, kw_only=True)
class TrainPlan:
    """How the base is trained.

    Args:
        steps: in all; more than before continues a run that has not begun to cool down.
        batch: pictures a step.
        part: of a batch that goes through the networks at once, so that it stays in the cache.
        matrix_rate: learning rate of the blocks' matrices (Muon: Jordan et al., 2024, with the
            scale of Liu et al., arXiv:2502.16982, so that it compares with AdamW's).
        rate: of everything else (AdamW).
        decay: of weights.
        warmup: steps until the full rates.
        cooldown: share of the steps, at the end, over which the rates fall to zero.
        ema: the most that a step leaves of the averaged weights, which are what is kept.
        no_caption: share of pictures without one, for guidance.
        no_style: share of captions without their style token.
        seed: of everything random.
    """

    steps: int = 4000
    batch: int = 256
    part: int = 64
    matrix_rate: float = 5e-3
    rate: float = 1.5e-3
    decay: float = 0.01
    warmup: int = 100
    cooldown: float = 0.25
    ema: float = 0.998
    no_caption: float = 0.1
    no_style: float = 0.25
    seed: int = 0

    def __post_init__(self) -> None:
        problems = []
        if self.batch % self.part:
            problems.append(f"batch must be a multiple of part {self.part}, got {self.batch}")
        for name in ("steps", "batch", "part", "warmup"):
            if getattr(self, name) < 1:
                problems.append(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("cooldown", "no_caption", "no_style"):
            if not 0 <= getattr(self, name) <= 1:
                problems.append(f"{name} must be 0..1, got {getattr(self, name)}")
        if problems:
            raise BadInputError("; ".join(problems))

    def pace(self, step: int) -> float:
        """What the rates are multiplied by at a step."""
        left = (self.steps - step) / max(1.0, self.cooldown * self.steps)
        return min(1.0, (step + 1) / self.warmup, left)


@dataclass(frozen=True)
class Examples:
    """What the base learns from, ready for the networks.

    Args:
        latents: ``(N, C, 4, 4)``.
        names: token ids of each caption's concept and detail.
        tags: token ids of each of its keywords.
        styles: token id of its style.
        weights: ``(N,)``, how often a drawing is drawn, relative to others.
        length: of a caption, in tokens.
    """

    latents: torch.Tensor
    names: Sequence[Sequence[int]]
    tags: Sequence[Sequence[Sequence[int]]]
    styles: Sequence[int]
    weights: torch.Tensor
    length: int

    @classmethod
    def of(cls, drawings: Drawings, base: ImageBase) -> Examples:
        """Encode drawings and their captions."""

        def ids(text: str) -> list[int]:
            return list(base.tokenizer.encode(text).ids)

        return cls(
            base.code.latents(picture_tensor(drawings.pixels)),
            [ids(c.text) for c in drawings.captions],
            [[ids(tag) for tag in c.tags] for c in drawings.captions],
            [ids(style_token(s))[0] for s in drawings.styles],
            drawing_weights(drawings),
            base.plan.tokens,
        )


def drawing_weights(drawings: Drawings) -> torch.Tensor:
    """How often each drawing is drawn: less often where many are almost the same, ``(N,)``."""

    def weight(style: str, caption: Caption) -> float:
        if caption.detail:
            return 0.2  # five skin tones of one drawing
        if caption.concept.startswith("flag of"):
            return 0.3
        return 0.5 if style.startswith("clip art/") else 1.0

    pairs = zip(drawings.styles, drawings.captions, strict=True)
    return torch.tensor([weight(style, caption) for style, caption in pairs])


class Run:
    """One training run: the networks, their average, the optimizers, and the steps made.

    Args:
        base: trained in place.
        plan: how.
    """

    def __init__(self, base: ImageBase, plan: TrainPlan) -> None:
        self.base, self.plan, self.step = base, plan, 0
        self.trained = nn.ModuleDict({"text_encoder": base.text_encoder, "denoiser": base.denoiser})
        self.average = copy.deepcopy(self.trained).requires_grad_(False)
        matrices, others = _sorted_parameters(base)
        self.optimizers = (
            torch.optim.Muon(
                matrices,
                lr=plan.matrix_rate,
                weight_decay=plan.decay,
                adjust_lr_fn="match_rms_adamw",
            ),
            torch.optim.AdamW(others, lr=plan.rate, betas=(0.9, 0.98), weight_decay=plan.decay),
        )

    def advance(self, examples: Examples) -> float:
        """Make one step; its loss."""
        plan = self.plan
        batch = _drawn(examples, plan, self.step)
        total = torch.zeros(1)
        for part in _own(list(_parts(batch, plan.part))):
            loss = flow_loss(self.trained, *part) * (plan.part / plan.batch)
            loss.backward()  # type: ignore[no-untyped-call]
            total += loss.detach()
        _sum_over_processes([total, *(p.grad for p in self.trained.parameters())])
        nn.utils.clip_grad_norm_(self.trained.parameters(), 1.0)
        pace = plan.pace(self.step)
        for optimizer, rate in zip(self.optimizers, (plan.matrix_rate, plan.rate), strict=True):
            optimizer.param_groups[0]["lr"] = rate * pace
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        keep = min(plan.ema, self.step / (self.step + 10))  # the first steps are soon forgotten
        with torch.no_grad():
            torch._foreach_lerp_(
                list(self.average.parameters()), list(self.trained.parameters()), 1 - keep
            )
        return float(total)

    @torch.no_grad()
    def measured(self, examples: Examples, times: int = 4) -> float:
        """Loss of the averaged networks on other drawings, the same noise whenever asked."""
        generator = torch.Generator().manual_seed(0)
        total, count = 0.0, len(examples.latents)
        ids = _padded(
            [[s, *n] for s, n in zip(examples.styles, examples.names, strict=True)],
            examples.length,
        )
        for i in range(times):
            noise = torch.randn(examples.latents.shape, generator=generator)
            time = torch.full((count,), (i + 0.5) / times)
            total += float(flow_loss(self.average, examples.latents, ids, noise, time))
        return total / times

    def save(self, path: Path) -> None:
        """Write all that :meth:`restore` needs, whole or not at all."""
        state = {
            "step": self.step,
            "plan": json.dumps(asdict(self.plan)),
            "trained": self.trained.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        work = path.with_suffix(".part")
        torch.save(state, work)
        work.rename(path)

    def restore(self, path: Path) -> None:
        """Continue from a checkpoint, under this run's own plan."""
        state = torch.load(path, weights_only=True)
        self.step = state["step"]
        self.trained.load_state_dict(state["trained"])
        self.average.load_state_dict(state["average"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)

    def averaged(self) -> ImageBase:
        """The base with the averaged networks, which share memory with the run's."""
        return ImageBase(
            self.base.plan,
            self.base.tokenizer,
            self.base.code,
            self.average["text_encoder"],  # type: ignore[arg-type]
            self.average["denoiser"],
            self.base.decoder,
        )


Part = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]
"""Latents, token ids, noise, and times."""


def flow_loss(
    networks: nn.ModuleDict,
    latents: torch.Tensor,
    ids: torch.Tensor,
    noise: torch.Tensor,
    time: torch.Tensor,
) -> torch.Tensor:
    """Mean squared error of ``noise - latents`` as seen from between them; a number.

    Source: Lipman et al., arXiv:2210.02747; Esser et al., arXiv:2403.03206.
    """
    level = time[:, None, None, None]
    noisy = (1 - level) * latents + level * noise
    with fast():
        text = networks["text_encoder"](input_ids=ids)[0]
        (found,) = networks["denoiser"](
            noisy[:, :, None],
            timestep=1000 * time,
            encoder_hidden_states=text,
            return_dict=False,
        )
    error: torch.Tensor = (found[:, :, 0].float() - (noise - latents)).square().mean()
    return error


@contextmanager
def fast() -> Iterator[None]:
    """bfloat16 products, and plain attention: the fused kernel is slow backwards on 16 tokens."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Mismatch dtype between input and weight", UserWarning)
        with torch.autocast("cpu", torch.bfloat16), sdpa_kernel(SDPBackend.MATH):
            yield


def _drawn(examples: Examples, plan: TrainPlan, step: int) -> Part:
    """The batch of a step."""
    rng = np.random.default_rng([plan.seed, step])
    chances = np.cumsum(examples.weights.double().numpy())
    rows = np.searchsorted(chances, rng.random(plan.batch) * chances[-1], side="right")
    rows = rows.clip(max=len(chances) - 1)
    ids = [_caption(examples, int(row), plan, rng) for row in rows]
    latents = examples.latents[torch.from_numpy(rows)]
    noise = torch.from_numpy(rng.standard_normal(latents.shape, np.float32))
    even = (rng.permutation(plan.batch) + rng.random(plan.batch)) / plan.batch
    normal = torch.special.ndtri(torch.from_numpy(even).clamp(1e-6, 1 - 1e-6))
    return latents, _padded(ids, examples.length), noise, torch.sigmoid(normal).float()


def _caption(examples: Examples, row: int, plan: TrainPlan, rng: np.random.Generator) -> list[int]:
    """A caption of a drawing: its name, its name and some keywords, or keywords alone."""
    if rng.random() < plan.no_caption:
        return []
    start = [] if rng.random() < plan.no_style else [examples.styles[row]]
    tags = examples.tags[row]
    kind = rng.random() if tags else 0.0
    said = [] if kind > 0.9 else list(examples.names[row])
    if kind > 0.6:
        count = min(len(tags), int(rng.integers(1, 4)))
        for i in rng.permutation(len(tags))[:count]:
            said += tags[i]
    return start + said


def _padded(rows: Sequence[Sequence[int]], length: int) -> torch.Tensor:
    return torch.tensor([[*row[:length], *[0] * (length - len(row))] for row in rows])


def _parts(batch: Part, size: int) -> Iterator[Part]:
    for start in range(0, len(batch[0]), size):
        latents, ids, noise, time = (x[start : start + size] for x in batch)
        yield latents, ids, noise, time


def _own(parts: list[Part]) -> list[Part]:
    """The parts that this process computes."""
    if not dist.is_initialized():
        return parts
    return parts[dist.get_rank() :: dist.get_world_size()]


def _sum_over_processes(tensors: Sequence[torch.Tensor | None]) -> None:
    """Add up in place; every parameter takes part in every loss, so no gradient is missing."""
    if dist.is_initialized():
        present = [tensor for tensor in tensors if tensor is not None]
        flat = torch.cat([tensor.flatten() for tensor in present])
        dist.all_reduce(flat)
        found = torch.split(flat, [tensor.numel() for tensor in present])
        for tensor, total in zip(present, found, strict=True):
            tensor.copy_(total.view_as(tensor))


def _sorted_parameters(base: ImageBase) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
    """The blocks' matrices, and all other parameters that are trained."""
    blocks = (*base.denoiser.blocks, *base.text_encoder.blocks)
    matrices = [p for block in blocks for p in block.parameters() if p.ndim == 2]
    known = {id(p) for p in matrices}
    everything = (*base.text_encoder.parameters(), *base.denoiser.parameters())
    return matrices, [p for p in everything if id(p) not in known]
