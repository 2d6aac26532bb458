"""A small tower for image metrics: drawings to what they show and to how they are drawn.

One trunk of convolutions over 32 x 32 pixels with two heads. *Concept* shares a space with
captions (Radford et al., arXiv:2103.00020); drawings of one concept by several teams are all right
answers to its caption. *Style* is read off means and spreads of feature maps (Gatys et al.,
arXiv:1508.06576; Huang and Belongie, arXiv:1703.06868) and trained to tell the base's teams and
artists apart by a softmax over cosines (Wang et al., arXiv:1704.06369). It learns from the base's
drawings alone: the devices' teams and artists are strangers to it, as they are to the base.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import nn
from torch.nn.functional import cross_entropy, linear, log_softmax, normalize, relu

from ...shared.errors import BadInputError
from .drawings import SIDE, Drawings
from .tokens import PAD_ID, build_tokenizer
from .train import drawing_weights

__all__ = [
    "ImageTower",
    "TextTower",
    "TowerExamples",
    "TowerPlan",
    "TowerRun",
    "Towers",
    "caption_loss",
    "padded",
    "tower_input",
    "tower_tokenizer",
]

_FEWEST = 16  # drawings of an artist whose style is learned
_STRANGER = -100  # the style label of all others; cross_entropy's mark for "leave out"
_STYLE_SCALE = 16.0
_MOST_SCALE = 50.0  # of cosines between drawings and captions


@dataclass(frozen=True, kw_only=True)
class TowerPlan:
    """The tower's sizes, and how it is trained.

    Args:
        vocabulary: tokens at most.
        tokens: of a caption; more are cut off.
        widths: channels of the maps of 16, 8 and 4 pixels.
        concept: numbers that say what is shown.
        style: numbers that say how.
        steps: of training.
        batch: drawings a step.
        rate: the highest learning rate (AdamW), which falls to zero along a cosine.
        decay: of weights.
        shift: pixels by which a drawing is moved at most.
        seed: of everything random.
    """

    vocabulary: int = 2048
    tokens: int = 12
    widths: tuple[int, int, int] = (24, 48, 96)
    concept: int = 64
    style: int = 48
    steps: int = 2500
    batch: int = 256
    rate: float = 3e-3
    decay: float = 0.05
    shift: int = 2
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("steps", "batch", "vocabulary", "tokens"):
            if getattr(self, name) < 1:
                raise BadInputError(f"{name} must be at least 1, got {getattr(self, name)}")

    def pace(self, step: int) -> float:
        """What the rate is multiplied by at a step."""
        return min(1.0, (step + 1) / 100) * (1 + math.cos(math.pi * step / self.steps)) / 2


class ImageTower(nn.Module):
    """Drawings ``(N, 3, 32, 32)`` in -1..1 to six tensors.

    ``concept (N, C)`` and ``style (N, S)``, unit vectors; ``looks (N, W3)``, the last map's means,
    standardized over the base's drawings; and the three feature maps ``(N, W1, 16, 16)``,
    ``(N, W2, 8, 8)``, ``(N, W3, 4, 4)``.
    """

    def __init__(self, plan: TowerPlan) -> None:
        super().__init__()
        first, second, third = plan.widths
        self.stages = nn.ModuleList(
            [
                nn.Sequential(_layer(3, first, 4, 2), _Residual(first, 1)),
                nn.Sequential(_layer(first, second, 3, 2), _Residual(second, 2)),
                nn.Sequential(_layer(second, third, 3, 2), _Residual(third, 2)),
            ]
        )
        statistics = 2 * sum(plan.widths)
        self.looks = nn.BatchNorm1d(third, affine=False)
        self.statistics = nn.BatchNorm1d(statistics, affine=False)
        self.concept = nn.Linear(third * (SIDE // 8) ** 2, plan.concept)
        self.style = nn.Linear(statistics, plan.style)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Concept, style, looks, and the maps from fine to coarse."""
        maps, means, spreads = [], [], []
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
            mean = x.mean((2, 3))
            means.append(mean)
            spread = (x - mean[:, :, None, None]).square().mean((2, 3))
            spreads.append((spread + 1e-5).sqrt())
        style = self.style(self.statistics(torch.cat([*means, *spreads], 1)))
        concept = self.concept(x.flatten(1))
        return normalize(concept, dim=1), normalize(style, dim=1), self.looks(means[-1]), *maps


class TextTower(nn.Module):
    """Token ids ``(N, T)`` to unit vectors ``(N, C)`` among concepts; order is not read."""

    def __init__(self, plan: TowerPlan, vocabulary: int) -> None:
        super().__init__()
        width = plan.concept
        self.embedding = nn.Embedding(vocabulary, width)
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """The mean of the tokens' vectors, mixed once."""
        there = (ids != PAD_ID).float()[..., None]  # (N, T, 1)
        mean = (self.embedding(ids) * there).sum(1) / there.sum(1).clamp_min(1)
        return normalize(mean + self.down(relu(self.up(mean))), dim=1)


def _layer(inner: int, outer: int, kernel: int, stride: int) -> nn.Sequential:
    convolution = nn.Conv2d(inner, outer, kernel, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outer, momentum=0.05), nn.ReLU())


class _Residual(nn.Module):
    def __init__(self, width: int, layers: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(_layer(width, width, 3, 1) for _ in range(layers)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        changed: torch.Tensor = x + self.layers(x)
        return changed


class Towers(nn.Module):
    """Both towers, as they are trained, saved and read back."""

    def __init__(self, plan: TowerPlan, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.plan, self.tokenizer = plan, tokenizer
        self.images = ImageTower(plan)
        self.texts = TextTower(plan, tokenizer.get_vocab_size())

    def save(self, folder: Path) -> None:
        """Write ``config.json``, ``tokenizer.json`` and ``model.safetensors``."""
        folder.mkdir(parents=True, exist_ok=True)
        self.tokenizer.save(str(folder / "tokenizer.json"))
        (folder / "config.json").write_text(json.dumps(asdict(self.plan), indent=2) + "\n", "utf-8")
        tensors = {name: value.contiguous() for name, value in self.state_dict().items()}
        save_file(tensors, folder / "model.safetensors")

    @classmethod
    def load(cls, folder: Path) -> Towers:
        """Read what :meth:`save` wrote.

        Raises:
            BadInputError: a file is missing.
        """
        try:
            settings = json.loads((folder / "config.json").read_text("utf-8"))
            tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
            tensors = load_file(folder / "model.safetensors")
        except OSError as error:
            raise BadInputError(f"no tower in {folder}: {error}") from error
        towers = cls(TowerPlan(**{**settings, "widths": tuple(settings["widths"])}), tokenizer)
        towers.load_state_dict(tensors)
        towers.eval()
        return towers


def tower_tokenizer(drawings: Drawings, size: int) -> Tokenizer:
    """A tokenizer of the captions' and keywords' commonest words, without style tokens."""
    counts: Counter[str] = Counter()
    for caption in drawings.captions:
        counts.update([caption.text, *caption.tags])
    return build_tokenizer(counts, [], size)


@dataclass(frozen=True)
class TowerExamples:
    """Drawings, ready to be learned from.

    Args:
        pixels: ``(N, 3, 32, 32)`` uint8.
        concepts: ``(N,)``, the same number for the same concept.
        styles: ``(N,)`` from 0, and -100 where a style has too few drawings.
        style_names: by number.
        names: token ids of each caption's concept and detail.
        tags: token ids of each of its keywords.
        chances: ``(N,)``, how often a drawing is drawn, summed up from the first.
    """

    pixels: torch.Tensor
    concepts: torch.Tensor
    styles: torch.Tensor
    style_names: tuple[str, ...]
    names: Sequence[Sequence[int]]
    tags: Sequence[Sequence[Sequence[int]]]
    chances: np.ndarray[tuple[int], np.dtype[np.float64]]

    @classmethod
    def of(cls, drawings: Drawings, tokenizer: Tokenizer) -> TowerExamples:
        """Encode captions, and number concepts and styles; a rarer style is drawn more often."""

        def ids(text: str) -> list[int]:
            return list(tokenizer.encode(text).ids)

        counts = Counter(drawings.styles)
        known = sorted(style for style, count in counts.items() if count >= _FEWEST)
        numbers = {style: i for i, style in enumerate(known)}
        concepts = {c: i for i, c in enumerate(dict.fromkeys(c.concept for c in drawings.captions))}
        rarity = np.array([counts[style] ** -0.5 for style in drawings.styles])
        return cls(
            torch.from_numpy(drawings.pixels).permute(0, 3, 1, 2).contiguous(),
            torch.tensor([concepts[c.concept] for c in drawings.captions]),
            torch.tensor([numbers.get(style, _STRANGER) for style in drawings.styles]),
            tuple(known),
            [ids(c.text) for c in drawings.captions],
            [[ids(tag) for tag in c.tags] for c in drawings.captions],
            np.cumsum(drawing_weights(drawings).double().numpy() * rarity),
        )


class TowerRun:
    """One training run; the towers, and the steps made.

    Args:
        examples: to learn from.
        tokenizer: that encoded them.
        plan: sizes, and how to train.
    """

    def __init__(self, examples: TowerExamples, tokenizer: Tokenizer, plan: TowerPlan) -> None:
        torch.manual_seed(plan.seed)
        self.examples, self.plan = examples, plan
        self.towers = Towers(plan, tokenizer)
        self._prototypes = nn.Parameter(torch.randn(len(examples.style_names), plan.style))
        self._scale = nn.Parameter(torch.tensor(10.0).log())
        learned = list(self.towers.parameters())
        decays = {True: plan.decay, False: 0.0}
        self._optimizer = torch.optim.AdamW(
            [
                {"params": [p for p in learned if (p.ndim > 1) == kind], "weight_decay": decay}
                for kind, decay in decays.items()
            ]
            + [{"params": [self._prototypes, self._scale], "weight_decay": 0.0}],
            lr=plan.rate,
        )
        self._pace = torch.optim.lr_scheduler.LambdaLR(self._optimizer, plan.pace)

    def train(self, say: Callable[[int, float, float], None]) -> None:
        """Make all steps; ``say`` gets the steps made, and the losses of concept and style."""
        self.towers.train()
        self.towers.images.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for step in range(self.plan.steps):
            rows = self._rows(step)
            concept, style = self._losses(rows, step)
            self._optimizer.zero_grad()
            (concept + 0.5 * style).backward()  # type: ignore[no-untyped-call]
            self._optimizer.step()
            self._pace.step()
            say(step + 1, float(concept.detach()), float(style.detach()))
        self.towers.eval()

    def _rows(self, step: int) -> torch.Tensor:
        chances, batch = self.examples.chances, self.plan.batch
        rng = np.random.default_rng([self.plan.seed, step])
        rows = np.searchsorted(chances, rng.random(batch) * chances[-1], side="right")
        return torch.from_numpy(rows.clip(max=len(chances) - 1))

    def _losses(self, rows: torch.Tensor, step: int) -> tuple[torch.Tensor, torch.Tensor]:
        rng = np.random.default_rng([self.plan.seed, step, 1])
        pixels = _moved(self.examples.pixels[rows], self.plan.shift, rng)
        shown, style, *_ = self.towers.images(tower_input(pixels))
        captions = [_caption(self.examples, int(row), rng) for row in rows]
        said = self.towers.texts(padded(captions, self.plan.tokens))
        scale = self._scale.exp().clamp_max(_MOST_SCALE)
        concept = caption_loss(scale * shown @ said.T, self.examples.concepts[rows])
        cosines = linear(style, normalize(self._prototypes, dim=1))
        labels = self.examples.styles[rows]
        return concept, cross_entropy(_STYLE_SCALE * cosines, labels, label_smoothing=0.1)


def tower_input(pixels: torch.Tensor) -> torch.Tensor:
    """0..255 to -1..1, laid out as convolutions on a processor like it."""
    return (pixels.float() / 127.5 - 1).contiguous(memory_format=torch.channels_last)


def caption_loss(scores: torch.Tensor, concepts: torch.Tensor) -> torch.Tensor:
    """Cross-entropy both ways between ``N`` drawings and ``N`` captions.

    Args:
        scores: ``(N, N)``, drawings by captions.
        concepts: ``(N,)``; where they are equal, every one is an equally right answer.
    """
    same = (concepts[:, None] == concepts).float()
    wanted = same / same.sum(1, keepdim=True)
    ways = (log_softmax(scores, 1), log_softmax(scores.T, 1))
    return -sum((wanted * way).sum(1).mean() for way in ways) / 2  # type: ignore[return-value]


def padded(rows: Sequence[Sequence[int]], length: int) -> torch.Tensor:
    """Token ids ``(N, length)``, cut or filled up with padding."""
    return torch.tensor([[*row[:length], *[PAD_ID] * (length - len(row))] for row in rows])


def _moved(pixels: torch.Tensor, most: int, rng: np.random.Generator) -> torch.Tensor:
    """Each drawing moved by up to ``most`` pixels both ways, white where it was not."""
    wide = nn.functional.pad(pixels, [most] * 4, value=255)
    ups, lefts = rng.integers(0, 2 * most + 1, (2, len(pixels)))
    return torch.stack(
        [
            one[:, up : up + SIDE, left : left + SIDE]
            for one, up, left in zip(wide, ups, lefts, strict=True)
        ]
    )


def _caption(examples: TowerExamples, row: int, rng: np.random.Generator) -> list[int]:
    """A drawing's name, its name and a few keywords, or keywords alone."""
    tags = examples.tags[row]
    kind = rng.random() if tags else 0.0
    said = [] if kind > 0.85 else list(examples.names[row])
    if kind > 0.5:
        for i in rng.permutation(len(tags))[: rng.integers(1, 4)]:
            said += tags[i]
    return said
