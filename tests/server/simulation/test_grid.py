"""The in-process grid: Flower's contract, what travels through it, and equality with Ray."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("flwr", reason="the federation needs the extra 'federate'")

from flwr.app import ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.serverapp import Grid, ServerApp

from locavore.client.app import FederatedDevice, make_client_app
from locavore.server.app import FederationConfig, make_server_app
from locavore.server.checkpoint import latest
from locavore.server.simulation.grid import Direction, LocalGrid, flower_identity, run_in_process
from locavore.shared.adapters import Array
from locavore.shared.errors import BadInputError
from locavore.shared.wire import WIRE, check_incoming, check_outgoing, describe

BASE = "tiny-float32-0123"
PLAN = "ab" * 32
DIM = 64
NODES = 5
SECRET = "Ada lives in Lovelace Street 7"


class Noisy:
    """A device with its own optimum and its own seeded noise; it keeps what it measures."""

    base_id = BASE
    plan_digest = PLAN
    sums = None

    def __init__(self, partition: int) -> None:
        self.partition = partition
        self.diary = SECRET
        self.loss = 0.0

    def _optimum(self) -> Array:
        return np.random.default_rng(self.partition).normal(size=DIM).astype(np.float32)

    def train_shared(self, theta: Array, *, round: int) -> Array:
        generator = np.random.default_rng((self.partition, round))
        scale = 10.0 ** generator.integers(-6, 6, DIM)  # sums that depend on their order
        return ((self._optimum() - theta) * generator.normal(size=DIM) * scale).astype(np.float32)

    def evaluate_shared(self, theta: Array, *, round: int) -> None:
        self.loss = float(np.square(self._optimum() - theta).sum())


class Telling(Noisy):
    """A device whose errors hold what it knows."""

    def train_shared(self, theta: Array, *, round: int) -> Array:
        raise ValueError(self.diary)

    def evaluate_shared(self, theta: Array, *, round: int) -> None:
        raise ValueError(self.diary)


def config(folder: Path, **changes: object) -> FederationConfig:
    settings: dict[str, object] = {
        "base_id": BASE,
        "plan_digest": PLAN,
        "form": "core",
        "dim": DIM,
        "rounds": 3,
        "cohort": 3,
        "min_replies": 1,
        "seed": 11,
        "checkpoint_dir": folder,
        "wait_s": 30,
    }
    return FederationConfig(**(settings | changes))  # type: ignore[arg-type]


def device_of(context: Context) -> FederatedDevice:
    return Noisy(int(context.node_config["partition-id"]))


def theta_of(folder: Path) -> bytes:
    found = latest(folder)
    assert found is not None
    assert np.isfinite(found.theta).all()
    assert np.any(found.theta)
    return found.theta.tobytes()


def echo_app() -> ClientApp:
    app = ClientApp()

    def echo(message: Message, context: Context) -> Message:
        seen = context.state.get("seen", MetricRecord({"count": 0}))
        seen["count"] += 1
        context.state["seen"] = seen
        message.content["config"]["by"] = context.node_config["partition-id"]
        return Message(message.content, reply_to=message)

    app.query("echo")(echo)
    return app


def queries(grid: Grid) -> list[Message]:
    content = RecordDict({"config": ConfigRecord({"text": "hello"})})
    return [Message(content, node, "query.echo") for node in grid.get_node_ids()]


def through(grid: LocalGrid) -> list[Message]:
    with flower_identity():
        return list(grid.send_and_receive(queries(grid)))


def test_every_node_gets_its_message_and_answers_as_itself() -> None:
    grid = LocalGrid(echo_app(), 3)
    replies = through(grid)
    assert [reply.metadata.src_node_id for reply in replies] == grid.get_node_ids()
    assert [reply.content["config"]["by"] for reply in replies] == [0, 1, 2]
    assert [c.node_config["num-partitions"] for c in grid.contexts.values()] == [3, 3, 3]


def test_nodes_do_not_share_objects_with_the_server_or_each_other() -> None:
    grid = LocalGrid(echo_app(), 2)
    with flower_identity():
        messages = queries(grid)
        grid.send_and_receive(messages)
    assert messages[0].content is messages[1].content
    assert set(messages[0].content["config"]) == {"text"}


def test_a_context_lasts_for_the_whole_run() -> None:
    grid = LocalGrid(echo_app(), 2)
    through(grid)
    through(grid)
    assert [c.state["seen"]["count"] for c in grid.contexts.values()] == [2, 2]


def test_replies_are_pulled_once_and_by_id() -> None:
    grid = LocalGrid(echo_app(), 2)
    with flower_identity():
        first, second = grid.push_messages(queries(grid))
    assert len(grid.pull_messages([second, "unknown"])) == 1
    assert not grid.pull_messages([second])
    assert len(grid.pull_messages([first, second])) == 1


def test_node_ids_follow_from_the_seed() -> None:
    ids = LocalGrid(echo_app(), 20, seed=4).get_node_ids()
    assert ids == LocalGrid(echo_app(), 20, seed=4).get_node_ids()
    assert ids != LocalGrid(echo_app(), 20, seed=5).get_node_ids()
    assert LocalGrid(echo_app(), 2, node_ids=[9, 8]).get_node_ids() == [9, 8]


@pytest.mark.parametrize(("number", "ids"), [(0, None), (2, [5]), (2, [5, 5])])
def test_impossible_nodes_are_refused(number: int, ids: list[int] | None) -> None:
    with pytest.raises(BadInputError, match="num_nodes"):
        LocalGrid(echo_app(), number, node_ids=ids)


def test_an_exception_becomes_an_error_reply_and_an_interrupt_does_not() -> None:
    def raising(error: BaseException) -> ClientApp:
        def fail(message: Message, context: Context) -> Message:
            raise error

        app = ClientApp()
        app.query("echo")(fail)
        return app

    replies = through(LocalGrid(raising(ZeroDivisionError("by zero")), 2))
    assert all(reply.has_error() for reply in replies)
    assert replies[0].error.reason == "<class 'ZeroDivisionError'>:<'by zero'>"
    with pytest.raises(KeyboardInterrupt):
        through(LocalGrid(raising(KeyboardInterrupt()), 2))


def test_flowers_identity_is_given_back() -> None:
    from flwr.supercore.task_identity import TaskIdentity

    before = TaskIdentity._node_id
    with flower_identity():
        assert TaskIdentity.node_id == 1
    assert TaskIdentity._node_id == before


def test_bytes_are_those_of_the_records(tmp_path: Path) -> None:
    grid = run_in_process(
        make_server_app(config(tmp_path, cohort=NODES, evaluate=False)),
        make_client_app(device_of),
        NODES,
    )
    vector = 4 * DIM
    for node in grid.get_node_ids():
        assert 3 * vector < grid.bytes_down[node] < 3 * (vector + 500)
        assert 3 * vector < grid.bytes_up[node] < 3 * (vector + 400)


def test_a_dropped_node_receives_but_sends_nothing(tmp_path: Path) -> None:
    grid = run_in_process(
        make_server_app(config(tmp_path, cohort=NODES)),
        make_client_app(device_of),
        NODES,
        node_ids=range(100, 100 + NODES),
        drop=lambda message: message.metadata.dst_node_id == 102,
    )
    assert grid.bytes_down[102] == grid.bytes_down[101] > 0
    assert grid.bytes_up[102] == 0 < grid.bytes_up[101]


def captured(
    folder: Path, devices: Callable[[Context], FederatedDevice]
) -> list[tuple[Direction, Message]]:
    messages: list[tuple[Direction, Message]] = []
    run_in_process(
        make_server_app(config(folder)),
        make_client_app(devices),
        NODES,
        tap=lambda message, direction: messages.append((direction, message)),
    )
    return messages


def test_only_what_is_on_the_allow_list_travels(tmp_path: Path) -> None:
    seen: Counter[str] = Counter()
    for direction, message in captured(tmp_path, device_of):
        phase = message.metadata.message_type
        records = describe(message.content)
        row = WIRE[f"{phase} {direction}"]
        assert {n: set(r) for n, r in records.items()} == {n: set(r) for n, r in row.items()}
        if direction == "down":
            assert check_incoming(records, phase=phase).plan == PLAN
        else:
            number = int(message.metadata.group_id)
            check_outgoing(records, phase=phase, dim=DIM, plan=PLAN, round=number)
        seen[f"{phase} {direction}"] += 1
    assert seen == {
        "train down": 9,
        "train up": 9,
        "evaluate down": 15,
        "evaluate up": 15,
    }


def test_an_error_leaks_nothing_into_any_message(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def telling(context: Context) -> FederatedDevice:
        return Telling(int(context.node_config["partition-id"]))

    messages = captured(tmp_path, telling)
    up = [message for direction, message in messages if direction == "up"]
    assert len(up) == 24
    assert all(message.has_error() for message in up)
    for message in up:
        assert "ValueError" in message.error.reason
        assert SECRET not in repr(message)
    on_device = [r for r in caplog.records if r.name == "locavore.client"]
    on_server = [r for r in caplog.records if r.name == "locavore.server"]
    assert len(on_device) == 24
    assert SECRET in caplog.text
    assert on_server
    assert not any(SECRET in record.getMessage() for record in on_server)


def test_flower_sends_no_telemetry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import urllib.request

    from flwr.supercore import telemetry

    opened: list[object] = []
    monkeypatch.delenv("FLWR_TELEMETRY_ENABLED", raising=False)
    monkeypatch.setattr(telemetry, "FLWR_TELEMETRY_ENABLED", "1")
    monkeypatch.setattr(urllib.request, "urlopen", lambda *a, **k: opened.append(a))
    run_in_process(make_server_app(config(tmp_path)), make_client_app(device_of), NODES)
    assert telemetry.create_event(telemetry.EventType.PING, None) == "disabled"
    assert not opened


def test_the_grid_brings_neither_ray_nor_torch() -> None:
    code = (
        "import sys, locavore.server.simulation.grid, locavore.server.app, locavore.client.app\n"
        "print(sorted({'ray', 'torch'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "[]"


def test_flowers_own_loop_gives_the_same_vector(tmp_path: Path) -> None:
    from locavore.server.strategy import FederatedStrategy, to_arrays

    found: list[bytes] = []
    app = ServerApp()

    def main(grid: Grid, context: Context) -> None:
        strategy = FederatedStrategy(
            base_id=BASE, plan_digest=PLAN, cohort=3, min_replies=1, seed=11, wait_s=0
        )
        start = to_arrays(np.zeros(DIM, np.float32))
        outcome = strategy.start(grid=grid, initial_arrays=start, num_rounds=3)
        found.append(outcome.arrays["theta"].numpy().tobytes())

    app.main()(main)
    run_in_process(app, make_client_app(device_of), NODES)
    run_in_process(make_server_app(config(tmp_path)), make_client_app(device_of), NODES)
    assert found == [theta_of(tmp_path)]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # Ray's and Flower's own
@pytest.mark.parametrize("cohort", [3, NODES])
def test_flowers_simulation_gives_the_same_vector_bit_for_bit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cohort: int
) -> None:
    ray = pytest.importorskip("ray", reason="Flower's simulation needs flwr[simulation] with Ray")
    from flwr.simulation import run_simulation

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", os.environ.get("PYTHONPATH", ""))  # Flower overwrites it
    nodes = tmp_path / "nodes"
    nodes.mkdir()

    def noted(context: Context) -> FederatedDevice:
        partition = int(context.node_config["partition-id"])
        (nodes / str(partition)).write_text(str(context.node_id))
        return Noisy(partition)

    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    run_simulation(
        make_server_app(config(tmp_path / "ray", cohort=cohort, min_nodes=NODES)),
        make_client_app(noted),
        NODES,
        backend_config={
            "client_resources": {"num_cpus": 1, "num_gpus": 0.0},
            "init_args": {"_node_ip_address": "127.0.0.1", "num_cpus": 2},
        },
    )
    gc.collect()  # Ray leaves files open; close them while warnings are ignored
    # Flower draws node ids from the system's randomness, and cohorts follow from node ids.
    ids = [int((nodes / str(partition)).read_text()) for partition in range(NODES)]
    run_in_process(
        make_server_app(config(tmp_path / "local", cohort=cohort)),
        make_client_app(device_of),
        NODES,
        node_ids=ids,
    )
    assert theta_of(tmp_path / "local") == theta_of(tmp_path / "ray")
