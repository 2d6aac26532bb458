"""What both sides of a secure sum agree on, and what they say to each other."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ...shared.errors import BadInputError, SecAggError
from .shamir import SHARE_BYTES

__all__ = [
    "FEWEST",
    "SEALED_BYTES",
    "Advertisement",
    "Inbox",
    "Opened",
    "Roll",
    "Roster",
    "SecureSum",
    "Session",
    "Shares",
    "cut",
    "indices",
    "to_bytes",
]

FEWEST = 3
"""Devices of a sum at least: of two, each knows the other's vector from it."""

SEALED_BYTES = 2 * SHARE_BYTES + 16  # a share of either seed, and the cipher's tag
_ADVERTISED_BYTES = 160


@dataclass(frozen=True, kw_only=True)
class SecureSum:
    """Parameters of secure sums, part of a plan.

    Args:
        bits: of a number in the sum, 16..32.
        neighbours: devices that each device draws, and shares its seeds with; all others where
            there are no more. It has about twice as many pairwise masks.
        threshold: share of the neighbours that is not enough to open a seed: one more is.
        agreement: share of the round's devices that must sign whose vectors are in the sum.
            Devices that collude with the server may be fewer than ``2 agreement - 1`` of all.
    """

    bits: int = 16
    neighbours: int = 20
    threshold: float = 0.5
    agreement: float = 0.6

    def __post_init__(self) -> None:
        problems = []
        if not 16 <= self.bits <= 32:
            problems.append(f"bits must be 16..32, got {self.bits}")
        if self.neighbours < FEWEST - 1:
            problems.append(f"neighbours must be at least {FEWEST - 1}, got {self.neighbours}")
        if not 0 < self.threshold < 1:
            problems.append(f"threshold must be between 0 and 1, got {self.threshold}")
        if not 0.5 < self.agreement <= 1:
            problems.append(
                f"agreement must be above a half, got {self.agreement}: two halves could be shown "
                "two different sums"
            )
        if problems:
            raise BadInputError("; ".join(problems))

    def drawn(self, devices: int) -> int:
        """Neighbours that a device draws among so many devices."""
        return min(self.neighbours, devices - 1)

    def needed(self, devices: int) -> int:
        """Shares that open a seed."""
        return math.floor(self.threshold * self.drawn(devices)) + 1

    def agreed(self, devices: int) -> int:
        """Signatures that open a sum."""
        return math.ceil(self.agreement * devices)

    def failure(self, devices: int, dropout: float) -> float:
        """A bound on the probability that a round fails because a seed cannot be opened.

        Args:
            devices: in the round.
            dropout: probability with which each disappears after it has sent its shares.
        """
        drawn, needed = self.drawn(devices), self.needed(devices)
        one = sum(
            math.comb(drawn, alive) * (1 - dropout) ** alive * dropout ** (drawn - alive)
            for alive in range(needed)
        )
        return min(1.0, devices * one)


class Roster:
    """The identities that may take part: Ed25519 public keys, 32 bytes each.

    Whoever makes it decides who a device is aggregated with, so it must not be the server alone.
    """

    def __init__(self, identities: Iterable[bytes]) -> None:
        self.identities = frozenset(identities)
        if any(len(identity) != 32 for identity in self.identities):
            raise BadInputError("an identity is an Ed25519 public key of 32 bytes")

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the identities in order."""
        return hashlib.sha256(b"".join(sorted(self.identities))).hexdigest()

    def named(self, digest: str) -> Roster:
        """This roster, if that is its digest.

        Raises:
            SecAggError: it is another's.
        """
        if digest != self.digest:
            raise SecAggError("the sum is of a roster that this device does not know")
        return self


@dataclass(frozen=True, kw_only=True)
class Session:
    """One secure sum. A device makes it from its own plan: the server chooses the nonce alone.

    Args:
        plan: SHA-256 (hex) of the plan.
        round: of the federation, from 1.
        dim: numbers in a vector.
        fewest: devices below which no sum is opened, as the ledger accounts for it.
        roster: digest of the roster.
        rules: the plan's parameters.
        nonce: 16 bytes that the server has not used before.
    """

    plan: str
    round: int
    dim: int
    fewest: int
    roster: str
    rules: SecureSum
    nonce: bytes

    @property
    def id(self) -> bytes:
        """SHA-256 of all of it: what is said in one session means nothing in another."""
        said = [self.plan, self.round, self.dim, self.fewest, self.roster, self.nonce.hex()]
        return hashlib.sha256(f"locavore secagg 1 {said} {self.rules}".encode()).digest()

    @property
    def least(self) -> int:
        """Devices below which nothing is summed."""
        return max(FEWEST, self.fewest)

    def signed_set(self, roll: Roll, sharers: Sequence[int], survivors: Sequence[int]) -> bytes:
        """What a confirmation signs: the transcript so far, and whose vectors are in the sum."""
        said = [self.id, roll.digest, to_bytes(sharers), to_bytes(survivors)]
        hashed = b"".join(hashlib.sha256(part).digest() for part in said)
        return b"locavore secagg confirmation 1" + hashlib.sha256(hashed).digest()


@dataclass(frozen=True)
class Advertisement:
    """A device's keys for one session.

    Args:
        identity: its Ed25519 public key.
        sealing: X25519 public key under which shares are sealed for it.
        masking: X25519 public key from which its pairwise masks follow.
        signature: of the identity, over the session and both keys.
    """

    identity: bytes
    sealing: bytes
    masking: bytes
    signature: bytes

    @classmethod
    def sign(
        cls, identity: Ed25519PrivateKey, session: Session, sealing: bytes, masking: bytes
    ) -> Advertisement:
        """Keys with the signature over them."""
        return cls(
            identity.public_key().public_bytes_raw(),
            sealing,
            masking,
            identity.sign(_advertised(session, sealing, masking)),
        )

    def verify(self, session: Session) -> None:
        """Raise SecAggError where the signature is not the identity's."""
        said = _advertised(session, self.sealing, self.masking)
        if not signed_by(self.identity, self.signature, said):
            raise SecAggError(
                f"the keys of device {self.identity.hex()[:16]} are not signed by it for this "
                "session: somebody exchanged or replayed them"
            )

    def raw(self) -> bytes:
        """160 bytes."""
        return self.identity + self.sealing + self.masking + self.signature

    @classmethod
    def of(cls, raw: bytes) -> Advertisement:
        """From its 160 bytes.

        Raises:
            SecAggError: there are more or fewer.
        """
        if len(raw) != _ADVERTISED_BYTES:
            raise SecAggError(f"an advertisement has {_ADVERTISED_BYTES} bytes, got {len(raw)}")
        return cls(raw[:32], raw[32:64], raw[64:96], raw[96:])


@dataclass(frozen=True)
class Roll:
    """The devices of a round, in the order of their identities; their places are from 0."""

    members: tuple[Advertisement, ...]

    @property
    def digest(self) -> bytes:
        """SHA-256 of everything in it."""
        return hashlib.sha256(self.raw()).digest()

    def __len__(self) -> int:
        return len(self.members)

    def __getitem__(self, place: int) -> Advertisement:
        return self.members[place]

    def raw(self) -> bytes:
        """One advertisement after the other."""
        return b"".join(member.raw() for member in self.members)

    @classmethod
    def of(cls, raw: bytes) -> Roll:
        """From :meth:`raw`; SecAggError where a part is missing."""
        return cls(tuple(map(Advertisement.of, cut(raw, _ADVERTISED_BYTES))))


@dataclass(frozen=True)
class Shares:
    """What a device hands out.

    Args:
        neighbours: places of those that it drew.
        sealed: for each of them, a share of the self mask's seed and of the masking key's.
        commitment: SHA-256 of the self mask's seed, by which forged shares are found.
    """

    neighbours: tuple[int, ...]
    sealed: tuple[bytes, ...]
    commitment: bytes


@dataclass(frozen=True)
class Inbox:
    """What a device is handed.

    Args:
        sharers: places of the devices that have handed out shares: who is in the round.
        senders: of those, who drew this device.
        sealed: what each of the senders has sealed for it.
    """

    sharers: tuple[int, ...]
    senders: tuple[int, ...]
    sealed: tuple[bytes, ...]


@dataclass(frozen=True)
class Opened:
    """Shares that a device has opened, by the place of their owner."""

    owners: tuple[int, ...]
    shares: tuple[bytes, ...]

    def by_owner(self) -> Mapping[int, bytes]:
        """The shares."""
        return dict(zip(self.owners, self.shares, strict=True))


def indices(raw: bytes) -> tuple[int, ...]:
    """Places from bytes, four little-endian bytes each.

    Raises:
        SecAggError: another length.
    """
    return tuple(np.frombuffer(b"".join(cut(raw, 4)), "<u4").tolist())


def to_bytes(places: Iterable[int]) -> bytes:
    """Four little-endian bytes a place."""
    return np.fromiter(places, "<u4").tobytes()


def cut(raw: bytes, size: int) -> tuple[bytes, ...]:
    """Parts of ``size`` bytes each.

    Raises:
        SecAggError: something is left over.
    """
    if len(raw) % size:
        raise SecAggError(f"parts of {size} bytes each were expected, got {len(raw)} bytes")
    return tuple(raw[start : start + size] for start in range(0, len(raw), size))


def signed_by(identity: bytes, signature: bytes, message: bytes) -> bool:
    """Whether an Ed25519 signature is right."""
    try:
        Ed25519PublicKey.from_public_bytes(identity).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def _advertised(session: Session, sealing: bytes, masking: bytes) -> bytes:
    return b"locavore secagg advertisement 1" + session.id + sealing + masking
