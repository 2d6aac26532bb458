"""The device's side of a federation: a Flower ClientApp around one device.

Rules, in the order in which a message meets them:

1. What the server sent must be on the wire's allow-list.
2. It must be for the base model and the training plan that this device holds.
3. A device that sums securely answers no message that asks for its update by itself, and any other
   none that belongs to a secure sum.
4. The very same message gets the very same answer, see :mod:`locavore.client.answers`.
5. The reply is checked against the allow-list before a Flower message exists.
6. Whatever goes wrong on the device is logged there in full (logger ``locavore.client``). Flower
   puts an exception's text into its reply, so only the name of the exception's class travels.

Needs the extra ``federate``; ``import locavore.client`` alone does not import Flower.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, Protocol, TypeVar, cast, overload

from flwr.app import Array as FlowerArray
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from ..shared.adapters import Array
from ..shared.errors import AdapterError, FederationError, LocavoreError, PrivacyError
from ..shared.wire import (
    STEPS,
    Broadcast,
    Phase,
    Records,
    check_incoming,
    check_outgoing,
    check_step,
    describe,
    silence_flower,
)
from .answers import Answers
from .secure_sum import SecureSums

__all__ = ["FederatedDevice", "make_client_app"]

_log = logging.getLogger("locavore.client")
_Result = TypeVar("_Result")
Work = Callable[[], Records]


class FederatedDevice(Protocol):
    """What a device must be able to do to take part in a federation."""

    @property
    def base_id(self) -> str:
        """Identity of the base model's weights on this device."""
        ...

    @property
    def plan_digest(self) -> str:
        """SHA-256 (hex) of the public training plan that this device agreed to."""
        ...

    @property
    def sums(self) -> SecureSums | None:
        """Its part in secure sums; None where the plan lets updates travel by themselves."""
        ...

    def train_shared(self, theta: Array, *, round: int) -> Array:
        """Train on this device and return its update.

        Args:
            theta: the shared vector, ``(dim,)`` float32; the device may change it in place.
            round: number of the round, from 1.

        Returns:
            The update float32, as long as what leaves in this round, clipped, and noised as far as
            the plan leaves that to the device. sensitive: under secure aggregation, where it is
            noised later.
        """
        ...

    def evaluate_shared(self, theta: Array, *, round: int) -> None:
        """Measure ``theta`` and keep the result on this device."""
        ...


def make_client_app(
    devices: Callable[[Context], FederatedDevice], answers: Answers | None = None
) -> ClientApp:
    """Build the Flower app of a device.

    Args:
        devices: gives the device of a Flower context. It is called for every message, so it
            should keep what is expensive to load.
        answers: where answers are kept; None: a message that is sent again is worked on again.

    The app answers ``train`` with one update and ``evaluate`` with an empty acknowledgement; or,
    under secure aggregation, ``train.advertise`` and the queries of the sum's steps. It raises,
    which Flower turns into an error reply: ``WireError`` for a message that is not on the
    allow-list, ``AdapterError`` for another base, ``PrivacyError`` for another plan or a message
    that this plan does not have, ``SecAggError`` for one that would weaken a sum, and
    ``FederationError`` with an exception's class name for anything that failed on the device.
    """
    silence_flower()
    app = ClientApp()

    def reply(message: Message, context: Context, phase: Phase, work: Work) -> Message:
        """The answer that was given before, or that ``work`` makes."""
        guarded = partial(_sealed, work, protocol=True)
        if answers is None:
            return _reply(message, guarded())
        said = describe(message.content)
        return _reply(message, answers.of(context.node_id, phase, said, guarded))

    def train(message: Message, context: Context) -> Message:
        order, device = _accept(message, context, devices, "train")
        _require(device, sums=False)
        return reply(message, context, "train", lambda: _sealed(lambda: _train(device, order)))

    def advertise(message: Message, context: Context) -> Message:
        order, device = _accept(message, context, devices, "advertise")
        sums = _require(device, sums=True)
        theta, round = order.theta, order.round

        def work() -> Records:
            trained = partial(_sealed, lambda: device.train_shared(theta, round=round))
            return _checked(sums.advertise(order, trained), "advertise", 0)

        return reply(message, context, "advertise", work)

    def step(message: Message, context: Context, phase: Phase) -> Message:
        said = check_step(describe(message.content), phase=phase)
        device = _sealed(lambda: devices(context))
        _require_plan(said["round"], said["plan"], _sealed(lambda: device.plan_digest))
        sums = _require(device, sums=True)

        def work() -> Records:
            records = sums.step(phase, said)
            packed = cast(Any, records.get("arrays", {}).get("masked", b""))
            return _checked(records, phase, len(packed))

        return reply(message, context, phase, work)

    def evaluate(message: Message, context: Context) -> Message:
        order, device = _accept(message, context, devices, "evaluate")
        _sealed(lambda: device.evaluate_shared(order.theta, round=order.round))
        return _reply(message, {})

    app.train()(train)
    app.train("advertise")(advertise)
    for phase in STEPS:
        app.query(phase)(partial(step, phase=phase))
    app.evaluate()(evaluate)
    return app


def _accept(
    message: Message, context: Context, devices: Callable[[Context], FederatedDevice], phase: Phase
) -> tuple[Broadcast, FederatedDevice]:
    order = check_incoming(describe(message.content), phase=phase)
    device = _sealed(lambda: devices(context))
    base, plan = _sealed(lambda: (device.base_id, device.plan_digest))
    if order.base != base:
        _log.warning("refused round %d: base %r, ours is %r", order.round, order.base, base)
        raise AdapterError(
            f"the federation trains base {order.base!r}, this device holds another; "
            "install that base or leave the federation"
        )
    _require_plan(order.round, order.plan, plan)
    return order, device


def _require_plan(round: int, theirs: str, ours: str) -> None:
    if theirs != ours:
        _log.warning("refused round %d: plan %s, ours is %s", round, theirs, ours)
        raise PrivacyError(
            f"the federation follows plan {theirs}, this device agreed to another; "
            "agree to that plan on the device or leave the federation"
        )


@overload
def _require(device: FederatedDevice, *, sums: Literal[True]) -> SecureSums: ...
@overload
def _require(device: FederatedDevice, *, sums: Literal[False]) -> None: ...
def _require(device: FederatedDevice, *, sums: bool) -> SecureSums | None:
    """The device's part in secure sums, if the message is for devices that have one."""
    found = _sealed(lambda: device.sums)
    if found is not None and not sums:
        raise PrivacyError("this device's update leaves it in a secure sum, never by itself")
    if found is None and sums:
        raise PrivacyError("this device's plan has no secure sums")
    return found


def _checked(records: Records, phase: Phase, dim: int) -> Records:
    """The records of a reply, if they are on the allow-list."""
    config = records["config"]
    plan, round = cast(str, config["plan"]), cast(int, config["round"])
    check_outgoing(records, phase=phase, dim=dim, plan=plan, round=round)
    return records


def _train(device: FederatedDevice, order: Broadcast) -> Records:
    records: Records = {
        "arrays": {"delta": device.train_shared(order.theta, round=order.round)},
        "config": {"round": order.round, "plan": order.plan},
    }
    up = order.answered_by
    check_outgoing(records, phase="train", dim=up, plan=order.plan, round=order.round)
    return records


def _sealed(work: Callable[[], _Result], *, protocol: bool = False) -> _Result:
    """Do work whose errors may hold personal text; let only the class's name out.

    The protocol's own refusals hold none, and tell the server why.
    """
    try:
        return work()
    except LocavoreError as error:  # says what to do, in a sentence
        if protocol:
            raise
        _log.error("this device could not answer the federation: %s", error)
        name = type(error).__name__
    except Exception as error:
        _log.exception("this device could not answer the federation")
        name = type(error).__name__
    # Raised outside the handler: a chained exception would travel with its text.
    raise FederationError(f"the device could not answer: {name}; its own log says why")


def _reply(message: Message, records: Records) -> Message:
    content = RecordDict()
    for name, values in records.items():
        if name == "arrays":
            content[name] = ArrayRecord({key: FlowerArray(it) for key, it in values.items()})
        else:
            content[name] = ConfigRecord(dict(values))
    return Message(content, reply_to=message)
