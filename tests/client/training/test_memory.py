"""A memory budget: read, turned into samples, and kept."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="needs the extra 'train'")
pytest.importorskip("diffusers", reason="the families are a development dependency")

import torch

from locavore.client.training.chains import lora
from locavore.client.training.cohort import Cohort
from locavore.client.training.memory import parse_bytes, samples_within
from locavore.shared.errors import BadInputError

from ...benchmarks.families import FAMILIES


@pytest.fixture
def cohort() -> Cohort:
    family = FAMILIES["llama"]
    model = family.model()
    return Cohort(
        model,
        lora(model, family.sites(model), 2),
        family.losses,
        family.batch(4, torch.Generator().manual_seed(1)),
    )


def longest(length: int) -> dict[str, torch.Tensor]:
    ids = torch.arange(3, 3 + length)[None]
    return {"ids": ids, "mask": torch.ones_like(ids)}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (5, 5),
        ("12", 12),
        ("600MB", 600_000_000),
        ("1.5GiB", 3 * 2**29),
        ("20 k", 20_000),
        ("2KiB", 2048),
    ],
)
def test_sizes_are_read(given: int | str, expected: int) -> None:
    assert parse_bytes(given) == expected


@pytest.mark.parametrize("given", [0, -3, "", "MB", "-1MB", "0MB", "2kiB", "1.2.3GB", "lots"])
def test_what_is_no_size_is_refused(given: int | str) -> None:
    with pytest.raises(BadInputError, match="a memory budget is bytes or like '600MB'"):
        parse_bytes(given)


def test_more_memory_holds_more_and_longer_samples_hold_fewer(cohort: Cohort) -> None:
    some = samples_within(cohort, longest(40), "10MB")
    assert samples_within(cohort, longest(40), "20MB") == pytest.approx(2 * some, rel=0.1)
    assert samples_within(cohort, longest(80), "10MB") < 0.7 * some


def test_a_budget_below_one_sample_says_what_is_needed(cohort: Cohort) -> None:
    with pytest.raises(BadInputError, match=r"below what one sample needs, about \d+MB"):
        samples_within(cohort, longest(80), 1000)


def test_what_is_counted_is_what_a_pass_holds(cohort: Cohort) -> None:
    """Against torch's own record of every allocation in a pass."""
    from torch.profiler import ProfilerActivity, profile

    count = samples_within(cohort, longest(80), "8MB")
    batch = {name: value.repeat(count, 1) for name, value in longest(80).items()}
    theta = cohort.start(1, torch.Generator().manual_seed(0))
    cohort.gradients(theta, batch)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as record:
        cohort.gradients(theta, batch)
    level = peak = 0
    for event in record.profiler.kineto_results.events():
        if event.name() == "[memory]":
            level += event.nbytes()
            peak = max(peak, level)
    assert 0.5 * 8e6 < peak <= 8e6
