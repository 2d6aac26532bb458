"""The on-device image runtime: numpy, ONNX Runtime and tokenizers; Pillow for files alone.

A picture depends on its prompt, its settings and its place among the prompts, never on what it was
drawn together with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

from ..shared.adapters import Adapter, Array
from ..shared.contexts import Instruction
from ..shared.diffusion_graph import DiffusionGraph
from ..shared.errors import BadInputError
from ..shared.image_tokens import MOST_PICTURES, ImageTower
from ..shared.packages import Package
from ..shared.pictures import Picture, Pixels
from ..shared.prompts import Prompts
from ..shared.sampler_config import Kind, SamplerConfig, training_levels
from ..shared.samplers import Known, Sampler, denoise
from .captioned import CHECKED_AT, Seen, captioned, checking_noise
from .concepts import Concept
from .engine import Adaptable, Guide
from .retrieval import Hit

__all__ = ["Asked", "Drawing", "ImageModel"]

_AT_ONCE = 8  # pictures that go through the networks together

Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """How pictures are drawn.

    Args:
        steps: how often the denoiser is asked; the base's own number if not given.
        guidance: how far to go from what ``negative`` gives to what the prompt does, and beyond
            (Ho and Salimans, arXiv:2207.12598); 1 is the prompt alone, and twice as fast.
        seed: of the noise.
        negative: a prompt to go away from.
        guide: who answers ``negative`` while an adapter is live: the bare ``base``, so that
            guidance leads to what was learned as well as to the prompt (Domain Guidance, Zhong et
            al., arXiv:2504.01521), or the ``adapted`` base, as in diffusers.
        sampler: ``ddim``, ``dpmsolver++`` or ``euler`` in place of the base's own.
        start: a picture to begin from, of the base's size.
        strength: with ``start``, how much of it is drawn anew, above 0 and at most 1: at 1 drawing
            begins from noise alone.
        mask: ``(H, W)``, with ``start``, where it may change; elsewhere its pixels stay.
        references: at most four pictures to draw like, of any size, where the base looks at some;
            the person's own that fit the prompt if not given.
        reference_strength: how much they count, 0 and more; at 0 nothing is looked at.
    """

    steps: int | None = None
    guidance: float | None = None
    seed: int = 0
    negative: str = ""
    guide: Literal["base", "adapted"] = "base"
    sampler: Kind | None = None
    start: Picture | None = None
    strength: float = 0.7
    mask: Mask | None = None
    references: tuple[Picture, ...] = ()
    reference_strength: float = 1.0

    def __post_init__(self) -> None:
        if self.mask is not None and self.start is None:
            raise BadInputError("a mask needs the picture that it lies on: give start as well")
        if self.guide not in ("base", "adapted"):
            raise BadInputError(f"guide must be 'base' or 'adapted', got {self.guide!r}")
        if self.seed < 0:
            raise BadInputError(f"seed must not be negative, got {self.seed}")
        if not (np.isfinite(self.reference_strength) and self.reference_strength >= 0):
            raise BadInputError(
                f"reference_strength must be 0 or more, got {self.reference_strength}"
            )


@dataclass(frozen=True)
class Asked:
    """A picture that is ready to be drawn."""

    model: ImageModel
    prompt: str
    how: Drawing
    concepts: tuple[Concept, ...] = ()
    used: tuple[Hit, ...] = ()
    own: tuple[Picture, ...] = ()

    @property
    def adapters(self) -> tuple[Adapter, ...]:
        """Those of the things that the prompt names."""
        return tuple(c.adapter for c in self.concepts if c.adapter is not None)

    @property
    def reason(self) -> str:
        """What of the person's the prompt names or is like."""
        by = [concept.word for concept in self.concepts]
        if self.own:
            by.append(f"{len(self.own)} of the person's own pictures")
        elif self.how.references and self.how.reference_strength:
            by.append(f"{len(self.how.references)} given pictures")
        if not by:
            return "the prompt names nothing of the person's own"
        return f"personalised by {', '.join(by)}"

    @property
    def tokens(self) -> int:
        """Of the prompt."""
        return self.model.count(self.prompt)

    def fulfil(self) -> tuple[Picture, str]:
        """The picture; it is always whole."""
        self.model.use_tokens({concept.word: concept.rows for concept in self.concepts})
        how = replace(self.how, references=self.own) if self.own else self.how
        return self.model.generate([self.prompt], how)[0], "whole"


class ImageModel(Adaptable):
    """A verified image base with at most one live adapter (compose several into one)."""

    def __init__(self, package: Package, *, threads: int = 0) -> None:
        self._graph = DiffusionGraph(package, threads=threads)
        self._prompts = Prompts.of(package)
        self._rows: Array | None = None
        self._tower = ImageTower.of(package)
        self._config = SamplerConfig.read(self._graph.details["sampler"])
        self.size: tuple[int, int] = tuple(self._graph.details["picture"])
        super().__init__(package, self._graph)

    def use_tokens(self, words: Mapping[str, Array]) -> None:
        """Let prompts use words of one's own, in place of those that were in use.

        Args:
            words: such as ``<my-cat>``, to their embeddings ``(n, D)``, which stand for them one
                after the other (textual inversion, Gal et al., arXiv:2208.01618). None: no words.

        Raises:
            BadInputError: the base knows a word, or embeddings have another width than its own.
        """
        width = self._graph.details["token_width"]
        for word, rows in words.items():
            if rows.ndim != 2 or rows.shape[1] != width or not np.isfinite(rows).all():
                raise BadInputError(
                    f"embeddings of {word!r} must be finite and (n, {width}), got {rows.shape}"
                )
        self._prompts = replace(self._prompts, own={w: len(r) for w, r in words.items()})
        self._rows = np.concatenate([*words.values()]).astype(np.float32) if words else None

    def generate(
        self,
        prompts: Sequence[str],
        how: Drawing | None = None,
        progress: Callable[[int, int], None] = lambda _done, _of: None,
        *,
        references: Sequence[Sequence[Picture]] = (),
    ) -> list[Picture]:
        """Draw one picture for every prompt.

        Args:
            prompts: may use the words of :meth:`use_tokens`.
            how: settings; the base's own if not given.
            progress: told how many steps of how many are done.
            references: for every prompt, pictures to draw like in place of the settings'.

        Raises:
            BadInputError: no prompt, settings that the base's schedule cannot run, a picture or
                mask of another size than the base's, or references that it cannot look at.
        """
        if not prompts:
            raise BadInputError("generate needs at least one prompt")
        how = how or Drawing()
        sampler = self._sampler(how)
        looks = self._looks(references or [how.references] * len(prompts), how.reference_strength)
        first = 0 if how.start is None else sampler.first(how.strength)
        parts = range(0, len(prompts), _AT_ONCE)
        per_part = sampler.steps - first
        pictures: list[Picture] = []
        for begin in parts:
            before = begin // _AT_ONCE * per_part

            def told(done: int, _of: int, _x: Array, before: int = before) -> None:
                progress(before + done, per_part * len(parts))

            chosen = slice(begin, begin + _AT_ONCE)
            shown = None if looks is None else looks[chosen]
            pictures += self._drawn(prompts[chosen], begin, how, sampler, first, told, shown)
        return pictures

    def outputs(self, example: Seen) -> Array:
        """What the denoiser says of an example, half-way to a fixed noise, ``(C, H, W)``."""
        alpha, sigma, step = training_levels(self._config, np.array([CHECKED_AT]))
        noisy = float(alpha[0]) * example.latents + float(sigma[0]) * checking_noise(example)
        hidden = self._graph.embed(example.ids[None], self._rows)
        found: Array = self._graph.predict(noisy, step.astype(np.float32), hidden)[0]
        return found

    def errors(
        self,
        pictures: Sequence[Picture],
        captions: Sequence[str],
        *,
        draws: int,
        seed: int = 0,
        references: Sequence[Sequence[Picture]] = (),
    ) -> Array:
        """Denoising errors ``(B, draws)`` of captioned pictures under the live adapter.

        Every picture is shown at the same times, spread evenly, and with noise that depends on the
        seed and its place alone; ``references`` are as for :meth:`generate`.
        """
        looks = self._looks(references or [()] * len(pictures), 1.0)
        times = (np.arange(draws) + 0.5) / draws
        alpha, sigma, steps = (x.astype(np.float32) for x in training_levels(self._config, times))
        rows = []
        for i, (picture, hidden) in enumerate(zip(pictures, self._embed(captions), strict=True)):
            clean = self._latents(picture)
            noise = np.random.default_rng([seed, i]).standard_normal(
                (draws, *clean.shape[1:]), np.float32
            )
            a, s = alpha[:, None, None, None], sigma[:, None, None, None]
            seen = None if looks is None else np.repeat(looks[i : i + 1], draws, axis=0)
            found = self._graph.predict(
                a * clean + s * noise, steps, np.repeat(hidden[None], draws, axis=0), seen
            )
            wanted = {
                "epsilon": noise,
                "v": a * noise - s * clean,
                "flow": noise - clean,
            }[self._config.prediction]
            rows.append(np.square(found - wanted).mean(axis=(1, 2, 3)))
        errors: Array = np.stack(rows)
        return errors

    def request(self, instruction: Instruction, guide: Guide, how: Drawing | None = None) -> Asked:
        """Prepare a picture, of the person's own things where the prompt names them.

        A base that looks at pictures is shown those of the person's that fit the prompt best, and
        then the newest, unless ``how`` has others.
        """
        how = how or Drawing()
        looking = self.looks and how.reference_strength > 0 and not how.references
        most = MOST_PICTURES if looking else 0  # a budget of pictures
        guidance = guide(budget=most, cost=lambda _: 1, about=False, newest=most)
        used, own = self.pictured(guidance.exemplars)
        return Asked(self, instruction.text, how, guidance.concepts, used, own)

    @property
    def looks(self) -> bool:
        """Whether the base looks at pictures that it is to draw like."""
        return self._tower is not None

    def pictured(self, hits: Sequence[Hit]) -> tuple[tuple[Hit, ...], tuple[Picture, ...]]:
        """Those hits whose records have a picture, and the first picture of each."""
        found = [(hit, p) for hit in hits for p, _ in captioned(hit.record, self.size)[:1]]
        return tuple(hit for hit, _ in found), tuple(picture for _, picture in found)

    def predict(self, latents: Array, timestep: float, prompt: str) -> Array:
        """What the denoiser says about noisy latents ``(B, C, H, W)`` under the live adapter.

        Conditions of the base, such as a mask, are as they are without a picture to begin from.
        """
        hidden = self._embed([prompt] * len(latents))
        shown = np.concatenate([latents, *self._conditions(len(latents), Drawing())], axis=1)
        return self._graph.predict(shown, np.full(len(latents), timestep, np.float32), hidden)

    def count(self, prompt: str) -> int:
        """Tokens of a prompt that are read."""
        return self._prompts.count(prompt)

    def _sampler(self, how: Drawing) -> Sampler:
        steps = self._graph.details["steps"] if how.steps is None else how.steps
        config = self._config if how.sampler is None else replace(self._config, kind=how.sampler)
        return Sampler(config, steps)

    def _looks(self, references: Sequence[Sequence[Picture]], strength: float) -> Array | None:
        """Image tokens ``(B, n, D)`` for as many prompts; None where nothing is looked at."""
        if not any(references) or strength == 0:
            return None
        if self._tower is None:
            raise BadInputError(
                f"base {self.base_id!r} looks at no pictures: leave references out, or build a "
                "base that takes image tokens, such as drawings-32"
            )
        rows = [[p.resized(self.size) for p in pictures] for pictures in references]
        looks: Array = strength * np.stack([self._tower.look(row) for row in rows])
        return looks.astype(np.float32)

    def _embed(self, prompts: Sequence[str]) -> Array:
        return self._graph.embed(self._prompts.ids(prompts), self._rows)

    def _drawn(
        self,
        prompts: Sequence[str],
        begin: int,
        how: Drawing,
        sampler: Sampler,
        first: int,
        progress: Callable[[int, int, Array], None],
        looks: Array | None,
    ) -> list[Picture]:
        """Pictures ``begin``, ``begin + 1``... of all that were asked for."""
        count = len(prompts)
        noise = np.stack([self._noise(how.seed, begin + i) for i in range(count)])
        guidance = self._graph.details["guidance"] if how.guidance is None else how.guidance
        untold = [] if guidance == 1 else [how.negative] * count
        hidden = self._embed([*prompts, *untold])
        conditions = self._conditions(len(hidden), how)
        if looks is not None and untold:
            looks = np.concatenate([looks, np.zeros_like(looks)])

        def predict(x: Array, timestep: npt.NDArray[np.number]) -> Array:
            shown, times = np.concatenate([x, *conditions], axis=1), timestep.astype(np.float32)
            if how.guide == "adapted" or not untold or self._graph.adapter is None:
                return self._graph.predict(shown, times, hidden, looks)
            told, bare = (
                self._graph.predict(
                    shown[rows],
                    times[rows],
                    hidden[rows],
                    None if looks is None else looks[rows],
                    bare=bare,
                )
                for rows, bare in ((np.s_[:count], False), (np.s_[count:], True))
            )
            return np.concatenate([told, bare])

        x, known = sampler.initial(noise), None
        if how.start is not None:
            clean = np.repeat(self._latents(how.start), count, axis=0)
            if how.strength < 1:
                x = sampler.noised(clean, noise, first)
            if how.mask is not None and not conditions:  # else the base knows what to keep
                known = Known(clean, self._cells(how.mask), noise)
        latents = denoise(
            sampler,
            predict,
            x,
            first=first,
            guidance=guidance,
            known=known,
            progress=progress,
        )
        return [_finished(signal, how) for signal in self._graph.pictures(latents)]

    def _noise(self, seed: int, i: int) -> Array:
        return np.random.default_rng([seed, i]).standard_normal(self._graph.latent, np.float32)

    def _latents(self, picture: Picture, keep: Mask | None = None) -> Array:
        if picture.size != self.size:
            raise BadInputError(
                f"the picture is {picture.size[0]} x {picture.size[1]} pixels, base "
                f"{self.base_id!r} draws {self.size[0]} x {self.size[1]}; use Picture.resized"
            )
        signal = picture.signal if keep is None else picture.signal * keep
        return self._graph.latents(signal[None])

    def _conditions(self, count: int, how: Drawing) -> list[Array]:
        """Channels behind the latents, where the base has some; without a mask all is to be new."""
        names = [name for name, _ in self._graph.details["conditions"]]
        if not names:
            return []
        mask = np.ones(self.size, np.bool_) if how.mask is None else how.mask
        blank = Picture(np.zeros((*self.size, 3), np.uint8))
        given = {
            "mask": self._cells(mask)[None],
            "masked_latents": self._latents(how.start or blank, ~mask),
        }
        return [np.repeat(given[name], count, axis=0) for name in names]

    def _cells(self, mask: Mask) -> Array:
        """A mask in latents' resolution, ``(1, H, W)``: a cell is new if one of its pixels is."""
        if mask.shape != self.size:
            raise BadInputError(f"mask must have the picture's shape {self.size}, got {mask.shape}")
        height, width = self._graph.latent[1:]
        cells = mask.reshape(height, self.size[0] // height, width, self.size[1] // width)
        found: Array = np.any(cells, axis=(1, 3), keepdims=True)[None, :, 0, :, 0]
        return found.astype(np.float32)


def _finished(signal: Array, how: Drawing) -> Picture:
    picture = Picture.of_signal(signal)
    if how.mask is None or how.start is None:
        return picture
    merged: Pixels = np.where(how.mask[..., None], picture.pixels, how.start.pixels)
    return Picture(merged)
