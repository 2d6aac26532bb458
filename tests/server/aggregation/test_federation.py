"""Policies through the real Flower apps: lengths on the wire, checkpoints, secure sums."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr", reason="the federation needs the extra 'federate'")

from flwr.app import Context, Message

from locavore.client.app import make_client_app
from locavore.client.secure_sum import SecureSums
from locavore.privacy.noise import insecure_seeded_noise
from locavore.privacy.plan import UserPlan
from locavore.privacy.secagg.session import Roster
from locavore.server.aggregation import (
    POLICIES,
    Aggregation,
    RobustMean,
    ServerOptimizer,
)
from locavore.server.app import FederationConfig, RoundReport, make_server_app
from locavore.server.checkpoint import Checkpoint, latest
from locavore.server.simulation.grid import Direction, LocalGrid, draw_ids, run_in_process
from locavore.shared.adapters import Array
from locavore.shared.errors import FederationError
from locavore.shared.forms import SharedForm

from ...plans import user_plan
from ...privacy.secagg.rounds import identity, repeatable
from .test_policies import over

NODES, ROUNDS = 5, 4
PLAN = "ab" * 32
IDS = draw_ids(NODES, 0)


class Fixed:
    """A device whose update follows from its number, the round and what it was sent."""

    base_id = "base"

    def __init__(self, number: int, form: SharedForm, plan: UserPlan | None = None) -> None:
        self.number, self.form, self.plan = number, form, plan
        self.sums: SecureSums | None = None
        self.stop_at = 0

    @property
    def plan_digest(self) -> str:
        return PLAN if self.plan is None else self.plan.digest

    def train_shared(self, theta: Array, *, round: int) -> Array:
        if round == self.stop_at:
            raise KeyboardInterrupt
        assert theta.shape == (self.form.dim,)
        size = len(self.form.leaves(round))
        drawn = np.random.default_rng((self.number, round)).standard_normal(size)
        update = 0.1 * drawn - 0.05 * float(theta.sum())
        if self.plan is not None:
            update = self.plan.seal(update, 0.0, insecure_seeded_noise(self.number, round))
        return update.astype(np.float32)

    def evaluate_shared(self, theta: Array, *, round: int) -> None:
        assert theta.shape == (self.form.dim,)


def config(folder: Path, aggregation: Aggregation, **changes: Any) -> FederationConfig:
    assert aggregation.form is not None
    settings: dict[str, Any] = {
        "base_id": "base",
        "plan_digest": PLAN,
        "form": "some",
        "dim": aggregation.form.dim,
        "rounds": ROUNDS,
        "cohort": NODES,
        "min_replies": 3,
        "seed": 7,
        "checkpoint_dir": folder,
        "aggregation": aggregation,
        "wait_s": 0,
    }
    return FederationConfig(**(settings | changes))


def run(
    settings: FederationConfig,
    devices: list[Fixed],
    tap: Any = None,
) -> tuple[LocalGrid, list[RoundReport]]:
    reports: list[RoundReport] = []

    def device(context: Context) -> Fixed:
        return devices[int(context.node_config["partition-id"])]

    server = make_server_app(settings, reports.append)
    return run_in_process(server, make_client_app(device), NODES, node_ids=IDS, tap=tap), reports


def fleet(form: SharedForm, ranks: tuple[int, ...] = ()) -> list[Fixed]:
    own = [*ranks, *[form.rank] * NODES][:NODES]
    return [Fixed(i, form.limited(rank)) for i, rank in enumerate(own)]


def result(folder: Path) -> Checkpoint:
    found = latest(folder)
    assert found is not None
    return found


@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_federates_and_resumes_bit_for_bit(name: str, tmp_path: Path) -> None:
    policy, form = POLICIES[name], over(name)
    optimizer = ServerOptimizer(
        kind="fedyogi" if policy.linear else "fedavg",
        **({"learning_rate": 0.01} if policy.linear else {}),
    )
    aggregation = Aggregation(policy=policy, form=form, optimizer=optimizer)
    _, reports = run(config(tmp_path / "whole", aggregation), fleet(form))
    assert [(r.averaged, r.refused, r.evaluated) for r in reports] == [(NODES, 0, NODES)] * ROUNDS
    devices = fleet(form)
    devices[2].stop_at = 3
    with pytest.raises(KeyboardInterrupt):
        run(config(tmp_path / "cut", aggregation), devices)
    run(config(tmp_path / "cut", aggregation, resume=True), fleet(form))
    whole, cut = result(tmp_path / "whole"), result(tmp_path / "cut")
    assert cut.theta.tobytes() == whole.theta.tobytes()
    assert cut.optimizer.keys() == whole.optimizer.keys() == optimizer.begin(1).keys()
    for kind, values in whole.optimizer.items():
        assert cut.optimizer[kind].tobytes() == values.tobytes()


def test_another_optimizer_does_not_go_on_from_a_checkpoint(tmp_path: Path) -> None:
    form = over("core")
    plain = Aggregation(form=form)
    run(config(tmp_path, plain, rounds=1), fleet(form))
    other = replace(plain, optimizer=ServerOptimizer(kind="fedavgm"))
    with pytest.raises(FederationError, match=r"form 'some', not 'some fedavgm\(1, 0.9\)'"):
        run(config(tmp_path, other, resume=True), fleet(form))


def test_a_plain_core_is_the_mean_of_the_devices_updates(tmp_path: Path) -> None:
    """What a federation without a word about aggregation does, written out."""
    form = over("core")
    run(config(tmp_path, Aggregation(form=form)), fleet(form))
    theta = form.zero()
    for round in range(1, ROUNDS + 1):
        updates = [device.train_shared(theta, round=round) for device in fleet(form)]
        total = np.zeros(form.dim, np.float64)
        for update in sorted(updates, key=lambda array: array.tobytes()):
            total += update
        theta = (theta + total / NODES).astype(np.float32)
    assert result(tmp_path).theta.tobytes() == theta.tobytes()


def _given(roster: Roster) -> Roster:
    return roster


def lengths(messages: list[tuple[Message, Direction]]) -> dict[str, set[tuple[int, int]]]:
    """By node: the announced length of the answer, and the length of the answer."""
    found: dict[str, set[tuple[int, int]]] = {"down": set(), "up": set()}
    for message, direction in messages:
        if message.metadata.message_type != "train":
            continue
        arrays = message.content["arrays"]
        if direction == "down":
            said = int(message.content["config"]["up"])
            found["down"].add((message.metadata.dst_node_id, said))
        else:
            delta = arrays["delta"].numpy()
            found["up"].add((message.metadata.src_node_id, delta.size))
    return found


@pytest.mark.parametrize("name", [n for n in POLICIES if POLICIES[n].mixed_ranks])
def test_devices_of_mixed_ranks_answer_at_their_own_length(name: str, tmp_path: Path) -> None:
    form, ranks = over(name), (1, 2, 3, 3, 2)
    by_node = dict(zip(IDS, ranks, strict=True))
    aggregation = Aggregation(policy=POLICIES[name], form=form, ranks=by_node)
    seen: list[tuple[Message, Direction]] = []
    devices = fleet(form, ranks)
    _, reports = run(
        config(tmp_path, aggregation, rounds=1),
        devices,
        tap=lambda message, direction: seen.append((message, direction)),
    )
    assert [report.averaged for report in reports] == [NODES]
    said = lengths(seen)
    assert said["down"] == said["up"]
    assert said["up"] == {
        (node, len(form.limited(rank).leaves(1))) for node, rank in by_node.items()
    }


def test_an_answer_of_another_rank_than_declared_is_refused(tmp_path: Path) -> None:
    form = over("core")
    devices = fleet(form)
    aggregation = Aggregation(form=form, ranks={IDS[0]: 2})
    devices[1] = Fixed(1, form.limited(2))  # it never told
    devices[0] = Fixed(0, form.limited(2))
    _, reports = run(config(tmp_path, aggregation, rounds=1), devices)
    assert [(report.averaged, report.failed) for report in reports] == [(NODES - 1, 1)]


def test_a_robust_mean_needs_enough_answers(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    form = over("core")
    aggregation = Aggregation(form=form, robust=RobustMean(kind="krum", liars=0.2))
    devices = fleet(form)
    devices[0] = Fixed(0, form.limited(1))  # fails
    _, reports = run(config(tmp_path, aggregation, rounds=1), devices)
    assert not reports[0].applied
    assert "4 good replies, at least 5 are needed" in caplog.text
    run(
        config(tmp_path / "median", replace(aggregation, robust=RobustMean(kind="median"))), devices
    )
    assert result(tmp_path / "median").theta.any()


@pytest.mark.parametrize("name", ["core", "alternate-round", "share-a"])
@pytest.mark.parametrize("kind", ["fedavg", "fedadam"])
def test_a_secure_sum_gives_what_the_plain_sum_gives(name: str, kind: str, tmp_path: Path) -> None:
    policy, form = POLICIES[name], over(name)
    aggregation = Aggregation(
        policy=policy,
        form=form,
        optimizer=ServerOptimizer(kind=kind, floor=0.1),  # type: ignore[arg-type]
    )
    results = []
    for trust in ("central", "secure-aggregation"):
        plan = user_plan(trust=trust, cohort=NODES, noise_multiplier=0.0, rounds=2, clip=0.5)
        keys = [identity(index) for index in range(NODES)]
        roster = Roster(key.public_key().public_bytes_raw() for key in keys)
        devices = [Fixed(i, form, plan) for i in range(NODES)]
        if plan.makers:
            for i, (device, key) in enumerate(zip(devices, keys, strict=True)):
                random = repeatable("device", i)
                noise = insecure_seeded_noise
                device.sums = SecureSums(plan, key, roster.named, noise=noise, random=random)
        folder = tmp_path / trust
        run(
            config(
                folder,
                aggregation,
                plan=plan,
                plan_digest=plan.digest,
                rounds=2,
                roster=partial(_given, roster) if plan.makers else None,
            ),
            devices,
        )
        results.append(result(folder).theta)
    size = float(np.abs(results[0]).max())
    np.testing.assert_allclose(results[1], results[0], atol=0.02 * size)
    assert size > 0.01


def test_the_noise_is_on_before_the_servers_optimizer_sees_it(tmp_path: Path) -> None:
    """FedAdam after central noise: the first step of every number is about its own length."""
    form = over("core")
    plan = user_plan(cohort=NODES, clip=0.5, rounds=1)
    optimizer = ServerOptimizer(kind="fedadam", learning_rate=0.01, floor=1e-9)
    aggregation = Aggregation(form=form, optimizer=optimizer)
    devices = [Fixed(i, form, plan) for i in range(NODES)]
    settings = config(
        tmp_path,
        aggregation,
        plan=plan,
        plan_digest=plan.digest,
        rounds=1,
        noise=insecure_seeded_noise,
    )
    run(settings, devices)
    total = np.sum([d.train_shared(form.zero(), round=1) for d in devices], axis=0, dtype=float)
    noised = (total + 0.5 * insecure_seeded_noise(1).gaussian(form.dim)) / NODES
    found = result(tmp_path).optimizer["momentum"]
    np.testing.assert_allclose(found, (1 - 0.9) * noised, rtol=1e-4, atol=1e-7)
