"""The device's Flower app: what it answers, what it refuses, and that errors tell nothing."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import traceback
from collections.abc import Iterator

import numpy as np
import pytest

pytest.importorskip("flwr", reason="the federation needs the extra 'federate'")

from flwr.app import Array as FlowerArray
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict

from locavore.client.app import make_client_app
from locavore.server.simulation.grid import flower_identity
from locavore.shared.adapters import Array
from locavore.shared.errors import (
    AdapterError,
    ConsentError,
    FederationError,
    PrivacyError,
    WireError,
)
from locavore.shared.wire import describe

BASE = "tiny-float32-0123"
PLAN = "ab" * 32
SECRET = "Ada lives in Lovelace Street 7"


class Halfway:
    """A device whose update goes half the way to its own optimum."""

    base_id = BASE
    plan_digest = PLAN
    sums = None

    def __init__(self, optimum: float = 2.0) -> None:
        self.optimum = optimum
        self.measured: list[float] = []

    def train_shared(self, theta: Array, *, round: int) -> Array:
        return (0.5 * (self.optimum - theta)).astype(np.float32)

    def evaluate_shared(self, theta: Array, *, round: int) -> None:
        self.measured.append(float(np.square(self.optimum - theta).sum()))


class Failing(Halfway):
    """A device that fails with personal text in the error."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def train_shared(self, theta: Array, *, round: int) -> Array:
        raise self.error

    def evaluate_shared(self, theta: Array, *, round: int) -> None:
        raise self.error


class Careless(Halfway):
    """A device that returns whatever it is told to."""

    def __init__(self, delta: object) -> None:
        super().__init__()
        self.delta = delta

    def train_shared(self, theta: Array, *, round: int) -> Array:
        return self.delta  # type: ignore[return-value]


@pytest.fixture(autouse=True)
def identity() -> Iterator[None]:
    with flower_identity():
        yield


def order(message_type: str = "train", **config: object) -> Message:
    theta = np.zeros(3, np.float32)
    fields = {"round": 1, "dim": 3, "up": 3, "plan": PLAN, "base": BASE} | config
    content = RecordDict(
        {"arrays": ArrayRecord({"theta": FlowerArray(theta)}), "config": ConfigRecord(fields)}
    )
    return Message(content, 7, message_type)


def context() -> Context:
    return Context(1, 7, {"partition-id": 0}, RecordDict(), {})


def ask(device: Halfway, message: Message) -> Message:
    return make_client_app(lambda _: device)(message, context())


def everything_said(error: BaseException) -> str:
    """What any runtime could make of an exception: text, repr, chain and traceback."""
    return repr(error) + "".join(traceback.format_exception(error))


def test_train_answers_with_the_update_and_nothing_else() -> None:
    reply = describe(ask(Halfway(), order()).content)
    assert {name: set(record) for name, record in reply.items()} == {
        "arrays": {"delta"},
        "config": {"plan", "round"},
    }
    np.testing.assert_array_equal(reply["arrays"]["delta"], np.ones(3, np.float32))
    assert reply["config"] == {"plan": PLAN, "round": 1}


def test_evaluate_keeps_its_result_on_the_device() -> None:
    device = Halfway()
    reply = ask(device, order("evaluate"))
    assert device.measured == [12.0]
    assert describe(reply.content) == {}


def test_the_device_belongs_to_the_context() -> None:
    seen = []

    def devices(context: Context) -> Halfway:
        seen.append(context.node_config["partition-id"])
        return Halfway()

    make_client_app(devices)(order(), context())
    assert seen == [0]


def test_another_base_is_refused() -> None:
    with pytest.raises(AdapterError, match="trains base 'other-int8-9', this device holds another"):
        ask(Halfway(), order(base="other-int8-9"))


def test_another_plan_is_refused() -> None:
    with pytest.raises(PrivacyError, match="this device agreed to another"):
        ask(Halfway(), order(plan="cd" * 32))


def test_a_refusal_does_not_tell_what_the_device_has() -> None:
    with pytest.raises(AdapterError) as caught:
        ask(Halfway(), order(base="other-int8-9"))
    assert BASE not in str(caught.value)


def test_what_is_not_on_the_allow_list_does_not_reach_the_device() -> None:
    device = Halfway()
    with pytest.raises(WireError, match="'epochs'"):
        ask(device, order("evaluate", epochs=100))
    assert device.measured == []


@pytest.mark.parametrize("message_type", ["train", "evaluate"])
@pytest.mark.parametrize(
    "error", [ValueError(SECRET), ConsentError(SECRET), AdapterError(SECRET), WireError(SECRET)]
)
def test_an_error_leaves_only_its_class_name(
    message_type: str, error: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(FederationError) as caught:
        ask(Failing(error), order(message_type))
    assert SECRET not in everything_said(caught.value)
    assert caught.value.__context__ is None
    assert type(error).__name__ in str(caught.value)
    assert [record.name for record in caplog.records] == ["locavore.client"]
    assert SECRET in caplog.text


def test_an_error_while_the_device_opens_is_sealed_too() -> None:
    def devices(_: Context) -> Halfway:
        raise OSError(SECRET)

    with pytest.raises(FederationError, match="OSError") as caught:
        make_client_app(devices)(order(), context())
    assert SECRET not in everything_said(caught.value)


def test_an_interrupt_is_not_an_answer() -> None:
    with pytest.raises(KeyboardInterrupt):
        ask(Failing(KeyboardInterrupt()), order())


@pytest.mark.parametrize(
    "delta",
    [
        np.zeros(4, np.float32),
        np.zeros(3, np.float64),
        np.array([0, np.nan, 0], np.float32),
        [SECRET],
        {"delta": np.zeros(3, np.float32), "diary": SECRET},
    ],
)
def test_a_careless_device_is_stopped_before_a_reply_exists(
    delta: object, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, "locavore.client")
    with pytest.raises(FederationError, match="WireError") as caught:
        ask(Careless(delta), order())
    assert SECRET not in everything_said(caught.value)
    assert "arrays.delta" in caplog.text


def test_the_client_room_alone_does_not_import_flower() -> None:
    done = subprocess.run(
        [sys.executable, "-c", "import sys, locavore.client; print('flwr' in sys.modules)"],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == "False"
