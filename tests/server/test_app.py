"""The server's app: rounds, checkpoints, and going on after an interruption."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("flwr", reason="the federation needs the extra 'federate'")

from flwr.app import Context, Message

from locavore.client.app import make_client_app
from locavore.privacy.ledger import Ledger
from locavore.privacy.matrix import Correlation
from locavore.privacy.noise import insecure_seeded_noise
from locavore.server.app import FederationConfig, RoundReport, make_server_app
from locavore.server.checkpoint import Checkpoint, latest
from locavore.server.simulation.grid import LocalGrid, run_in_process
from locavore.shared.adapters import Array
from locavore.shared.errors import BadInputError, FederationError

from ..plans import user_plan

BASE = "tiny-float32-0123"
PLAN = "ab" * 32
DIM = 6
NODES = 5


class Quadratic:
    """A device that steps towards its own optimum, clips, and adds its own seeded noise."""

    base_id = BASE
    plan_digest = PLAN
    sums = None

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.optimum = np.random.default_rng(partition).normal(size=DIM)
        self.losses: list[float] = []

    def train_shared(self, theta: Array, *, round: int) -> Array:
        step = 0.5 * (self.optimum - theta)
        step *= min(1.0, 2.0 / float(np.linalg.norm(step)))
        noise = np.random.default_rng((self.partition, round)).normal(scale=0.01, size=DIM)
        return (step + noise).astype(np.float32)

    def evaluate_shared(self, theta: Array, *, round: int) -> None:
        self.losses.append(float(np.square(self.optimum - theta).sum()))


Hook = Callable[[int, int], None]


class Hooked(Quadratic):
    """A quadratic that calls ``hook(partition, round)`` before it trains."""

    def __init__(self, partition: int, hook: Hook) -> None:
        super().__init__(partition)
        self.hook = hook

    def train_shared(self, theta: Array, *, round: int) -> Array:
        self.hook(self.partition, round)
        return super().train_shared(theta, round=round)


def config(folder: Path, **changes: object) -> FederationConfig:
    settings: dict[str, object] = {
        "base_id": BASE,
        "plan_digest": PLAN,
        "form": "core",
        "dim": DIM,
        "rounds": 6,
        "cohort": 3,
        "min_replies": 2,
        "seed": 7,
        "checkpoint_dir": folder,
        "wait_s": 0,
    }
    return FederationConfig(**(settings | changes))  # type: ignore[arg-type]


def fleet(hook: Hook | None = None) -> dict[int, Quadratic]:
    make = (lambda p: Hooked(p, hook)) if hook else Quadratic
    return {partition: make(partition) for partition in range(NODES)}


def run(
    settings: FederationConfig,
    devices: dict[int, Quadratic] | None = None,
    on_round: Callable[[RoundReport], None] | None = None,
    drop: Callable[[Message], bool] | None = None,
) -> LocalGrid:
    held = devices or fleet()

    def device(context: Context) -> Quadratic:
        return held[int(context.node_config["partition-id"])]

    server = make_server_app(settings, on_round)
    return run_in_process(server, make_client_app(device), NODES, drop=drop)


def result(folder: Path) -> Checkpoint:
    found = latest(folder)
    assert found is not None
    return found


def test_a_federation_of_all_nodes_finds_the_mean_optimum(tmp_path: Path) -> None:
    devices = fleet()
    run(config(tmp_path, rounds=25, cohort=NODES), devices)
    mean = np.mean([device.optimum for device in devices.values()], axis=0)
    assert np.linalg.norm(mean) > 0.5
    np.testing.assert_allclose(result(tmp_path).theta, mean, atol=0.05)
    for device in devices.values():
        assert len(device.losses) == 25
        assert all(loss > 0 for loss in device.losses)


def test_every_round_leaves_a_checkpoint_and_a_report(tmp_path: Path) -> None:
    reports: list[RoundReport] = []
    run(config(tmp_path), on_round=reports.append)
    assert [report.round for report in reports] == [1, 2, 3, 4, 5, 6]
    assert all(report.averaged == 3 and report.evaluated == NODES for report in reports)
    for report in reports:
        saved = Checkpoint.load(tmp_path / f"round-{report.round:06d}.safetensors")
        np.testing.assert_array_equal(saved.theta, report.theta)
    assert result(tmp_path).history == tuple(report.row() for report in reports)
    assert "theta" not in result(tmp_path).history[0]


def test_the_checkpoint_is_there_when_evaluation_begins(tmp_path: Path) -> None:
    seen = []

    class Looking(Quadratic):
        def evaluate_shared(self, theta: Array, *, round: int) -> None:
            np.testing.assert_array_equal(result(tmp_path).theta, theta)
            seen.append(round)

    reports: list[RoundReport] = []
    run(
        config(tmp_path, rounds=2),
        {p: Looking(p) for p in range(NODES)},
        on_round=reports.append,
    )
    assert seen == [1] * NODES + [2] * NODES
    assert [report.evaluated for report in reports] == [NODES, NODES]


@pytest.mark.parametrize("stop_at", [1, 4, 6])
def test_interrupted_and_resumed_is_bit_for_bit_uninterrupted(tmp_path: Path, stop_at: int) -> None:
    run(config(tmp_path / "whole"))
    calls = []

    def interrupt_second_device(partition: int, round: int) -> None:
        calls.append(round)
        if calls.count(stop_at) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(config(tmp_path / "cut"), fleet(interrupt_second_device))
    left = latest(tmp_path / "cut")
    assert (0 if left is None else left.round) == stop_at - 1

    run(config(tmp_path / "cut", resume=True))
    whole, cut = result(tmp_path / "whole"), result(tmp_path / "cut")
    assert cut.round == whole.round == 6
    assert cut.theta.tobytes() == whole.theta.tobytes()
    assert cut.history == whole.history


def test_a_damaged_last_checkpoint_costs_one_round_and_no_bit(tmp_path: Path) -> None:
    run(config(tmp_path / "whole"))
    run(config(tmp_path / "cut", rounds=4))
    (tmp_path / "cut" / "round-000004.safetensors").write_bytes(b"power cut")
    rounds: list[int] = []
    run(config(tmp_path / "cut", resume=True), on_round=lambda report: rounds.append(report.round))
    assert rounds == [4, 5, 6]
    assert result(tmp_path / "cut").theta.tobytes() == result(tmp_path / "whole").theta.tobytes()


NOISED = user_plan(
    cohort=NODES, rounds=6, separation=3, correlation=Correlation("buffered", 2), clip=1.0
)


def noised(folder: Path, **changes: object) -> FederationConfig:
    settings = {"plan_digest": NOISED.digest, "plan": NOISED, "noise": insecure_seeded_noise}
    ledger = Ledger(folder / "ledger", delta=NOISED.delta)
    return config(folder, **(settings | {"ledger": ledger, "cohort": NODES} | changes))


class Agreed(Hooked):
    plan_digest = NOISED.digest


@pytest.mark.parametrize("stop_at", [2, 5])
def test_noise_of_earlier_rounds_is_remembered_over_an_interruption(
    tmp_path: Path, stop_at: int
) -> None:
    pytest.importorskip("dp_accounting")

    def interrupt(partition: int, round: int) -> None:
        if round == stop_at:
            raise KeyboardInterrupt

    def devices(hook: Hook) -> dict[int, Quadratic]:
        return {partition: Agreed(partition, hook) for partition in range(NODES)}

    run(noised(tmp_path / "whole"), devices(lambda *_: None))
    with pytest.raises(KeyboardInterrupt):
        run(noised(tmp_path / "cut"), devices(interrupt))
    run(noised(tmp_path / "cut", resume=True), devices(lambda *_: None))
    whole, cut = result(tmp_path / "whole"), result(tmp_path / "cut")
    assert cut.theta.tobytes() == whole.theta.tobytes()
    assert whole.noise is not None
    assert whole.noise.shape == (2, DIM)
    ledger = noised(tmp_path / "cut").ledger
    assert ledger is not None
    assert ledger.epsilon("user") == pytest.approx(NOISED.epsilon(1))


def test_a_round_that_was_shown_is_not_noised_anew(tmp_path: Path) -> None:
    pytest.importorskip("dp_accounting")
    devices: dict[int, Quadratic] = {p: Agreed(p, lambda *_: None) for p in range(NODES)}
    run(noised(tmp_path, rounds=4), devices)
    (tmp_path / "round-000004.safetensors").write_bytes(b"power cut")
    with pytest.raises(FederationError, match=r"round-000004.safetensors cannot be read, but"):
        run(noised(tmp_path, resume=True), devices)


def test_the_digest_must_be_the_plans(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=f"plan_digest must be the plan's, {NOISED.digest}"):
        noised(tmp_path, plan_digest=PLAN)


def test_a_finished_federation_has_nothing_to_resume(tmp_path: Path) -> None:
    run(config(tmp_path))
    grid = run(config(tmp_path, resume=True))
    assert not grid.bytes_down


def test_a_used_folder_is_not_overwritten_without_resume(tmp_path: Path) -> None:
    run(config(tmp_path, rounds=2))
    with pytest.raises(FederationError, match="up to round 2; set resume, or use an empty folder"):
        run(config(tmp_path))
    assert result(tmp_path).round == 2


@pytest.mark.parametrize(
    "change", [{"base_id": "other"}, {"plan_digest": "cd" * 32}, {"dim": 7}, {"form": "ffa"}]
)
def test_another_federations_checkpoint_is_not_continued(
    tmp_path: Path, change: dict[str, object]
) -> None:
    run(config(tmp_path, rounds=1))
    with pytest.raises(FederationError, match="of another federation"):
        run(config(tmp_path, resume=True, **change))


def test_a_failing_device_does_not_stop_the_others(tmp_path: Path) -> None:
    def fail(partition: int, round: int) -> None:
        if partition == 1:
            raise ValueError("only this device's business")

    reports: list[RoundReport] = []
    run(config(tmp_path, cohort=NODES), fleet(fail), on_round=reports.append)
    assert {(report.averaged, report.failed) for report in reports} == {(NODES - 1, 1)}


def test_a_node_that_drops_out_does_not_stop_the_others(tmp_path: Path) -> None:
    reports: list[RoundReport] = []
    gone: set[int] = set()

    def drop(message: Message) -> bool:
        gone.update({message.metadata.dst_node_id} if not gone else ())
        return message.metadata.dst_node_id in gone

    run(config(tmp_path, cohort=NODES), drop=drop, on_round=reports.append)
    assert {(r.averaged, r.silent, r.evaluated) for r in reports} == {(NODES - 1, 1, NODES - 1)}


def test_a_skipped_round_keeps_theta_and_counts_as_a_round(tmp_path: Path) -> None:
    def fail_in_round_2(partition: int, round: int) -> None:
        if round == 2:
            raise RuntimeError

    reports: list[RoundReport] = []
    run(config(tmp_path, rounds=3), fleet(fail_in_round_2), on_round=reports.append)
    assert [report.applied for report in reports] == [True, False, True]
    np.testing.assert_array_equal(reports[1].theta, reports[0].theta)
    assert not np.array_equal(reports[2].theta, reports[1].theta)
    assert result(tmp_path).round == 3


def test_evaluation_can_be_switched_off(tmp_path: Path) -> None:
    devices = fleet()
    run(config(tmp_path, evaluate=False), devices)
    assert not any(device.losses for device in devices.values())


def test_all_problems_of_a_config_are_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(BadInputError) as caught:
        config(tmp_path, dim=0, min_replies=4, seed=-1, plan_digest="ab")
    said = str(caught.value)
    for part in (
        "dim must be at least 1, got 0",
        "min_replies must be 1..3, got 4",
        "seed must be at least 0, got -1",
        "64 lower-case hex digits, got 'ab'",
    ):
        assert part in said
