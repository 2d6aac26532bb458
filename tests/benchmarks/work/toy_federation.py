"""A federation without a model, for measuring what carrying its messages costs."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from locavore.client.secure_sum import SecureSums
from locavore.privacy.plan import RecordPlan, UserPlan
from locavore.privacy.secagg.session import Roster
from locavore.server.app import FederationConfig, RoundReport
from locavore.shared.adapters import Array

__all__ = ["BASE", "DIM", "Toy", "Watch", "federation", "summing_plan"]

BASE = "toy"
DIM = 840  # of the demo's shared adapter
PLAN = RecordPlan(relation="add-or-remove-one", rounds=1000)


def summing_plan(nodes: int) -> UserPlan:
    """Sums of all nodes, of which two thirds must stay."""
    return UserPlan(
        relation="add-or-remove-one",
        trust="secure-aggregation",
        cohort=nodes,
        fewest=max(3, 2 * nodes // 3),
        rounds=1000,
        clip=1.0,
    )


class Toy:
    """A device whose update is drawn, not trained."""

    base_id = BASE

    def __init__(self, place: int, sums: SecureSums | None = None) -> None:
        self.place, self.sums = place, sums
        self.plan_digest = PLAN.digest if sums is None else sums.plan.digest

    def train_shared(self, theta: Array, *, round: int) -> Array:
        drawn = np.random.default_rng((self.place, round)).normal(size=DIM)
        unit: Array = (drawn / np.linalg.norm(drawn)).astype(np.float32)
        return unit

    def evaluate_shared(self, theta: Array, *, round: int) -> None:
        """Nothing is measured."""


def keys_of(nodes: int) -> list[Ed25519PrivateKey]:
    """The same keys in every process."""
    return [Ed25519PrivateKey.from_private_bytes(place.to_bytes(32)) for place in range(nodes)]


def roster_of(nodes: int) -> Roster:
    """Of those keys."""
    return Roster(key.public_key().public_bytes_raw() for key in keys_of(nodes))


def federation(folder: Path, nodes: int, rounds: int, *, sums: bool) -> FederationConfig:
    """What the server runs."""
    plan = summing_plan(nodes) if sums else None
    roster = roster_of(nodes) if sums else None
    return FederationConfig(
        base_id=BASE,
        plan_digest=PLAN.digest if plan is None else plan.digest,
        plan=plan,
        form="core-2",
        dim=DIM,
        rounds=rounds,
        cohort=nodes,
        min_replies=nodes,
        seed=0,
        checkpoint_dir=folder,
        evaluate=False,
        wait_s=300,
        roster=None if roster is None else lambda: roster,
    )


class Watch:
    """Seconds of every round."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say, self._since = say, time.perf_counter()

    def __call__(self, report: RoundReport) -> None:
        now = time.perf_counter()
        self._say(f"ROUND {report.round} {now - self._since:.3f} {report.averaged}")
        self._since = now
