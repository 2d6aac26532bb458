"""Which rows belong to which sample: found by a probe, and refused by name where samples mix."""

from __future__ import annotations

from collections.abc import Callable

import pytest

pytest.importorskip("torch", reason="needs the extra 'train'")

import torch
from torch import nn

from locavore.client.training.chains import lora
from locavore.client.training.cohort import Batch, Cohort
from locavore.client.training.layout import Layout, Rows
from locavore.client.training.probe import probe_layouts
from locavore.shared.errors import BadInputError, TrainingError

WIDTH = 4
Fold = Callable[[torch.Tensor], torch.Tensor]


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


class Folded(nn.Module):
    """A linear layer that sees its rows in an order of its own; samples are ``(B, F, T, d)``."""

    def __init__(self, fold: Fold, unfold: Callable[[torch.Tensor, torch.Size], torch.Tensor]):
        super().__init__()
        torch.manual_seed(0)
        self.inner = nn.Linear(WIDTH, WIDTH)
        self.fold, self.unfold = fold, unfold
        self.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.unfold(self.inner(self.fold(x)), x.shape)


def losses(model: nn.Module, batch: Batch) -> torch.Tensor:
    found: torch.Tensor = model(batch["x"]).tanh().flatten(1).mean(1)
    return found


FOLDS: dict[str, tuple[Folded, int]] = {
    "as it is": (Folded(lambda x: x, lambda y, _: y), 1),
    "flat": (Folded(lambda x: x.reshape(-1, WIDTH), lambda y, s: y.view(s)), 1),
    "frames in the batch": (Folded(lambda x: x.flatten(0, 1), lambda y, s: y.view(s)), 1),
    "frames first": (
        Folded(lambda x: x.transpose(0, 1), lambda y, _: y.transpose(0, 1)),
        2,
    ),
    "samples last": (
        Folded(lambda x: x.permute(1, 2, 0, 3), lambda y, _: y.permute(2, 0, 1, 3)),
        6,
    ),
}


@pytest.mark.parametrize("fold", FOLDS)
def test_the_fold_is_found(fold: str) -> None:
    model, outer = FOLDS[fold]
    found = probe_layouts(model, ["inner"], losses, {"x": drawn(4, 2, 3, WIDTH)})
    assert found == {"inner": Layout(outer, 6)}


@pytest.mark.parametrize("fold", FOLDS)
@pytest.mark.parametrize("owners", [1, 3])
def test_gradients_follow_the_fold(fold: str, owners: int) -> None:
    model, _ = FOLDS[fold]
    cohort = Cohort(model, lora(model, ["inner"], 2), losses, {"x": drawn(4, 2, 3, WIDTH)})
    theta = drawn(owners, cohort.dim, seed=1)
    x = drawn(6, 2, 3, WIDTH, seed=2)
    together = cohort.gradients(theta, {"x": x})
    for i in range(6):
        owner = i * owners // 6
        alone = cohort.gradients(theta[owner : owner + 1], {"x": x[i : i + 1]})
        for name, part in alone.parts.items():
            torch.testing.assert_close(together.parts[name][i], part[0])


def test_a_mixed_fold_is_known_for_its_own_shape_only() -> None:
    model, _ = FOLDS["frames first"]
    cohort = Cohort(model, lora(model, ["inner"], 2), losses, {"x": drawn(4, 2, 3, WIDTH)})
    with pytest.raises(TrainingError, match=r"samples of 6 rows; probe again for samples of 15"):
        cohort.gradients(drawn(1, cohort.dim), {"x": drawn(4, 5, 3, WIDTH)})
    last, _ = FOLDS["samples last"]
    cohort = Cohort(last, lora(last, ["inner"], 2), losses, {"x": drawn(4, 2, 3, WIDTH)})
    cohort.gradients(drawn(1, cohort.dim), {"x": drawn(4, 5, 3, WIDTH)})


@pytest.mark.parametrize("layout", [Layout(1, 6), Layout(2, 6), Layout(6, 6)])
@pytest.mark.parametrize("parts", [1, 2, 4])
def test_join_undoes_split(layout: Layout, parts: int) -> None:
    rows = Rows(layout, samples=4, groups=4)
    x = drawn(24, 3)
    assert torch.equal(rows.join(rows.split(x, parts), (24,)), x)


def test_rows_that_do_not_divide_are_refused() -> None:
    with pytest.raises(TrainingError, match="site 'here' has 7 rows for 3 samples"):
        Rows(Layout(1, 2), samples=3, groups=3).require(7, "here")


# --- what mixes samples -------------------------------------------------------------------------


class Mixing(nn.Module):
    """``before`` and ``after`` a layer that does something to the batch."""

    def __init__(self, middle: nn.Module) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.before, self.middle, self.after = nn.Linear(4, 4), middle, nn.Linear(4, 4)
        self.requires_grad_(False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.after(self.middle(self.before(x)))
        return y


class AcrossSamples(nn.Module):
    """Attention whose sequence is the batch."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.softmax(x @ x.T, 1) @ x


class TopRows(nn.Module):
    """Routing as in a mixture of experts: the strongest rows only, as many as exceed a bound."""

    def __init__(self) -> None:
        super().__init__()
        self.expert = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        strong = x.sum(1) > 0
        y = x.clone()
        y[strong] = self.expert(x[strong])
        return y


def refused(model: nn.Module, site: str) -> str:
    with pytest.raises(TrainingError) as caught:
        Cohort(model, lora(model, [site], 2), losses, {"x": drawn(7, 4, seed=3)})
    return str(caught.value)


def test_batch_normalization_is_named() -> None:
    message = refused(Mixing(nn.BatchNorm1d(4)), "before")
    assert "'middle' (BatchNorm1d) mixes samples" in message


def test_batch_normalization_that_has_learnt_is_fine() -> None:
    model = Mixing(nn.BatchNorm1d(4)).eval()
    probe = {"x": drawn(4, 4)}
    cohort = Cohort(model, lora(model, ["before", "after"], 2), losses, probe)
    assert set(cohort.layouts.values()) == {Layout(1, 1)}


def test_attention_across_samples_is_refused_wherever_the_adapter_stands() -> None:
    assert "site 'after' mixes samples" in refused(Mixing(AcrossSamples()), "after")
    assert "samples mix in the model" in refused(Mixing(AcrossSamples()), "before")


def test_an_expert_is_named() -> None:
    message = refused(Mixing(TopRows()), "middle.expert")
    assert "site 'middle.expert'" in message


def test_a_mean_over_the_batch_is_no_loss_per_sample() -> None:
    def mean(model: nn.Module, batch: Batch) -> torch.Tensor:
        own = losses(model, batch)
        return own / 2 + own.mean() / 2

    model = Mixing(nn.Identity())
    with pytest.raises(TrainingError, match="a mean over the batch instead of one per sample"):
        probe_layouts(model, ["before"], mean, {"x": drawn(4, 4)})


def test_one_number_is_no_loss_per_sample() -> None:
    model = Mixing(nn.Identity())
    with pytest.raises(TrainingError, match=r"one loss a sample, \(3,\), got \(\)"):
        probe_layouts(model, ["before"], lambda m, b: losses(m, b).mean(), {"x": drawn(4, 4)})


def test_dropout_is_refused() -> None:
    model = Mixing(nn.Dropout(0.5))
    with pytest.raises(TrainingError, match="switch dropout off"):
        probe_layouts(model, ["after"], losses, {"x": drawn(4, 4)})
    assert probe_layouts(model.eval(), ["after"], losses, {"x": drawn(4, 4)})


def test_rows_that_no_sample_owns_are_refused() -> None:
    class Position(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.places = nn.Embedding(3, 4)
            self.requires_grad_(False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = x + self.places(torch.arange(3))
            return y

    model = Position()
    with pytest.raises(TrainingError, match="'places' has 3 rows for 3 samples, of which 0"):
        probe_layouts(model, ["places"], losses, {"x": drawn(4, 3, 4)})


def test_a_probe_needs_three_samples_that_differ() -> None:
    model = Mixing(nn.Identity())
    with pytest.raises(BadInputError, match="at least 3 samples, got 2"):
        probe_layouts(model, ["before"], losses, {"x": drawn(2, 4)})
    with pytest.raises(TrainingError, match="probe with samples that differ in every input"):
        probe_layouts(model, ["before"], losses, {"x": drawn(1, 4).repeat(4, 1)})
    with pytest.raises(BadInputError, match="sample 0 of the probe and its stand-in give"):
        probe_layouts(model, ["before"], lambda m, b: losses(m, b) * 0, {"x": drawn(4, 4)})
