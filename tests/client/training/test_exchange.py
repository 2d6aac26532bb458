"""What of a form's trained numbers comes with the vector, stays, or leaves, for every policy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'train'")
pytest.importorskip("flwr", reason="policies are the server's")

import torch

from locavore.client.federated import form_training
from locavore.client.training.adapted import shared_chains
from locavore.client.training.local import LocalTraining, train_locally
from locavore.client.training.objectives.language import token_batch
from locavore.client.training.optimizers import Optimizer
from locavore.client.training.private import PrivateTraining, train_private
from locavore.client.training.text import TextTwin
from locavore.privacy.clipping import AdaptiveClip
from locavore.privacy.noise import NoiseSource, insecure_seeded_noise
from locavore.privacy.plan import PrivacyPlan
from locavore.server.aggregation import POLICIES
from locavore.shared.adapters import Array
from locavore.shared.errors import BadInputError
from locavore.shared.forms import Directions, SharedForm

from ...plans import record_plan, user_plan

NAMES = tuple(POLICIES)
RECORDS = [[70, 71, 300, 12], [90, 91, 4], [17, 18, 19, 20, 21, 22], [301, 5, 9]] * 10
HOW = LocalTraining(steps=3, batch=8, optimizer=Optimizer(learning_rate=0.05))
PLANS = {
    "records": record_plan(expected_batch=8, local_steps=2, clip=0.5),
    "users": user_plan(clip=0.01),
    "users, adaptive": user_plan(clip=AdaptiveClip(initial=0.02, count_noise=4.0)),
    "both": user_plan(clip=0.01, trust="local", within=record_plan(local_steps=2)),
}
FREE = user_plan(clip=1e6, noise_multiplier=0.0)


def over(twin: TextTwin, directions: Directions, name: str) -> SharedForm:
    return POLICIES[name].over(twin.base_id, directions.limited(2), carried=4)


def trained(
    twin: TextTwin,
    form: SharedForm,
    plan: PrivacyPlan,
    theta: Array,
    *,
    round: int = 1,
    kept: Array | None = None,
    how: LocalTraining = HOW,
) -> Array:
    training = form_training(twin, form, plan, locally=how)
    noise: list[NoiseSource] = [insecure_seeded_noise(round)]
    update: Array = training.round(theta, [RECORDS], noise, number=round, kept=kept)[0]
    return update


def nothing_kept(form: SharedForm) -> Array | None:
    return np.zeros((1, form.kept_dim), np.float32) if form.kept_dim else None


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("name", NAMES)
def test_an_answer_has_the_length_of_what_leaves(
    name: str, plan: str, twin: TextTwin, directions: Directions
) -> None:
    form, how = over(twin, directions, name), PLANS[plan]
    theta = np.zeros(how.width(form.dim), np.float32)
    entries = how.width(0)
    for round in (1, 2):
        update = trained(twin, form, how, theta, round=round, kept=nothing_kept(form))
        assert update.shape == (len(form.leaves(round)) + entries,)
        assert np.isfinite(update).all()
        if how.unit == "user" and how.trust == "central":
            norm = np.linalg.norm(update[: len(update) - entries])
            assert norm <= how.norm(0.0) * (1 + 1e-6)


@pytest.mark.parametrize("name", [n for n in NAMES if POLICIES[n].form == "lora"])
def test_both_factors_start_at_the_public_ones(
    name: str, twin: TextTwin, directions: Directions
) -> None:
    form = over(twin, directions, name)
    cohort = twin.cohort(shared_chains(form))
    begin = torch.from_numpy(form.start())[None]
    how = LocalTraining(
        steps=3, batch=8, optimizer=Optimizer(learning_rate=0.05, alternate=form.turns)
    )
    after = train_locally(cohort, begin, [RECORDS], how, lambda rows: token_batch(rows, (0,)))
    change = (after - begin)[0].numpy()
    found = trained(twin, form, FREE, form.zero())
    np.testing.assert_allclose(found, change[form.leaves(1)], atol=1e-6)


def test_in_turns_one_factor_learns_at_a_time(twin: TextTwin, directions: Directions) -> None:
    form = over(twin, directions, "alternate-round")
    first = trained(twin, form, FREE, form.zero(), round=1)
    theta = form.zero()
    theta[form.leaves(1)] += first
    second = trained(twin, form, FREE, theta, round=2)
    assert len(first) + len(second) == form.dim
    assert np.any(first)
    assert np.any(second)
    assert not np.intersect1d(form.leaves(1), form.leaves(2)).size


@pytest.mark.parametrize(("name", "keeps"), [("share-a", "B"), ("share-b", "A")])
def test_a_half_that_stays_is_trained_and_not_sent(
    name: str, keeps: str, twin: TextTwin, directions: Directions
) -> None:
    form = over(twin, directions, name)
    kept = np.zeros((1, form.kept_dim), np.float32)
    update = trained(twin, form, FREE, form.zero(), kept=kept)
    assert np.any(kept)
    both = over(twin, directions, "fedit")
    whole = trained(twin, both, FREE, both.zero())
    parts = both.unpack(whole)
    sent = np.concatenate([part.ravel() for n, part in parts.items() if not n.endswith(keeps)])
    stays = np.concatenate([part.ravel() for n, part in parts.items() if n.endswith(keeps)])
    np.testing.assert_allclose(update, sent, atol=1e-6)
    np.testing.assert_allclose(kept[0], stays, atol=1e-6)
    with pytest.raises(BadInputError, match=f"keeps {form.kept_dim} numbers on the device"):
        trained(twin, form, FREE, form.zero())


def test_clipping_is_for_what_leaves_alone(twin: TextTwin, directions: Directions) -> None:
    form, clip = over(twin, directions, "share-b"), 0.001
    kept = np.zeros((1, form.kept_dim), np.float32)
    update = trained(twin, form, user_plan(clip=clip), form.zero(), kept=kept)
    free = np.zeros((1, form.kept_dim), np.float32)
    trained(twin, form, FREE, form.zero(), kept=free)
    np.testing.assert_array_equal(kept, free)
    assert np.linalg.norm(update) == pytest.approx(clip, rel=1e-5)


def test_under_a_plan_for_records_what_stays_is_noised_too(
    twin: TextTwin, directions: Directions
) -> None:
    form = over(twin, directions, "share-a")
    plan = record_plan(expected_batch=8, local_steps=2, clip=1e-6)
    kept = np.zeros((1, form.kept_dim), np.float32)
    trained(twin, form, plan, form.zero(), kept=kept)
    assert np.count_nonzero(kept) == kept.size


@pytest.mark.parametrize("name", ["fedex", "flora"])
@pytest.mark.parametrize("plan", ["records", "users"])
def test_a_carried_adapter_stands_beside_the_base(
    name: str, plan: str, twin: TextTwin, directions: Directions
) -> None:
    form = over(twin, directions, name)
    theta = form.zero()
    tail = np.random.default_rng(1).standard_normal(form.dim - form.main) * 0.2
    theta[form.main :] = tail
    carried = form.carry(theta)
    assert carried is not None
    with twin.adapted(carried):
        expected = trained(twin, form, PLANS[plan], form.zero())
    found = trained(twin, form, PLANS[plan], theta)
    np.testing.assert_allclose(found, expected, atol=1e-7)
    assert not np.allclose(found, trained(twin, form, PLANS[plan], form.zero()), atol=1e-7)


def test_a_proximal_pull_shortens_the_way(twin: TextTwin, directions: Directions) -> None:
    form = over(twin, directions, "core")
    lengths = []
    for pull in (0.0, 2.0, 8.0):
        optimizer = Optimizer(learning_rate=0.05, proximal=pull)
        how = LocalTraining(steps=12, batch=8, optimizer=optimizer)
        lengths.append(float(np.linalg.norm(trained(twin, form, FREE, form.zero(), how=how))))
    assert lengths[0] > lengths[1] > lengths[2] > 0


def test_a_proximal_pull_is_towards_where_the_round_began(
    twin: TextTwin, directions: Directions
) -> None:
    """One step from the start feels nothing; a second one is pulled by the first's length."""
    form = over(twin, directions, "core")
    theta = np.full(form.dim, 0.1, np.float32)

    def change(steps: int, pull: float) -> Array:
        optimizer = Optimizer(learning_rate=0.05, proximal=pull)
        how = LocalTraining(steps=steps, batch=40, optimizer=optimizer)
        return trained(twin, form, FREE, theta, how=how)

    np.testing.assert_array_equal(change(1, 3.0), change(1, 0.0))
    first = change(1, 0.0)
    pulled = change(2, 0.0) - change(2, 3.0)
    np.testing.assert_allclose(pulled, 0.05 * 3.0 * first, atol=1e-6)


def test_a_plan_for_records_takes_the_pull_as_well(twin: TextTwin, directions: Directions) -> None:
    form, plan = over(twin, directions, "core"), PLANS["records"]
    how = LocalTraining(optimizer=Optimizer(proximal=5.0))
    free = trained(twin, form, plan, form.zero())
    pulled = trained(twin, form, plan, form.zero(), how=how)
    assert 0 < np.linalg.norm(pulled - free) < np.linalg.norm(free)


def test_a_pulled_private_adapter_stays_nearer_to_the_shared_one(
    twin: TextTwin, directions: Directions
) -> None:
    def length(**changes: Any) -> float:
        how = PrivateTraining(rank=2, steps=20, learning_rate=3e-3, **changes)
        adapter = train_private(twin, directions, RECORDS, how)
        return sum(float(np.square(a @ b).sum()) for a, b in adapter.factors.values())

    assert 0 < length(pull=10.0) < length(pull=1.0) < length()
