"""Federations for audits: the apps of both sides, with devices whose changes are made up."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Message

from ...client.app import FederatedDevice, make_client_app
from ...client.audit.canaries import CountedNoise
from ...client.secure_sum import SecureSums
from ...client.training.shared import UserTraining
from ...privacy.ledger import Ledger
from ...privacy.noise import Doubles, NoiseSource
from ...privacy.plan import UserPlan
from ...privacy.secagg.session import Roster
from ...shared.adapters import Array
from ..app import FederationConfig, make_server_app
from .grid import Direction, run_in_process

__all__ = ["AuditedFederation", "CanaryDevice"]

_BASE = "audited"

Change = Callable[[int, int], Doubles]
"""``(device, round)`` to its change ``(dim,)``."""


@dataclass
class CanaryDevice:
    """A device whose change of the shared vector is made up; otherwise as all are.

    Args:
        plan: of the federation.
        dim: numbers that are shared.
        change: the round's.
        noise: the device's own.
        sums: its part in secure sums.
    """

    plan: UserPlan
    dim: int
    change: Callable[[int], Doubles]
    noise: Callable[[int], NoiseSource]
    sums: SecureSums | None = None
    base_id: str = _BASE

    @property
    def plan_digest(self) -> str:
        """Identifies the plan."""
        return self.plan.digest

    def train_shared(self, theta: Array, *, round: int) -> Array:
        """The change, sealed by the code that seals every change."""

        def train(begin: Any, *_: Any) -> Array:
            return self.change(round)[None].astype(np.float32)

        training = UserTraining[int](plan=self.plan, dim=self.dim, train=train)
        sealed: Array = training.round(theta, [[0]], [self.noise(round)], number=round)[0]
        return sealed

    def evaluate_shared(self, theta: Array, *, round: int) -> None:
        """Nothing is measured."""


@dataclass(frozen=True, kw_only=True)
class AuditedFederation:
    """A federation that can be run again and again.

    Args:
        plan: with noise.
        dim: numbers that are shared.
        device: makes a device.
        server_noise: the server's source of a round.
        device_noise: a device's source of a round, ``(device, round)``.
    """

    plan: UserPlan
    dim: int
    device: Callable[..., FederatedDevice]
    server_noise: Callable[[int], NoiseSource]
    device_noise: Callable[[int, int], NoiseSource]

    @property
    def devices(self) -> int:
        """That take part."""
        return self.plan.population or self.plan.cohort

    def lasting(self, rounds: int) -> UserPlan:
        """The plan, for another number of rounds."""
        within = self.plan.within and replace(self.plan.within, rounds=rounds)
        return replace(self.plan, rounds=rounds, within=within)

    def run(
        self,
        change: Change,
        rounds: int,
        *,
        server_noise: Callable[[int], NoiseSource] | None = None,
        device_noise: Callable[[int, int], NoiseSource] | None = None,
        tap: Callable[[Message, Direction], None] | None = None,
        everybody: bool = True,
    ) -> tuple[Doubles, Ledger]:
        """The shared vectors ``(rounds + 1, width)`` of a federation, and its ledger.

        Args:
            change: of every device in every round.
            rounds: instead of the plan's.
            server_noise, device_noise: instead of the federation's own.
            tap: is called with every message, and which way it goes.
            everybody: whether all devices are asked in every round, instead of by sampling.
        """
        plan, width = self.lasting(rounds), self.plan.width(self.dim)
        servers, theirs = server_noise or self.server_noise, device_noise or self.device_noise
        roster, sums = self._secure_sums(plan, theirs)
        devices = [
            self.device(
                plan,
                self.dim,
                partial(change, i),
                partial(theirs, i),
                sums.get(i),
            )
            for i in range(self.devices)
        ]
        thetas = [np.zeros(width)]
        app = make_client_app(lambda at: devices[int(at.node_config["partition-id"])])
        with tempfile.TemporaryDirectory(prefix="locavore-") as folder:
            path = Path(folder)
            written = Ledger(path / "ledger.jsonl", delta=plan.delta)
            config = FederationConfig(
                base_id=_BASE,
                plan_digest=plan.digest,
                form="audit",
                dim=width,
                rounds=rounds,
                cohort=plan.cohort,
                min_replies=1,
                min_nodes=1,
                seed=0,
                checkpoint_dir=path,
                evaluate=False,
                plan=plan,
                noise=lambda round: CountedNoise(servers(round), everybody=everybody),
                ledger=written,
                wait_s=0,
                roster=None if roster is None else lambda: roster,
            )
            server = make_server_app(
                config, lambda report: thetas.append(report.theta.astype(np.float64))
            )
            run_in_process(server, app, self.devices, node_ids=range(self.devices), tap=tap)
            kept = Ledger(_Kept(written.journal.lines()), delta=plan.delta)
        return np.array(thetas), kept

    def _secure_sums(
        self, plan: UserPlan, noise: Callable[[int, int], NoiseSource]
    ) -> tuple[Roster | None, Mapping[int, SecureSums]]:
        if plan.makers is None:
            return None, {}
        keys = [Ed25519PrivateKey.generate() for _ in range(self.devices)]
        roster = Roster(key.public_key().public_bytes_raw() for key in keys)
        return roster, {
            i: SecureSums(plan, key, roster.named, noise=partial(noise, i), random=os.urandom)
            for i, key in enumerate(keys)
        }


@dataclass
class _Kept:
    """A ledger's lines after its file is gone."""

    kept: list[bytes]

    def lines(self) -> list[bytes]:
        return self.kept

    def append(self, make: Callable[[list[bytes]], list[bytes]]) -> None:
        self.kept += make(self.kept)
