"""Replies of devices: which are good, and how many of the others there are."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from flwr.app import Message

from ..shared.errors import WireError
from ..shared.wire import Phase, Records, check_outgoing, describe

__all__ = ["Replies", "sort_out"]

_log = logging.getLogger("locavore.server")
_MAX_QUOTED = 200  # characters of a device's error that the log repeats


@dataclass(frozen=True)
class Replies:
    """What came back.

    Args:
        good: by node: what is on the allow-list, from nodes that were asked; the first of each.
        failed: devices that answered with an error.
        refused: replies that are not on the allow-list, unasked or sent twice.
        silent: devices that did not answer in time.
    """

    good: Mapping[int, Records]
    failed: int
    refused: int
    silent: int


def sort_out(
    replies: Iterable[Message],
    *,
    asked: Sequence[int],
    phase: Phase,
    dim: Callable[[int], int],
    plan: str,
    round: int,
) -> Replies:
    """Tell good replies from errors and from what is not allowed.

    Args:
        replies: in the order in which they came.
        asked: nodes.
        phase: what was asked for.
        dim: length of the vector that a node's reply may hold.
        plan: of the messages that are answered.
        round: of the messages that are answered.
    """
    waiting = set(asked)
    good: dict[int, Records] = {}
    failed = refused = 0
    for reply in replies:
        node = reply.metadata.src_node_id
        try:
            if node not in waiting:
                raise WireError("it was not asked, or it has answered already")
            waiting.remove(node)
            if reply.has_error():
                failed += 1
                reason = str(reply.error.reason)[:_MAX_QUOTED]
                _log.warning("round %d: node %d failed to %s: %r", round, node, phase, reason)
                continue
            records = describe(reply.content)
            check_outgoing(records, phase=phase, dim=dim(node), plan=plan, round=round)
            good[node] = records
        except WireError as error:
            refused += 1
            _log.warning("round %d: refused the reply of node %d: %s", round, node, error)
    return Replies(good, failed, refused, len(waiting))
