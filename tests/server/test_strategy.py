"""The federated mean: equal weights, any order, and only replies that are allowed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise, permutations
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("flwr", reason="the federation needs the extra 'federate'")

from flwr.app import Array as FlowerArray
from flwr.app import ArrayRecord, ConfigRecord, Error, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays as numpy_arrays

from locavore.privacy.ledger import Ledger
from locavore.privacy.matrix import Correlation
from locavore.privacy.noise import SecureNoise, insecure_seeded_noise
from locavore.privacy.plan import UserPlan
from locavore.server.aggregation import Aggregation, ServerOptimizer, Upload
from locavore.server.simulation.grid import LocalGrid, flower_identity
from locavore.server.strategy import FederatedStrategy, RoundReport, to_arrays
from locavore.shared.adapters import Array
from locavore.shared.errors import FederationError, PrivacyError

from ..plans import user_plan

PLAN = "ab" * 32
DIM = 3
NODES = 8


@pytest.fixture(autouse=True)
def identity() -> Iterator[None]:
    with flower_identity():
        yield


def mean_of(cohort: int = 3, **options: object) -> FederatedStrategy:
    settings = {"min_replies": 2, "seed": 1, "wait_s": 0, "plan_digest": PLAN} | options
    return FederatedStrategy(base_id="tiny", cohort=cohort, **settings)  # type: ignore[arg-type]


def grid() -> LocalGrid:
    return LocalGrid(ClientApp(), NODES)


def asked(strategy: FederatedStrategy, round: int = 1, theta: Array | None = None) -> list[Message]:
    start = np.ones(DIM, np.float32) if theta is None else theta
    return list(strategy.configure_train(round, to_arrays(start), ConfigRecord(), grid()))


def answer(message: Message, delta: object, **config: object) -> Message:
    fields = {"plan": PLAN, "round": 1} | config
    content = RecordDict(
        {"arrays": ArrayRecord({"delta": FlowerArray(delta)}), "config": ConfigRecord(fields)}
    )
    return Message(content, reply_to=message)


def full(value: float) -> Array:
    return np.full(DIM, value, np.float32)


def aggregate(
    strategy: FederatedStrategy, replies: list[Message]
) -> tuple[Array | None, RoundReport]:
    arrays, metrics = strategy.aggregate_train(1, replies)
    assert metrics is None
    assert strategy.report is not None
    return (None if arrays is None else arrays["theta"].numpy()), strategy.report


def test_a_message_holds_what_the_allow_list_says_and_not_the_config_argument() -> None:
    strategy = mean_of()
    config = ConfigRecord({"lr": 0.1})
    messages = strategy.configure_train(4, to_arrays(full(1)), config, grid())
    for message in messages:
        assert set(message.content) == {"arrays", "config"}
        assert dict(message.content["config"]) == {
            "round": 4,
            "dim": DIM,
            "up": DIM,
            "plan": PLAN,
            "base": "tiny",
        }


def test_every_update_weighs_the_same() -> None:
    strategy = mean_of(cohort=3)
    replies = [answer(m, full(v)) for m, v in zip(asked(strategy), (3, 6, 12), strict=True)]
    theta, report = aggregate(strategy, replies)
    np.testing.assert_array_equal(theta, full(1 + 7))
    assert (report.asked, report.averaged, report.applied) == (3, 3, True)
    assert report.change_norm == pytest.approx(7 * np.sqrt(DIM))


def test_the_mean_is_over_the_replies_received() -> None:
    strategy = mean_of(cohort=3)
    first, second, _ = asked(strategy)
    theta, report = aggregate(strategy, [answer(first, full(2)), answer(second, full(4))])
    np.testing.assert_array_equal(theta, full(1 + 3))
    assert (report.averaged, report.silent) == (2, 1)


def test_the_servers_step_scales_the_mean() -> None:
    slower = Aggregation(optimizer=ServerOptimizer(learning_rate=0.5))
    strategy = mean_of(cohort=2, aggregation=slower)
    replies = [answer(m, full(4)) for m in asked(strategy)]
    theta, _ = aggregate(strategy, replies)
    np.testing.assert_array_equal(theta, full(1 + 2))


def test_below_min_replies_the_round_is_skipped(caplog: pytest.LogCaptureFixture) -> None:
    strategy = mean_of(cohort=3, min_replies=2)
    good, bad, _ = asked(strategy)
    theta, report = aggregate(
        strategy, [answer(good, full(9)), Message(Error(2, "down"), reply_to=bad)]
    )
    assert theta is None
    assert (report.averaged, report.failed, report.silent, report.applied) == (0, 1, 1, False)
    assert report.change_norm == 0
    np.testing.assert_array_equal(report.theta, full(1))
    assert "round 1 is skipped: 1 good replies, at least 2 are needed" in caplog.text


def extra_record(message: Message) -> Message:
    reply = answer(message, full(100))
    reply.content["metrics"] = MetricRecord({"num-examples": 12})
    return reply


def extra_array(message: Message) -> Message:
    reply = answer(message, full(100))
    reply.content["arrays"]["private"] = FlowerArray(full(1))
    return reply


def undecodable(message: Message) -> Message:
    reply = answer(message, full(100))
    reply.content["arrays"]["delta"] = FlowerArray("float32", (DIM,), "numpy.ndarray", b"junk")
    return reply


BAD_REPLIES: dict[str, Callable[[Message], Message]] = {
    "extra record": extra_record,
    "extra array": extra_array,
    "wrong shape": lambda m: answer(m, np.zeros(DIM + 1, np.float32)),
    "wrong type": lambda m: answer(m, np.zeros(DIM, np.float64)),
    "not a number": lambda m: answer(m, full(float("nan"))),
    "infinite": lambda m: answer(m, full(float("inf"))),
    "old round": lambda m: answer(m, full(100), round=7),
    "other plan": lambda m: answer(m, full(100), plan="cd" * 32),
    "sample count": lambda m: answer(m, full(100), examples=12),
    "not an array": undecodable,
    "empty": lambda m: Message(RecordDict(), reply_to=m),
}


@pytest.mark.parametrize("kind", BAD_REPLIES)
def test_a_reply_that_is_not_allowed_is_dropped_and_counted(kind: str) -> None:
    strategy = mean_of(cohort=3)
    first, second, third = asked(strategy)
    replies = [answer(first, full(2)), BAD_REPLIES[kind](second), answer(third, full(4))]
    theta, report = aggregate(strategy, replies)
    np.testing.assert_array_equal(theta, full(1 + 3))
    assert (report.averaged, report.refused, report.failed, report.silent) == (2, 1, 0, 0)


def test_a_node_counts_once_and_strangers_do_not_count() -> None:
    strategy = mean_of(cohort=2)
    first, second = asked(strategy)
    stranger = Message(first.content, 12345, "train")
    replies = [
        answer(first, full(2)),
        answer(first, full(1000)),
        answer(stranger, full(1000)),
        answer(second, full(4)),
    ]
    theta, report = aggregate(strategy, replies)
    np.testing.assert_array_equal(theta, full(1 + 3))
    assert (report.averaged, report.refused) == (2, 2)


def test_a_mean_beyond_float32_skips_the_round(caplog: pytest.LogCaptureFixture) -> None:
    strategy = mean_of(cohort=2)
    top = float(np.finfo(np.float32).max)
    replies = [answer(m, full(top)) for m in asked(strategy, theta=full(top))]
    theta, report = aggregate(strategy, replies)
    assert theta is None
    assert not report.applied
    assert "leaves float32's range" in caplog.text


def test_the_cohort_depends_on_seed_and_round_only() -> None:
    nodes = list(range(100, 120))
    sampled = [mean_of(cohort=5, seed=3).sample(nodes, r) for r in range(1, 5)]
    assert sampled == [mean_of(cohort=5, seed=3).sample(nodes[::-1], r) for r in range(1, 5)]
    assert len({tuple(cohort) for cohort in sampled}) == 4
    assert sampled[0] != mean_of(cohort=5, seed=4).sample(nodes, 1)
    assert all(len(set(cohort)) == 5 and set(cohort) <= set(nodes) for cohort in sampled)


def test_every_node_is_sampled_about_equally_often() -> None:
    strategy, nodes = mean_of(cohort=3), list(range(10))
    counts = np.bincount([n for r in range(1000) for n in strategy.sample(nodes, r)])
    assert counts.min() > 240  # 300 expected, standard deviation 14.5
    assert counts.max() < 360


def test_too_few_nodes_are_waited_for_and_then_refused() -> None:
    naps: list[float] = []
    strategy = mean_of(cohort=NODES + 1, wait_s=4, sleep=naps.append)
    with pytest.raises(FederationError, match=r"8 nodes are connected after 4 s, a round needs 9"):
        asked(strategy)
    assert naps == [1.0] * 4


def test_fewer_nodes_than_the_cohort_are_enough_when_said_so() -> None:
    assert len(asked(mean_of(cohort=NODES + 1, min_nodes=2))) == NODES


def test_evaluation_goes_to_every_node_and_counts_confirmations() -> None:
    strategy = mean_of(cohort=2)
    aggregate(strategy, [answer(m, full(1)) for m in asked(strategy)])
    messages = list(strategy.configure_evaluate(1, to_arrays(full(2)), ConfigRecord(), grid()))
    assert len(messages) == NODES
    replies = [Message(RecordDict(), reply_to=m) for m in messages[:5]]
    boast = RecordDict({"metrics": MetricRecord({"accuracy": 1.0})})
    replies.append(Message(boast, reply_to=messages[5]))
    strategy.aggregate_evaluate(1, replies)
    assert strategy.report is not None
    assert strategy.report.evaluated == 5


def test_without_evaluation_nothing_is_sent() -> None:
    strategy = mean_of(evaluate=False)
    assert not strategy.configure_evaluate(1, to_arrays(full(2)), ConfigRecord(), grid())


def federated_mean(theta: Array, updates: list[Array]) -> Array:
    aggregation = Aggregation()
    change = aggregation.average(theta, [Upload(update, 0) for update in updates], 1)
    return aggregation.stepped(theta, change, 1, {})[0]


def test_the_order_of_replies_does_not_change_a_bit() -> None:
    updates = [np.array([v], np.float32) for v in (1e30, 1.0, -1e30, 1e-9)]
    start = np.zeros(1, np.float32)
    results = {federated_mean(start, list(p)).tobytes() for p in permutations(updates)}
    assert len(results) == 1


@given(
    numpy_arrays(np.float32, (5, 4), elements=st.floats(-100, 100, width=32)),
    st.randoms(use_true_random=False),
)
def test_the_mean_is_the_mean_in_any_order(updates: Array, random: object) -> None:
    rows = list(updates)
    shuffled = sorted(rows, key=lambda _: random.random())  # type: ignore[attr-defined]
    start = np.zeros(4, np.float32)
    result = federated_mean(start, rows)
    np.testing.assert_array_equal(result, federated_mean(start, shuffled))
    np.testing.assert_allclose(result, updates.mean(axis=0), rtol=1e-5, atol=1e-5)


# --- plans for users --------------------------------------------------------------------------


def for_users(plan: UserPlan, **options: object) -> FederatedStrategy:
    return mean_of(cohort=plan.cohort, plan=plan, **options)


def test_a_sum_is_divided_by_the_public_cohort_and_noised() -> None:
    plan = user_plan(cohort=4, clip=20.0)
    strategy = for_users(plan, noise=insecure_seeded_noise)
    first, second, *_ = asked(strategy)
    theta, report = aggregate(strategy, [answer(first, full(6)), answer(second, full(2))])
    expected = 1 + (8 + 20.0 * insecure_seeded_noise(1).gaussian(DIM)) / 4
    assert theta is not None
    np.testing.assert_allclose(theta, expected, rtol=1e-6)
    assert report.averaged == 2


def test_an_update_that_is_longer_than_agreed_is_cut_to_that() -> None:
    plan = user_plan(cohort=2, clip=1.0, noise_multiplier=0.0)
    strategy = for_users(plan)
    first, second = asked(strategy)
    theta, report = aggregate(strategy, [answer(first, full(1000)), answer(second, full(0.1))])
    assert theta is not None
    honest = np.linalg.norm(full(0.1))
    assert np.linalg.norm(theta - 1) == pytest.approx((1 + honest) / 2, rel=1e-3)
    assert report.averaged == 2


def test_whether_a_round_is_released_does_not_tell_who_came() -> None:
    strategy = for_users(user_plan(cohort=4))
    asked(strategy)
    theta, report = aggregate(strategy, [])
    assert report.applied
    assert theta is not None
    assert (theta != 1).all()


def test_devices_are_sampled_as_claimed() -> None:
    plan = user_plan(cohort=2, population=8)
    strategy = mean_of(cohort=2, plan=plan)
    strategy._source = SecureNoise()
    sizes = [len(strategy.sample(range(NODES), 1)) for _ in range(2000)]
    assert np.mean(sizes) == pytest.approx(2, abs=0.15)
    assert np.var(sizes) == pytest.approx(8 * 0.25 * 0.75, rel=0.15)


def test_a_devices_rounds_lie_as_far_apart_as_claimed() -> None:
    plan = user_plan(cohort=10, separation=3, rounds=30)
    strategy = mean_of(cohort=10, plan=plan)
    turns: dict[int, list[int]] = {}
    for round in range(1, 31):
        for node in strategy.sample(range(100), round):
            turns.setdefault(node, []).append(round)
    assert len(turns) > 80
    assert all(b - a >= 3 for rounds in turns.values() for a, b in pairwise(rounds))


def test_correlated_noise_takes_back_what_it_added() -> None:
    plan = user_plan(
        cohort=2, clip=1.0, rounds=40, separation=20, correlation=Correlation("banded", 8)
    )
    strategy = mean_of(cohort=2, plan=plan, noise=insecure_seeded_noise)
    theta, path = np.zeros(400, np.float32), []
    for round in range(1, 41):
        list(strategy.configure_train(round, to_arrays(theta), ConfigRecord(), grid()))
        arrays, _ = strategy.aggregate_train(round, [])
        assert arrays is not None
        theta = arrays["theta"].numpy()
        path.append(theta)
    correlation = plan.correlation
    assert correlation is not None
    error = float(np.sqrt(np.square(path).mean())) * plan.cohort
    assert error == pytest.approx(correlation.error(plan.participation), rel=0.1)
    assert error < 0.75 * np.sqrt(2 * 41 / 2)


def ledger_of(folder: Path, **options: object) -> Ledger:
    return Ledger(folder / "ledger", delta=1e-5, **options)  # type: ignore[arg-type]


def test_the_federations_ledger_pays_before_anybody_is_asked(tmp_path: Path) -> None:
    pytest.importorskip("dp_accounting")
    plan = user_plan(cohort=4, noise_multiplier=2.0)
    budget = plan.epsilon(1, rounds=2)
    ledger = ledger_of(tmp_path, budgets={"user": budget + 1e-9})
    strategy = for_users(plan, plan_digest=plan.digest, ledger=ledger)
    for round in (1, 2):
        asked(strategy, round)
    with pytest.raises(PrivacyError, match="would bring ε of a user to"):
        asked(strategy, 3)
    assert ledger.epsilon("user") == ledger.epsilon("record") == pytest.approx(budget)


def test_a_cohort_smaller_than_accounted_is_refused(tmp_path: Path) -> None:
    plan = user_plan(cohort=20, fewest=12, trust="secure-aggregation")
    strategy = for_users(plan, plan_digest=plan.digest, ledger=ledger_of(tmp_path), min_nodes=NODES)
    with pytest.raises(PrivacyError, match=r"noise of 8 contributions .* made by 12"):
        asked(strategy)


def test_the_ledger_pays_for_the_user_that_comes_most_often(tmp_path: Path) -> None:
    pytest.importorskip("dp_accounting")
    plan = user_plan(cohort=4, rounds=7, separation=3, noise_multiplier=2.0)
    ledger = ledger_of(tmp_path)
    strategy = for_users(plan, plan_digest=plan.digest, ledger=ledger)
    for round in range(1, 8):
        asked(strategy, round)
    assert [charge.round for charge in ledger.charges] == [1, 4, 7]
    assert ledger.epsilon("user") == pytest.approx(plan.epsilon(1))
