"""A round of secure aggregation between honest parties, step by step."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from locavore.privacy.secagg.device import SecAggDevice
from locavore.privacy.secagg.masks import Words
from locavore.privacy.secagg.server import SecAggServer
from locavore.privacy.secagg.session import Roster, SecureSum, Session

__all__ = ["Round", "identity", "repeatable"]


def repeatable(*name: object) -> Callable[[int], bytes]:
    """Bytes that follow from a name: the operating system's, as a test wants them."""
    count = 0

    def draw(length: int) -> bytes:
        nonlocal count
        count += 1
        return hashlib.shake_256(repr((name, count)).encode()).digest(length)

    return draw


def identity(index: int) -> Ed25519PrivateKey:
    """A device's long-term key."""
    return Ed25519PrivateKey.from_private_bytes(repeatable("identity", index)(32))


class Round:
    """Devices, a server, and the steps between them.

    Args:
        devices: how many.
        dim: numbers in a vector.
        changes: of the session.
    """

    def __init__(self, devices: int, dim: int = 50, seed: int = 0, **changes: Any) -> None:
        keys = sorted(
            (identity(i) for i in range(devices)), key=lambda k: k.public_key().public_bytes_raw()
        )
        self.keys = keys
        self.roster = Roster(key.public_key().public_bytes_raw() for key in keys)
        settings: dict[str, Any] = {
            "plan": "a" * 64,
            "round": 1,
            "dim": dim,
            "fewest": 3,
            "roster": self.roster.digest,
            "rules": SecureSum(),
            "nonce": bytes(16),
        }
        self.session = Session(**(settings | changes))
        self.server = SecAggServer(self.session, self.roster)
        self.devices = [
            SecAggDevice(self.session, key, self.roster, repeatable("device", seed, i))
            for i, key in enumerate(keys)
        ]
        bits = self.session.rules.bits
        kind = np.uint16 if bits == 16 else np.uint32
        drawn = np.random.default_rng(seed).integers(0, 1 << bits, (devices, dim), np.uint64)
        self.vectors: list[Words] = list(drawn.astype(kind))

    def everybody(self) -> set[int]:
        return set(range(len(self.devices)))

    def advertise(self) -> None:
        """All devices send their keys; in the order of identities, so that places are indices."""
        for device in self.devices:
            self.server.advertised(device.advertise())

    def share(self, gone: Iterable[int] = ()) -> None:
        roll = self.server.roll()
        for place in sorted(self.everybody() - set(gone)):
            self.server.shared(place, self.devices[place].share(roll))

    def mask(self, gone: Iterable[int] = ()) -> None:
        for place in sorted(set(self.server.inbox(0).sharers) - set(gone)):
            inbox = self.server.inbox(place)
            vector = self.devices[place].mask(self.vectors[place], inbox)
            self.server.masked(place, vector)

    def confirm(self, gone: Iterable[int] = ()) -> None:
        survivors = self.server.survivors()
        for place in sorted(set(survivors) - set(gone)):
            self.server.confirmed(place, self.devices[place].confirm(survivors))

    def open(self, gone: Iterable[int] = ()) -> None:
        signatures = self.server.signatures()
        for place in sorted(set(signatures) - set(gone)):
            self.server.opened(place, self.devices[place].open(signatures))

    def expected(self) -> Words:
        """The survivors' sum, without any protocol."""
        bits = self.session.rules.bits
        total = np.sum(
            [self.vectors[place].astype(np.uint64) for place in self.server.survivors()], axis=0
        )
        expected: Words = (total % (1 << bits)).astype(self.vectors[0].dtype)
        return expected

    def to(self, step: str) -> Round:
        """Run honestly up to, and not with, a step."""
        for name in ("advertise", "share", "mask", "confirm", "open"):
            if name == step:
                break
            getattr(self, name)()
        return self
