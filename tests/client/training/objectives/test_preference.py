"""DPO and KTO: as their papers write them, and every sample for itself."""

from __future__ import annotations

import math
from typing import Any

import pytest

pytest.importorskip("torch", reason="needs the extra 'train'")

import torch

from locavore.client.training.chains import lora
from locavore.client.training.cohort import Cohort
from locavore.client.training.objectives.language import token_batch
from locavore.client.training.objectives.preference import (
    DPO,
    KTO,
    likelihoods,
    preference_batch,
)
from locavore.client.training.text import TextTwin
from locavore.shared.errors import BadInputError

from ....benchmarks.families import Family
from ....benchmarks.reference import sample_gradient, take

CHOSEN = [[5, 70, 71, 300, 12], [8, 90, 4], [17, 18, 19, 20]]
REJECTED = [[5, 70, 9], [8, 90, 44, 45, 46, 47], [17, 21]]
GIVEN = [2, 2, 1]


def pairs(twin: TextTwin, offset: float = 0.0) -> dict[str, torch.Tensor]:
    batch = preference_batch(CHOSEN, REJECTED, (0,), GIVEN)
    shift = torch.linspace(-1, 1, 6).square().view(3, 2) * offset
    with torch.no_grad():
        return {**batch, "reference": likelihoods(twin.model, batch) + shift}


def singles(twin: TextTwin, offset: float = 1.0) -> dict[str, torch.Tensor]:
    batch = token_batch(CHOSEN, (0,), GIVEN)
    with torch.no_grad():
        known = likelihoods(twin.model, batch) + offset * torch.tensor([0.5, -1.0, 2.0])
    return {**batch, "reference": known, "liked": torch.tensor([True, False, True])}


def written_out(twin: TextTwin, record: list[int], given: int) -> float:
    """Log-likelihood of a completion, token by token."""
    row = [0, *record]
    with torch.no_grad():
        scores = twin.model(input_ids=torch.tensor([row])).logits[0].double().log_softmax(-1)
    return sum(float(scores[i - 1, row[i]]) for i in range(1 + given, len(row)))


def sigmoid(value: float) -> float:
    return 1 / (1 + math.exp(-value))


def test_likelihoods_are_sums_over_the_completion(twin: TextTwin) -> None:
    found = likelihoods(twin.model, preference_batch(CHOSEN, REJECTED, (0,), GIVEN))
    assert found.shape == (3, 2)
    for i in range(3):
        for j, texts in enumerate((CHOSEN, REJECTED)):
            expected = written_out(twin, texts[i], GIVEN[i])
            assert float(found[i, j]) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_dpo_is_equation_7(smoothing: float, twin: TextTwin) -> None:
    batch = pairs(twin, offset=3.0)
    found = DPO(beta=0.5, smoothing=smoothing)(twin.model, batch)
    for i in range(3):
        gains = [
            written_out(twin, texts[i], GIVEN[i]) - float(batch["reference"][i, j])
            for j, texts in enumerate((CHOSEN, REJECTED))
        ]
        margin = 0.5 * (gains[0] - gains[1])
        expected = -(1 - smoothing) * math.log(sigmoid(margin)) - smoothing * math.log(
            sigmoid(-margin)
        )
        assert float(found[i]) == pytest.approx(expected, abs=1e-4)


def test_dpo_of_the_frozen_model_is_log_2(twin: TextTwin) -> None:
    found = DPO()(twin.model, pairs(twin))
    torch.testing.assert_close(found, torch.full((3,), math.log(2)))


def test_kto_is_the_papers_value(twin: TextTwin) -> None:
    batch = singles(twin)
    batch["point"] = torch.tensor([0.1, 0.2, 0.3])
    found = KTO(beta=0.4, liked=1.5, disliked=0.7)(twin.model, batch)
    for i, liked in enumerate((True, False, True)):
        gain = written_out(twin, CHOSEN[i], GIVEN[i]) - float(batch["reference"][i])
        away = gain - float(batch["point"][i])
        value = sigmoid(0.4 * away) if liked else sigmoid(-0.4 * away)
        expected = (1.5 if liked else 0.7) * (1 - value)
        assert float(found[i]) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize(("objective", "kind"), [(DPO(), pairs), (KTO(), singles)])
def test_no_sample_knows_the_others(objective: Any, kind: Any, twin: TextTwin) -> None:
    batch = kind(twin)
    together = objective(twin.model, batch)
    for i in range(3):
        alone = objective(twin.model, take(batch, [i]))
        assert float(alone) == pytest.approx(float(together[i]), abs=1e-5)


@pytest.mark.parametrize(("objective", "kind"), [(DPO(), pairs), (KTO(), singles)])
def test_its_gradients_on_the_core_are_those_of_a_loop(
    objective: Any, kind: Any, twin: TextTwin
) -> None:
    """A pair is one sample to the probe, to clipping and to privacy."""
    batch = kind(twin, offset=3.0)  # where all losses are log 2, a probe sees no difference
    sites = ["model.layers.0.self_attn.q_proj", "model.layers.0.mlp.down_proj"]
    chains = lora(twin.model, sites, 2)
    cohort = Cohort(twin.model, chains, objective, batch)
    theta = torch.randn(1, cohort.dim, generator=torch.Generator().manual_seed(1)) * 0.1
    found = cohort.gradients(theta, batch)
    rows = torch.cat([part.flatten(1) for part in found.parts.values()], 1)
    family = Family(lambda: twin.model, lambda *_: {}, objective)
    for i in range(3):
        expected = sample_gradient(family, twin.model, chains, theta[0], take(batch, [i]))
        assert expected.norm() > 1e-4
        assert float((rows[i] - expected).norm() / expected.norm()) < 1e-4


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: DPO(beta=0), "beta must be above 0, got 0"),
        (lambda: DPO(smoothing=0.5), r"smoothing must be 0..0.5, got 0.5"),
        (lambda: KTO(beta=math.nan), "beta must be above 0, got nan"),
        (lambda: KTO(disliked=-1), "disliked must be above 0, got -1"),
        (lambda: preference_batch([[1]], []), "needs a rejected one, got 1 and 0"),
    ],
)
def test_bad_input_is_refused(make: Any, reason: str) -> None:
    with pytest.raises(BadInputError, match=reason):
        make()
