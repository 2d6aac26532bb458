"""One federation in three ways: device by device, as a cohort, and on Ray workers."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'train'")
pytest.importorskip("flwr", reason="needs the extra 'federate'")

from locavore.client.app import make_client_app
from locavore.client.device import Device
from locavore.client.federated import FederatedLearner, form_training
from locavore.client.kept import KeptHalf
from locavore.client.runtime import TextModel
from locavore.client.training.shared import SharedTraining
from locavore.client.training.text import TextTwin
from locavore.privacy.clipping import AdaptiveClip
from locavore.privacy.ledger import Charge, FileJournal, Ledger
from locavore.privacy.noise import NoiseSource, insecure_seeded_noise
from locavore.privacy.plan import PrivacyPlan, UserPlan
from locavore.server.aggregation import POLICIES, Aggregation
from locavore.server.app import FederationConfig, make_server_app
from locavore.server.checkpoint import latest
from locavore.server.simulation.cohort import TrainsTogether
from locavore.server.simulation.federation import _together
from locavore.server.simulation.grid import LocalGrid, draw_ids, run_in_process
from locavore.server.simulation.ray_engine import RayEngine
from locavore.shared.adapters import Array
from locavore.shared.contexts import Consent, UserDocument
from locavore.shared.errors import BadInputError, FederationError, TooLittleDataError
from locavore.shared.forms import Directions, SharedForm
from locavore.shared.packages import Package

from ...plans import record_plan, user_plan

PLAN = record_plan(rounds=2, expected_batch=6, local_steps=2, clip=0.5)
COUNTS = (40, 33, 48, 5)  # the last device has too little


def noise(member: int, round: int) -> NoiseSource:
    return insecure_seeded_noise(member, round)


def build(package: Package, form: SharedForm) -> SharedTraining[list[int]]:
    return form_training(TextTwin.of(package), form, PLAN)


@pytest.fixture
def devices(
    model: TextModel, twin: TextTwin, directions: Directions, tmp_path: Path
) -> list[FederatedLearner[list[int]]]:
    form = SharedForm("core", twin.base_id, directions)
    made = []
    for member, count in enumerate(COUNTS):
        device = Device(model)
        for i in range(count):
            text = f"Letter {i} of {member}: " + "the wind is cold. " * (1 + i % 3)
            device.remember(UserDocument(body=text, consent=Consent.full(), id=f"{i:03}"))
        made.append(
            FederatedLearner(
                device=device,
                twin=twin,
                form=form,
                plan=PLAN,
                noise=partial(noise, member),
                ledger=Ledger(tmp_path / f"ledger-{member}.jsonl", delta=PLAN.delta),
            )
        )
    return made


def federate(
    devices: Sequence[Any],
    app: Any,
    folder: Path,
    form: SharedForm,
    cohort: int = len(COUNTS),
    aggregation: Aggregation | None = None,
    **options: Any,
) -> tuple[Array, LocalGrid]:
    form = form if aggregation is None or aggregation.form is None else aggregation.form
    plan = getattr(devices[0], "plan", PLAN)
    server = make_server_app(
        FederationConfig(
            base_id=form.base_id,
            plan_digest=plan.digest,
            plan=plan if isinstance(plan, UserPlan) else None,
            noise=partial(noise, 99),
            form="core-1",
            dim=plan.width(form.dim),
            rounds=plan.rounds,
            cohort=cohort,
            min_replies=1,
            seed=3,
            checkpoint_dir=folder,
            aggregation=aggregation or Aggregation(),
        )
    )
    grid = run_in_process(server, app, len(devices), **options)
    found = latest(folder)
    assert found is not None
    return found.theta, grid


def one_by_one(devices: Sequence[Any], folder: Path, **options: Any) -> tuple[Array, LocalGrid]:
    app = make_client_app(lambda at: devices[int(at.node_config["partition-id"])])
    return federate(devices, app, folder, devices[0].form, **options)


def together(
    devices: Sequence[Any], train: Any, folder: Path, **options: Any
) -> tuple[Array, LocalGrid]:
    group = TrainsTogether(devices, train)
    app = make_client_app(lambda at: group.device(int(at.node_config["partition-id"])))
    return federate(devices, app, folder, devices[0].form, expect=group.expect, **options)


def charges(devices: Sequence[FederatedLearner[list[int]]]) -> list[list[Charge]]:
    return [device.ledger.charges for device in devices if device.ledger]


def in_process(training: SharedTraining[list[int]]) -> Any:
    def train(theta: Array, number: int, members: Sequence[int], records: Any) -> Array:
        sources = [noise(member, number) for member in members]
        return training.round(theta, records, sources, number=number)

    return train


USERS = user_plan(rounds=2, clip=AdaptiveClip(initial=0.02, count_noise=4.0))
BOTH = user_plan(rounds=2, clip=0.02, trust="local", within=PLAN)


@pytest.mark.parametrize(("plan", "cohort"), [(PLAN, 2), (PLAN, 4), (USERS, 4), (BOTH, 4)])
def test_a_cohort_is_the_federation_device_by_device(
    plan: PrivacyPlan, cohort: int, devices: list[FederatedLearner[list[int]]], tmp_path: Path
) -> None:
    devices = [replace(device, plan=plan) for device in devices]
    alone, seen_alone = one_by_one(devices, tmp_path / "alone", cohort=cohort)
    paid = charges(devices)
    for device in devices:
        assert device.ledger is not None
        assert isinstance(device.ledger.journal, FileJournal)
        device.ledger.journal.path.unlink(missing_ok=True)
    group, seen = together(devices, in_process(devices[0].training), tmp_path / "t", cohort=cohort)
    assert np.abs(group - alone).max() <= 1e-5 * np.abs(alone).max()
    assert seen.bytes_up == seen_alone.bytes_up
    assert seen.bytes_down == seen_alone.bytes_down
    assert charges(devices) == paid


@pytest.mark.parametrize(
    ("name", "ranks"),
    [("fedex", ()), ("share-a", ()), ("alternate-round", (2, 1, 2)), ("flexlora", (1, 2, 2))],
)
@pytest.mark.parametrize("plan", [PLAN, user_plan(rounds=3, trust="local", clip=0.05)])
def test_every_policy_is_the_same_device_by_device(
    name: str,
    ranks: tuple[int, ...],
    plan: PrivacyPlan,
    devices: list[FederatedLearner[list[int]]],
    directions: Directions,
    tmp_path: Path,
) -> None:
    policy = POLICIES[name]
    form = policy.over(devices[0].form.base_id, directions.limited(2), carried=4)
    own = [*ranks, 2, 2, 2, 2][: len(COUNTS)]

    def fresh() -> list[FederatedLearner[list[int]]]:
        made = []
        for device, rank in zip(devices, own, strict=True):
            again = replace(device, plan=plan, form=form.limited(rank), ledger=None)
            if form.kept_dim:
                again.kept = remembering(plan, again.form)
            made.append(again)
        return made

    ids = draw_ids(len(COUNTS), 0)
    how = Aggregation(policy=policy, form=form, ranks=dict(zip(ids, own, strict=True)))
    alone, apart = fresh(), fresh()
    one, seen_alone = one_by_one(alone, tmp_path / "one", aggregation=how)
    train = partial(_together, apart, noise, lambda: None)
    two, seen = together(apart, train, tmp_path / "two", aggregation=how)
    assert np.abs(two - one).max() <= 1e-5 * np.abs(one).max()
    assert seen.bytes_up == seen_alone.bytes_up
    for left, right in zip(alone, apart, strict=True):
        if left.kept is not None and right.kept is not None:
            np.testing.assert_allclose(right.kept.latest(), left.kept.latest(), atol=1e-5)


def remembering(plan: PrivacyPlan, form: SharedForm) -> KeptHalf:
    memory = [b""]
    return KeptHalf(
        plan.digest, form.kept_dim, lambda: memory[0], lambda raw: memory.__setitem__(0, raw)
    )


def test_devices_whose_order_is_lost_neither_train_nor_pay(
    devices: list[FederatedLearner[list[int]]], tmp_path: Path
) -> None:
    trained: list[list[int]] = []
    inner = in_process(devices[0].training)

    def train(theta: Array, number: int, members: Sequence[int], records: Any) -> Array:
        trained.append(list(members))
        return inner(theta, number, members, records)  # type: ignore[no-any-return]

    group = TrainsTogether(devices, train)
    app = make_client_app(lambda at: group.device(int(at.node_config["partition-id"])))
    ids = [11, 12, 13, 14]
    federate(
        devices,
        app,
        tmp_path / "run",
        devices[0].form,
        expect=group.expect,
        node_ids=ids,
        drop=lambda order: order.metadata.dst_node_id == 12,
    )
    assert trained == [[0, 2]] * PLAN.rounds
    assert devices[1].ledger is not None
    assert not devices[1].ledger.charges


def test_a_device_asked_out_of_turn_trains_alone(
    devices: list[FederatedLearner[list[int]]],
) -> None:
    group = TrainsTogether(devices, in_process(devices[0].training))
    theta = devices[0].form.zero()
    found = group.device(2).train_shared(theta, round=1)
    expected = devices[2].train_shared(theta, round=1)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    with pytest.raises(TooLittleDataError, match="at least 32 are needed"):
        group.device(3).train_shared(theta, round=1)


# --- Ray ----------------------------------------------------------------------------------------


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> Any:
    ray = pytest.importorskip("ray", reason="needs the extra 'ray'")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield ray
    ray.shutdown()
    gc.collect()  # Ray leaves files open; close them while warnings are ignored


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_ray_workers_give_the_same_and_a_killed_one_is_replaced(
    ray: Any, devices: list[FederatedLearner[list[int]]], package: Package, tmp_path: Path
) -> None:
    alone, _ = one_by_one(devices, tmp_path / "alone")
    maker = partial(build, package, devices[0].form)
    with RayEngine(maker, noise, workers=2) as engine:
        spread, _ = together(devices, engine.train, tmp_path / "ray")
        assert np.abs(spread - alone).max() <= 1e-5 * np.abs(alone).max()

        records = [device.records() for device in devices[:3]]
        before = engine.train(alone, 1, [0, 1, 2], records)
        ray.kill(engine._workers[0])
        np.testing.assert_array_equal(engine.train(alone, 1, [0, 1, 2], records), before)


class Dying:
    """A training core whose worker never survives a round."""

    def round(self, *_: Any, **__: Any) -> Array:
        os._exit(1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_slice_that_always_dies_ends_the_run(ray: Any) -> None:
    with (
        RayEngine(Dying, noise, workers=1) as engine,
        pytest.raises(FederationError, match="failed on 3 workers in a row"),
    ):
        engine.train(np.zeros(3, np.float32), 1, [0], [[]])


@pytest.mark.filterwarnings("ignore")  # Ray's own
def test_a_cluster_that_does_not_answer_is_named(ray: Any) -> None:
    with pytest.raises(FederationError, match=r"reached at '127.0.0.1:1'"):
        RayEngine(Dying, noise, workers=1, address="127.0.0.1:1")


def test_no_worker_is_no_engine(ray: Any) -> None:
    with pytest.raises(BadInputError, match="workers and cpus must be at least 1, got 0 and 1"):
        RayEngine(Dying, noise, workers=0)
