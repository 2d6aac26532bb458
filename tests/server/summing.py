"""A small federation whose updates are summed securely, for tests."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Context, Message
from flwr.clientapp import ClientApp

from locavore.client.answers import Answers
from locavore.client.app import make_client_app
from locavore.client.secure_sum import SecureSums
from locavore.privacy.noise import insecure_seeded_noise
from locavore.privacy.plan import UserPlan
from locavore.privacy.secagg.session import Roster
from locavore.server.app import FederationConfig, RoundReport, make_server_app
from locavore.server.simulation.grid import Direction, LocalGrid, run_in_process
from locavore.shared.adapters import Array

from ..plans import user_plan
from ..privacy.secagg.rounds import identity, repeatable

__all__ = ["BASE", "DIM", "Fleet", "Summed", "exact_plan"]

BASE = "tiny-float32-0123"
DIM = 40


def exact_plan(**changes: Any) -> UserPlan:
    """Without noise, so that a sum can be told to a rounding."""
    settings = {"trust": "secure-aggregation", "cohort": 5, "fewest": 3, "noise_multiplier": 0.0}
    return user_plan(**(settings | changes))


class Summed:
    """A device whose contribution in a round follows from its place and the round."""

    base_id = BASE

    def __init__(self, place: int, plan: UserPlan, key: Ed25519PrivateKey, roster: Roster) -> None:
        self.place, self.plan = place, plan
        self.trained: list[int] = []
        self.sums = SecureSums(
            plan,
            key,
            roster.named,
            noise=lambda round: insecure_seeded_noise(place, round),
            random=repeatable("device", place),
        )

    @property
    def plan_digest(self) -> str:
        return self.plan.digest

    def contribution(self, round: int) -> Array:
        drawn = np.random.default_rng((self.place, round)).normal(size=DIM)
        unit: Array = (drawn / np.linalg.norm(drawn)).astype(np.float32)
        return unit

    def train_shared(self, theta: Array, *, round: int) -> Array:
        self.trained.append(round)
        return self.contribution(round)

    def evaluate_shared(self, theta: Array, *, round: int) -> None:
        """Nothing is measured here."""


class Fleet:
    """Devices, the roster of them, and a server that asks all of them."""

    def __init__(self, devices: int = 5, **changes: Any) -> None:
        self.plan = exact_plan(**({"cohort": devices} | changes))
        self.keys = [identity(index) for index in range(devices)]
        self.roster = Roster(key.public_key().public_bytes_raw() for key in self.keys)
        self.devices = [
            Summed(place, self.plan, key, self.roster) for place, key in enumerate(self.keys)
        ]
        self.reports: list[RoundReport] = []
        self.app = self.client_app()

    def client_app(self) -> ClientApp:
        def device(context: Context) -> Summed:
            return self.devices[int(context.node_config["partition-id"])]

        return make_client_app(device, Answers())

    def config(self, folder: Path, **changes: Any) -> FederationConfig:
        settings: dict[str, Any] = {
            "base_id": BASE,
            "plan_digest": self.plan.digest,
            "plan": self.plan,
            "form": "core",
            "dim": DIM,
            "rounds": 1,
            "cohort": len(self.devices),
            "min_replies": 1,
            "seed": 7,
            "checkpoint_dir": folder,
            "wait_s": 0,
            "roster": lambda: self.roster,
            "evaluate": False,
        }
        return FederationConfig(**(settings | changes))

    def run(
        self,
        folder: Path,
        *,
        drop: Callable[[Message], bool] | None = None,
        tap: Callable[[Message, Direction], None] | None = None,
        **changes: Any,
    ) -> LocalGrid:
        server = make_server_app(self.config(folder, **changes), self.reports.append)
        nodes = range(100, 100 + len(self.devices))
        return run_in_process(
            server, self.app, len(self.devices), node_ids=nodes, drop=drop, tap=tap
        )

    def total(self, round: int, places: range | list[int]) -> Array:
        """The mean that the server should find."""
        summed = np.sum([self.devices[place].contribution(round) for place in places], axis=0)
        mean: Array = (summed / self.plan.cohort).astype(np.float32)
        return mean
