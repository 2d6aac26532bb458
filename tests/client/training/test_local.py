"""Plain local training of many owners, and the optimizers that move them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'train'")

import torch
from torch import nn

from locavore.client.training.chains import lora
from locavore.client.training.cohort import Batch, Cohort
from locavore.client.training.local import LocalTraining, train_locally
from locavore.client.training.optimizers import Optimizer, Stepper
from locavore.shared.errors import BadInputError, TooLittleDataError, TrainingError

Record = tuple[torch.Tensor, torch.Tensor]


def drawn(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def losses(model: nn.Module, batch: Batch) -> torch.Tensor:
    found: torch.Tensor = (model(batch["x"]) - batch["y"]).square().mean(1)
    return found


def collate(records: Sequence[Record]) -> dict[str, torch.Tensor]:
    return {"x": torch.stack([x for x, _ in records]), "y": torch.stack([y for _, y in records])}


def some_records(count: int, seed: int) -> list[Record]:
    x, y = torch.randn(2, count, 5, generator=drawn(seed)).unbind()
    return list(zip(x, y, strict=True))


@pytest.fixture
def cohort() -> Cohort:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 5)).requires_grad_(False)
    return Cohort(model, lora(model, ["0", "2"], 2), losses, collate(some_records(4, 9)))


def started(cohort: Cohort, owners: int) -> torch.Tensor:
    theta = cohort.start(1, drawn(1))
    return (theta + 0.1 * torch.randn(theta.shape, generator=drawn(2))).repeat(owners, 1)


HOW: dict[str, LocalTraining] = {
    "sgd": LocalTraining(epochs=2, batch=3),
    "adam, decaying": LocalTraining(
        epochs=2, batch=3, decay=True, optimizer=Optimizer(kind="adam", learning_rate=0.01)
    ),
    "adamw, in turns": LocalTraining(
        epochs=2,
        batch=3,
        optimizer=Optimizer(
            kind="adamw", learning_rate=0.01, up_ratio=4, weight_decay=0.1, alternate="step"
        ),
    ),
    "steps": LocalTraining(steps=7, batch=4),
}


@pytest.mark.parametrize("name", HOW)
def test_owners_together_are_owners_alone(name: str, cohort: Cohort) -> None:
    owned = [some_records(count, seed) for seed, count in enumerate((9, 4, 1))]
    theta = started(cohort, 3)
    together = train_locally(cohort, theta, owned, HOW[name], collate)
    for k, own in enumerate(owned):
        alone = train_locally(cohort, theta[k : k + 1], [own], HOW[name], collate)[0]
        change = (alone - theta[k]).abs().max()
        assert change > 1e-4
        assert (together[k] - alone).abs().max() <= 1e-5 * change


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
def test_steps_are_torchs_own(kind: Any, cohort: Cohort) -> None:
    """Against an optimizer on one flat tensor, owner by owner."""
    how = Optimizer(kind=kind, learning_rate=0.03, weight_decay=0.2)
    theta = started(cohort, 2)
    stepper = Stepper(cohort, theta, how)
    leaves = [row.clone().requires_grad_() for row in theta]
    made = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}[kind]
    optimizers = [made([leaf], lr=0.03, weight_decay=0.2) for leaf in leaves]
    for step in range(3):
        gradient = torch.randn(theta.shape, generator=drawn(step))
        stepper.step(gradient, active=frozenset(cohort.slots))
        for leaf, optimizer, row in zip(leaves, optimizers, gradient, strict=True):
            leaf.grad = row.clone()
            optimizer.step()
    torch.testing.assert_close(stepper.theta, torch.stack([x.detach() for x in leaves]))


def test_b_learns_at_its_own_rate(cohort: Cohort) -> None:
    theta = started(cohort, 1)
    stepper = Stepper(cohort, theta, Optimizer(learning_rate=0.1, up_ratio=3))
    stepper.step(torch.ones_like(theta), active=frozenset(cohort.slots))
    for name, change in cohort.unpack(stepper.theta - theta).items():
        expected = -0.3 if name.endswith(".B") else -0.1
        torch.testing.assert_close(change, torch.full_like(change, expected))


@pytest.mark.parametrize("kind", ["sgd", "adam", "adamw"])
def test_what_is_not_active_stays_with_its_state(kind: Any, cohort: Cohort) -> None:
    """Skipping a step is as if it had not been."""
    theta, ups = started(cohort, 1), frozenset(n for n in cohort.slots if n.endswith(".B"))
    how = Optimizer(kind=kind, learning_rate=0.1, weight_decay=0.1)
    skipping, plain = Stepper(cohort, theta, how), Stepper(cohort, theta, how)
    for step in range(4):
        gradient = torch.randn(theta.shape, generator=drawn(step))
        everything = frozenset(cohort.slots)
        skipping.step(gradient, active=ups if step % 2 else everything)
        if step % 2 == 0:
            plain.step(gradient, active=everything)
    found, expected = cohort.unpack(skipping.theta), cohort.unpack(plain.theta)
    for name in cohort.slots.keys() - ups:
        torch.testing.assert_close(found[name], expected[name])
    assert any(not torch.equal(found[name], expected[name]) for name in ups)


@pytest.mark.parametrize(
    ("alternate", "turns"),
    [("never", "...."), ("step", "BABA"), ("round", "BBAA")],
)
def test_whose_turn_it_is(alternate: Any, turns: str, cohort: Cohort) -> None:
    how = Optimizer(alternate=alternate)
    letters = ""
    for round in (1, 2):
        for step in (0, 1):
            kinds = {name[-1] for name in how.active(cohort, step=step, round=round)}
            letters += kinds.pop() if len(kinds) == 1 else "."
    assert letters == turns


def test_training_learns(cohort: Cohort) -> None:
    records = some_records(20, 3)
    theta = cohort.start(1, drawn(1))
    how = LocalTraining(steps=200, batch=20, optimizer=Optimizer(kind="adam", learning_rate=0.03))
    after = train_locally(cohort, theta, [records], how, collate)
    batch = collate(records)
    assert cohort.gradients(after, batch).losses.mean() < (
        0.8 * cohort.gradients(theta, batch).losses.mean()
    )


def test_epochs_visit_everyone_once_and_steps_go_round() -> None:
    epochs = LocalTraining(epochs=2, batch=4).order(10)
    assert [len(batch) for batch in epochs] == [4, 4, 2] * 2
    first, second = ([i for batch in epochs[at : at + 3] for i in batch] for at in (0, 3))
    assert sorted(first) == sorted(second) == list(range(10))
    steps = LocalTraining(steps=4, batch=5).order(10)
    assert [len(batch) for batch in steps] == [5] * 4
    assert sorted(steps[0] + steps[1]) == sorted(steps[2] + steps[3]) == list(range(10))
    assert all(len(batch) == 3 for batch in LocalTraining(steps=4, batch=5).order(3))


def test_an_owner_without_records_is_too_little(cohort: Cohort) -> None:
    with pytest.raises(TooLittleDataError, match="at least one record of every owner"):
        train_locally(cohort, started(cohort, 2), [some_records(2, 1), []], HOW["sgd"], collate)


def test_what_is_not_finite_is_an_error(cohort: Cohort) -> None:
    records = some_records(6, 1)
    records[3][0][0] = torch.nan
    with pytest.raises(TrainingError, match=r"at step \d of 4; lower the learning rate \(0.05\)"):
        train_locally(cohort, started(cohort, 1), [records], HOW["sgd"], collate)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kind", "lion"),
        ("alternate", "daily"),
        ("learning_rate", 0.0),
        ("learning_rate", np.nan),
        ("up_ratio", -1.0),
        ("betas", (0.9, 1.0)),
        ("weight_decay", -0.1),
    ],
)
def test_a_bad_optimizer_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(BadInputError, match=f"{name} must be .*got "):
        Optimizer(**{name: value})


@pytest.mark.parametrize("settings", [{"epochs": 0}, {"steps": 0}, {"batch": 0}])
def test_bad_training_is_refused_by_name(settings: dict[str, Any]) -> None:
    with pytest.raises(BadInputError, match=f"{next(iter(settings))} must be at least 1, got 0"):
        LocalTraining(**settings)
