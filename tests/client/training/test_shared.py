"""DP-SGD on the shared form: gradients per record, clipping, sampling, noise."""

from __future__ import annotations

import copy
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

pytest.importorskip("torch", reason="needs the extra 'train'")

import torch
from transformers import PreTrainedModel

from locavore.client.runtime import TextModel
from locavore.client.training.adapted import shared_chains
from locavore.client.training.chains import lora
from locavore.client.training.cohort import Batch, Gradients
from locavore.client.training.local import LocalTraining, train_locally
from locavore.client.training.objectives.language import per_record_loss, token_batch
from locavore.client.training.optimizers import Optimizer
from locavore.client.training.passes import passes
from locavore.client.training.shared import (
    CohortTraining,
    SharedTraining,
    private_training,
)
from locavore.client.training.text import TextTwin
from locavore.privacy.clipping import AdaptiveClip
from locavore.privacy.noise import NoiseSource, SecureNoise, insecure_seeded_noise
from locavore.privacy.plan import PrivacyPlan, RecordPlan
from locavore.shared.adapters import Array
from locavore.shared.errors import AdapterError, PrivacyError, TrainingError
from locavore.shared.forms import Directions, FormName, SharedForm

from ...benchmarks.families import Family
from ...benchmarks.reference import sample_gradient
from ...plans import record_plan, user_plan

FORMS: tuple[FormName, ...] = ("core", "ffa")
RECORDS = [[70, 71, 300, 12], [90, 91], [17, 18, 19, 20, 21, 22, 23, 24, 25], [301, 5]]
QUIET = record_plan(noise_multiplier=0, expected_batch=8, clip=1.0, local_steps=2)


class Everyone(SecureNoise):
    """A noise source that samples every record and whose noise is zero."""

    def uniform(self, count: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.full(count, 1e-9)

    def gaussian(self, count: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.zeros(count)


class Nobody(SecureNoise):
    """A noise source that samples no record, and whose noise is real."""

    def uniform(self, count: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return np.full(count, 1 - 1e-9)

    def gaussian(self, count: int) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        return SecureNoise().gaussian(count)


@dataclass
class Work:
    """A device's training of one form, at arm's length."""

    twin: TextTwin
    form: SharedForm
    training: CohortTraining[Sequence[int]]
    noise: NoiseSource
    records: Sequence[Sequence[int]]

    def round(self, theta: Array) -> Array:
        delta: Array = self.training.round(theta, [self.records], [self.noise])[0]
        return delta

    def gradients(self, theta: Array, records: Sequence[Sequence[int]]) -> torch.Tensor:
        batch = token_batch(records, (0,))
        found = self.training.cohort.gradients(torch.from_numpy(theta)[None], batch)
        return torch.cat([part.flatten(1) for part in found.parts.values()], 1)


def training(
    twin: TextTwin,
    directions: Directions,
    name: FormName = "core",
    plan: RecordPlan = QUIET,
    noise: NoiseSource | None = None,
    records: Sequence[Sequence[int]] = RECORDS,
    at_once: int = 8,
) -> Work:
    form = SharedForm(name, twin.base_id, directions)
    steps = CohortTraining[Sequence[int]](
        cohort=twin.cohort(shared_chains(form)),
        plan=plan,
        collate=lambda rows: token_batch(rows, (0,)),
        at_once=at_once,
        length=len,
    )
    return Work(twin, form, steps, noise or Everyone(), records)


def some_theta(form: SharedForm) -> Array:
    return np.random.default_rng(2).standard_normal(form.dim).astype(np.float32) * np.float32(0.1)


def gradient_by_autograd(work: Work, theta: Array, record: Sequence[int]) -> torch.Tensor:
    """One record alone, by plain autograd."""
    language = Family(lambda: work.twin.model, lambda *_: {}, per_record_loss)
    one = token_batch([record], (0,))
    chains = work.training.cohort.chains
    return sample_gradient(language, work.twin.model, chains, torch.from_numpy(theta), one)


@pytest.mark.parametrize("name", FORMS)
def test_gradients_per_record_equal_a_loop(
    name: FormName, twin: TextTwin, directions: Directions
) -> None:
    work = training(twin, directions, name)
    theta = some_theta(work.form)
    found = work.gradients(theta, RECORDS)
    assert found.shape == (4, work.form.dim)
    for row, record in zip(found, RECORDS, strict=True):
        expected = gradient_by_autograd(work, theta, record)
        assert expected.norm() > 1e-3
        assert ((row - expected).norm() / expected.norm()).item() < 1e-5


@pytest.mark.parametrize("name", FORMS)
def test_the_gradient_predicts_the_loss_of_the_adapter(
    name: FormName, twin: TextTwin, directions: Directions
) -> None:
    """Against finite differences through ``to_adapter``: packing order and form agree."""
    work = training(twin, directions, name)
    theta = some_theta(work.form)
    gradient = work.gradients(theta, RECORDS[:1])[0].numpy()
    direction = gradient / np.linalg.norm(gradient)

    def loss(at: Array) -> float:
        with torch.no_grad(), twin.adapted(work.form.to_adapter(at.astype(np.float32))):
            return per_record_loss(twin.model, token_batch(RECORDS[:1], (0,))).item()

    step = 1e-2
    slope = (loss(theta + step * direction) - loss(theta - step * direction)) / (2 * step)
    assert slope == pytest.approx(float(np.linalg.norm(gradient)), rel=0.02)


# --- clipping -------------------------------------------------------------------------------


def clipped(rows: Array, clip: float) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    gradients = Gradients({"all": torch.from_numpy(rows)[:, None]}, torch.zeros(len(rows)))
    factors = record_plan(clip=clip).clip_factors(gradients.norms().numpy())
    return gradients.sums(torch.from_numpy(factors), 1)[0].numpy()


@given(arrays(np.float32, (5, 7), elements=st.floats(width=32)), st.floats(1e-3, 1e3))
def test_one_record_moves_the_sum_by_the_clipping_norm_at_most(rows: Array, clip: float) -> None:
    whole, without = clipped(rows, clip), clipped(rows[1:], clip)
    assert np.isfinite(whole).all()
    assert np.linalg.norm(whole - without) <= clip * (1 + 1e-9)


@given(arrays(np.float32, (1, 7), elements=st.floats(-1e3, 1e3, width=32)), st.floats(1e-3, 1e3))
def test_clipping_keeps_direction_and_short_rows(rows: Array, clip: float) -> None:
    norm = float(np.linalg.norm(rows.astype(np.float64)))
    expected = rows[0].astype(np.float64) * min(1.0, clip / max(norm, 1e-12))
    np.testing.assert_allclose(clipped(rows, clip), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_rows_that_are_not_finite_count_as_zero(bad: float) -> None:
    rows = np.array([[0.3, 0.4], [bad, 0.1], [0.0, 0.1]], np.float32)
    np.testing.assert_allclose(clipped(rows, 1.0), [0.3, 0.5], atol=1e-6)


# --- sampling and noise ---------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.02, 0.25, 0.9])
def test_the_poisson_rate(rate: float) -> None:
    noise = insecure_seeded_noise(11)
    plan = record_plan(expected_batch=int(200 * rate))
    sizes = [len(plan.sample(200, noise)) for _ in range(300)]
    mean, variance = 200 * rate, 200 * rate * (1 - rate)
    assert np.mean(sizes) == pytest.approx(mean, abs=5 * (variance / 300) ** 0.5)
    assert np.var(sizes) == pytest.approx(variance, rel=0.5)


def test_fewer_records_than_expected_are_all_taken() -> None:
    plan = record_plan(expected_batch=64)
    assert plan.sample(50, SecureNoise()) == list(range(50))
    assert plan.sample(0, SecureNoise()) == []


def test_a_step_without_records_is_noise_only(twin: TextTwin, directions: Directions) -> None:
    plan = record_plan(noise_multiplier=2.0, expected_batch=2, clip=3.0, learning_rate=0.1)
    delta = training(twin, directions, plan=plan, noise=Nobody()).round(
        np.zeros(14 * 16, np.float32)
    )
    assert delta.shape == (224,)
    assert delta.std() == pytest.approx(0.1 * 2.0 / 2, rel=0.25)
    assert abs(delta.mean()) < 0.04


def test_the_noise_has_the_plans_deviation(twin: TextTwin, directions: Directions) -> None:
    """With and without noise on the same records: the difference is lr * sigma / batch."""
    noisy = record_plan(noise_multiplier=1.5, expected_batch=4, clip=1.0, learning_rate=0.2)
    quiet = record_plan(noise_multiplier=0, expected_batch=4, clip=1.0, learning_rate=0.2)
    theta = np.zeros(224, np.float32)
    with_noise = training(twin, directions, plan=noisy, noise=insecure_seeded_noise(1)).round(theta)
    without = training(twin, directions, plan=quiet, noise=insecure_seeded_noise(1)).round(theta)
    assert (with_noise - without).std() == pytest.approx(0.2 * 1.5 / 4, rel=0.25)


@pytest.mark.parametrize("name", FORMS)
def test_without_noise_a_round_is_plain_clipped_sgd(
    name: FormName, twin: TextTwin, directions: Directions
) -> None:
    work = training(twin, directions, name)
    theta = some_theta(work.form)
    local = theta.astype(np.float64)
    clipped = 0
    for _ in range(QUIET.local_steps):
        total = np.zeros(work.form.dim)
        for record in RECORDS:
            gradient = gradient_by_autograd(work, local.astype(np.float32), record).double().numpy()
            norm = np.linalg.norm(gradient)
            clipped += int(norm > QUIET.norm())
            total += gradient * min(1.0, QUIET.norm() / norm)
        local -= QUIET.learning_rate * total / QUIET.expected_batch / QUIET.norm()
    assert clipped  # or the test shows nothing about clipping
    found = work.round(theta)
    np.testing.assert_allclose(found, local - theta, atol=1e-6)
    assert found.dtype == np.float32


@pytest.mark.parametrize("at_once", [1, 3])
def test_micro_batches_change_nothing(at_once: int, twin: TextTwin, directions: Directions) -> None:
    whole = training(twin, directions).round(np.zeros(224, np.float32))
    parts = training(twin, directions, at_once=at_once).round(np.zeros(224, np.float32))
    np.testing.assert_allclose(parts, whole, atol=1e-6)


@pytest.mark.parametrize("at_once", [2, 8])
def test_devices_together_are_devices_alone(
    at_once: int, twin: TextTwin, directions: Directions
) -> None:
    """Owners with different numbers of records, one of them without any."""
    plan = record_plan(noise_multiplier=1.0, expected_batch=2, clip=0.5, local_steps=2)
    work = training(twin, directions, plan=plan, at_once=at_once)
    owned = [RECORDS, RECORDS[:1], [], RECORDS[1:]]
    theta = np.stack([some_theta(work.form) * k for k in range(4)])
    together = work.training.round(theta, owned, [insecure_seeded_noise(k) for k in range(4)])
    for k, own in enumerate(owned):
        alone = work.training.round(theta[k], [own], [insecure_seeded_noise(k)])[0]
        np.testing.assert_allclose(together[k], alone, atol=1e-5 * np.abs(alone).max())


@pytest.mark.parametrize("alternate", ["step", "round"])
def test_what_is_not_learning_gets_no_noise(
    alternate: Literal["step", "round"], twin: TextTwin
) -> None:
    """LoRA whose matrices learn in turns: ``B`` in the first round, ``A`` in the second."""
    plan = record_plan(noise_multiplier=1.0, expected_batch=2)
    cohort = twin.cohort(lora(twin.model, ["model.layers.0.mlp.up_proj"], 2))
    steps = CohortTraining[Sequence[int]](
        cohort=cohort,
        plan=plan,
        collate=lambda rows: token_batch(rows, (0,)),
        optimizer=Optimizer(kind="adam", learning_rate=0.01, alternate=alternate),
    )
    theta = cohort.start(1, torch.Generator().manual_seed(0)).numpy()
    for number, learning in ((1, "B"), (2, "A" if alternate == "round" else "B")):
        delta = steps.round(theta, [RECORDS], [insecure_seeded_noise(number)], number=number)
        for name, change in cohort.unpack(torch.from_numpy(delta)).items():
            assert bool(change.any()) == name.endswith(learning)
            assert bool(change.all()) == name.endswith(learning)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=7), st.integers(1, 9))
def test_passes_cover_every_record_once_and_keep_to_the_limit(
    counts: list[int], at_once: int
) -> None:
    seen = [list[int]() for _ in counts]
    for owners, parts in passes(counts, at_once):
        assert sum(part.stop - part.start for part in parts) <= at_once
        for k, part in zip(owners, parts, strict=True):
            rows = range(counts[k])[part]
            assert len(rows)
            seen[k].extend(rows)
    assert seen == [list(range(count)) for count in counts]


def test_theta_is_not_changed_and_of_the_right_length(
    twin: TextTwin, directions: Directions
) -> None:
    work = training(twin, directions)
    theta = some_theta(work.form)
    before = theta.copy()
    work.round(theta)
    np.testing.assert_array_equal(theta, before)
    with pytest.raises(AdapterError, match="another base or rank"):
        work.round(np.zeros(3, np.float32))


# --- what must not happen -------------------------------------------------------------------


def not_finite(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """A loss that turns bad after the probe, which sees four samples less one at a time."""
    losses = per_record_loss(model, batch)
    return losses * torch.nan if len(losses) == len(RECORDS) else losses


def spoil(work: Work) -> Work:
    work.training.cohort.objective = not_finite
    return work


def test_nothing_but_nan_is_an_error_without_privacy(
    twin: TextTwin, directions: Directions, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "locavore.client")
    with pytest.raises(TrainingError, match="every sampled record's"):
        spoil(training(twin, directions)).round(np.zeros(224, np.float32))
    assert "4 of 4 records" in caplog.text


def test_nothing_but_nan_is_a_round_of_noise_under_a_private_plan(
    twin: TextTwin, directions: Directions, caplog: pytest.LogCaptureFixture
) -> None:
    """An error would tell the server something of the data."""
    caplog.set_level(logging.WARNING, "locavore.client")
    plan = record_plan(noise_multiplier=1.0, expected_batch=2)
    work = spoil(training(twin, directions, plan=plan, noise=insecure_seeded_noise(3)))
    work.noise.uniform = lambda count: np.full(count, 1e-9)  # type: ignore[method-assign]
    delta = work.round(np.zeros(224, np.float32))
    assert np.isfinite(delta).all()
    assert delta.any()
    assert "4 of 4 records" in caplog.text


def test_no_branch_stays_after_an_error(
    twin: TextTwin, directions: Directions, model: TextModel
) -> None:
    ids = model.encode("The nurse walked")
    with torch.no_grad():
        bare = twin.model(input_ids=torch.tensor([ids])).logits
    with pytest.raises(TrainingError):
        spoil(training(twin, directions)).round(np.zeros(224, np.float32))
    factors = dict(directions.factors) | {
        "model.layers.9.mlp.up_proj": next(iter(directions.factors.values()))
    }
    with pytest.raises(AdapterError, match="has no layer"):
        training(twin, Directions(factors)).round(np.zeros(15 * 16, np.float32))
    with torch.no_grad():
        assert torch.equal(twin.model(input_ids=torch.tensor([ids])).logits, bare)


def test_an_update_without_noise_under_a_private_plan_does_not_leave(
    twin: TextTwin, directions: Directions
) -> None:
    plan = record_plan(noise_multiplier=1.0, expected_batch=2)
    with pytest.raises(PrivacyError, match="exactly zero although the plan adds noise"):
        training(twin, directions, plan=plan, records=[]).round(np.zeros(224, np.float32))


@pytest.mark.parametrize("name", FORMS)
def test_a_round_lowers_the_loss(
    name: FormName,
    twin: TextTwin,
    directions: Directions,
    private_texts: list[str],
    model: TextModel,
) -> None:
    records = [model.encode(text) for text in private_texts[:12]]
    plan = record_plan(noise_multiplier=0, expected_batch=12, local_steps=6, learning_rate=0.3)
    work = training(twin, directions, name, plan, records=records)
    delta = work.round(work.form.zero())

    def loss(theta: Array) -> float:
        with torch.no_grad(), twin.adapted(work.form.to_adapter(theta)):
            return per_record_loss(twin.model, token_batch(records, (0,))).mean().item()

    assert loss(delta) < loss(work.form.zero()) - 0.02


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_round_on_a_gpu_is_the_round_on_the_processor(
    twin: TextTwin, directions: Directions
) -> None:
    here = training(twin, directions, plan=ADAPTIVE).round(np.zeros(225, np.float32))
    moved = TextTwin(copy.deepcopy(twin.model).to("cuda"), twin.base_id)
    there = training(moved, directions, plan=ADAPTIVE).round(np.zeros(225, np.float32))
    assert np.abs(there - here).max() <= 1e-3 * np.abs(here).max()


# --- norms that adapt ------------------------------------------------------------------------


ADAPTIVE = record_plan(
    clip=AdaptiveClip(initial=1.0, count_noise=8.0),
    noise_multiplier=0,
    expected_batch=8,
    local_steps=2,
    learning_rate=0.01,
)


def test_the_norm_moves_by_the_votes_of_the_sampled_records(
    twin: TextTwin, directions: Directions
) -> None:
    work = training(twin, directions, plan=ADAPTIVE)
    theta = np.append(some_theta(work.form), np.float32(0.1))
    found = work.round(theta)
    assert found.shape == (work.form.dim + 1,)
    local, entry = theta[:-1].astype(np.float64), 0.1
    for _ in range(ADAPTIVE.local_steps):
        norms, total = [], np.zeros(work.form.dim)
        for record in RECORDS:
            gradient = gradient_by_autograd(work, local.astype(np.float32), record).double().numpy()
            norms.append(float(np.linalg.norm(gradient)))
            total += gradient * min(1.0, ADAPTIVE.norm(entry) / norms[-1])
        assert min(norms) < ADAPTIVE.norm(entry) < max(norms)  # or nothing is shown
        local -= ADAPTIVE.learning_rate * total / ADAPTIVE.expected_batch / ADAPTIVE.norm()
        entry += ADAPTIVE.votes(norms, entry)[0] / ADAPTIVE.expected_batch
    np.testing.assert_allclose(found[:-1], local - theta[:-1], atol=1e-6)
    assert found[-1] == pytest.approx(entry - 0.1, abs=1e-6)


def test_micro_batches_do_not_change_the_votes(twin: TextTwin, directions: Directions) -> None:
    theta = np.zeros(225, np.float32)
    whole = training(twin, directions, plan=ADAPTIVE).round(theta)
    parts = training(twin, directions, plan=ADAPTIVE, at_once=1).round(theta)
    np.testing.assert_allclose(parts, whole, atol=1e-6)


def test_nobody_sampled_is_noise_on_the_votes_too(twin: TextTwin, directions: Directions) -> None:
    plan = replace(ADAPTIVE, noise_multiplier=1.0)
    found = training(twin, directions, plan=plan, noise=Nobody()).round(np.zeros(225, np.float32))
    assert found.all()


# --- users -----------------------------------------------------------------------------------


def of_users(twin: TextTwin, form: SharedForm, plan: PrivacyPlan) -> SharedTraining[list[int]]:
    return private_training(
        twin.cohort(shared_chains(form)),
        plan,
        lambda rows: token_batch(rows, (0,)),
        length=len,
        locally=LocalTraining(epochs=2, batch=3, optimizer=Optimizer(learning_rate=0.02)),
    )


@pytest.mark.parametrize("clip", [1e-3, 1e3])
def test_a_users_whole_change_is_clipped(
    clip: float, twin: TextTwin, directions: Directions
) -> None:
    form = SharedForm("core", twin.base_id, directions)
    owners = [RECORDS, RECORDS[:1]]
    theta = some_theta(form)
    found = of_users(twin, form, user_plan(clip=clip)).round(theta, owners, [Everyone()] * 2)
    for row, records in zip(found, owners, strict=True):
        begin = torch.from_numpy(theta)[None]
        after = train_locally(
            twin.cohort(shared_chains(form)),
            begin,
            [records],
            LocalTraining(epochs=2, batch=3, optimizer=Optimizer(learning_rate=0.02)),
            lambda rows: token_batch(rows, (0,)),
        )
        change = (after - begin)[0].numpy()
        factor = min(1.0, clip / float(np.linalg.norm(change)))
        np.testing.assert_allclose(row, change * factor, atol=1e-6)
        assert np.linalg.norm(row) <= clip * (1 + 1e-6)


@pytest.mark.parametrize("at_once", [1, 2, 5])
def test_users_train_in_passes_that_fit(
    at_once: int, twin: TextTwin, directions: Directions
) -> None:
    form = SharedForm("core", twin.base_id, directions)
    owners = [RECORDS, RECORDS[:1], RECORDS[1:]]

    def change(limit: int) -> Array:
        steps: SharedTraining[list[int]] = private_training(
            twin.cohort(shared_chains(form)),
            user_plan(clip=1e3),
            lambda rows: token_batch(rows, (0,)),
            at_once=limit,
            locally=LocalTraining(epochs=2, batch=3, optimizer=Optimizer(learning_rate=0.02)),
        )
        return steps.round(some_theta(form), owners, [Everyone()] * 3)

    np.testing.assert_allclose(change(at_once), change(100), atol=1e-6)


def test_a_users_change_tells_whether_it_was_below_the_norm(
    twin: TextTwin, directions: Directions
) -> None:
    form = SharedForm("core", twin.base_id, directions)
    rule = AdaptiveClip(initial=1.0, count_noise=8.0)
    steps = of_users(twin, form, user_plan(clip=rule))
    for entry, vote in ((-20.0, 0.1), (20.0, -0.1)):
        theta = np.append(form.zero(), np.float32(entry))
        found = steps.round(theta, [RECORDS], [Everyone()])[0]
        assert found.shape == (form.dim + 1,)
        assert found[-1] == pytest.approx(vote)
        assert np.linalg.norm(found[:-1]) <= rule.norm(entry) * (1 + 1e-6)


def test_records_are_protected_within(twin: TextTwin, directions: Directions) -> None:
    """The change of a private round, clipped once more."""
    form = SharedForm("core", twin.base_id, directions)
    inner = record_plan(expected_batch=2, local_steps=2)
    plan = user_plan(clip=1e-3, within=inner)
    theta = some_theta(form)
    change = training(twin, directions, plan=inner, noise=insecure_seeded_noise(3)).round(theta)
    found = of_users(twin, form, plan).round(theta, [RECORDS], [insecure_seeded_noise(3)])[0]
    np.testing.assert_allclose(found, change * 1e-3 / np.linalg.norm(change), rtol=1e-4)


def test_a_change_that_is_not_finite_counts_as_nothing(
    twin: TextTwin, directions: Directions
) -> None:
    """And does not tell, by an error, what is on the device; the others go on."""
    form = SharedForm("core", twin.base_id, directions)
    steps: SharedTraining[list[int]] = private_training(
        twin.cohort(shared_chains(form)),
        user_plan(),
        lambda rows: token_batch(rows, (0,)),
        locally=LocalTraining(batch=1, optimizer=Optimizer(learning_rate=1e30)),
    )
    found = steps.round(form.zero(), [RECORDS, RECORDS[:1]], [Everyone()] * 2)
    np.testing.assert_array_equal(found[0], 0)


def test_a_vector_of_another_plan_is_refused(twin: TextTwin, directions: Directions) -> None:
    work = training(twin, directions, plan=ADAPTIVE)
    with pytest.raises(AdapterError, match="must have 225 numbers, got 224; it comes from another"):
        work.round(work.form.zero())
