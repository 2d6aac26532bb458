"""Every sampler walks as diffusers' does; image-to-image, in-painting and guidance on top."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from locavore.shared.adapters import Array
from locavore.shared.errors import BadInputError
from locavore.shared.sampler_config import SamplerConfig, alphas_cumprod, from_diffusers
from locavore.shared.samplers import Known, Sampler, denoise

diffusers = pytest.importorskip("diffusers")
import torch

# diffusers' own arithmetic, on a numpy that is newer than it expects
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SHAPE = (2, 3, 4, 4)
SD: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "leading",
}
V = {"prediction_type": "v_prediction"}
TRAILING = {"timestep_spacing": "trailing"}
LINSPACE = {"timestep_spacing": "linspace"}
COSINE: dict[str, Any] = {"beta_schedule": "squaredcos_cap_v2", "clip_sample": False}
LINEAR: dict[str, Any] = {"clip_sample": False}
DDIM, DPM, EULER = "DDIMScheduler", "DPMSolverMultistepScheduler", "EulerDiscreteScheduler"
FLOW = "FlowMatchEulerDiscreteScheduler"
CASES: list[tuple[str, dict[str, Any], int]] = [
    (name, settings, steps)
    for name in (DDIM, DPM, EULER)
    for settings in (SD, SD | V, SD | TRAILING, SD | LINSPACE, LINEAR, SD | V | TRAILING)
    for steps in (5, 20, 50)
]
CASES += [(name, SD | TRAILING, steps) for name in (DDIM, DPM, EULER) for steps in (1, 2, 3, 4)]
CASES += [(name, COSINE | V | TRAILING, 20) for name in (DDIM, DPM)]
CASES += [
    (name, SD | {"final_sigmas_type": "sigma_min"}, n) for name in (DPM, EULER) for n in (5, 20)
]
CASES += [(FLOW, {"shift": s}, steps) for s in (1.0, 3.0) for steps in (1, 4, 5, 20, 50)]


def noise(seed: int = 0) -> Array:
    drawn: Array = np.random.default_rng(seed).standard_normal(SHAPE, np.float32)
    return drawn


def toy(x: Array, timestep: Any) -> Array:
    """A nonlinear denoiser whose answer depends on the time."""
    time = np.asarray(timestep).reshape(-1, *[1] * (x.ndim - 1)) / np.float32(1000)
    answer = np.tanh(0.8 * x + 0.3 * np.roll(x, 1, axis=-1)) + 0.2 * np.sin(3 * time)
    return answer.astype(np.float32)


def theirs(name: str, settings: dict[str, Any]) -> Any:
    cls = getattr(diffusers, name)
    taken = cls._get_init_keys(cls)
    return cls(**{k: v for k, v in settings.items() if k in taken})


def ours(scheduler: Any) -> SamplerConfig:
    return from_diffusers(json.loads(scheduler.to_json_string()))


def walk(scheduler: Any, x: torch.Tensor, first: int = 0, known: Any = None) -> list[Array]:
    """Their states after every step, in the order of their pipelines."""
    states = []
    timesteps = scheduler.timesteps
    scheduler.set_begin_index(first) if hasattr(scheduler, "set_begin_index") else None
    for i in range(first, len(timesteps)):
        t = timesteps[i]
        shown = (
            x
            if isinstance(scheduler, diffusers.FlowMatchEulerDiscreteScheduler)
            else (scheduler.scale_model_input(x, t))
        )
        answer = torch.from_numpy(toy(shown.numpy(), t.numpy()))
        x = scheduler.step(answer, t, x, return_dict=False)[0]
        if known is not None:
            clean, mask, fresh = map(torch.from_numpy, known)
            left = clean
            if i + 1 < len(timesteps):
                left = scheduler.add_noise(clean, fresh, timesteps[i + 1 : i + 2])
            x = (1 - mask) * left + mask * x
        states.append(x.numpy())
    return states


def recorded(sampler: Sampler, x: Array, **how: Any) -> list[Array]:
    states: list[Array] = []
    denoise(sampler, toy, x, progress=lambda done, of, state: states.append(state), **how)
    return states


def require_equal(found: list[Array], wanted: list[Array]) -> None:
    assert len(found) == len(wanted)
    for state, other in zip(found, wanted, strict=True):
        assert state.dtype == np.float32
        np.testing.assert_allclose(state, other, atol=1e-4, rtol=2e-6)  # some reach 100


@pytest.mark.parametrize(("name", "settings", "steps"), CASES)
def test_it_walks_as_diffusers_does(name: str, settings: dict[str, Any], steps: int) -> None:
    scheduler = theirs(name, settings)
    scheduler.set_timesteps(steps)
    sampler = Sampler(ours(scheduler), steps)
    np.testing.assert_allclose(sampler.timesteps, scheduler.timesteps.numpy(), rtol=1e-6)
    assert sampler.timesteps.dtype == scheduler.timesteps.numpy().dtype
    start = noise() * float(getattr(scheduler, "init_noise_sigma", 1.0))
    np.testing.assert_allclose(sampler.initial(noise()), start, rtol=1e-5)
    require_equal(recorded(sampler, sampler.initial(noise())), walk(scheduler, torch.tensor(start)))


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_a_trailing_flow_walks_as_flux_pipelines_do(shift: float) -> None:
    scheduler = theirs(FLOW, {"shift": shift})
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / 7, 7))
    config = SamplerConfig(kind="flow", prediction="flow", shift=shift, timestep_spacing="trailing")
    require_equal(recorded(Sampler(config, 7), noise()), walk(scheduler, torch.tensor(noise())))


@pytest.mark.parametrize("name", [DDIM, DPM, EULER])
@pytest.mark.parametrize("strength", [0.3, 0.75, 1.0])
def test_image_to_image_begins_where_diffusers_does(name: str, strength: float) -> None:
    scheduler = theirs(name, SD)
    scheduler.set_timesteps(20)
    sampler = Sampler(ours(scheduler), 20)
    first = sampler.first(strength)
    assert first == 20 - int(20 * strength)
    clean, fresh = np.clip(noise(1), -1, 1), noise()
    started = scheduler.add_noise(
        torch.tensor(clean), torch.tensor(fresh), scheduler.timesteps[first : first + 1]
    )
    found = sampler.noised(clean, fresh, first)
    np.testing.assert_allclose(found, started.numpy(), atol=1e-4)
    require_equal(recorded(sampler, found, first=first), walk(scheduler, started, first))


@pytest.mark.parametrize("name", [DDIM, DPM, EULER])
def test_in_painting_keeps_what_diffusers_pipelines_keep(name: str) -> None:
    scheduler = theirs(name, SD)
    scheduler.set_timesteps(10)
    sampler = Sampler(ours(scheduler), 10)
    mask = np.zeros(SHAPE, np.float32)
    mask[..., :2] = 1
    known = (np.clip(noise(1), -1, 1), mask, noise())
    x = sampler.initial(noise())
    found = recorded(sampler, x, known=Known(*known))
    require_equal(found, walk(scheduler, torch.tensor(x), known=known))
    np.testing.assert_array_equal(found[-1][..., 2:], known[0][..., 2:])


def test_a_flow_is_taken_up_on_the_straight_line_between_picture_and_noise() -> None:
    sampler = Sampler(SamplerConfig(kind="flow", prediction="flow", timestep_spacing="trailing"), 4)
    clean, fresh = noise(1), noise(2)
    assert sampler.first(0.5) == 2
    np.testing.assert_allclose(sampler.noised(clean, fresh, 2), (clean + fresh) / 2, rtol=1e-6)
    np.testing.assert_array_equal(sampler.noised(clean, fresh, 4), clean)


@pytest.mark.parametrize("kind", ["ddim", "dpmsolver++", "euler", "flow"])
def test_who_knows_the_sample_reaches_it(kind: Any) -> None:
    """A denoiser that sees the true clean sample leads there, whatever the steps."""
    told, spacing = ("flow", "trailing") if kind == "flow" else ("epsilon", "leading")
    config = SamplerConfig(kind=kind, prediction=told, timestep_spacing=spacing)  # type: ignore[arg-type]
    sampler, clean, fresh = Sampler(config, 6), noise(1), noise(2)
    first = sampler.first(0.7)
    wanted = fresh - clean if kind == "flow" else fresh
    found = denoise(sampler, lambda x, t: wanted, sampler.noised(clean, fresh, first), first=first)
    np.testing.assert_allclose(found, clean, atol=1e-5)


def test_guidance_asks_for_both_at_once_and_goes_beyond() -> None:
    config = SamplerConfig(kind="flow", prediction="flow", timestep_spacing="trailing")
    asked: list[tuple[int, ...]] = []

    def predict(x: Array, timestep: Any) -> Array:
        asked.append((*x.shape, len(timestep)))
        told = np.full((2, *SHAPE[1:]), 3, np.float32)
        return np.concatenate([told, told - 1]) if len(x) == 4 else told

    x = np.zeros(SHAPE, np.float32)
    alone = denoise(Sampler(config, 2), predict, x)
    guided = denoise(Sampler(config, 2), predict, x, guidance=2.5)
    np.testing.assert_allclose(alone, -3.0)
    np.testing.assert_allclose(guided, -(2 + 2.5))
    assert asked == [(2, 3, 4, 4, 2)] * 2 + [(4, 3, 4, 4, 4)] * 2


def test_progress_counts_the_steps_that_are_made() -> None:
    sampler = Sampler(SamplerConfig(kind="ddim", prediction="epsilon"), 10)
    seen: list[tuple[int, int]] = []
    denoise(sampler, toy, noise(), first=7, progress=lambda done, of, x: seen.append((done, of)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_the_schedule_is_the_one_that_diffusers_trains_with() -> None:
    for settings in (SD, LINEAR, COSINE):
        scheduler = theirs(DDIM, settings)
        found = alphas_cumprod(ours(scheduler))
        np.testing.assert_allclose(found, scheduler.alphas_cumprod.numpy(), rtol=2e-6, atol=1e-9)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda s: Sampler(s.config, 0), r"steps must be 1\.\.1000, got 0"),
        (lambda s: s.first(0.0), r"strength must be at most 1.*got 0\.0"),
        (lambda s: s.first(0.01), "leave one of 10 steps or more, got 0.01"),
        (lambda s: denoise(s, toy, noise(), first=10), r"first must be 0\.\.9, got 10"),
        (lambda s: denoise(s, toy, noise(), guidance=float("nan")), "guidance must be a number"),
        (lambda s: denoise(s, lambda x, t: x[:1], noise()), r"predicted \(1, 3, 4, 4\)"),
        (lambda s: Known(noise(), noise() + 9, noise()), r"mask must be 0\.\.1"),
        (lambda s: Known(noise(), np.ones(1, np.float32), noise()[:1]), "noise must have"),
    ],
)
def test_what_cannot_be_done_is_refused(call: Any, message: str) -> None:
    sampler = Sampler(SamplerConfig(kind="ddim", prediction="epsilon"), 10)
    with pytest.raises(BadInputError, match=message):
        call(sampler)


def test_steps_that_do_not_fit_into_training_are_refused() -> None:
    offset = SamplerConfig(kind="ddim", prediction="epsilon", steps_offset=1)
    with pytest.raises(BadInputError, match="begin behind the last of 1000"):
        Sampler(offset, 1000)
    with pytest.raises(BadInputError, match="too many to be spread"):
        Sampler(SamplerConfig(kind="dpmsolver++", prediction="epsilon"), 1000)
