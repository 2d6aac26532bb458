"""The device's side of a federation: a Flower ClientApp around one device.

Rules, in the order in which a message meets them:

1. What the server sent must be on the wire's allow-list.
2. It must be for the base model and the training plan that this device holds.
3. The reply is checked against the allow-list before a Flower message exists.
4. Whatever goes wrong on the device is logged there in full (logger ``locavore.client``). Flower
   puts an exception's text into its reply, so only the name of the exception's class travels.

Needs the extra ``federate``; ``import locavore.client`` alone does not import Flower.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Protocol, TypeVar

from flwr.app import Array as FlowerArray
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from ..shared.adapters import Array
from ..shared.errors import AdapterError, FederationError, PrivacyError
from ..shared.wire import (
    Broadcast,
    Phase,
    Records,
    check_incoming,
    check_outgoing,
    describe,
    silence_flower,
)

__all__ = ["FederatedDevice", "make_client_app"]

_log = logging.getLogger("locavore.client")
_Result = TypeVar("_Result")


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

    def train_shared(self, theta: Array, *, round: int) -> Array:
        """Train on this device and return its update.

        Args:
            theta: the shared vector, ``(dim,)`` float32; the device may change it in place.
            round: number of the round, from 1.

        Returns:
            The update ``(dim,)`` float32, clipped, and noised as far as the plan leaves that to
            the device.
        """
        ...

    def evaluate_shared(self, theta: Array, *, round: int) -> None:
        """Measure ``theta`` and keep the result on this device."""
        ...


def make_client_app(devices: Callable[[Context], FederatedDevice]) -> ClientApp:
    """Build the Flower app of a device.

    Args:
        devices: gives the device of a Flower context. It is called for every message, so it
            should keep what is expensive to load.

    The app answers ``train`` with one update and ``evaluate`` with an empty acknowledgement. It
    raises, which Flower turns into an error reply: ``WireError`` for a message that is not on the
    allow-list, ``AdapterError`` for another base, ``PrivacyError`` for another plan, and
    ``FederationError`` with an exception's class name for anything that failed on the device.
    """
    silence_flower()
    app = ClientApp()

    def train(message: Message, context: Context) -> Message:
        order, device = _accept(message, context, devices, "train")
        return _reply(message, _sealed(lambda: _train(device, order)))

    def evaluate(message: Message, context: Context) -> Message:
        order, device = _accept(message, context, devices, "evaluate")
        _sealed(lambda: device.evaluate_shared(order.theta, round=order.round))
        return _reply(message, {})

    app.train()(train)
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
    if order.plan != plan:
        _log.warning("refused round %d: plan %s, ours is %s", order.round, order.plan, plan)
        raise PrivacyError(
            f"the federation follows plan {order.plan}, this device agreed to another; "
            "agree to that plan on the device or leave the federation"
        )
    return order, device


def _train(device: FederatedDevice, order: Broadcast) -> Records:
    dim = order.theta.size
    records: Records = {
        "arrays": {"delta": device.train_shared(order.theta, round=order.round)},
        "config": {"round": order.round, "plan": order.plan},
    }
    check_outgoing(records, phase="train", dim=dim, plan=order.plan, round=order.round)
    return records


def _sealed(work: Callable[[], _Result]) -> _Result:
    """Do work whose errors may hold personal text; let only the class's name out."""
    try:
        return work()
    except Exception as error:
        _log.exception("this device could not answer the federation")
        name = type(error).__name__
    # Raised outside the handler: a chained exception would travel with its text.
    raise FederationError(f"the device could not answer: {name}; its own log says why")


def _reply(message: Message, records: Records) -> Message:
    content = RecordDict()
    if records:
        delta = records["arrays"]["delta"]
        content["arrays"] = ArrayRecord({"delta": FlowerArray(delta)})
        content["config"] = ConfigRecord(dict(records["config"]))
    return Message(content, reply_to=message)
