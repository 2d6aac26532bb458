"""Embedded nodes and the embedded link, over real HTTP on loopback: what is answered, what not."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

pytest.importorskip("prometheus_client", reason="a coordinator needs the extra 'serve'")

from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from locavore.server.checkpoint import latest
from locavore.server.coordinator import link
from locavore.server.coordinator.limits import Limited, Limits
from locavore.server.coordinator.link import Link
from locavore.shared.errors import BadInputError, FederationError, RevokedError

from ..summing import Fleet
from .deployed import APP, Deployed, serving, settle


def asking(message_type: str, count: int = 1, size: int = 0) -> tuple[ServerApp, list[Message]]:
    """An app that sends every node such messages, and what they answered."""
    app = ServerApp()
    replies: list[Message] = []

    @app.main()  # type: ignore[untyped-decorator]
    def main(grid: Grid, context: Context) -> None:
        settle(lambda: len(list(grid.get_node_ids())) == 3)
        for _ in range(count):
            content = RecordDict({"config": ConfigRecord({"round": 1, "blob": bytes(size)})})
            messages = [Message(content, node, message_type) for node in grid.get_node_ids()]
            replies.extend(grid.send_and_receive(messages, timeout=10))

    return app, replies


def test_a_federation_over_http_finds_the_sum(tmp_path: Path) -> None:
    deployed = Deployed(Fleet(), tmp_path)
    with serving(deployed.link.fleet()) as port, deployed.nodes(port):
        deployed.run(rounds=2)
    found = latest(tmp_path / "checkpoints")
    assert found is not None
    fleet = deployed.fleet
    expected = fleet.total(1, range(5)) + fleet.total(2, range(5))
    np.testing.assert_allclose(found.theta, expected, atol=4e-4)
    assert [report.averaged for report in fleet.reports] == [5, 5]


def test_a_foreign_app_is_refused_and_not_even_read(tmp_path: Path) -> None:
    deployed = Deployed(Fleet(3), tmp_path)
    app, replies = asking("train.advertise")
    with serving(deployed.link.fleet()) as port, deployed.nodes(port):
        deployed.link.run(app, "somebody/else")
    assert len(replies) == 3
    for reply in replies:
        said = "this device answers the app 'locavore/federation', not 'somebody/else'"
        assert said in reply.error.reason
    assert not any(device.trained for device in deployed.fleet.devices)


def test_an_unknown_kind_of_message_is_refused(tmp_path: Path) -> None:
    deployed = Deployed(Fleet(3), tmp_path)
    app, replies = asking("query.everything")
    with serving(deployed.link.fleet()) as port, deployed.nodes(port):
        deployed.link.run(app, APP)
    reasons = {reply.error.reason for reply in replies}
    assert len(replies) == 3
    assert all("'query.everything' are not on the allow-list" in reason for reason in reasons)


def test_a_message_with_more_than_the_allow_list_is_refused(tmp_path: Path) -> None:
    deployed = Deployed(Fleet(3), tmp_path)
    app, replies = asking("train.advertise")
    with serving(deployed.link.fleet()) as port, deployed.nodes(port):
        deployed.link.run(app, APP)
    assert all("WireError" in reply.error.reason for reply in replies)
    assert len(replies) == 3


def test_an_oversized_message_is_not_taken_in(tmp_path: Path) -> None:
    deployed = Deployed(Fleet(3), tmp_path)
    app, replies = asking("train.advertise", size=300_000)
    with (
        serving(deployed.link.fleet()) as port,
        deployed.nodes(port, max_message_bytes=100_000),
    ):
        deployed.link.run(app, APP)
    assert len(replies) == 3
    assert all("has more than 165536 bytes" in reply.error.reason for reply in replies)


def test_an_oversized_reply_costs_its_sender_the_round_and_nobody_else(tmp_path: Path) -> None:
    fleet = Fleet(fewest=3)
    deployed = Deployed(fleet, tmp_path)
    limited = Limited(deployed.link.fleet(), Limits(request_bytes=20_000))
    loud = fleet.devices[2]
    original = loud.sums.step

    def shouting(phase: Any, said: Any) -> Any:
        records = original(phase, said)
        if phase == "share":
            return {"config": {**records["config"], "sealed": bytes(100_000)}}
        return records

    loud.sums.step = shouting  # type: ignore[method-assign]
    with serving(limited) as port, deployed.nodes(port):
        deployed.run(step_timeout_s=3.0)
    (report,) = fleet.reports
    assert (report.averaged, report.silent) == (4, 1)
    assert limited.refused >= 1
    found = latest(tmp_path / "checkpoints")
    assert found is not None
    np.testing.assert_allclose(found.theta, fleet.total(1, [0, 1, 3, 4]), atol=2e-4)


def test_who_was_never_let_in_is_told_so(tmp_path: Path) -> None:
    deployed = Deployed(Fleet(3), tmp_path)
    deployed.keys[0] = ec.generate_private_key(ec.SECP384R1())
    with serving(deployed.link.fleet()) as port:
        node = deployed.node(0, port)
        with pytest.raises(RevokedError, match="revoked or never registered"):
            node.run()


def test_who_is_revoked_takes_no_further_part(tmp_path: Path) -> None:
    deployed = Deployed(Fleet(3), tmp_path)
    with serving(deployed.link.fleet()) as port:
        node = deployed.node(0, port)
        ended: list[BaseException] = []

        def run() -> None:
            try:
                node.run()
            except RevokedError as error:
                ended.append(error)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        settle(lambda: deployed.link.online() == 1)
        deployed.link.revoke(deployed.node_ids[0])
        thread.join(10)
        assert ended
    assert deployed.link.online() == 0


def test_a_node_cannot_speak_for_another(tmp_path: Path) -> None:
    deployed = Deployed(Fleet(3), tmp_path)
    deployed.node_ids[0] = deployed.node_ids[1]
    with serving(deployed.link.fleet()) as port, pytest.raises(RevokedError):
        deployed.node(0, port).run()


def test_nobody_registers_over_the_network(tmp_path: Path) -> None:
    link = Link()
    with serving(link.fleet()) as port:
        said = {"content-type": "application/protobuf"}
        for path in ("/v1/control/start-run", "/v1/runtime/push-messages", "/docs", "/health"):
            answer = httpx.post(f"http://127.0.0.1:{port}{path}", headers=said)
            assert answer.status_code == 404
        path = "/v1/fleet/register-node"
        assert httpx.post(f"http://127.0.0.1:{port}{path}", headers=said).status_code == 401
    assert not link.state.get_node_info()


def test_a_key_is_registered_once(tmp_path: Path) -> None:
    link = Link()
    public = public_key_to_bytes(ec.generate_private_key(ec.SECP384R1()).public_key())
    link.admit(public)
    with pytest.raises(FederationError, match="cannot be registered"):
        link.admit(public)
    other = public_key_to_bytes(ec.generate_private_key(ec.SECP384R1()).public_key())
    assert link.admit(other, 17) == 17
    assert link.state.get_node_id_by_public_key(other) == 17
    third = public_key_to_bytes(ec.generate_private_key(ec.SECP384R1()).public_key())
    with pytest.raises(FederationError, match="node 17 is registered already"):
        link.admit(third, 17)


def test_a_closed_gate_keeps_a_device_out(tmp_path: Path) -> None:
    deployed = Deployed(Fleet(3), tmp_path)
    on_mains = threading.Event()
    with serving(deployed.link.fleet()) as port:
        node = deployed.node(0, port, gates={"consent": lambda: True, "mains": on_mains.is_set})
        thread = threading.Thread(target=node.run, daemon=True)
        thread.start()
        settle(lambda: node.closed_by == "mains")
        assert deployed.link.online() == 0
        on_mains.set()
        settle(lambda: deployed.link.online() == 1)
        assert node.closed_by is None
        node.stop()
        thread.join(10)
    assert deployed.link.online() == 0, "a node that goes says so"


def test_nodes_find_a_restarted_server_again(tmp_path: Path) -> None:
    fleet = Fleet()
    deployed = Deployed(fleet, tmp_path)
    with serving(deployed.link.fleet()) as port:
        pass
    with deployed.nodes(port) as nodes:
        settle(lambda: all(node.answered == 0 for node in nodes))
        with serving(deployed.link.fleet(), port):
            deployed.run()
        deployed.restart()
        with serving(deployed.link.fleet(), port):
            deployed.run(rounds=2, resume=True)
    assert [report.averaged for report in fleet.reports] == [5, 5]


def test_a_run_that_was_cut_off_is_over(tmp_path: Path) -> None:
    link = Link()
    app = ServerApp()
    runs: list[int] = []

    @app.main()  # type: ignore[untyped-decorator]
    def main(grid: Grid, context: Context) -> None:
        runs.append(grid.run.run_id)
        if len(runs) == 1:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        link.run(app, APP)
    link.run(app, APP)
    states = {run.run_id: run.status.status for run in link.state.get_run_info(run_ids=runs)}
    assert list(states.values()) == ["finished", "finished"]
    assert link.traffic() == (0, 0)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"app_id": ""}, "app_id must name the app"),
        ({"idle_poll_s": 0}, "idle_poll_s must be above 0, got 0"),
        ({"heartbeat_s": 5}, "heartbeat_s must be 10..1800, got 5"),
    ],
)
def test_a_nodes_behaviour_is_checked(change: dict[str, Any], why: str) -> None:
    from locavore.client.node import NodeConfig

    with pytest.raises(BadInputError, match=why):
        NodeConfig(**({"app_id": APP} | change))


def test_a_reply_that_contradicts_its_head_costs_its_sender_the_round(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fleet = Fleet(fewest=3)
    deployed = Deployed(fleet, tmp_path)
    original = inflate_object_from_contents
    spoilt: list[str] = []

    def inflate(name: str, contents: dict[str, bytes]) -> object:
        whole = original(name, contents)
        if not spoilt and whole.metadata.src_node_id == deployed.node_ids[1]:
            spoilt.append(name)
            whole.metadata.__dict__["_src_node_id"] = deployed.node_ids[0]
        return whole

    with (
        pytest.MonkeyPatch.context() as patch,
        serving(deployed.link.fleet()) as port,
        deployed.nodes(port),
    ):
        patch.setattr(link, "inflate_object_from_contents", inflate)
        deployed.run()
    (report,) = fleet.reports
    assert (report.averaged, report.silent) == (4, 1)
    assert "has sent what is no reply: WireError" in caplog.text


@pytest.mark.parametrize("wrong", [KeyError, IndexError, AttributeError, ValueError])
def test_what_cannot_be_put_together_ends_nothing(
    tmp_path: Path, wrong: type[Exception], caplog: pytest.LogCaptureFixture
) -> None:
    fleet = Fleet(fewest=3)
    deployed = Deployed(fleet, tmp_path)
    original = inflate_object_from_contents
    spoilt: list[str] = []

    def inflate(name: str, contents: dict[str, bytes]) -> object:
        whole = original(name, contents)
        if not spoilt and whole.metadata.src_node_id == deployed.node_ids[1]:
            spoilt.append(name)
            raise wrong("garbage")
        return whole

    with (
        pytest.MonkeyPatch.context() as patch,
        serving(deployed.link.fleet()) as port,
        deployed.nodes(port),
    ):
        patch.setattr(link, "inflate_object_from_contents", inflate)
        deployed.run()
    assert [(report.averaged, report.silent) for report in fleet.reports] == [(4, 1)]
    assert f"has sent what is no reply: {wrong.__name__}" in caplog.text


def test_a_connection_that_breaks_loses_no_reply(tmp_path: Path) -> None:
    fleet = Fleet()
    deployed = Deployed(fleet, tmp_path)
    with serving(deployed.link.fleet()) as port, deployed.nodes(port) as nodes:
        broken: list[str] = []
        push = nodes[2]._fleet.PushMessages

        def breaking(request: Any) -> Any:
            if len(broken) < 2:
                broken.append("once")
                raise httpx.ConnectError("the network is gone")
            return push(request)

        nodes[2]._fleet.PushMessages = breaking
        deployed.run()
    assert [report.averaged for report in fleet.reports] == [5]
    assert fleet.devices[2].trained == [1]


def test_a_message_that_its_server_has_lost_is_given_up(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    fleet = Fleet(fewest=3)
    deployed = Deployed(fleet, tmp_path)
    lost: list[str] = []
    with serving(deployed.link.fleet()) as port, deployed.nodes(port) as nodes:
        pull = nodes[2]._fleet.PullObject

        def losing(request: Any) -> Any:
            if len(lost) < 5:
                lost.append(request.object_id)
                asked = httpx.Request("POST", f"http://127.0.0.1:{port}")
                raise httpx.HTTPStatusError("lost", request=asked, response=httpx.Response(500))
            return pull(request)

        nodes[2]._fleet.PullObject = losing
        deployed.run(rounds=2, reply_timeout_s=5.0)
    assert [report.averaged for report in fleet.reports] == [4, 5]
    assert fleet.devices[2].trained == [2]
    assert len(set(lost)) == 1
    assert "a message is given up" in caplog.text


def test_a_message_of_a_round_that_is_over_is_not_handed_out(tmp_path: Path) -> None:
    fleet = Fleet(fewest=3)
    deployed = Deployed(fleet, tmp_path)
    away = threading.Event()

    def stay_away() -> bool:
        away.set()
        return threading.Event().wait(0.05)

    with serving(deployed.link.fleet()) as port, deployed.nodes(port) as nodes:
        settle(lambda: deployed.link.online() == 5)
        nodes[4]._turn = stay_away  # type: ignore[method-assign]
        assert away.wait(10)  # whatever the node was at when it was sent away is over
        deployed.run(reply_timeout_s=3.0)
        del nodes[4]._turn
        threading.Event().wait(0.5)
    assert [report.averaged for report in fleet.reports] == [4]
    assert fleet.devices[4].trained == []
    assert not deployed.link.state.message_ins_store


def test_a_gate_that_cannot_tell_is_closed(tmp_path: Path) -> None:
    deployed = Deployed(Fleet(3), tmp_path)

    def unplugged() -> bool:
        raise FileNotFoundError("the battery is gone")

    with serving(deployed.link.fleet()) as port:
        node = deployed.node(0, port, gates={"mains": unplugged})
        thread = threading.Thread(target=node.run, daemon=True)
        thread.start()
        settle(lambda: node.closed_by == "mains")
        node.stop()
        thread.join(10)
        assert not thread.is_alive()
