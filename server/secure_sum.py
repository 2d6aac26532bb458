"""A round whose updates the server sees the sum of, and nothing else.

Drives :class:`~locavore.privacy.secagg.server.SecAggServer` by messages. A device that fails, is
silent or sends what is refused takes no further part; the sum goes on with the others, as long as
they are enough.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from flwr.app import Array as FlowerArray
from flwr.app import ArrayRecord, ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from ..privacy.noise import Doubles
from ..privacy.secagg.masks import Words, packed_bytes, unpack
from ..privacy.secagg.server import SecAggServer
from ..privacy.secagg.session import (
    SEALED_BYTES,
    Advertisement,
    Opened,
    Roster,
    Session,
    Shares,
    cut,
    indices,
    to_bytes,
)
from ..privacy.secagg.shamir import SHARE_BYTES
from ..shared.errors import SecAggError
from ..shared.wire import MESSAGE_TYPES, Broadcast, Phase, Records
from .journal import Journal
from .replies import Replies, sort_out

__all__ = ["SecureSumRound", "SecurelySummed"]

_log = logging.getLogger("locavore.server")


@dataclass(frozen=True, kw_only=True)
class SecurelySummed:
    """What came of it.

    Args:
        total: the sum of the devices' contributions ``(width,)``; None where there is none.
        summed: devices whose contributions are in it.
        failed, refused, silent: devices that were lost on the way, see ``Replies``.
        transcript: SHA-256 (hex) of what the devices have signed; empty where there is no sum.
    """

    total: Doubles | None = None
    summed: int = 0
    failed: int = 0
    refused: int = 0
    silent: int = 0
    transcript: str = ""


@dataclass
class SecureSumRound:
    """One secure sum over a grid.

    Args:
        grid: carries the messages.
        session: what to sum.
        roster: who may take part.
        journal: of the round: whom to ask, and what was heard before it was cut off.
        train_timeout_s: seconds that devices have to train.
        step_timeout_s: seconds that they have for every step after it.
    """

    grid: Grid
    session: Session
    roster: Roster
    journal: Journal
    train_timeout_s: float
    step_timeout_s: float
    _lost: Counter[str] = field(default_factory=Counter)

    def run(self, order: Broadcast, decode: Callable[[Words], Doubles]) -> SecurelySummed:
        """Ask the journal's nodes for their contributions and sum them.

        Args:
            order: the broadcast, with the session's nonce.
            decode: the sum of contributions from the sum of words.
        """
        server = SecAggServer(self.session, self.roster)
        try:
            total = self._sum(server, order)
        except SecAggError as error:
            _log.warning("round %d is skipped: %s", self.session.round, error)
            return self._outcome()
        return replace(
            self._outcome(),
            total=decode(total),
            summed=len(server.survivors()),
            transcript=server.transcript,
        )

    def _outcome(self) -> SecurelySummed:
        lost = self._lost
        return SecurelySummed(failed=lost["failed"], refused=lost["refused"], silent=lost["silent"])

    def _sum(self, server: SecAggServer, order: Broadcast) -> Words:
        identities = self._advertised(server, order)
        roll = server.roll()
        places = {node: place for place, m in enumerate(roll.members) for node in [m.identity]}
        at = {places[identity]: node for node, identity in identities.items()}
        self._ask(
            "share",
            at,
            lambda _: {"roll": roll.raw()},
            lambda place, config: server.shared(place, _shares(config)),
        )
        self._ask(
            "mask",
            {place: at[place] for place in server.inbox(0).sharers},
            lambda place: _inbox(server, place),
            lambda place, _: None,
            lambda place, packed: server.masked(place, self._unpacked(packed)),
        )
        survivors = server.survivors()
        self._ask(
            "confirm",
            {place: at[place] for place in survivors},
            lambda _: {"survivors": to_bytes(survivors)},
            lambda place, config: server.confirmed(place, config["signature"]),
        )
        signed = dict(sorted(server.signatures().items()))
        said = {"signers": to_bytes(signed), "signatures": b"".join(signed.values())}
        self._ask(
            "open",
            {place: at[place] for place in signed},
            lambda _: said,
            lambda place, config: server.opened(place, _opened(config)),
        )
        return server.total()

    def _advertised(self, server: SecAggServer, order: Broadcast) -> dict[int, bytes]:
        """The identities of the nodes that have trained, by node."""
        identities: dict[int, bytes] = {}

        def take(node: int, config: Mapping[str, Any]) -> None:
            advertisement = Advertisement.of(config["keys"])
            server.advertised(advertisement)
            identities[node] = advertisement.identity

        records = order.records()
        self._ask(
            "advertise",
            {node: node for node in self.journal.asked or ()},
            lambda _: records["config"],
            take,
            theta=order.theta,
        )
        return identities

    def _ask(
        self,
        phase: Phase,
        at: Mapping[int, int],
        say: Callable[[int], Mapping[str, object]],
        take: Callable[[int, Mapping[str, Any]], None],
        take_packed: Callable[[int, npt.NDArray[np.uint8]], None] | None = None,
        *,
        theta: npt.NDArray[np.float32] | None = None,
    ) -> None:
        """Send a message to each node and take the good replies.

        Args:
            phase: of the protocol.
            at: the nodes, by what ``say`` and ``take`` call them.
            say: what to send to one.
            take: what to do with its reply; SecAggError where it is refused.
            take_packed: what to do with the vector in it.
            theta: the shared vector to send along.
        """
        who = {node: place for place, node in at.items()}
        heard = self.journal.heard(phase)
        if heard is None:
            heard = self._hear(phase, at, say, theta)
            self.journal.write(phase, heard)
        self._lost.update(failed=heard.failed, refused=heard.refused, silent=heard.silent)
        for node, records in sorted(heard.good.items()):
            try:
                take(who[node], records["config"])
                if take_packed is not None:
                    take_packed(who[node], _packed(records))
            except SecAggError as error:
                self._lost["refused"] += 1
                round = self.session.round
                _log.warning("round %d: refused what node %d sent: %s", round, node, error)

    def _hear(
        self,
        phase: Phase,
        at: Mapping[int, int],
        say: Callable[[int], Mapping[str, object]],
        theta: npt.NDArray[np.float32] | None,
    ) -> Replies:
        messages = [self._message(phase, node, say(place), theta) for place, node in at.items()]
        timeout = self.train_timeout_s if phase == "advertise" else self.step_timeout_s
        replies = self.grid.send_and_receive(messages, timeout=timeout)
        return sort_out(
            replies,
            asked=list(at.values()),
            phase=phase,
            dim=lambda _: packed_bytes(self.session.dim, self.session.rules.bits),
            plan=self.session.plan,
            round=self.session.round,
        )

    def _message(
        self,
        phase: Phase,
        node: int,
        said: Mapping[str, object],
        theta: npt.NDArray[np.float32] | None,
    ) -> Message:
        config = {"round": self.session.round, "plan": self.session.plan, **said}
        content = RecordDict({"config": ConfigRecord(cast(dict[str, Any], config))})
        if theta is not None:
            content["arrays"] = ArrayRecord({"theta": FlowerArray(theta)})
        group = str(self.session.round)
        return Message(content, node, MESSAGE_TYPES[phase], group_id=group)

    def _unpacked(self, packed: npt.NDArray[np.uint8]) -> Words:
        return unpack(packed, self.session.dim, self.session.rules.bits)


def _inbox(server: SecAggServer, place: int) -> dict[str, bytes]:
    inbox = server.inbox(place)
    return {
        "sharers": to_bytes(inbox.sharers),
        "senders": to_bytes(inbox.senders),
        "sealed": b"".join(inbox.sealed),
    }


def _shares(config: Mapping[str, Any]) -> Shares:
    sealed = cut(config["sealed"], SEALED_BYTES)
    return Shares(indices(config["neighbours"]), sealed, config["commitment"])


def _opened(config: Mapping[str, Any]) -> Opened:
    owners, shares = indices(config["owners"]), cut(config["shares"], SHARE_BYTES)
    if len(owners) != len(shares):
        raise SecAggError(f"{len(shares)} shares were opened for {len(owners)} owners")
    return Opened(owners, shares)


def _packed(records: Records) -> npt.NDArray[np.uint8]:
    return cast(npt.NDArray[np.uint8], records["arrays"]["masked"])
