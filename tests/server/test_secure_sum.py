"""Rounds whose updates are summed securely: who is lost, what is refused, and going on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("flwr", reason="the federation needs the extra 'federate'")

from flwr.app import ConfigRecord, Message

from locavore.server.checkpoint import latest
from locavore.server.simulation.grid import flower_identity
from locavore.server.strategy import FederatedStrategy, to_arrays
from locavore.shared.adapters import Array
from locavore.shared.errors import BadInputError, FederationError
from locavore.shared.wire import MESSAGE_TYPES, Phase

from .summing import DIM, Fleet

PHASES: list[Phase] = ["advertise", "share", "mask", "confirm", "open"]


def theta(folder: Path) -> Array:
    found = latest(folder)
    assert found is not None
    return found.theta


def is_of(phase: Phase, node: int | None = None) -> Callable[[Message], bool]:
    return lambda message: (
        message.metadata.message_type == MESSAGE_TYPES[phase]
        and node in (None, message.metadata.dst_node_id)
    )


def test_the_server_finds_the_sum(tmp_path: Path) -> None:
    fleet = Fleet()
    fleet.run(tmp_path)
    np.testing.assert_allclose(theta(tmp_path), fleet.total(1, range(5)), atol=2e-4)
    (report,) = fleet.reports
    assert (report.averaged, report.failed, report.refused, report.silent) == (5, 0, 0, 0)


def test_no_update_travels_by_itself(tmp_path: Path) -> None:
    fleet = Fleet()
    sent: list[Message] = []
    fleet.run(tmp_path, tap=lambda message, way: sent.append(message) if way == "up" else None)
    mine = fleet.devices[0].contribution(1)
    raw = b"".join(
        array.data for message in sent for it in message.content.array_records.values()
        for array in it.values()
    )  # fmt: skip
    assert len(sent) == 5 * len(PHASES)
    assert mine.tobytes() not in raw
    assert (np.abs(mine) * 1000).astype(np.uint16).tobytes() not in raw


@pytest.mark.parametrize(
    ("phase", "summed"), [("advertise", 4), ("share", 4), ("mask", 4), ("confirm", 5), ("open", 5)]
)
def test_a_device_that_falls_silent_costs_the_round_nothing_more(
    tmp_path: Path, phase: Phase, summed: int
) -> None:
    fleet = Fleet()
    fleet.run(tmp_path, drop=is_of(phase, 102))
    places = [place for place in range(5) if place != 2 or summed == 5]
    np.testing.assert_allclose(theta(tmp_path), fleet.total(1, places), atol=2e-4)
    (report,) = fleet.reports
    assert (report.averaged, report.silent) == (summed, 1)


def test_too_few_devices_give_no_sum_and_leave_the_vector(tmp_path: Path) -> None:
    fleet = Fleet(fewest=4)
    fleet.run(tmp_path, drop=lambda message: message.metadata.dst_node_id in (101, 103))
    assert not theta(tmp_path).any()
    (report,) = fleet.reports
    assert (report.applied, report.averaged, report.silent) == (False, 0, 2)


def test_rounds_follow_one_another(tmp_path: Path) -> None:
    fleet = Fleet()
    fleet.run(tmp_path, rounds=3)
    expected = sum(fleet.total(number, range(5)) for number in (1, 2, 3))
    np.testing.assert_allclose(theta(tmp_path), expected, atol=6e-4)
    assert [device.trained for device in fleet.devices] == [[1, 2, 3]] * 5


class Killed(BaseException):
    """The server dies."""


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize("after", [1, 4])
def test_a_server_killed_in_any_phase_ends_where_it_would_have(
    tmp_path: Path, phase: Phase, after: int
) -> None:
    whole, cut = Fleet(), Fleet()
    whole.run(tmp_path / "whole", rounds=2)
    seen: list[str] = []

    def kill(message: Message) -> bool:
        if is_of(phase)(message) and int(message.metadata.group_id) == 2:
            seen.append(phase)
            if len(seen) == after:
                raise Killed
        return False

    with pytest.raises(Killed):
        cut.run(tmp_path / "cut", rounds=2, drop=kill)
    cut.run(tmp_path / "cut", rounds=2, resume=True)
    assert cut.devices[0].trained == [1, 2], "asked again, it must not train again"
    np.testing.assert_allclose(theta(tmp_path / "cut"), theta(tmp_path / "whole"), atol=4e-4)
    assert not list((tmp_path / "cut").glob("*.journal"))


def test_what_was_heard_is_not_asked_again(tmp_path: Path) -> None:
    fleet = Fleet()

    def kill(message: Message) -> bool:
        if is_of("confirm")(message):
            raise Killed
        return False

    with pytest.raises(Killed):
        fleet.run(tmp_path, drop=kill)
    asked: list[str] = []
    fleet.run(
        tmp_path,
        resume=True,
        tap=lambda m, way: asked.append(m.metadata.message_type) if way == "down" else None,
    )
    assert set(asked) == {MESSAGE_TYPES["confirm"], MESSAGE_TYPES["open"]}
    np.testing.assert_allclose(theta(tmp_path), fleet.total(1, range(5)), atol=2e-4)


def test_the_beginning_of_a_round_is_not_overlooked(tmp_path: Path) -> None:
    fleet = Fleet()

    def kill(message: Message) -> bool:
        raise Killed

    with pytest.raises(Killed):
        fleet.run(tmp_path, drop=kill)
    with pytest.raises(FederationError, match="holds the beginning of round 1; set resume"):
        fleet.run(tmp_path)


def test_a_device_answers_in_sums_only(tmp_path: Path) -> None:
    fleet = Fleet()
    errors: list[str] = []

    def tap(message: Message, way: str) -> None:
        if way == "up" and message.has_error():
            errors.append(message.error.reason)

    grid = fleet.run(tmp_path, tap=tap)
    mean = FederatedStrategy(
        base_id="tiny-float32-0123",
        plan_digest=fleet.plan.digest,
        cohort=5,
        min_replies=1,
        seed=0,
    )
    with flower_identity():
        messages = mean.configure_train(
            2, to_arrays(np.zeros(DIM, np.float32)), ConfigRecord(), grid
        )
        replies = list(grid.send_and_receive(messages))
    assert all(reply.has_error() for reply in replies)
    assert "this device's update leaves it in a secure sum, never by itself" in errors[0]


def test_an_earlier_round_is_over(tmp_path: Path) -> None:
    fleet = Fleet()
    fleet.run(tmp_path / "first", rounds=2)
    errors: list[str] = []

    def tap(message: Message, way: str) -> None:
        if way == "up" and message.has_error():
            errors.append(message.error.reason)

    fleet.run(tmp_path / "second", tap=tap)
    assert len(errors) == 5
    assert all("round 1 is over: this device is in round 2" in error for error in errors)
    assert [device.trained for device in fleet.devices] == [[1, 2]] * 5


def test_a_plan_with_sums_needs_a_roster_and_no_other_does(tmp_path: Path) -> None:
    fleet = Fleet()
    with pytest.raises(BadInputError, match="a plan with secure sums needs a roster"):
        fleet.config(tmp_path, roster=None)
    with pytest.raises(BadInputError, match="a roster is for secure sums"):
        fleet.config(tmp_path, plan=None)
