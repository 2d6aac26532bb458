"""Flower's strategy of a federation: whom a round asks, and what becomes of the answers.

Rules:

1. The cohort of a round follows from (seed, round, connected nodes), not from earlier rounds; or
   from the round's own randomness, where a plan claims that devices are sampled.
2. How updates become the next vector is the aggregation's, see :mod:`.aggregation`; every update
   weighs the same. Under a plan for users the sum is divided by the plan's public cohort, and what
   noise is the server's is on it before anybody sees it, the server's optimizer included.
3. A reply counts once, if it comes from a node of the cohort and is on the wire's allow-list.
4. Below ``min_replies`` good replies the round is skipped and the shared vector stays; but not
   where the server is trusted with the noise: whether a round is released must not tell who came.
5. The result does not depend on which device answered first.

Source: McMahan et al., arXiv:1602.05629, with uniform weights as in arXiv:1710.06963, §3.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import numpy as np
from flwr.app import Array as FlowerArray
from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType, RecordDict
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from ..privacy.ledger import Ledger
from ..privacy.noise import Doubles, NoiseSource, SecureNoise, length
from ..privacy.plan import UserPlan
from ..shared.adapters import Array
from ..shared.errors import FederationError
from ..shared.wire import Broadcast, Phase
from .aggregation import Aggregation, Upload
from .replies import Replies, sort_out
from .secure_sum import SecurelySummed

State = Mapping[str, Doubles]

__all__ = ["FederatedStrategy", "RoundReport", "to_arrays"]

_log = logging.getLogger("locavore.server")


@dataclass(frozen=True, kw_only=True)
class RoundReport:
    """What happened in one round; nothing in it comes from a single device.

    Args:
        round: number of the round, from 1.
        asked: devices in the cohort.
        averaged: updates that went into the mean.
        failed: devices that answered with an error.
        refused: replies that are not on the allow-list, unasked or sent twice.
        silent: devices that did not answer in time.
        applied: whether the shared vector changed; false when the round was skipped.
        change_norm: L2 norm of the shared vector's change; 0 when the round was skipped.
        evaluated: devices that confirmed the evaluation of the new vector.
        theta: the shared vector after the round, ``(dim,)`` float32.
    """

    round: int
    asked: int
    averaged: int
    failed: int
    refused: int
    silent: int
    applied: bool
    change_norm: float
    evaluated: int = 0
    theta: Array = field(repr=False, compare=False)

    def row(self) -> dict[str, int | float | bool]:
        """The figures alone, for a checkpoint's history."""
        figures = dict(vars(self))
        del figures["theta"], figures["evaluated"]  # evaluation follows the checkpoint
        return figures

    def sentence(self) -> str:
        """The round, for a person."""
        lost = {name: getattr(self, name) for name in ("failed", "refused", "silent")}
        rest = "".join(f", {count} {name}" for name, count in lost.items() if count)
        if not self.applied:
            return f"round {self.round}: skipped, {self.asked} devices asked{rest}"
        return (
            f"round {self.round}: {self.averaged} of {self.asked} devices{rest}, "
            f"change {self.change_norm:.3g}"
        )


def to_arrays(theta: Array) -> ArrayRecord:
    """The shared vector as Flower's strategies pass it around."""
    return ArrayRecord({"theta": FlowerArray(theta)})


class FederatedStrategy(Strategy):  # type: ignore[misc]  # Flower is not typed here
    """Flower strategy of one shared vector under the key ``theta``.

    Args:
        base_id: identity of the base model's weights, sent with every message.
        plan_digest: SHA-256 (hex) of the public training plan, sent with every message.
        cohort: nodes sampled in a round.
        min_replies: good replies below which a round is skipped.
        seed: of the cohort sampling.
        min_nodes: nodes that must be connected before a round starts; None: the cohort.
        aggregation: how updates become the next vector.
        evaluate: whether all connected nodes measure the new vector after a round.
        plan: the plan for users, under which the server samples, sums and adds noise; without one,
            updates protect themselves and their mean is taken.
        noise: a round's source of the server's randomness.
        ledger: of the federation, to which every round's cost is written before it is asked for.
        wait_s: seconds to wait for ``min_nodes`` before giving up.
        reconnect_s: seconds to wait for a cohort whose round was cut off.
        sleep: waits that many seconds; tests replace it.
    """

    def __init__(
        self,
        *,
        base_id: str,
        plan_digest: str,
        cohort: int,
        min_replies: int,
        seed: int,
        min_nodes: int | None = None,
        aggregation: Aggregation | None = None,
        evaluate: bool = True,
        plan: UserPlan | None = None,
        noise: Callable[[int], NoiseSource] = lambda _: SecureNoise(),
        ledger: Ledger | None = None,
        wait_s: int = 600,
        reconnect_s: int = 60,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.base_id = base_id
        self.plan_digest = plan_digest
        self.cohort = cohort
        self.min_replies = min_replies
        self.seed = seed
        self.min_nodes = cohort if min_nodes is None else min_nodes
        self.aggregation = aggregation or Aggregation()
        self.evaluate = evaluate
        self.plan = plan
        self.ledger = ledger
        self.noise_state: Doubles | None = None
        """What correlated noise remembers of the rounds so far. secret."""
        self.wait_s, self.reconnect_s = wait_s, reconnect_s
        self.optimizer_state: State = {}
        """What the server's optimizer remembers of the rounds so far."""
        self.report: RoundReport | None = None
        """Report of the round that was aggregated last."""
        self._noise = noise
        self._source: NoiseSource = SecureNoise()
        self._sleep = sleep
        self._theta: Array = np.zeros(0, np.float32)
        self._asked: list[int] = []

    def sample(self, nodes: Iterable[int], round: int) -> list[int]:
        """The cohort of a round among the connected nodes, sorted."""
        candidates = sorted(nodes)
        if self.plan is not None and self.plan.population is not None:
            drawn = self._source.uniform(len(candidates)) < self.plan.sampling_rate
            return [node for node, chosen in zip(candidates, drawn, strict=True) if chosen]
        if self.plan is not None and self.plan.separation > 1:
            candidates = [node for node in candidates if self._turn(node) == self._turn_of(round)]
        size = min(self.cohort, len(candidates))
        generator = np.random.default_rng((self.seed, round))
        return sorted(candidates[i] for i in generator.permutation(len(candidates))[:size])

    def _turn(self, node: int) -> int:
        """In which of the plan's turns a node is asked: rounds of one turn lie far enough apart."""
        assert self.plan is not None
        return int(np.random.default_rng((self.seed, node)).integers(self.plan.separation))

    def _turn_of(self, round: int) -> int:
        assert self.plan is not None
        return (round - 1) % self.plan.separation

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Messages to the cohort. ``config`` is not sent: only the allow-list travels.

        Raises:
            FederationError: too few nodes connected in ``wait_s`` seconds.
            PrivacyError: the federation's ledger refuses the round.
        """
        self.begin(server_round, arrays, grid)
        return self.train_messages(server_round)

    def begin(
        self, round: int, arrays: ArrayRecord, grid: Grid, again: Sequence[int] | None = None
    ) -> list[int]:
        """Start a round from a shared vector; returns whom to ask, once that is paid for.

        Args:
            round: its number.
            arrays: with the shared vector.
            grid: whose nodes are sampled.
            again: whom it was to ask already, where it was cut off.

        Raises:
            FederationError, PrivacyError: see :meth:`configure_train`.
        """
        self._theta = arrays["theta"].numpy()
        self._source = self._noise(round)
        if again is None:
            self._asked = self.sample(self._connected(grid), round)
        else:
            self._await(grid, set(again))
            self._asked = list(again)
        self._charge(round)
        return self._asked

    def train_messages(self, round: int) -> list[Message]:
        """Messages to the cohort of the round that has begun."""
        return self._messages(round, self._theta, self._asked, MessageType.TRAIN)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, None]:
        """The new shared vector, or None when the round is skipped. There are no metrics."""
        got = self._sort_out(server_round, replies, "train")
        theta = self._step(server_round, got)
        self._finish(server_round, theta, len(got.good), got)
        return (None if theta is None else to_arrays(theta)), None

    def finish(self, round: int, got: SecurelySummed) -> None:
        """End a round whose updates were summed securely."""
        theta = None if got.total is None else self._released(round, got.total)
        self._finish(round, theta, got.summed, got)

    def _finish(
        self, round: int, theta: Array | None, averaged: int, got: Replies | SecurelySummed
    ) -> None:
        before = self._theta
        self._theta = before if theta is None else theta
        self.report = RoundReport(
            round=round,
            asked=len(self._asked),
            averaged=0 if theta is None else averaged,
            failed=got.failed,
            refused=got.refused,
            silent=got.silent,
            applied=theta is not None,
            change_norm=length(self._theta.astype(np.float64) - before),
            theta=self._theta,
        )

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Messages to all connected nodes, or none when evaluation is off."""
        self._asked = sorted(grid.get_node_ids()) if self.evaluate else []
        theta = arrays["theta"].numpy()
        return self._messages(server_round, theta, self._asked, MessageType.EVALUATE)

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> None:
        """Count the devices that confirmed. No measured value reaches the server."""
        got = self._sort_out(server_round, replies, "evaluate")
        if self.report is not None:
            self.report = replace(self.report, evaluated=len(got.good))

    def summary(self) -> None:
        """Log what this strategy does."""
        _log.info(
            "policy %s over cohorts of %d with equal weights, skipped below %d replies",
            self.aggregation.policy.name,
            self.cohort,
            self._needed,
        )

    def _connected(self, grid: Grid) -> list[int]:
        """Node ids, once enough of them are there."""
        nodes: list[int] = []
        for waited in range(self.wait_s + 1):
            nodes = list(grid.get_node_ids())
            if len(nodes) >= self.min_nodes:
                return nodes
            if waited < self.wait_s:
                _log.debug("%d of %d nodes are connected", len(nodes), self.min_nodes)
                self._sleep(1.0)
        raise FederationError(
            f"{len(nodes)} nodes are connected after {self.wait_s} s, a round needs "
            f"{self.min_nodes}; start more devices, or lower cohort or min_nodes"
        )

    def _await(self, grid: Grid, nodes: set[int]) -> None:
        """Give nodes time to find the server again; who does not come is asked in vain."""
        for _ in range(self.reconnect_s):
            if nodes <= set(grid.get_node_ids()):
                return
            self._sleep(1.0)

    def _messages(
        self, round: int, theta: Array, nodes: Sequence[int], message_type: str
    ) -> list[Message]:
        def message(node: int) -> Message:
            up = self.aggregation.up(round, theta.size, node)
            sent = self.aggregation.sent(theta, node)
            records = Broadcast(sent, round, self.plan_digest, self.base_id, up=up).records()
            content = RecordDict(
                {"arrays": to_arrays(sent), "config": ConfigRecord(dict(records["config"]))}
            )
            return Message(content, node, message_type, group_id=str(round))

        return [message(node) for node in nodes]

    def _sort_out(self, round: int, replies: Iterable[Message], phase: Phase) -> Replies:
        return sort_out(
            replies,
            asked=self._asked,
            phase=phase,
            dim=lambda node: self.aggregation.up(round, self._theta.size, node),
            plan=self.plan_digest,
            round=round,
        )

    def _step(self, round: int, got: Replies) -> Array | None:
        """The next shared vector, or None with a logged sentence why not."""
        if len(got.good) < self._needed:
            _log.warning(
                "round %d is skipped: %d good replies, at least %d are needed",
                round,
                len(got.good),
                self._needed,
            )
            return None
        uploads = [
            Upload(
                self._bounded(cast(Array, records["arrays"]["delta"])), self.aggregation.rank(node)
            )
            for node, records in got.good.items()
        ]
        if not self.aggregation.policy.linear:
            return self._finite(round, self.aggregation.combined(self._theta, uploads, round))
        if self.plan is not None and self.aggregation.sums:
            return self._released(round, self.aggregation.total(self._theta, uploads, round))
        return self._moved(round, self.aggregation.average(self._theta, uploads, round))

    def _bounded(self, update: Array) -> Array:
        """An update no longer than the plan allows, where this server is who sees it bare."""
        if self.plan is None or self.plan.trust != "central":
            return update
        return self.plan.bounded(update, self.plan.entry(self._theta))

    def _moved(self, round: int, change: Doubles) -> Array | None:
        """The vector after the server's step along an averaged change."""
        state = self.optimizer_state
        moved, after = self.aggregation.stepped(self._theta, change, round, state)
        theta = self._finite(round, moved)
        if theta is not None:
            self.optimizer_state = after
        return theta

    def _finite(self, round: int, theta: Array) -> Array | None:
        if np.isfinite(theta).all():
            return theta
        _log.warning("round %d is skipped: the mean leaves float32's range", round)
        return None

    @property
    def _needed(self) -> int:
        """Good replies below which a round is skipped."""
        if self.plan is not None and self.plan.trust == "central" and self.aggregation.sums:
            return 0
        robust = self.aggregation.robust
        return max(1, self.min_replies, 1 if robust is None else robust.fewest())

    def _released(self, round: int, total: Doubles) -> Array | None:
        assert self.plan is not None
        entry = self.plan.entry(self._theta)
        change, self.noise_state = self.plan.release(total, entry, self._source, self.noise_state)
        return self._moved(round, change)

    def _charge(self, round: int) -> None:
        """What the round costs the user that is in as many rounds as one can be."""
        if self.plan is None or self.ledger is None:
            return
        before = self.ledger.rounds(f"federation {self.plan_digest}")
        if before and round - before[-1] < self.plan.separation:
            return  # also where this very round was cut off: nothing of it was shown
        self.ledger.charge(
            *(
                replace(one, composed=False, cohort=len(self._asked), accounted_cohort=makers)
                for makers in [self.plan.makers]
                for one in self.plan.charges(round, 1, before, task="federation")
                if one.unit == "user"
            )
        )
