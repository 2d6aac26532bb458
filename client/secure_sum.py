"""A device's part in secure sums: it answers a server's messages, one sum at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ..privacy.distributed import WholeNumbers
from ..privacy.noise import Doubles, NoiseSource, SecureNoise
from ..privacy.plan import UserPlan
from ..privacy.secagg.device import SecAggDevice
from ..privacy.secagg.masks import pack
from ..privacy.secagg.session import (
    SEALED_BYTES,
    Inbox,
    Roll,
    Roster,
    Session,
    cut,
    indices,
    to_bytes,
)
from ..shared.adapters import Array
from ..shared.errors import BadInputError, SecAggError
from ..shared.wire import Broadcast, Phase, Records

__all__ = ["SecureSums"]


@dataclass
class _Sum:
    """The sum that is under way."""

    session: Session
    device: SecAggDevice
    numbers: WholeNumbers
    contribution: Doubles  # sensitive: clipped, and not noised yet

    def answer(
        self, config: Mapping[str, object], arrays: Mapping[str, object] | None = None
    ) -> Records:
        """A reply in the words of the wire."""
        said = {"round": self.session.round, "plan": self.session.plan, **config}
        return {"config": said} if arrays is None else {"config": said, "arrays": arrays}


class SecureSums:
    """What a device needs for the secure sums of a federation.

    Args:
        plan: the federation's, with secure aggregation.
        identity: the device's long-term key.
        roster: gives the roster of a digest that a server names: whom it may be summed with. It
            raises ``SecAggError`` where the device does not know it from who lets devices in.
        noise: per round, where rounding and noise come from.
        random: gives that many bytes for keys and seeds; the operating system's.
    """

    def __init__(
        self,
        plan: UserPlan,
        identity: Ed25519PrivateKey,
        roster: Callable[[str], Roster],
        *,
        noise: Callable[[int], NoiseSource] = lambda _: SecureNoise(),
        random: Callable[[int], bytes],
    ) -> None:
        if plan.makers is None:
            raise BadInputError(f"secure sums need secure aggregation, got {plan.trust!r} trust")
        self.plan = plan
        self._identity, self._roster = identity, roster
        self._noise, self._random = noise, random
        self._sum: _Sum | None = None

    def advertise(self, order: Broadcast, train: Callable[[], Array]) -> Records:
        """Train, and begin a sum with the result; answers with this device's keys.

        Args:
            order: from the server, with the nonce of the sum.
            train: gives the device's clipped contribution ``(width,)``; sensitive.

        Raises:
            SecAggError: the round is over, or the roster is not known.
        """
        if self._sum is not None and order.round < (now := self._sum.session.round):
            raise SecAggError(f"round {order.round} is over: this device is in round {now}")
        roster = self._roster(order.roster)
        session = Session(
            plan=self.plan.digest,
            round=order.round,
            dim=order.answered_by,
            fewest=self.plan.makers or 0,
            roster=roster.digest,
            rules=self.plan.secure_sum,
            nonce=order.nonce,
        )
        numbers = WholeNumbers(self.plan, session.dim, session.id, self.plan.entry(order.theta))
        device = SecAggDevice(session, self._identity, roster, self._random)
        self._sum = None
        contribution = train().astype("float64")
        if contribution.shape != (session.dim,):
            raise SecAggError(
                f"the sum is announced to have {session.dim} numbers, this device's contribution "
                f"has {contribution.size}"
            )
        self._sum = _Sum(session, device, numbers, contribution)
        return self._sum.answer({"keys": device.advertise().raw()})

    def step(self, phase: Phase, said: Mapping[str, Any]) -> Records:
        """Answer a message after the first.

        Raises:
            SecAggError: there is no such sum, or the message does not fit or would weaken it.
        """
        current = self._sum
        if current is None or current.session.round != said["round"]:
            raise SecAggError(f"this device takes part in no sum of round {said['round']}")
        if phase == "mask":
            return current.answer({}, {"masked": self._masked(current, said)})
        return current.answer(_STEPS[phase](current.device, said))

    def _masked(self, current: _Sum, said: Mapping[str, Any]) -> object:
        sealed = cut(said["sealed"], SEALED_BYTES)
        inbox = Inbox(indices(said["sharers"]), indices(said["senders"]), sealed)
        noise = self._noise(current.session.round)
        try:
            words = current.numbers.encode(current.contribution, noise)
            masked = current.device.mask(words, inbox)
        finally:
            current.contribution = np.zeros(0)
        return pack(masked, current.session.rules.bits)


def _share(device: SecAggDevice, said: Mapping[str, Any]) -> dict[str, object]:
    shares = device.share(Roll.of(said["roll"]))
    return {
        "neighbours": to_bytes(shares.neighbours),
        "sealed": b"".join(shares.sealed),
        "commitment": shares.commitment,
    }


def _confirm(device: SecAggDevice, said: Mapping[str, Any]) -> dict[str, object]:
    return {"signature": device.confirm(indices(said["survivors"]))}


def _open(device: SecAggDevice, said: Mapping[str, Any]) -> dict[str, object]:
    signers, signatures = indices(said["signers"]), cut(said["signatures"], 64)
    if len(signers) != len(signatures):
        raise SecAggError(f"{len(signatures)} signatures were shown of {len(signers)} devices")
    opened = device.open(dict(zip(signers, signatures, strict=True)))
    return {"owners": to_bytes(opened.owners), "shares": b"".join(opened.shares)}


_STEPS: Mapping[Phase, Callable[[SecAggDevice, Mapping[str, Any]], dict[str, object]]] = {
    "share": _share,
    "confirm": _confirm,
    "open": _open,
}
