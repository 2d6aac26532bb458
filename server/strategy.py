"""Federated mean: the server adds the equal-weight mean of the devices' updates.

Rules:

1. The cohort of a round follows from (seed, round, connected nodes), not from earlier rounds; or
   from the round's own randomness, where a plan claims that devices are sampled.
2. Every update weighs the same: sample counts would tell about a device, and they would break
   the sensitivity that its noise was made for. Under a plan for users the sum is divided by the
   plan's public cohort, and what noise is the server's is on it before anybody sees it.
3. A reply counts once, if it comes from a node of the cohort and is on the wire's allow-list.
4. Below ``min_replies`` good replies the round is skipped and the shared vector stays; but not
   where the server is trusted with the noise: whether a round is released must not tell who came.
5. The sum runs in float64 in an order that the updates' own bytes give, so the result does not
   depend on which device answered first.

Source: McMahan et al., arXiv:1602.05629, with uniform weights as in arXiv:1710.06963, §3.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
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
from .replies import Replies, sort_out
from .secure_sum import SecurelySummed

__all__ = ["FederatedMean", "RoundReport", "federated_mean", "to_arrays"]

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


def federated_mean(theta: Array, updates: Sequence[Array], learning_rate: float = 1.0) -> Array:
    """``theta + learning_rate * mean(updates)``, the same for every order of the updates.

    Args:
        theta: the shared vector, ``(dim,)`` float32.
        updates: at least one update ``(dim,)`` float32.
        learning_rate: the server's step along the mean.
    """
    return _moved(theta, learning_rate * (_total(theta, updates) / len(updates)))


def _total(theta: Array, updates: Sequence[Array]) -> Doubles:
    total = np.zeros(theta.shape, np.float64)
    for update in sorted(updates, key=lambda array: array.tobytes()):
        total += update
    return total


def _moved(theta: Array, change: Doubles) -> Array:
    with np.errstate(over="ignore"):  # the caller refuses what is not finite
        return (theta + change).astype(np.float32)


def to_arrays(theta: Array) -> ArrayRecord:
    """The shared vector as Flower's strategies pass it around."""
    return ArrayRecord({"theta": FlowerArray(theta)})


class FederatedMean(Strategy):  # type: ignore[misc]  # Flower is not typed here
    """Flower strategy of one shared vector under the key ``theta``.

    Args:
        base_id: identity of the base model's weights, sent with every message.
        plan_digest: SHA-256 (hex) of the public training plan, sent with every message.
        cohort: nodes sampled in a round.
        min_replies: good replies below which a round is skipped.
        seed: of the cohort sampling.
        min_nodes: nodes that must be connected before a round starts; None: the cohort.
        learning_rate: the server's step along the mean update.
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
        learning_rate: float = 1.0,
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
        self.learning_rate = learning_rate
        self.evaluate = evaluate
        self.plan = plan
        self.ledger = ledger
        self.noise_state: Doubles | None = None
        """What correlated noise remembers of the rounds so far. secret."""
        self.wait_s, self.reconnect_s = wait_s, reconnect_s
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
        theta = None if got.total is None else self._finite(round, self._released(got.total))
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
            "federated mean over cohorts of %d with equal weights, skipped below %d replies",
            self.cohort,
            self.min_replies,
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
        records = Broadcast(theta, round, self.plan_digest, self.base_id).records()
        content = RecordDict(
            {"arrays": to_arrays(theta), "config": ConfigRecord(dict(records["config"]))}
        )
        return [Message(content, node, message_type, group_id=str(round)) for node in nodes]

    def _sort_out(self, round: int, replies: Iterable[Message], phase: Phase) -> Replies:
        return sort_out(
            replies,
            asked=self._asked,
            phase=phase,
            dim=self._theta.size,
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
        updates = [cast(Array, records["arrays"]["delta"]) for records in got.good.values()]
        if self.plan is None:
            return self._finite(round, federated_mean(self._theta, updates, self.learning_rate))
        return self._finite(round, self._released(_total(self._theta, updates)))

    def _finite(self, round: int, theta: Array) -> Array | None:
        if np.isfinite(theta).all():
            return theta
        _log.warning("round %d is skipped: the mean leaves float32's range", round)
        return None

    @property
    def _needed(self) -> int:
        """Good replies below which a round is skipped."""
        if self.plan is None:
            return max(1, self.min_replies)
        if self.plan.trust == "central":
            return 0
        return max(1, self.min_replies)

    def _released(self, total: Doubles) -> Array:
        assert self.plan is not None
        entry = float(self._theta[-1])
        change, self.noise_state = self.plan.release(total, entry, self._source, self.noise_state)
        return _moved(self._theta, self.learning_rate * change)

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
