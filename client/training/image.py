"""The image engine's side of training: pictures as latents, denoising errors for losses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt
import torch

from ...shared.adapters import Array
from ...shared.contexts import Context
from ...shared.image_networks import DiffusionTwin
from ...shared.image_tokens import MOST_PICTURES, ImageTower, shown
from ...shared.packages import Package
from ...shared.pictures import Picture
from ...shared.prompts import Prompts
from ...shared.sampler_config import SamplerConfig, alphas_cumprod
from ...shared.twin import fastest, open_image_twin
from ..captioned import CHECKED_AT, Seen, captioned, checking_noise
from ..preferences import worth_imitating
from .adapted import AdaptedTwin
from .cohort import Batch
from .objectives.diffusion import Diffusion
from .objectives.pairs import side_by_side

__all__ = ["Draws", "ImageTwin"]


@dataclass
class Draws:
    """Where times and noise of training come from.

    Args:
        each: of an example, every time that it is trained on; its loss is their mean, so that an
            example's clipped gradient says more (De et al., arXiv:2204.13650, §3.2).
        untold: share of draws without the caption, which guidance needs (Ho and Salimans,
            arXiv:2207.12598, Algorithm 1).
        looking: whether examples look at pictures, where the base does: at their own (as Ye et al.,
            arXiv:2308.06721, train), or :meth:`~ImageTwin.together` at one another's. A share
            ``untold`` of the draws sees none.
        seed: of all draws. They are public: privacy comes from the plan's noise alone.
    """

    each: int = 2
    untold: float = 0.1
    looking: bool = False
    seed: int = 0
    generator: torch.Generator = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.generator = torch.Generator().manual_seed(self.seed)

    def times(self, count: int) -> torch.Tensor:
        """``(count, each)`` in 0..1; those of one example are spread evenly."""
        order = torch.rand(count, self.each, generator=self.generator).argsort(1)
        return (order + torch.rand(count, self.each, generator=self.generator)) / self.each

    def told(self, count: int) -> torch.Tensor:
        """``(count, each, 1)``, which of them are given something."""
        return torch.rand(count, self.each, 1, generator=self.generator) >= self.untold


class ImageTwin(AdaptedTwin[Seen]):
    """A text-to-image base; an example is a picture's latents and its caption's tokens.

    Args:
        model: the frozen base.
        base_id: of the base.
        prompts: how captions become tokens.
        sampler: the base's schedule.
        size: of its pictures, height and width.
        draws: of times and noise.
        tower: what the base sees pictures with, where it looks at some.
    """

    modality = "image"
    model: DiffusionTwin

    def __init__(
        self,
        model: DiffusionTwin,
        base_id: str,
        *,
        prompts: Prompts,
        sampler: SamplerConfig,
        size: tuple[int, int],
        draws: Draws | None = None,
        tower: ImageTower | None = None,
    ) -> None:
        super().__init__(model, base_id)
        self.prompts, self.size, self.draws = prompts, size, draws or Draws()
        self.diffusion, self.tower = diffusion_of(sampler), tower
        self._untold = torch.from_numpy(prompts.ids([""])[0])

    @classmethod
    def of(cls, package: Package, *, fast: bool = False) -> ImageTwin:
        """The twin of an installed base; see :meth:`~.text.TextTwin.of`."""
        details = package.manifest.details
        model = open_image_twin(package)
        return cls(
            fastest(model) if fast else model,
            package.base_id,
            prompts=Prompts.of(package),
            sampler=SamplerConfig.read(details["sampler"]),
            size=tuple(details["picture"]),
            tower=ImageTower.of(package),
        )

    def named(self, words: Mapping[str, int]) -> ImageTwin:
        """The same twin, for captions with words of one's own; see :class:`Prompts`."""
        made = copy(self)
        made.prompts = replace(self.prompts, own=words)
        made._layouts = {}
        return made

    @property
    def embedding_site(self) -> str:
        """Name of the table of tokens' embeddings."""
        table = self.model.text_encoder.get_input_embeddings()  # type: ignore[operator]
        found: str
        (found,) = [name for name, module in self.model.named_modules() if module is table]
        return found

    def takes(self, record: Context) -> bool:
        """Whether it is a picture, and none that the person did not like."""
        return record.modality == "image" and worth_imitating(record)

    def examples(self, records: Sequence[Context]) -> list[Seen]:
        """Every picture of every record."""
        return self.seen([pair for record in records for pair in captioned(record, self.size)])

    def seen(self, pairs: Sequence[tuple[Picture, str]]) -> list[Seen]:
        """Pictures of the base's size with their captions, as the base sees them."""
        if not pairs:
            return []
        signals = torch.from_numpy(Picture.stacked(picture for picture, _ in pairs))
        ids = self.prompts.ids([caption for _, caption in pairs])
        with torch.no_grad():
            latents = self.model.latents(signals.to(self._device)).float().cpu().numpy()
        looks: Sequence[Array | None] = [None] * len(pairs)
        if self.tower is not None and self.draws.looking:
            tokens = self.tower.tokens(np.stack([picture.pixels for picture, _ in pairs]))
            looks = list(tokens[:, None])
        return [Seen(*one) for one in zip(latents, ids, looks, strict=True)]

    def together(self, examples: Sequence[Seen]) -> list[Seen]:
        """Each looks at up to four others, drawn for it once, in place of its own picture."""
        count = len(examples)
        if count < 2 or examples[0].looks is None:
            return list(examples)
        rng = np.random.default_rng(self.draws.seed)
        own = np.concatenate([example.looks for example in examples])  # (N, D)
        others = (1 + _several(rng, count - 1) for _ in examples)
        return [
            replace(example, looks=own[(i + steps) % count])
            for i, (example, steps) in enumerate(zip(examples, others, strict=True))
        ]

    def collate(self, rows: Sequence[Seen]) -> Batch:
        """``clean`` and ``noise (B, D, C, H, W)``, ``time (B, D)`` and ``input_ids (B, D, T)``.

        And ``image_tokens (B, D, n, W)`` where the base looks at pictures.
        """
        count, each = len(rows), self.draws.each
        clean = torch.from_numpy(np.stack([row.latents for row in rows]))
        clean = clean[:, None].expand(-1, each, -1, -1, -1)
        ids = torch.from_numpy(np.stack([row.ids for row in rows]))
        told = self.draws.told(count)
        batch = {
            "clean": clean,
            "noise": torch.randn(clean.shape, generator=self.draws.generator),
            "time": self.draws.times(count),
            "input_ids": torch.where(told, ids[:, None], self._untold),
        }
        if self.tower is not None:
            batch["image_tokens"] = self._looked_at(self.tower, rows)
        return batch

    def _looked_at(self, tower: ImageTower, rows: Sequence[Seen]) -> torch.Tensor:
        none = np.zeros((0, tower.width), np.float32)
        tokens = np.stack([shown(none if row.looks is None else row.looks) for row in rows])
        if not tokens.any():
            return torch.zeros(len(rows), self.draws.each, 1, tower.width)
        return torch.from_numpy(tokens)[:, None] * self.draws.told(len(rows))[..., None]

    def reseed(self, seed: int) -> None:
        """Begin the draws anew."""
        self.draws.generator.manual_seed(seed)

    def losses(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Mean squared error of the denoiser, over each example's draws."""
        errors = self.diffusion(model, side_by_side(batch))
        return errors.view(len(batch["clean"]), -1).mean(1)

    def outputs(self, example: Seen) -> Array:
        """What the denoiser says of the example, half-way to a fixed noise, ``(C, H, W)``."""
        latents = torch.from_numpy(example.latents)[None]
        time = torch.tensor([CHECKED_AT])
        alpha, sigma, step = self.diffusion.levels(time)
        noisy = alpha * latents + sigma * torch.from_numpy(checking_noise(example))
        ids = torch.from_numpy(example.ids)[None]
        with torch.no_grad():
            found = self.model(*(x.to(self._device) for x in (noisy, step, ids)))
        said: Array = found[0].float().cpu().numpy()
        return said

    def longest(self) -> Seen:
        """Any: all examples are of one shape."""
        return self.made_up(1)[0]

    def probe(self) -> Batch:
        """Four pictures of noise with captions of one word."""
        return self.collate(self.made_up(4))

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def made_up(self, count: int, *, before: str = "") -> list[Seen]:
        """Pictures of noise, each with a caption of its own; ``before`` stands in front of it."""
        rng = np.random.default_rng(0)
        signals = rng.uniform(-1, 1, (count, *self.size, 3))
        pictures = [Picture.of_signal(signal.transpose(2, 0, 1)) for signal in signals]
        vocabulary = sorted(self.prompts.tokenizer.get_vocab())
        found = self.seen([(p, before + vocabulary[-1 - i]) for i, p in enumerate(pictures)])
        if self.tower is None:
            return found
        looks = rng.standard_normal((count, 1, self.tower.width)).astype(np.float32)
        return [replace(seen, looks=own) for seen, own in zip(found, looks, strict=True)]


def _several(rng: np.random.Generator, most: int) -> npt.NDArray[np.int64]:
    """Up to as many different numbers below ``most`` as pictures can be looked at."""
    return rng.choice(most, min(most, MOST_PICTURES), replace=False)


def diffusion_of(sampler: SamplerConfig) -> Diffusion:
    """The training objective of a base's schedule."""
    if sampler.prediction == "flow":
        return Diffusion(
            predicts="flow", time_scale=float(sampler.train_steps), shift=sampler.shift
        )
    kept = torch.from_numpy(alphas_cumprod(sampler).astype(np.float32))
    return Diffusion(predicts=sampler.prediction, alphas_cumprod=kept)
