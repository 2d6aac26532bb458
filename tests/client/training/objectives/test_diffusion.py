"""Diffusion losses: as the papers write them, on diffusers' own schedules, sample by sample."""

from __future__ import annotations

import math
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the extra 'train'")
pytest.importorskip("diffusers", reason="needs the extra 'dev'")

import torch
from torch import nn
from torch.nn.functional import mse_loss

from locavore.client.training.chains import Chain, lora, token_rows
from locavore.client.training.cohort import Cohort
from locavore.client.training.objectives.diffusion import (
    Diffusion,
    DiffusionDPO,
    PriorPreservation,
    drawn,
)
from locavore.client.training.objectives.pairs import in_pairs, side_by_side
from locavore.shared.errors import BadInputError
from locavore.shared.image_networks import DiffusionTwin

from ....benchmarks.families import FAMILIES, Batch, Family
from ....benchmarks.reference import sample_gradient, take

STEPS = 1000


def schedule(prediction: str = "epsilon") -> Any:
    from diffusers import DDPMScheduler

    make: Any = DDPMScheduler
    return make(
        num_train_timesteps=STEPS, beta_schedule="squaredcos_cap_v2", prediction_type=prediction
    )


EPSILON = Diffusion(predicts="epsilon", alphas_cumprod=schedule().alphas_cumprod)
VELOCITY = Diffusion(predicts="v", alphas_cumprod=schedule().alphas_cumprod)
FLOW = Diffusion(predicts="flow")


def generator(seed: int = 3) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def unet() -> nn.Module:
    return FAMILIES["unet2d"].model()


@pytest.fixture(scope="module")
def sd3() -> nn.Module:
    return FAMILIES["sd3"].model()


def batch_of(name: str, count: int = 3) -> dict[str, torch.Tensor]:
    return FAMILIES[name].batch(count, generator())


# --- against the libraries' own training code, one sample at a time ------------------------------


@pytest.mark.parametrize(("objective", "kind"), [(EPSILON, "epsilon"), (VELOCITY, "v_prediction")])
def test_it_is_what_diffusers_schedulers_make(
    objective: Diffusion, kind: str, unet: nn.Module
) -> None:
    batch, known = batch_of("unet2d"), schedule(kind)
    found = objective(unet, batch)
    for i in range(3):
        one = take(batch, [i])
        step = (one["time"] * STEPS).long()
        noisy = known.add_noise(one["clean"], one["noise"], step)
        wanted = (
            one["noise"]
            if kind == "epsilon"
            else known.get_velocity(one["clean"], one["noise"], step)
        )
        said = unet(noisy, step, one["encoder_hidden_states"]).sample
        assert float(found[i]) == pytest.approx(float(mse_loss(said, wanted)), rel=1e-4)


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_a_flow_is_the_straight_line_of_diffusers(shift: float, sd3: nn.Module) -> None:
    from diffusers import FlowMatchEulerDiscreteScheduler

    batch = batch_of("sd3")
    found = Diffusion(predicts="flow", shift=shift)(sd3, batch)
    make: Any = FlowMatchEulerDiscreteScheduler
    known = make(num_train_timesteps=STEPS, shift=shift)
    for i in range(3):
        one = take(batch, [i])
        moment = float(one["time"])
        sigma = shift * moment / (1 + (shift - 1) * moment)
        near = int((known.sigmas - sigma).abs().argmin())  # its schedule is a grid, ours is not
        assert float(known.timesteps[near]) == pytest.approx(sigma * STEPS, abs=2.0 * shift)
        noisy = (1 - sigma) * one["clean"] + sigma * one["noise"]
        said = sd3(
            hidden_states=noisy,
            timestep=torch.tensor([sigma * STEPS]),
            encoder_hidden_states=one["encoder_hidden_states"],
            pooled_projections=one["pooled_projections"],
        ).sample
        expected = mse_loss(said, one["noise"] - one["clean"])
        assert float(found[i]) == pytest.approx(float(expected), rel=1e-4)


def test_the_first_and_the_last_step_are_in_the_schedule() -> None:
    kept, lost, steps = EPSILON.levels(torch.tensor([0.0, 0.9999999]))
    assert steps.tolist() == [0, STEPS - 1]
    torch.testing.assert_close(kept**2 + lost**2, torch.ones(2))


# --- pairs ------------------------------------------------------------------------------------


def pairs(*, same: bool) -> dict[str, torch.Tensor]:
    clean = torch.randn(3, 2, 4, 8, 8, generator=generator())
    text = torch.randn(3, 1, 3, 12, generator=generator(4)).expand(-1, 2, -1, -1)
    if same:
        made = drawn(clean, generator(5), pairs=True)
    else:
        made = in_pairs(drawn(clean.flatten(0, 1), generator(5)))
    return {**made, "encoder_hidden_states": text}


def errors(objective: Diffusion, model: nn.Module, batch: Batch) -> torch.Tensor:
    """Every sample of every pair in a batch of its own."""
    rows = side_by_side(batch)
    alone = [objective(model, take(rows, [i])) for i in range(len(rows["clean"]))]
    return torch.cat(alone).view(-1, 2)


def test_both_of_a_pair_get_the_same_time_and_noise() -> None:
    batch = pairs(same=True)
    for name in ("time", "noise"):
        torch.testing.assert_close(batch[name][:, 0], batch[name][:, 1])
    assert len(set(batch["time"][:, 0].tolist())) == 3


def test_diffusion_dpo_is_equation_14(unet: nn.Module) -> None:
    objective = DiffusionDPO(diffusion=EPSILON, beta=20.0)
    batch = pairs(same=True)
    known = errors(EPSILON, unet, batch)
    batch["reference"] = known + torch.linspace(-0.05, 0.05, 6).view(3, 2)
    found = objective(unet, batch)
    for i in range(3):
        worse = [float(known[i, j] - batch["reference"][i, j]) for j in (0, 1)]
        expected = -math.log(1 / (1 + math.exp(20.0 * (worse[0] - worse[1]))))
        assert float(found[i]) == pytest.approx(expected, rel=1e-3)
    batch["reference"] = objective.errors(unet, batch)
    torch.testing.assert_close(objective(unet, batch), torch.full((3,), math.log(2)))


def test_prior_preservation_adds_what_the_base_has_made(unet: nn.Module) -> None:
    batch = pairs(same=False)
    found = PriorPreservation(diffusion=EPSILON, weight=0.3)(unet, batch)
    own, public = errors(EPSILON, unet, batch).unbind(1)
    torch.testing.assert_close(found, own + 0.3 * public, rtol=1e-4, atol=1e-5)


# --- on the core ------------------------------------------------------------------------------


def check_gradients(
    objective: Any, model: nn.Module, chains: dict[str, Chain], batch: Batch
) -> None:
    cohort = Cohort(model, chains, objective, batch)
    theta = torch.randn(1, cohort.dim, generator=generator(1)) * 0.1
    found = cohort.gradients(theta, batch)
    rows = torch.cat([part.flatten(1) for part in found.parts.values()], 1)
    family = Family(lambda: model, lambda *_: {}, objective)
    for i in range(len(rows)):
        expected = sample_gradient(family, model, chains, theta[0], take(batch, [i]))
        assert expected.norm() > 1e-6
        assert float((rows[i] - expected).norm() / expected.norm()) < 1e-3


@pytest.mark.parametrize(
    "objective",
    [
        DiffusionDPO(diffusion=EPSILON, beta=20.0),
        PriorPreservation(diffusion=VELOCITY, weight=0.5),
    ],
    ids=["diffusion-dpo", "prior preservation"],
)
def test_a_pair_is_one_sample_to_the_core(objective: Any, unet: nn.Module) -> None:
    sites = [n for n, m in unet.named_modules() if n.endswith(("to_q", "to_v", "conv1"))]
    batch = pairs(same=isinstance(objective, DiffusionDPO))
    if isinstance(objective, DiffusionDPO):
        batch["reference"] = objective.errors(unet, batch) + 0.1 * torch.randn(
            3, 2, generator=generator(9)
        )
    check_gradients(objective, unet, lora(unet, sites, 2), batch)


def test_textual_inversion_trains_the_rows_of_its_own_tokens(unet: nn.Module) -> None:
    from transformers import CLIPTextConfig, CLIPTextModel

    torch.manual_seed(0)
    encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=50,
            hidden_size=12,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            max_position_embeddings=8,
            eos_token_id=2,
            bos_token_id=1,
        )
    )
    model = DiffusionTwin(encoder, unet, torch.nn.Identity()).requires_grad_(False).eval()
    ids = torch.tensor([[1, 40, 50, 2], [1, 50, 41, 2], [1, 51, 50, 2]])
    images = torch.randn(3, 4, 8, 8, generator=generator())
    batch = {**drawn(images, generator(2)), "input_ids": ids}
    site = next(n for n, _ in model.named_modules() if n.endswith("token_embedding"))
    chains = token_rows(model, site, {50: 40, 51: 41})
    cohort = Cohort(model, chains, EPSILON, batch)
    theta = cohort.start(1, generator())
    found = next(iter(cohort.gradients(theta, batch).parts.values()))
    for i in range(3):
        rows = cohort.unpack(theta)[f"{site}.rows"][0].clone().requires_grad_()
        known = encoder.get_input_embeddings().weight
        table = torch.cat([known, known[[40, 41]] + rows])
        expected = torch.autograd.grad(_inverted(model, table, take(batch, [i])), rows)[0]
        assert expected[0].norm() > 1e-6
        torch.testing.assert_close(found[i], expected, rtol=1e-3, atol=1e-7)
    assert (found[:2, 1] == 0).all()  # the second token is in the last prompt only


def _inverted(model: nn.Module, table: torch.Tensor, one: Batch) -> torch.Tensor:
    """The loss with a larger embedding table in place of the encoder's, by plain autograd."""
    assert isinstance(model, DiffusionTwin)
    encoder = model.text_encoder
    layer = encoder.get_input_embeddings()  # type: ignore[operator]

    def look_up(module: nn.Module, args: Any, out: torch.Tensor) -> torch.Tensor:
        return table[one["input_ids"]]

    hook = layer.register_forward_hook(look_up)
    text = encoder(input_ids=torch.zeros_like(one["input_ids"]))[0]
    hook.remove()
    rest = {name: value for name, value in one.items() if name != "input_ids"}
    return EPSILON(model.denoiser, {**rest, "encoder_hidden_states": text}).sum()


# --- bad input --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Diffusion(predicts="noise"), "predicts must be epsilon, v or flow, got 'noise'"),  # type: ignore[arg-type]
        (lambda: Diffusion(predicts="epsilon"), "alphas_cumprod is needed for epsilon and v"),
        (
            lambda: Diffusion(predicts="flow", alphas_cumprod=torch.ones(3)),
            "alphas_cumprod is needed for epsilon and v, and not for flow",
        ),
        (lambda: Diffusion(predicts="flow", shift=0), "shift must be above 0, got 0"),
        (lambda: DiffusionDPO(diffusion=FLOW, beta=-1), "beta must be above 0, got -1"),
        (lambda: PriorPreservation(diffusion=FLOW, weight=0), "weight must be above 0, got 0"),
    ],
)
def test_bad_input_is_refused(make: Any, reason: str) -> None:
    with pytest.raises(BadInputError, match=reason):
        make()
