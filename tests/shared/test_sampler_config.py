"""A sampler's configuration: as JSON, out of diffusers' files, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest

from locavore.shared.errors import BadInputError
from locavore.shared.sampler_config import SamplerConfig, alphas_cumprod, from_diffusers

# The file that comes with Stable Diffusion 1.5.
PNDM = {
    "_class_name": "PNDMScheduler",
    "_diffusers_version": "0.6.0",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "num_train_timesteps": 1000,
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "trained_betas": None,
    "clip_sample": False,
}
DDIM = PNDM | {"_class_name": "DDIMScheduler"}


def test_it_survives_json() -> None:
    config = SamplerConfig(kind="euler", prediction="v", train_steps=500, steps_offset=1)
    assert SamplerConfig.read(json.loads(json.dumps(config.plain()))) == config


def test_a_schedule_written_by_another_class_is_run_with_a_named_kind() -> None:
    with pytest.raises(BadInputError, match=r"scheduler 'PNDMScheduler' is not known.*kind="):
        from_diffusers(PNDM)
    config = from_diffusers(PNDM, kind="dpmsolver++")
    assert config.kind == "dpmsolver++"
    assert (config.beta_start, config.beta_schedule) == (0.00085, "scaled_linear")
    assert from_diffusers(PNDM, kind="ddim").final_level == "first"


def test_what_a_file_leaves_out_is_its_classes_default() -> None:
    assert from_diffusers(DDIM).timestep_spacing == "leading"
    assert from_diffusers({"_class_name": "EulerDiscreteScheduler"}).timestep_spacing == "linspace"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_karras_sigmas": True}, "use_karras_sigmas must be False, got True"),
        ({"thresholding": True}, "thresholding must be False, got True"),
        ({"prediction_type": "sample"}, "prediction_type must be epsilon or v_prediction"),
        ({"brand_new": 1}, "brand_new is not known"),
        ({"beta_schedule": "sigmoid"}, "beta_schedule must be one of linear.*got 'sigmoid'"),
        ({"clip_sample": True}, "clip_sample must be False, got True"),
        ({"num_train_timesteps": "many"}, "train_steps must be a whole number"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(change: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        from_diffusers(DDIM | change)


def test_ddims_clipping_is_on_unless_it_is_switched_off() -> None:
    with pytest.raises(BadInputError, match="clip_sample must be False, got True"):
        from_diffusers({"_class_name": "DDIMScheduler"})


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"kind": "ddim"}, "lacks prediction"),
        ({"kind": "ddim", "prediction": "epsilon", "eta": 1}, "has no eta"),
        ({"kind": "ddim", "prediction": "flow"}, "kind 'ddim' cannot be used with .*'flow'"),
        ({"kind": "flow", "prediction": "flow"}, "timestep_spacing of a flow must be trailing"),
        ({"kind": "heun", "prediction": "v"}, "kind must be one of ddim.*got 'heun'"),
        ({"kind": "ddim", "prediction": "v", "beta_end": 1.5}, "beta_end must be above 0 and"),
    ],
)
def test_a_configuration_that_cannot_be_is_refused(plain: dict[str, Any], message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        SamplerConfig.read(plain)


def test_a_flow_has_no_betas() -> None:
    flow = SamplerConfig(kind="flow", prediction="flow", timestep_spacing="trailing")
    with pytest.raises(BadInputError, match="a flow has no betas"):
        alphas_cumprod(flow)
