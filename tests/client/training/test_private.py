"""The private adapter: it learns, and it changes nothing but itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'train'")

import torch

from locavore.client.runtime import TextModel
from locavore.client.training.objectives.language import per_record_loss, token_batch
from locavore.client.training.private import PrivateTraining, train_private
from locavore.client.training.text import TextTwin
from locavore.shared.adapters import Adapter
from locavore.shared.errors import AdapterError, BadInputError, TooLittleDataError, TrainingError
from locavore.shared.forms import Directions, SharedForm

HOW = PrivateTraining(rank=4, steps=12, batch=8, learning_rate=1e-2)


@pytest.fixture
def records(model: TextModel, private_texts: list[str]) -> list[list[int]]:
    return [model.encode(text) for text in private_texts[:16]]


def loss(twin: TextTwin, records: list[list[int]], *adapters: Adapter) -> float:
    import contextlib

    with torch.no_grad(), contextlib.ExitStack() as stack:
        for adapter in adapters:
            stack.enter_context(twin.adapted(adapter))
        return per_record_loss(twin.model, token_batch(records, (0,))).mean().item()


def some_shared(directions: Directions, base_id: str) -> Adapter:
    form = SharedForm("core", base_id, directions)
    theta = np.random.default_rng(1).standard_normal(form.dim).astype(np.float32)
    return form.to_adapter(theta)


def equal(one: Adapter, two: Adapter) -> bool:
    return one.factors.keys() == two.factors.keys() and all(
        np.array_equal(x, y)
        for site in one.factors
        for x, y in zip(one.factors[site], two.factors[site], strict=True)
    )


def test_it_lowers_the_loss_on_other_texts_of_the_person(
    twin: TextTwin,
    directions: Directions,
    records: list[list[int]],
    model: TextModel,
    private_texts: list[str],
) -> None:
    unseen = [model.encode(text) for text in private_texts[20:30]]
    before = loss(twin, unseen)
    adapter = train_private(twin, directions, records, HOW)
    assert loss(twin, unseen, adapter) < before - 0.5
    assert loss(twin, unseen) == before
    assert {a.shape[1] for a, _ in adapter.factors.values()} == {4}


def test_the_twins_weights_are_left_bit_by_bit(
    twin: TextTwin, directions: Directions, records: list[list[int]]
) -> None:
    before = {
        name.replace(".base.", "."): p.detach().clone() for name, p in twin.model.named_parameters()
    }
    with torch.no_grad():
        logits = twin.model(input_ids=torch.tensor(records[:1])).logits
    train_private(twin, directions, records, HOW, shared=some_shared(directions, twin.base_id))
    after = {name.replace(".base.", "."): p for name, p in twin.model.named_parameters()}
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.grad is None and not p.requires_grad for p in after.values())
    with torch.no_grad():
        assert torch.equal(twin.model(input_ids=torch.tensor(records[:1])).logits, logits)


def test_it_is_trained_on_top_of_the_shared_one(
    twin: TextTwin, directions: Directions, records: list[list[int]]
) -> None:
    shared = some_shared(directions, twin.base_id)
    alone = train_private(twin, directions, records, HOW)
    on_top = train_private(twin, directions, records, HOW, shared=shared)
    assert not equal(alone, on_top)
    assert loss(twin, records, shared, on_top) < loss(twin, records, shared, alone)


def test_one_person_leaves_nothing_to_the_next(
    twin: TextTwin, directions: Directions, records: list[list[int]]
) -> None:
    fresh = train_private(twin, directions, records[8:], HOW)
    train_private(twin, directions, records[:8], HOW)
    again = train_private(twin, directions, records[8:], HOW)
    assert equal(fresh, again)
    other = train_private(twin, directions, records[:8], HOW)
    assert not equal(fresh, other)


def test_training_does_not_touch_the_global_generator(
    twin: TextTwin, directions: Directions, records: list[list[int]]
) -> None:
    state = torch.random.get_rng_state()
    train_private(twin, directions, records, HOW)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_the_returned_factors_are_the_callers_own(
    twin: TextTwin, directions: Directions, records: list[list[int]]
) -> None:
    before = {site: (a.copy(), b.copy()) for site, (a, b) in directions.factors.items()}
    adapter = train_private(twin, directions, records, HOW)
    for a, b in adapter.factors.values():
        a += 1
        b += 1
    for site, pair in before.items():
        for kept, now in zip(pair, directions.factors[site], strict=True):
            np.testing.assert_array_equal(kept, now)


def test_a_loss_that_is_not_finite_is_an_error_and_detaches(
    twin: TextTwin, directions: Directions, records: list[list[int]]
) -> None:
    before = loss(twin, records)
    wild = PrivateTraining(steps=8, learning_rate=1e30)
    with pytest.raises(TrainingError, match=r"at step \d of 8; lower the learning rate \(1e\+30\)"):
        train_private(twin, directions, records, wild)
    assert loss(twin, records) == before


def test_an_interrupt_detaches_too(
    twin: TextTwin, directions: Directions, records: list[list[int]]
) -> None:
    def interrupt(_: float) -> None:
        raise KeyboardInterrupt

    before = loss(twin, records)
    with pytest.raises(KeyboardInterrupt):
        train_private(twin, directions, records, HOW, progress=interrupt)
    assert loss(twin, records) == before


def test_a_site_that_is_not_there_detaches_what_was_attached(
    twin: TextTwin, directions: Directions, records: list[list[int]]
) -> None:
    before = loss(twin, records)
    factors = dict(some_shared(directions, twin.base_id).factors)
    factors["model.layers.9.mlp.up_proj"] = next(iter(factors.values()))
    with pytest.raises(AdapterError, match="has no layer"):
        train_private(twin, directions, records, HOW, shared=Adapter(twin.base_id, factors))
    assert loss(twin, records) == before


def test_a_shared_adapter_of_another_base_is_refused(
    twin: TextTwin, directions: Directions, records: list[list[int]]
) -> None:
    with pytest.raises(AdapterError, match="belongs to base 'other'"):
        train_private(twin, directions, records, HOW, shared=some_shared(directions, "other"))


def test_no_record_is_too_little(twin: TextTwin, directions: Directions) -> None:
    with pytest.raises(TooLittleDataError, match="at least one record"):
        train_private(twin, directions, [], HOW)


def test_progress_ends_at_one(
    twin: TextTwin, directions: Directions, records: list[list[int]]
) -> None:
    told: list[float] = []
    train_private(twin, directions, records, PrivateTraining(steps=4), progress=told.append)
    assert told == [0.25, 0.5, 0.75, 1.0]


@pytest.mark.parametrize(
    ("name", "value"),
    [("rank", 0), ("steps", 0), ("batch", 0), ("learning_rate", 0), ("learning_rate", np.nan)],
)
def test_a_bad_value_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(BadInputError, match=f"{name} must be .*got {value}"):
        PrivateTraining(**{name: value})
