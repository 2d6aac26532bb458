"""``dp_correctness``: is the clipped update what a loop over single samples gives?

Every family, every layer that can carry an adapter; Opacus' hooks on the same rows beside it. Then
the ways in which public tools are known to go wrong without an error, each shown right or refused.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import nn

from locavore.client.training.chains import Chain, lora
from locavore.client.training.cohort import Cohort
from locavore.shared.errors import TrainingError

from .families import FAMILIES, Batch, Family
from .reference import clipped_sum, sample_gradient, take
from .report import Goal, Options, Report, machine_line

__all__ = ["opacus_update", "run"]

_SAMPLES = 4
_CONVOLUTIONS = ("unet2d", "unet3d", "unet-motion")
_QUICK = ("llama", "opt", "unet3d", "wan")


@dataclass(frozen=True)
class _Case:
    """A model with adapters, a batch, and the loop's update for it.

    ``clip`` is half the median norm of the samples' gradients, so that most are clipped.
    """

    family: Family
    model: nn.Module
    chains: Mapping[str, Chain]
    theta: torch.Tensor
    batch: Batch
    expected: torch.Tensor
    clip: float


def run(options: Options) -> Report:
    """Compare every family; ``--quick`` takes one of each kind."""
    names = _QUICK if options.quick else tuple(FAMILIES)
    errors, rows = {}, []
    for name in names:
        case = _case(FAMILIES[name])
        errors[name] = _distance(_our_update(case), case.expected)
        sites, width = len(case.chains), len(case.expected)
        theirs = _opacus_cell(_case(FAMILIES[name], _no_embedding))
        rows.append([name, str(sites), str(width), f"{errors[name]:.1e}", theirs])
    failures = []
    for title, check in _TRAPS.items():
        ours, theirs, right = check()
        rows.append([title, "", "", ours, theirs])
        if not right:
            failures.append(f"{title}: {ours}")
    return Report(
        benchmark="dp_correctness",
        lines=[
            machine_line(),
            f"{_SAMPLES} samples, most of them clipped; greatest difference from a loop over "
            "single samples, relative to the update's greatest number; Opacus without embeddings",
        ],
        columns=["family or trap", "layers", "numbers", "locavore", "Opacus, hooks"],
        rows=rows,
        ratios={f"{name} error": error for name, error in errors.items()},
        goals=[
            Goal(
                name=f"{name} error",
                bound=1e-4 if name in _CONVOLUTIONS else 1e-5,
                at_most=True,
            )
            for name in names
        ],
        failures=failures,
    )


def _drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _case(family: Family, keep: Callable[[str], bool] = lambda _: True) -> _Case:
    model = family.model()
    chains = lora(model, [site for site in family.sites(model) if keep(site)], 2)
    size = sum(s.shape[0] * s.shape[1] for chain in chains.values() for s in chain.slots)
    theta = 0.1 * torch.randn(size, generator=_drawn(2))
    batch = family.batch(_SAMPLES, _drawn(4))
    return _expect(_Case(family, model, chains, theta, batch, theta, 0.0), range(_SAMPLES))


def _expect(case: _Case, samples: Iterable[int]) -> _Case:
    """With the clipped sum over these samples, one at a time."""
    rows = torch.stack(
        [
            sample_gradient(case.family, case.model, case.chains, case.theta, take(case.batch, [i]))
            for i in samples
        ]
    )
    clip = case.clip or float(rows.norm(dim=1).median()) / 2
    return replace(case, expected=clipped_sum(rows, clip), clip=clip)


def _our_update(case: _Case) -> torch.Tensor:
    probe = case.family.batch(4, _drawn(1))
    cohort = Cohort(case.model, case.chains, case.family.losses, probe)
    gradients = cohort.gradients(case.theta[None], case.batch)
    return gradients.sums((case.clip / gradients.norms()).clamp(max=1.0).nan_to_num(0.0), 1)[0]


def _distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


# --- Opacus on the same rows ------------------------------------------------------------------


def _no_embedding(site: str) -> bool:
    return not any(part in site for part in ("embed_tokens", "wte", "embed_timestep", "shared"))


Losses = Callable[[nn.Module, Batch], torch.Tensor]


def _opacus_cell(case: _Case) -> str:
    try:
        return f"{_distance(opacus_update(case), case.expected):.1e}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:48]}"


def opacus_update(case: _Case) -> torch.Tensor:
    """The clipped sum from the gradients that Opacus' hooks leave, in the order of ``theta``."""
    return clipped_sum(_opacus_rows(case, case.batch, case.family.losses), case.clip)


def _opacus_rows(case: _Case, batch: Batch, losses: Losses) -> torch.Tensor:
    from opacus.grad_sample import GradSampleModule
    from peft import LoraConfig, inject_adapter_in_model

    model = case.family.model()
    pattern = "|".join(map(re.escape, case.chains))
    config = LoraConfig(r=2, lora_alpha=2, lora_dropout=0.0, target_modules=f"({pattern})")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = inject_adapter_in_model(config, model)
        weights = _peft_weights(model, case)
        wrapped = GradSampleModule(model, loss_reduction="sum", strict=False)
        for name, module in model.named_modules():
            module.training = "lora_" in name  # hooks work in training mode only
        losses(wrapped, batch).sum().backward()  # type: ignore[no-untyped-call]
    return torch.cat([_as_rows(w.grad_sample) for w in weights], 1)  # type: ignore[attr-defined]


def _peft_weights(model: nn.Module, case: _Case) -> list[nn.Parameter]:
    """PEFT's factors, filled with ``theta``, in its order."""
    parameters = dict(model.named_parameters())
    found, offset = [], 0
    for site, chain in case.chains.items():
        for letter, slot in zip("AB", chain.slots, strict=True):
            weight = parameters.get(f"{site}.lora_{letter}.default.weight")
            if weight is None:
                raise ValueError(f"{site}: Opacus has no hook for this kind of layer")
            size = slot.shape[0] * slot.shape[1]
            value = case.theta[offset : offset + size].view(slot.shape)
            weight.data.copy_(value.T.reshape(weight.shape))
            found.append(weight)
            offset += size
    return found


def _as_rows(samples: torch.Tensor) -> torch.Tensor:
    """``(B, n, m...)`` as PEFT shapes a factor, to ``(B, m n)`` as ``theta`` does."""
    return samples.flatten(2).transpose(1, 2).flatten(1)


# --- what goes wrong without an error ---------------------------------------------------------

_Outcome = tuple[str, str, bool]


def _exact(name: str, keep: Callable[[str], bool]) -> _Outcome:
    case = _case(FAMILIES[name], keep)
    error = _distance(_our_update(case), case.expected)
    return f"{error:.1e}", _opacus_cell(case), error <= 1e-5


def _token_rows() -> _Outcome:
    return _exact("opt", lambda site: ".fc" in site)


def _frame_rows() -> _Outcome:
    return _exact("unet3d", lambda site: ".attentions." in site and ".attn1." in site)


def _coupled_loss() -> _Outcome:
    """Hugging Face's ``outputs.loss``: does sample 3's length change sample 0's gradient?"""
    case = _case(FAMILIES["llama"], _no_embedding)

    def losses(model: nn.Module, batch: Batch) -> torch.Tensor:
        labels = batch["ids"].masked_fill(batch["mask"] == 0, -100)
        out = model(input_ids=batch["ids"], attention_mask=batch["mask"], labels=labels)
        return out.loss.expand(len(labels))  # type: ignore[no-any-return]

    ours, right = _refused(
        lambda: Cohort(case.model, case.chains, losses, case.family.batch(4, _drawn(1)))
    )
    short = case.batch["mask"].clone()
    short[3, 3:] = 0
    before = _opacus_rows(case, case.batch, losses)[0]
    after = _opacus_rows(case, {**case.batch, "mask": short}, losses)[0]
    return ours, f"moves another's by {_distance(after, before):.0%}", right


def _batch_normalization() -> _Outcome:
    from opacus.grad_sample import GradSampleModule

    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))

    def losses(model: nn.Module, batch: Batch) -> torch.Tensor:
        return model(batch["x"]).square().mean(1)  # type: ignore[no-any-return]

    try:
        GradSampleModule(model)
        theirs = "accepted"
    except NotImplementedError:
        theirs = "refused"
    model.requires_grad_(False)
    probe = {"x": torch.randn(4, 4, generator=_drawn(1))}
    ours, right = _refused(lambda: Cohort(model, lora(model, ["0"], 2), losses, probe))
    return ours, theirs, right


def _refused(make: Callable[[], object]) -> tuple[str, bool]:
    try:
        make()
    except TrainingError as error:
        return f"refused: {str(error)[:40]}", True
    return "ACCEPTED", False


def _infinite_sample() -> _Outcome:
    """One sample that is not finite: the others' part of the update must come out."""
    case = _case(FAMILIES["unet2d"])
    noisy = case.batch["noise"].clone()
    noisy[1] = torch.inf
    case = _expect(replace(case, batch={**case.batch, "noise": noisy}), [0, 2, 3])
    error = _distance(_our_update(case), case.expected)
    return f"{error:.1e}", _opacus_cell(case), error <= 1e-4


def _sampling_rate() -> _Outcome:
    """1000 records, 64 expected: the rate in the plan is the one that is accounted."""
    from opacus.data_loader import DPDataLoader
    from torch.utils.data import DataLoader, TensorDataset

    from locavore.privacy.plan import RecordPlan

    rate = RecordPlan(relation="add-or-remove-one", expected_batch=64).sampling_rate(1000)
    loader = DataLoader(TensorDataset(torch.zeros(1000, 1)), batch_size=64)
    theirs = 1 / len(DPDataLoader.from_data_loader(loader))
    return f"q = {rate:g}", f"q = {theirs:g}", rate == 0.064


_TRAPS: dict[str, Callable[[], _Outcome]] = {
    "OPT, rows are tokens": _token_rows,
    "UNet3D, rows are frames": _frame_rows,
    "loss is a batch mean": _coupled_loss,
    "batch normalization": _batch_normalization,
    "one infinite sample": _infinite_sample,
    "64 of 1000 records": _sampling_rate,
}
