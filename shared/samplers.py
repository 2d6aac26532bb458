"""From noise to a sample: DDIM, DPM-Solver++, Euler and flow steps, in numpy.

One picture of all of them: a state is ``alpha clean + sigma noise``. A sampler is a list of such
levels, in coordinates of its own, and a step goes from one to the next by

    x' = (sigma'/sigma) x + (alpha' - alpha sigma'/sigma) clean

with the denoiser's estimate of ``clean``: exact if that estimate did not change on the way. The
second-order sampler extrapolates it from the step before.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from .adapters import Array
from .errors import BadInputError
from .sampler_config import SamplerConfig, alphas_cumprod

__all__ = ["Known", "Sampler", "denoise"]

Predict = Callable[[Array, npt.NDArray[np.number]], Array]
Progress = Callable[[int, int, Array], None]
_Levels = npt.NDArray[np.float64]
_FEW_STEPS = 15  # below it, the last step of the second-order sampler is of first order


@dataclass(frozen=True)
class Sampler:
    """A sampler for a number of steps.

    Args:
        config: the noise schedule, and the kind of steps.
        steps: how often the denoiser is asked, 1 to ``config.train_steps``.
    """

    config: SamplerConfig
    steps: int

    def __post_init__(self) -> None:
        most = self.config.train_steps
        if not 1 <= self.steps <= most:
            raise BadInputError(f"steps must be 1..{most}, got {self.steps}")
        if self.config.kind != "flow" and self._times[0] > most - 1:
            raise BadInputError(
                f"{self.steps} steps with steps_offset {self.config.steps_offset} begin behind the "
                f"last of {most} training steps; ask for fewer"
            )
        if not (np.diff(self._times) < 0).all():
            raise BadInputError(
                f"{self.steps} steps are too many to be spread over {most} training steps by "
                f"{self.config.timestep_spacing} spacing; ask for fewer"
            )

    @cached_property
    def timesteps(self) -> npt.NDArray[np.number]:
        """What the denoiser is told, ``(steps,)``: float32 for Euler and flows, else int64."""
        whole = self.config.kind in ("ddim", "dpmsolver++")
        return self._times.astype(np.int64 if whole else np.float32)

    def initial(self, noise: Array) -> Array:
        """The state that sampling begins with, from standard normal noise.

        Where the schedule begins at its noisiest level, a variance-exploding state is taken to be
        noise alone, as diffusers does.
        """
        if self.config.kind != "euler":
            return noise
        sigma = self._before[1, 0]
        spans_all = self.config.timestep_spacing in ("linspace", "trailing")
        return noise * float(sigma if spans_all else np.hypot(1.0, sigma))

    def first(self, strength: float) -> int:
        """The step at which a given picture is taken up, for image-to-image.

        Args:
            strength: share of the steps that are made, above 0 and at most 1; less keeps more.

        Raises:
            BadInputError: ``strength`` is out of range, or so small that no step is left.
        """
        made = int(self.steps * strength) if 0 < strength <= 1 else 0
        if made < 1:
            raise BadInputError(
                f"strength must be at most 1 and leave one of {self.steps} steps or more, "
                f"got {strength}"
            )
        return self.steps - made

    def noised(self, clean: Array, noise: Array, i: int) -> Array:
        """A clean sample as it looks before step ``i``; ``i == steps`` is the sample itself."""
        if i == self.steps:
            return clean
        alpha, sigma = map(float, self._before[:, i])
        return alpha * clean + sigma * noise

    def scaled(self, x: Array, i: int) -> Array:
        """What the denoiser is shown of a state before step ``i``."""
        return x if self.config.kind != "euler" else x / float(np.hypot(*self._before[:, i]))

    def clean(self, x: Array, prediction: Array, i: int) -> Array:
        """The clean sample that a prediction means, for a state before step ``i``."""
        alpha, sigma = map(float, self._before[:, i])
        if self.config.prediction == "flow":
            return x - sigma * prediction
        if self.config.prediction == "epsilon":
            return 1 / alpha * x - sigma / alpha * prediction
        length = math.hypot(alpha, sigma)  # v is told of a state of unit variance
        return alpha / (length * length) * x - sigma / length * prediction

    def step(self, x: Array, clean: Array, i: int, earlier: Array | None = None) -> Array:
        """The state after step ``i``.

        Args:
            x: the state before it.
            clean: the clean sample that the denoiser sees in it, from :meth:`clean`.
            i: 0 to ``steps - 1``.
            earlier: the clean sample seen one step earlier; None where there was none. Only the
                second-order sampler looks at it.
        """
        (alpha, sigma), (alpha_after, sigma_after) = self._before[:, i], self._after[:, i]
        if earlier is not None and self._second_order(i):
            clean = clean + self._slope(i) * (clean - earlier)
        ratio = sigma_after / sigma
        return float(ratio) * x + float(alpha_after - alpha * ratio) * clean

    def _second_order(self, i: int) -> bool:
        last = i == self.steps - 1
        few = self.config.final_level == "clean" or self.steps < _FEW_STEPS
        return self.config.kind == "dpmsolver++" and i > 0 and not (last and few)

    def _slope(self, i: int) -> float:
        """``1 / (2 r)`` of Lu et al., Algorithm 2: half this step over the last, in log-SNR."""
        levels = np.stack([self._before[:, i - 1], self._before[:, i], self._after[:, i]])
        before, now, after = np.log(levels[:, 0] / levels[:, 1])
        return float((after - now) / (now - before) / 2)

    @cached_property
    def _times(self) -> _Levels:
        """In steps of training, falling, ``(steps,)``; a flow's need not be whole."""
        times = _flow_times if self.config.kind == "flow" else _diffusion_times
        return times(self.config, self.steps)

    @cached_property
    def _before(self) -> _Levels:
        """``alpha`` and ``sigma`` before each step, ``(2, steps)``."""
        if self.config.kind == "flow":
            return _flow_levels(self._times / self.config.train_steps)
        return _diffusion_levels(self.config, _noise_to_signal(self.config, self._times))

    @cached_property
    def _after(self) -> _Levels:
        """And after it. DDIM's is always one stride on, even where timesteps were rounded."""
        if self.config.kind == "flow":
            return np.concatenate([self._before[:, 1:], _flow_levels(np.zeros(1))], axis=1)
        first = _noise_to_signal(self.config, np.zeros(1))
        final = first if self.config.final_level == "first" else np.zeros(1)
        if self.config.kind == "ddim":
            times = self._times - self.config.train_steps // self.steps
            noise = np.where(times < 0, final, _noise_to_signal(self.config, times.clip(0)))
        else:
            noise = np.append(_noise_to_signal(self.config, self._times[1:]), final)
        return _diffusion_levels(self.config, noise)


def _diffusion_times(config: SamplerConfig, steps: int) -> _Levels:
    """Lin et al., Table 2, with what diffusers' classes add to it."""
    train, spacing = config.train_steps, config.timestep_spacing
    if spacing == "trailing":
        return np.round(train - np.arange(steps) * (train / steps)) - 1
    skipped = 1 if config.kind == "dpmsolver++" else 0  # it leaves the cleanest level to the end
    if spacing == "leading":
        stride = train // (steps + skipped)
        return stride * np.arange(steps - 1 + skipped, skipped - 1, -1.0) + config.steps_offset
    times: _Levels = np.linspace(0, train - 1, steps + skipped)[::-1][:steps]
    return times if config.kind == "euler" else np.round(times)


def _noise_to_signal(config: SamplerConfig, times: _Levels) -> _Levels:
    """``sigma / alpha`` at times in steps of training, linear in between."""
    kept = alphas_cumprod(config).astype(np.float64)
    return np.interp(times, np.arange(config.train_steps), np.sqrt((1 - kept) / kept))


def _diffusion_levels(config: SamplerConfig, noise_to_signal: _Levels) -> _Levels:
    """``alpha`` and ``sigma`` ``(2, N)``: Euler's states keep the sample, others the variance."""
    levels = np.stack([np.ones_like(noise_to_signal), noise_to_signal])
    return levels if config.kind == "euler" else levels / np.hypot(*levels)


def _flow_times(config: SamplerConfig, steps: int) -> _Levels:
    train, shift = config.train_steps, config.shift
    # The last time of linspace is shifted twice, as by diffusers, which shifts training's ends too.
    least = shift / (train + shift - 1) if config.timestep_spacing == "linspace" else 1 / steps
    times = np.linspace(1.0, least, steps)
    return shift * times / (1 + (shift - 1) * times) * train


def _flow_levels(time: _Levels) -> _Levels:
    return np.stack([1 - time, time])


@dataclass(frozen=True)
class Known:
    """What in-painting keeps: a sample that is known outside a mask.

    Source: Lugmayr et al., arXiv:2201.09865, Equation 8 (without its resampling).

    Args:
        clean: the known sample, of the shape of the state.
        mask: 1 where something new is made, 0 where the sample is kept; broadcasts to ``clean``.
        noise: standard normal, the one that sampling began with.
    """

    clean: Array
    mask: Array
    noise: Array

    def __post_init__(self) -> None:
        if self.noise.shape != self.clean.shape:
            raise BadInputError(
                f"noise must have the sample's shape {self.clean.shape}, got {self.noise.shape}"
            )
        if not ((self.mask >= 0) & (self.mask <= 1)).all():
            raise BadInputError(
                f"mask must be 0..1, got values {self.mask.min()}..{self.mask.max()}"
            )

    def kept(self, x: Array, sampler: Sampler, i: int) -> Array:
        """A state before step ``i`` with the known part put back, as noisy as the rest."""
        known = sampler.noised(self.clean, self.noise, i)
        return self.mask * x + (1 - self.mask) * known


def denoise(
    sampler: Sampler,
    predict: Predict,
    x: Array,
    *,
    first: int = 0,
    guidance: float = 1.0,
    known: Known | None = None,
    progress: Progress | None = None,
) -> Array:
    """Run a sampler from a state to a clean sample, ``(B, ...)`` float32.

    From noise: ``x`` is ``sampler.initial(noise)``. Image-to-image: ``first`` is
    ``sampler.first(strength)``, and ``x`` is ``sampler.noised(clean, noise, first)``.

    Args:
        sampler: the steps.
        predict: the denoiser, given states and their timesteps, ``(B,)``. With guidance it is
            given ``2 B`` of them, the conditional ones first.
        x: the state before step ``first``.
        first: the step to begin with.
        guidance: how far to go from the unconditional prediction to the conditional one, and
            beyond (Ho and Salimans, arXiv:2207.12598); 1 asks for the conditional one alone.
        known: what in-painting keeps.
        progress: called after each step with the steps done, the steps to be done in all, and the
            state.

    Raises:
        BadInputError: there is no such first step, guidance is not a number, or the denoiser's
            answer has another shape than what it was given.
    """
    if not 0 <= first < sampler.steps:
        raise BadInputError(f"first must be 0..{sampler.steps - 1}, got {first}")
    if not np.isfinite(guidance):
        raise BadInputError(f"guidance must be a number, got {guidance}")
    earlier = None
    for i in range(first, sampler.steps):
        prediction = _guided(predict, sampler.scaled(x, i), sampler.timesteps[i], guidance)
        clean = sampler.clean(x, prediction, i)
        x, earlier = sampler.step(x, clean, i, earlier), clean
        if known is not None:
            x = known.kept(x, sampler, i + 1)
        if progress is not None:
            progress(i + 1 - first, sampler.steps - first, x)
    return x


def _guided(predict: Predict, x: Array, timestep: np.number, guidance: float) -> Array:
    shown = x if guidance == 1 else np.concatenate([x, x])
    prediction = predict(shown, np.full(len(shown), timestep))
    if prediction.shape != shown.shape:
        raise BadInputError(
            f"the denoiser was given states {shown.shape} and predicted {prediction.shape}; "
            "a prediction must have the states' shape"
        )
    if guidance == 1:
        return prediction
    told, untold = np.split(prediction, 2)
    return untold + guidance * (told - untold)
