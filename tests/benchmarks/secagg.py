"""Secure sums of a million numbers: the cost to a device and the server, beside Flower's SecAgg+.

python -m tests.benchmarks secagg [--quick]

Devices are simulated one after the other in one thread; a device's time is its own CPU time over
all five steps, training and quantization left out. Whoever drops out does so after its shares are
sent, which costs the server most.
"""

from __future__ import annotations

import hashlib
import os
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from locavore.privacy.secagg.device import SecAggDevice
from locavore.privacy.secagg.masks import Words, pack
from locavore.privacy.secagg.server import SecAggServer
from locavore.privacy.secagg.session import Roster, SecureSum, Session, Shares
from locavore.shared.errors import SecAggError

from ..privacy.secagg.flower_rounds import FlowerRound
from .report import Goal, Options, Report, machine_line

_RULES = SecureSum(bits=16, neighbours=20, threshold=0.25)
_CPU = Goal(name="device CPU over 30 ms", bound=1.0, at_most=True)
_BYTES = Goal(name="bytes up over 2.1 B a number + 10 KB", bound=1.0, at_most=True)
_Answer = TypeVar("_Answer")


@dataclass
class _Costs:
    """Seconds of CPU and bytes sent, by device; seconds of the server."""

    cpu: dict[int, float] = field(default_factory=dict)
    sent: dict[int, int] = field(default_factory=dict)
    server: float = 0.0

    def of(
        self,
        place: int,
        size: Callable[[_Answer], int],
        work: Callable[..., _Answer],
        *arguments: object,
    ) -> _Answer:
        """A device's answer, its cost noted."""
        start = time.process_time()
        answer = work(*arguments)
        self.cpu[place] = self.cpu.get(place, 0.0) + time.process_time() - start
        self.sent[place] = self.sent.get(place, 0) + size(answer)
        return answer

    def serve(self, work: Callable[..., _Answer], *arguments: object) -> _Answer:
        """The server's answer, its cost noted."""
        start = time.process_time()
        answer = work(*arguments)
        self.server += time.process_time() - start
        return answer


def run(options: Options) -> Report:
    """Measure; a wrong sum is a failure."""
    dim = 20_000 if options.quick else 1_000_000
    sizes = (20, 60) if options.quick else (100, 1000)
    rows, ratios, failures = [], dict[str, float](), []
    cpu: list[float] = []
    sent: list[float] = []
    for devices in sizes:
        for dropout in (0.0, 0.1, 0.3):
            name = f"{devices} devices, {dropout:.0%} drop out"
            try:
                costs, exact = _ours(devices, dim, dropout)
            except SecAggError as error:
                failures.append(f"{name}: {error}")
                continue
            if not exact:
                failures.append(f"{name}: the sum is not the survivors'")
            alive = [place for place in costs.cpu if place >= _gone(devices, dropout)]
            cpu.append(statistics.median(costs.cpu[place] for place in alive))
            sent.append(statistics.median(costs.sent[place] for place in alive))
            rows.append(
                [
                    f"locavore, {name}",
                    f"{1e3 * cpu[-1]:.1f}",
                    f"{sent[-1] / dim:.3f}",
                    f"{sent[-1] - 2 * dim:.0f}",
                    f"{costs.server:.1f}",
                    f"{_RULES.failure(devices, dropout):.1e}",
                ]
            )
    flower_cpu, flower_sent = _flower(30 if options.quick else 100, dim, 3 if options.quick else 9)
    rows.append(
        [
            f"Flower SecAgg+, {30 if options.quick else 100} clients",
            f"{1e3 * flower_cpu:.1f}",
            f"{flower_sent / dim:.3f}",
            f"{flower_sent - 2 * dim:.0f}",
            "-",
            "-",
        ]
    )
    if cpu:
        ratios = {
            _CPU.name: max(cpu) / 0.030,
            _BYTES.name: max(sent) / (2.1 * dim + 10_000),
            "CPU over Flower's": max(cpu) / flower_cpu,
            "bytes over Flower's": max(sent) / flower_sent,
        }
    return Report(
        benchmark="secagg",
        lines=[
            machine_line(),
            f"{dim} numbers of 16 bits; every device draws 20 neighbours (about 40 pairwise "
            "masks), 6 of whom open a seed",
            "Flower: 20 neighbours (20 pairwise masks), threshold 11, its own 32-bit numbers in "
            "int64; its server is not measured",
            "P(fail): bound on the probability that a round ends without a sum",
        ],
        columns=(
            "protocol",
            "device CPU ms",
            "B a number",
            "bytes beyond 2 B a number",
            "server s",
            "P(fail)",
        ),
        rows=rows,
        ratios=ratios,
        goals=() if options.quick else (_CPU, _BYTES),
        failures=failures,
    )


def _gone(devices: int, dropout: float) -> int:
    """The first so many devices drop out: their places say nothing of the graph."""
    return round(devices * dropout)


def _vector(place: int, dim: int) -> Words:
    generator = np.random.default_rng(place)
    return generator.integers(0, 1 << 16, dim, np.uint16)


def _handed_out(shares: Shares) -> int:
    return 4 * len(shares.neighbours) + sum(map(len, shares.sealed)) + len(shares.commitment)


def _ours(devices: int, dim: int, dropout: float) -> tuple[_Costs, bool]:
    keys = [
        Ed25519PrivateKey.from_private_bytes(hashlib.sha256(b"%d" % i).digest())
        for i in range(devices)
    ]
    keys.sort(key=lambda key: key.public_key().public_bytes_raw())
    roster = Roster(key.public_key().public_bytes_raw() for key in keys)
    session = Session(
        plan="0" * 64,
        round=1,
        dim=dim,
        fewest=devices // 2,
        roster=roster.digest,
        rules=_RULES,
        nonce=os.urandom(16),
    )
    server = SecAggServer(session, roster)
    everybody = {i: SecAggDevice(session, key, roster, os.urandom) for i, key in enumerate(keys)}
    gone, costs = _gone(devices, dropout), _Costs()
    for place, device in everybody.items():
        costs.serve(server.advertised, costs.of(place, lambda a: len(a.raw()), device.advertise))
    roll = costs.serve(server.roll)
    for place, device in everybody.items():
        costs.serve(server.shared, place, costs.of(place, _handed_out, device.share, roll))
    expected = np.zeros(dim, np.uint16)
    alive = range(gone, devices)
    for place in alive:
        inbox = costs.serve(server.inbox, place)
        vector = _vector(place, dim)
        expected += vector
        masked = costs.of(place, lambda m: pack(m, 16).nbytes, everybody[place].mask, vector, inbox)
        costs.serve(server.masked, place, masked)
    survivors = costs.serve(server.survivors)
    for place in alive:
        signature = costs.of(place, len, everybody[place].confirm, survivors)
        costs.serve(server.confirmed, place, signature)
    signatures = costs.serve(server.signatures)
    for place in alive:
        opened = costs.of(
            place,
            lambda o: 4 * len(o.owners) + sum(map(len, o.shares)),
            everybody[place].open,
            signatures,
        )
        costs.serve(server.opened, place, opened)
    total = costs.serve(server.total)
    return costs, bool((total == expected).all())


def _flower(clients: int, dim: int, measured: int) -> tuple[float, float]:
    """Median CPU seconds and bytes of a client among so many."""
    vector = np.random.default_rng(0).uniform(-1, 1, dim)
    peer = FlowerRound([vector] * clients, threshold=11, neighbours=20)
    costs = _Costs()
    some = range(11, 11 + measured)
    for node in peer.ids:
        costs.of(node, lambda _: 0, peer.advertise, node)
        costs.sent[node] += sum(map(len, peer.keys[node]))
    for node in sorted({near for one in some for near in peer.near(one)}):
        costs.of(node, lambda _: 0, peer.share, node)
    for node in some:
        costs.of(node, lambda arrays: sum(map(len, arrays)), peer.mask, node)
        peer.masked.clear()
        near = peer.near(node)
        costs.of(node, lambda o: sum(map(len, o.values())), peer.unmask, node, near, [])
        costs.sent[node] += sum(
            len(letter) for to in near for sender, letter in peer.letters[to] if sender == node
        )
    cpu = statistics.median(costs.cpu[node] for node in some)
    return cpu, statistics.median(costs.sent[node] for node in some)
