"""How a diffusion or flow model's noise was scheduled, and which sampler runs it: plain data.

An exporter writes it into a package's manifest, a device reads it back.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from .errors import BadInputError

__all__ = ["SamplerConfig", "alphas_cumprod", "from_diffusers", "training_levels"]

Kind = Literal["ddim", "dpmsolver++", "euler", "flow"]
Prediction = Literal["epsilon", "v", "flow"]
BetaSchedule = Literal["linear", "scaled_linear", "squaredcos_cap_v2"]
Spacing = Literal["leading", "trailing", "linspace"]
FinalLevel = Literal["clean", "first"]

_CHOICES = {
    "kind": get_args(Kind),
    "prediction": get_args(Prediction),
    "beta_schedule": get_args(BetaSchedule),
    "timestep_spacing": get_args(Spacing),
    "final_level": get_args(FinalLevel),
}
_MOST_TRAIN_STEPS = 100_000


@dataclass(frozen=True, kw_only=True)
class SamplerConfig:
    """A noise schedule and a sampler for it.

    Args:
        kind: ``ddim`` (Song et al., arXiv:2010.02502, Equation 12, with no added noise);
            ``dpmsolver++``, second order, multistep, midpoint (Lu et al., arXiv:2211.01095,
            Algorithm 2); ``euler`` in the variance-exploding form (Karras et al.,
            arXiv:2206.00364, Algorithm 2 without churn); ``flow``, Euler steps along a
            rectified flow (Esser et al., arXiv:2403.03206).
        prediction: what the denoiser says: the noise; ``v``, ``alpha noise - sigma clean``
            (Salimans and Ho, arXiv:2202.00512, Appendix D); or ``flow``, ``noise - clean``.
        train_steps: of the schedule; a flow's times 0..1 are multiplied by it for the denoiser.
        beta_start: noise added by the first step of training; not for flows.
        beta_end: and by the last one.
        beta_schedule: what lies between; ``scaled_linear`` is linear in the square root, and
            ``squaredcos_cap_v2`` needs no ends (Nichol and Dhariwal, arXiv:2102.09672, Eq. 17).
        shift: of a flow's times towards noise: ``shift t / (1 + (shift - 1) t)``.
        timestep_spacing: as in Lin et al., arXiv:2305.08891, Table 2. For flows ``trailing`` is
            ``1, (n-1)/n .. 1/n``, as Flux is run, and ``linspace`` ends at ``1 / train_steps``.
        steps_offset: added to ``leading`` timesteps.
        final_level: what the last step ends at: no noise, or that of the first step of training.
    """

    kind: Kind
    prediction: Prediction
    train_steps: int = 1000
    beta_start: float = 0.0001
    beta_end: float = 0.02
    beta_schedule: BetaSchedule = "linear"
    shift: float = 1.0
    timestep_spacing: Spacing = "leading"
    steps_offset: int = 0
    final_level: FinalLevel = "clean"

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be one of {', '.join(choices)}, got {getattr(self, name)!r}"
            for name, choices in _CHOICES.items()
            if getattr(self, name) not in choices
        ]
        problems += _wrong_numbers(self)
        if (self.kind == "flow") != (self.prediction == "flow"):
            problems.append(
                f"kind {self.kind!r} cannot be used with prediction {self.prediction!r}; "
                "a flow needs both to be 'flow'"
            )
        if self.kind == "flow":
            problems += _wrong_flow(self)
        if problems:
            raise BadInputError("; ".join(problems))

    @classmethod
    def read(cls, plain: Mapping[str, Any]) -> SamplerConfig:
        """What :meth:`plain` gave, from JSON.

        Raises:
            BadInputError: a name is missing, unknown, or has a value that cannot be used.
        """
        known = {field.name for field in fields(cls)}
        if unknown := sorted(set(plain) - known):
            raise BadInputError(f"a sampler's configuration has no {', '.join(unknown)}")
        if missing := sorted({"kind", "prediction"} - set(plain)):
            raise BadInputError(f"a sampler's configuration lacks {', '.join(missing)}")
        return cls(**plain)

    def plain(self) -> dict[str, Any]:
        """Every setting by name, for JSON."""
        return asdict(self)


def _wrong_numbers(config: SamplerConfig) -> list[str]:
    problems = []
    for name, least, most in (("train_steps", 1, _MOST_TRAIN_STEPS), ("steps_offset", 0, 1000)):
        value = getattr(config, name)
        if type(value) is not int or not least <= value <= most:
            problems.append(f"{name} must be a whole number {least}..{most}, got {value!r}")
    for name, top in (("beta_start", 1.0), ("beta_end", 1.0), ("shift", math.inf)):
        value = getattr(config, name)
        if type(value) not in (int, float) or not (0 < value < top):
            problems.append(f"{name} must be above 0 and below {top}, got {value!r}")
    return problems


def _wrong_flow(config: SamplerConfig) -> list[str]:
    problems = []
    if config.timestep_spacing == "leading":
        problems.append("timestep_spacing of a flow must be trailing or linspace, got 'leading'")
    if config.final_level != "clean":
        problems.append(f"final_level of a flow must be clean, got {config.final_level!r}")
    return problems


def alphas_cumprod(config: SamplerConfig) -> npt.NDArray[np.float32]:
    """How much of a clean sample's variance is left at every step of training, ``(T,)``.

    Source: Ho et al., arXiv:2006.11239, Equation 4.

    Raises:
        BadInputError: a flow has no betas.
    """
    if config.kind == "flow":
        raise BadInputError("a flow has no betas; its noise is its time")
    # Rounded to float32 where the trainers' own tables are, so that they agree.
    betas = _betas(config).astype(np.float32)
    kept = np.cumprod((np.float32(1) - betas).astype(np.float64))
    return kept.astype(np.float32)


def _betas(config: SamplerConfig) -> npt.NDArray[np.float64]:
    start, end, steps = config.beta_start, config.beta_end, config.train_steps
    if config.beta_schedule == "linear":
        return np.linspace(start, end, steps)
    if config.beta_schedule == "scaled_linear":
        return np.linspace(math.sqrt(start), math.sqrt(end), steps) ** 2
    left = np.cos((np.linspace(0, 1, steps + 1) + 0.008) / 1.008 * math.pi / 2) ** 2
    betas: npt.NDArray[np.float64] = np.minimum(1 - left[1:] / left[:-1], 0.999)
    return betas


# diffusers' names of a class, and the defaults of the settings that we read.
_CLASSES: dict[str, tuple[Kind, dict[str, Any]]] = {
    "DDIMScheduler": ("ddim", {"timestep_spacing": "leading", "clip_sample": True}),
    "DPMSolverMultistepScheduler": ("dpmsolver++", {"timestep_spacing": "linspace"}),
    "EulerDiscreteScheduler": ("euler", {"timestep_spacing": "linspace"}),
    "FlowMatchEulerDiscreteScheduler": ("flow", {"timestep_spacing": "linspace"}),
}
_READ = {
    "num_train_timesteps": "train_steps",
    "beta_start": "beta_start",
    "beta_end": "beta_end",
    "beta_schedule": "beta_schedule",
    "shift": "shift",
    "timestep_spacing": "timestep_spacing",
    "steps_offset": "steps_offset",
}
_PREDICTIONS = {"epsilon": "epsilon", "v_prediction": "v"}
_FINAL: dict[str, dict[Any, str]] = {
    "set_alpha_to_one": {True: "clean", False: "first"},
    "final_sigmas_type": {"zero": "clean", "sigma_min": "first"},
}
_ONLY = {  # settings of which one value is understood
    "algorithm_type": "dpmsolver++",
    "clip_sample": False,
    "euler_at_final": False,
    "interpolation_type": "linear",
    "invert_sigmas": False,
    "lambda_min_clipped": -math.inf,
    "lower_order_final": True,
    "rescale_betas_zero_snr": False,
    "shift_terminal": None,
    "sigma_max": None,
    "sigma_min": None,
    "solver_order": 2,
    "solver_type": "midpoint",
    "stochastic_sampling": False,
    "thresholding": False,
    "timestep_type": "discrete",
    "trained_betas": None,
    "use_beta_sigmas": False,
    "use_dynamic_shifting": False,
    "use_exponential_sigmas": False,
    "use_flow_sigmas": False,
    "use_karras_sigmas": False,
    "use_lu_lambdas": False,
    "variance_type": None,
}
_IDLE = {  # they only matter to what the table above refuses, or to another class of scheduler
    "base_image_seq_len", "base_shift", "clip_sample_range", "dynamic_thresholding_ratio",
    "flow_shift", "max_image_seq_len", "max_shift", "sample_max_value", "skip_prk_steps",
    "time_shift_type",
}  # fmt: skip


def from_diffusers(config: Mapping[str, Any], *, kind: Kind | None = None) -> SamplerConfig:
    """Read a diffusers ``scheduler_config.json``.

    Args:
        config: the file's content; what it leaves out has diffusers' defaults.
        kind: a sampler to run the same noise schedule with, whatever class wrote the file, as
            Stable Diffusion's are often written by ``PNDMScheduler``.

    Raises:
        BadInputError: its class, a setting, or a setting's value is not known here.
    """
    given = {name: value for name, value in config.items() if not name.startswith("_")}
    kind, defaults = _kind(config.get("_class_name"), kind)
    given = defaults | given
    known = {*_READ, *_FINAL, *_ONLY, *_IDLE, "prediction_type"}
    problems = [f"{name} is not known" for name in sorted(set(given) - known)]
    problems += [
        f"{name} must be {only!r}, got {given[name]!r}"
        for name, only in _ONLY.items()
        if name in given and given[name] != only
    ]
    settings = {ours: given[name] for name, ours in _READ.items() if name in given}
    settings["prediction"] = "flow"
    if kind != "flow":
        told = given.get("prediction_type", "epsilon")
        settings["prediction"] = _PREDICTIONS.get(told)
        if told not in _PREDICTIONS:
            problems.append(f"prediction_type must be epsilon or v_prediction, got {told!r}")
        settings["final_level"] = _final_level(kind, given)
    if problems:
        raise BadInputError(f"this scheduler cannot be run: {'; '.join(problems)}")
    return SamplerConfig(kind=kind, **settings)


def _kind(class_name: object, kind: Kind | None) -> tuple[Kind, dict[str, Any]]:
    for name, (ours, defaults) in _CLASSES.items():
        if kind == ours or (kind is None and class_name == name):
            return ours, defaults
    raise BadInputError(
        f"scheduler {class_name!r} is not known; known are {', '.join(_CLASSES)}. If only its "
        f"noise schedule is wanted, give kind= one of {', '.join(get_args(Kind))}"
    )


def _final_level(kind: Kind, given: Mapping[str, Any]) -> Any:
    name = "set_alpha_to_one" if kind == "ddim" else "final_sigmas_type"
    return _FINAL[name].get(given[name], given[name]) if name in given else "clean"


def training_levels(
    config: SamplerConfig, time: npt.NDArray[np.floating[Any]]
) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """How much of a sample and of noise training shows at times 0..1, and what it tells of them.

    Returns:
        ``alpha`` and ``sigma`` of ``alpha clean + sigma noise``, and the denoiser's timesteps.
    """
    if config.kind == "flow":
        noisy = config.shift * time / (1 + (config.shift - 1) * time)
        return 1 - noisy, noisy, noisy * config.train_steps
    steps = (time * config.train_steps).astype(np.int64)
    kept = alphas_cumprod(config)[steps]
    return np.sqrt(kept), np.sqrt(1 - kept), steps.astype(np.float64)
