"""The cohort: exact gradients per sample and per owner, in every family."""

from __future__ import annotations

from functools import cache

import pytest

pytest.importorskip("torch", reason="needs the extra 'train'")
pytest.importorskip("diffusers", reason="the families are a development dependency")

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from locavore.client.training.chains import Chain, lora
from locavore.client.training.cohort import Cohort, Gradients
from locavore.shared.errors import AdapterError, BadInputError, TrainingError

from ...benchmarks.families import FAMILIES, Batch
from ...benchmarks.reference import clipped_sum, sample_gradient, take

CLIP = 0.3


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@cache
def cohort_of(name: str) -> Cohort:
    family = FAMILIES[name]
    model = family.model()
    chains = lora(model, family.sites(model), 2)
    return Cohort(model, chains, family.losses, family.batch(4, drawn(1)))


def some_theta(cohort: Cohort, owners: int = 1) -> torch.Tensor:
    start = cohort.start(owners, drawn(2))
    return start + 0.05 * torch.randn(start.shape, generator=drawn(3))


def flat(gradients: Gradients) -> torch.Tensor:
    return torch.cat([part.flatten(1) for part in gradients.parts.values()], 1)


def factors(gradients: Gradients) -> torch.Tensor:
    return (CLIP / gradients.norms()).clamp(max=1.0)


def distance(found: torch.Tensor, expected: torch.Tensor) -> float:
    return float((found - expected).abs().max() / expected.abs().max())


def squared(model: nn.Module, batch: Batch) -> torch.Tensor:
    found: torch.Tensor = model(batch["x"]).square().flatten(1).mean(1)
    return found


@pytest.mark.parametrize("name", FAMILIES)
def test_the_clipped_sum_equals_a_loop_over_samples(name: str) -> None:
    cohort, family = cohort_of(name), FAMILIES[name]
    theta, batch = some_theta(cohort), family.batch(4, drawn(4))
    gradients = cohort.gradients(theta, batch)
    rows = torch.stack(
        [
            sample_gradient(family, cohort.model, cohort.chains, theta[0], take(batch, [i]))
            for i in range(4)
        ]
    )
    assert rows.norm(dim=1).max() > CLIP / 2  # or nothing is near being clipped
    found = gradients.sums(factors(gradients), 1)[0]
    assert distance(found, clipped_sum(rows, CLIP)) <= 1e-5
    assert distance(flat(gradients), rows) <= 1e-5


@pytest.mark.parametrize("name", FAMILIES)
def test_owners_together_are_owners_alone(name: str) -> None:
    cohort, family = cohort_of(name), FAMILIES[name]
    theta = some_theta(cohort, owners=3)
    theta = theta * torch.tensor([[1.0], [0.5], [-1.0]])
    batch = family.batch(6, drawn(5))
    together = cohort.gradients(theta, batch)
    sums = together.sums(factors(together), 3)
    by_owner = flat(cohort.gradients(theta, batch, per="owner"))
    for k in range(3):
        alone = cohort.gradients(theta[k : k + 1], take(batch, slice(2 * k, 2 * k + 2)))
        assert distance(sums[k], alone.sums(factors(alone), 1)[0]) <= 1e-5
        assert distance(by_owner[k], flat(alone).sum(0)) <= 1e-5


@pytest.mark.parametrize("name", ["llama", "unet2d"])
def test_absent_samples_count_nothing(name: str) -> None:
    cohort, family = cohort_of(name), FAMILIES[name]
    theta, batch = some_theta(cohort, 2), family.batch(6, drawn(6))
    present = torch.tensor([True, True, True, True, False, False])
    gradients = cohort.gradients(theta, batch, weights=present)
    assert not gradients.norms()[~present].any()
    alone = cohort.gradients(theta[1:], take(batch, [3]))
    assert distance(flat(gradients)[3], flat(alone)[0]) <= 1e-5


# --- samples that are not finite ----------------------------------------------------------------


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_bad_sample_spoils_its_own_gradient_only(bad: float) -> None:
    cohort, family = cohort_of("unet2d"), FAMILIES["unet2d"]
    theta, batch = some_theta(cohort), family.batch(3, drawn(7))
    clean = cohort.gradients(theta, batch)
    batch["noise"][1, 0, 0, 0] = bad
    spoiled = cohort.gradients(theta, batch)
    assert not spoiled.norms()[1].isfinite()
    assert distance(flat(spoiled)[[0, 2]], flat(clean)[[0, 2]]) <= 1e-6
    kept = torch.tensor([1.0, 0.0, 1.0], dtype=torch.float64)
    assert distance(spoiled.sums(kept, 1), clean.sums(kept, 1)) <= 1e-6


# --- checkpointing, precision, phases -----------------------------------------------------------


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_nothing(reentrant: bool) -> None:
    family = FAMILIES["llama"]
    plain = cohort_of("llama")
    model = family.model()
    model.activation_checkpointing_enable({"use_reentrant": reentrant})  # type: ignore[operator]
    model.train()  # transformers checkpoints in training mode only; there is no dropout here
    cohort = Cohort(model, plain.chains, family.losses, family.batch(4, drawn(1)))
    theta, batch = some_theta(cohort), family.batch(3, drawn(8))
    if reentrant:
        # The first block's input is an embedding with an adapter, so it needs a gradient.
        assert "model.embed_tokens" in cohort.chains
    found = flat(cohort.gradients(theta, batch))
    assert distance(found, flat(plain.gradients(theta, batch))) <= 1e-6


def test_a_checkpointed_block_that_gets_no_gradient_is_named() -> None:
    class Checkpointed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = checkpoint(self.inner, x, use_reentrant=True)
            return y

    model = Checkpointed().requires_grad_(False)
    probe = {"x": torch.randn(4, 4, generator=drawn(1))}
    with pytest.warns(UserWarning, match="None of the inputs have requires_grad"):
        cohort = Cohort(model, lora(model, ["inner"], 2), squared, probe)
    with (
        pytest.warns(UserWarning, match="None of the inputs have requires_grad"),
        pytest.raises(TrainingError, match="a checkpointed block gets no input that needs"),
    ):
        cohort.gradients(some_theta(cohort), probe)


def test_only_the_active_slots_get_gradients() -> None:
    cohort, family = cohort_of("gpt2"), FAMILIES["gpt2"]
    theta, batch = some_theta(cohort, 2), family.batch(4, drawn(9))
    ups = frozenset(name for name in cohort.slots if name.endswith(".B"))
    some, everything = cohort.gradients(theta, batch, active=ups), cohort.gradients(theta, batch)
    for name, part in some.parts.items():
        if name in ups:
            assert distance(part, everything.parts[name]) <= 1e-6
        else:
            assert not part.any()


def test_a_half_precision_base_trains_float32_adapters() -> None:
    family = FAMILIES["llama"]
    exact = cohort_of("llama")
    model = family.model().to(torch.bfloat16)
    cohort = Cohort(model, exact.chains, family.losses, family.batch(4, drawn(1)))
    theta, batch = some_theta(cohort, 2), family.batch(4, drawn(4))
    found, expected = cohort.gradients(theta, batch), exact.gradients(theta, batch)
    assert {part.dtype for part in found.parts.values()} == {torch.float32}
    assert distance(flat(found), flat(expected)) <= 0.1


def test_the_start_changes_nothing_and_is_every_owners() -> None:
    cohort, family = cohort_of("llama"), FAMILIES["llama"]
    batch = family.batch(4, drawn(4))
    start = cohort.start(2, drawn(2))
    assert torch.equal(start[0], start[1])
    assert start.any()
    bare = family.losses(cohort.model, batch)
    torch.testing.assert_close(cohort.gradients(start, batch).losses, bare)


# --- what is refused ----------------------------------------------------------------------------


def test_shapes_are_checked() -> None:
    cohort, family = cohort_of("llama"), FAMILIES["llama"]
    batch = family.batch(4, drawn(4))
    with pytest.raises(AdapterError, match=rf"\(owners, {cohort.dim}\), got \(1, 3\)"):
        cohort.gradients(torch.zeros(1, 3), batch)
    with pytest.raises(BadInputError, match="4 samples do not divide among 3 owners"):
        cohort.gradients(some_theta(cohort, 3), batch)
    with pytest.raises(BadInputError, match="one row a sample"):
        cohort.gradients(some_theta(cohort), {**batch, "mask": batch["mask"][:2]})


def test_a_base_that_would_train_along_is_refused() -> None:
    family = FAMILIES["llama"]
    model = family.model()
    model.get_submodule("lm_head").requires_grad_(True)
    with pytest.raises(AdapterError, match=r"must be frozen, but 'lm_head.weight' and 0 more"):
        Cohort(model, lora(model, ["lm_head"], 2), family.losses, family.batch(4, drawn(1)))


@pytest.mark.parametrize("rank", [-1, 0, 17, 1000])
def test_a_rank_outside_the_layer_is_refused(rank: int) -> None:
    with pytest.raises(BadInputError, match=rf"rank must be 1..16 .*got {rank}"):
        lora(FAMILIES["llama"].model(), ["model.layers.0.mlp.up_proj"], rank)


def test_a_name_used_twice_is_refused() -> None:
    family = FAMILIES["llama"]
    model = family.model()
    one = lora(model, ["model.layers.0.mlp.up_proj"], 2)
    links = one["model.layers.0.mlp.up_proj"].links
    both = {**one, "model.layers.1.mlp.up_proj": Chain(links)}
    with pytest.raises(AdapterError, match="named twice"):
        Cohort(model, both, family.losses, family.batch(4, drawn(1)))


def test_a_layer_whose_forward_is_bypassed_is_named() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = nn.MultiheadAttention(8, 2, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = self.inner(x, x, x, need_weights=False)[0]
            return found

    model = Attention().eval().requires_grad_(False)

    probe = {"x": torch.randn(4, 3, 8, generator=drawn(1))}
    with pytest.raises(TrainingError, match=r"'inner.out_proj' took no part in the forward"):
        Cohort(model, lora(model, ["inner.out_proj"], 2), squared, probe)


def test_a_layer_that_the_loss_does_not_see_is_named() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used, self.idle = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.idle(x)
            out: torch.Tensor = self.used(x)
            return out

    model = Idle().requires_grad_(False)

    probe = {"x": torch.randn(4, 4, generator=drawn(1))}
    cohort = Cohort(model, lora(model, ["used", "idle"], 2), squared, probe)
    with pytest.raises(TrainingError, match=r"'idle.A' \(and 1 more\) took no part in the loss"):
        cohort.gradients(some_theta(cohort), probe)
