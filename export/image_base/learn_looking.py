"""Train the added keys and values: draw a hand's picture, shown others by the same hand.

The base is frozen, and captions name no style: what pictures look like must come from the pictures
that are looked at. Source: Ye et al., arXiv:2308.06721, Section 3.2, which show a picture itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ...shared.image_networks import DiffusionTwin
from ...shared.image_tokens import MOST_PICTURES, ImageTower
from ...shared.metrics.towers import FOLDER
from .drawings import Drawings
from .hands import Hands, Rows, many_hands
from .looking import FEATURES, Factors, looking
from .model import ImageBase
from .pictures import picture_tensor
from .train import Part, fast

__all__ = ["LookPlan", "learn_looking"]

_AMONG = 48  # of a hand's drawings that others are chosen from
_PART = 512


@dataclass(frozen=True, kw_only=True)
class LookPlan:
    """How the added keys and values are trained.

    Args:
        steps: in all.
        batch: pictures a step.
        rank: of each projection.
        rate: the highest learning rate (AdamW); it warms up over 30 steps and falls to zero over
            the last four tenths.
        copies: of every drawing by hands of our own making.
        like: share of pictures that are shown those of the same hand that show the most alike, as
            retrieval would find them; the others are shown any.
        blur: standard deviation of noise in tokens, whose numbers are about one in size: without
            it, drawings are remembered by their tokens.
        decay: of weights.
        untold: share without a caption, and share without pictures.
        seed: of everything random.
    """

    steps: int = 500
    batch: int = 64
    rank: int = 16
    rate: float = 1e-3
    copies: int = 3
    like: float = 0.5
    blur: float = 0.5
    decay: float = 0.05
    untold: float = 0.1
    seed: int = 0

    def pace(self, step: int) -> float:
        """What the rate is multiplied by at a step."""
        return min(1.0, (step + 1) / 30, (self.steps - step) / (0.4 * self.steps))


def learn_looking(
    base: ImageBase,
    drawings: Drawings,
    plan: LookPlan,
    say: Callable[[int, float], None] = lambda step, loss: None,
) -> Factors:
    """Train on the base's own drawings; what :func:`~.looking.looking` adds to it."""
    examples = _Examples(base, drawings, plan)
    torch.manual_seed(plan.seed)
    twin = looking(base, {}).twin().requires_grad_(False)
    products = _products(twin, plan.rank)
    trained = [p for product in products.values() for p in product.parameters()]
    optimizer = torch.optim.AdamW(trained, plan.rate, (0.9, 0.98), weight_decay=plan.decay)
    for step in range(plan.steps):
        loss = _loss(twin, *examples.drawn(step))
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.param_groups[0]["lr"] = plan.rate * plan.pace(step)
        optimizer.step()
        optimizer.zero_grad()
        say(step + 1, float(loss.detach()))
    return {n: (p.down.detach(), p.up.detach()) for n, p in products.items()}


def _loss(twin: DiffusionTwin, part: Part, looks: torch.Tensor) -> torch.Tensor:
    """As the base's own (:func:`~.train.flow_loss`), beside pictures."""
    latents, ids, noise, time = part
    level = time[:, None, None, None]
    with fast():
        noisy = (1 - level) * latents + level * noise
        found = twin(noisy, 1000 * time, ids, image_tokens=looks)
    error: torch.Tensor = (found.float() - (noise - latents)).square().mean()
    return error


class _Product(nn.Module):
    """A projection of low rank."""

    def __init__(self, width: int, rank: int, *, silent: bool) -> None:
        super().__init__()
        self.down = nn.Parameter(torch.randn(width, rank) / width**0.5)
        up = torch.zeros(rank, width) if silent else torch.randn(rank, width) / rank**0.5
        self.up = nn.Parameter(up)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x @ self.down @ self.up


def _products(twin: DiffusionTwin, rank: int) -> dict[str, _Product]:
    """Keys that differ and values of zero: training starts from the base as it is."""
    found = {}
    for i, block in enumerate(twin.denoiser.blocks):  # type: ignore[arg-type]
        for name in ("add_k_proj", "add_v_proj"):
            product = _Product(twin.image_width, rank, silent=name == "add_v_proj")
            setattr(block.attn2, name, product)
            found[f"blocks.{i}.attn2.{name}"] = product
    return found


class _Examples:
    """What is drawn, and what is looked at."""

    def __init__(self, base: ImageBase, drawings: Drawings, plan: LookPlan) -> None:
        self._plan = plan
        self._hands: Hands = many_hands(drawings, plan.copies, plan.seed)
        pixels = self._hands.pixels
        tower = ImageTower(FOLDER / "images.onnx", FEATURES, base.plan.width)
        parts = [slice(i, i + _PART) for i in range(0, len(pixels), _PART)]
        self._tokens = torch.from_numpy(np.concatenate([tower.tokens(pixels[p]) for p in parts]))
        self._latents = torch.cat([base.code.latents(picture_tensor(pixels[p])) for p in parts])
        self._ids = base.ids([caption.text for caption in drawings.captions])
        sizes = np.sqrt([len(rows) for rows in self._hands.rows])
        self._chances = sizes / sizes.sum()

    def drawn(self, step: int) -> tuple[Part, torch.Tensor]:
        """The batch of a step, and image tokens ``(B, n, D)``."""
        plan, rng = self._plan, np.random.default_rng([self._plan.seed, step])
        chosen = rng.choice(len(self._chances), plan.batch, p=self._chances)
        picked = [self._picked(self._hands.rows[hand], rng) for hand in chosen]
        rows = np.array([row for row, _ in picked])
        looks = self._tokens[np.array([others for _, others in picked])]
        latents, ids = self._latents[rows], self._ids[self._hands.drawings[rows]]
        told, seen = torch.from_numpy(rng.random((2, plan.batch)) >= plan.untold)[
            :, :, None
        ].unbind()
        noise = torch.from_numpy(rng.standard_normal(latents.shape, np.float32))
        even = (rng.permutation(plan.batch) + rng.random(plan.batch)) / plan.batch
        normal = torch.special.ndtri(torch.from_numpy(even).clamp(1e-6, 1 - 1e-6))
        part = (latents, ids * told, noise, torch.sigmoid(normal).float())
        blur = torch.from_numpy(rng.standard_normal(looks.shape, np.float32)) * (looks != 0)
        return part, (looks + plan.blur * blur) * seen[..., None]

    def _picked(self, rows: Rows, rng: np.random.Generator) -> tuple[int, Rows]:
        """A drawing of a hand, and others by it that are looked at."""
        own, *others = rng.choice(rows, min(len(rows), _AMONG), replace=False)
        if rng.random() < self._plan.like:
            closeness = self._tokens[others] @ self._tokens[own]
            others = np.array(others)[closeness.argsort(descending=True, stable=True).numpy()]
        return int(own), np.array(others[:MOST_PICTURES])
