"""The server's side of a secure sum: it checks what comes in, and adds up.

What a single device sends can be refused and that device left out; too few devices, or shares that
cannot be put together, end the sum.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from itertools import combinations, islice

import numpy as np
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

from ...shared.errors import SecAggError
from .device import commitment, exchange, pairwise, self_mask
from .masks import Words, add_masks
from .session import (
    SEALED_BYTES,
    Advertisement,
    Inbox,
    Opened,
    Roll,
    Roster,
    Session,
    Shares,
    signed_by,
)
from .shamir import SHARE_BYTES, combine

__all__ = ["SecAggServer"]

_TRIES = 200  # sets of shares that are tried where some are forged


class SecAggServer:
    """One secure sum.

    Args:
        session: what to sum.
        roster: who may take part.
    """

    def __init__(self, session: Session, roster: Roster) -> None:
        self.session = session
        self._roster = roster
        self._trial = X25519PrivateKey.generate()
        self._advertised: dict[bytes, Advertisement] = {}
        self._shares: dict[int, Shares] = {}
        self._signatures: dict[int, bytes] = {}
        self._opened: dict[int, Mapping[int, bytes]] = {}
        self._roll = Roll(())
        self._sharers: tuple[int, ...] = ()
        self._masked: set[int] = set()
        kind = np.uint16 if session.rules.bits <= 16 else np.uint32
        self._sum: Words = np.zeros(session.dim, kind)

    def advertised(self, advertisement: Advertisement) -> None:
        """Take a device's keys.

        Raises:
            SecAggError: it is not on the roster, has no right signature or keys that are none, or
                has been here before.
        """
        identity = advertisement.identity
        if identity not in self._roster.identities:
            raise SecAggError(f"device {identity.hex()[:16]} is not on the roster")
        if identity in self._advertised:
            raise SecAggError(f"device {identity.hex()[:16]} has advertised its keys already")
        advertisement.verify(self.session)
        for key in (advertisement.sealing, advertisement.masking):
            exchange(self._trial, key)  # a key that is none would end whoever draws it
        self._advertised[identity] = advertisement

    def roll(self) -> Roll:
        """Whom the round consists of, from now on."""
        if not len(self._roll):
            self._require(len(self._advertised), "devices have sent their keys")
            self._roll = Roll(tuple(self._advertised[key] for key in sorted(self._advertised)))
        return self._roll

    def shared(self, place: int, shares: Shares) -> None:
        """Take the shares that the device at ``place`` hands out.

        Raises:
            SecAggError: not one for each of as many neighbours as the plan says.
        """
        count = self.session.rules.drawn(len(self._roll))
        neighbours = set(shares.neighbours)
        if (
            len(neighbours) != count
            or len(shares.neighbours) != count
            or not neighbours <= set(range(len(self._roll))) - {place}
            or [len(sealed) for sealed in shares.sealed] != [SEALED_BYTES] * count
            or len(shares.commitment) != 32
        ):
            raise SecAggError(f"device {place} must hand out one share to each of {count} others")
        self._shares[place] = shares

    def inbox(self, place: int) -> Inbox:
        """What the device at ``place`` is handed; from now on the sharers are fixed."""
        if not self._sharers:
            self._require(len(self._shares), "devices have handed out shares")
            self._sharers = tuple(sorted(self._shares))
        sent = {
            sender: dict(zip(shares.neighbours, shares.sealed, strict=True))
            for sender, shares in sorted(self._shares.items())
            if place in shares.neighbours
        }
        sealed = tuple(each[place] for each in sent.values())
        return Inbox(self._sharers, tuple(sent), sealed)

    def masked(self, place: int, vector: Words) -> None:
        """Add the masked vector ``(dim,)`` of the device at ``place``."""
        if place not in self._sharers or place in self._masked:
            raise SecAggError(f"device {place} has no vector to send, or has sent it already")
        if vector.shape != self._sum.shape or vector.dtype != self._sum.dtype:
            raise SecAggError(
                f"a masked vector is {self._sum.dtype} of shape {self._sum.shape}, got "
                f"{vector.dtype} of shape {vector.shape}"
            )
        self._sum += vector
        self._masked.add(place)

    def survivors(self) -> tuple[int, ...]:
        """Whose vectors are in the sum."""
        self._require(len(self._masked), "devices have sent their vectors")
        return tuple(sorted(self._masked))

    def confirmed(self, place: int, signature: bytes) -> None:
        """Take a signature over the survivors."""
        said = self.session.signed_set(self._roll, self._sharers, self.survivors())
        if place not in self._masked or not signed_by(self._roll[place].identity, signature, said):
            raise SecAggError(f"device {place} has not signed this set of survivors")
        self._signatures[place] = signature

    def signatures(self) -> Mapping[int, bytes]:
        """Everybody's signatures."""
        self._require(len(self._signatures), "devices have signed the set of survivors")
        return self._signatures

    def opened(self, place: int, opened: Opened) -> None:
        """Take the shares that the device at ``place`` has opened."""
        held = {owner for owner in self._sharers if place in self._shares[owner].neighbours}
        if set(opened.owners) != held or any(len(one) != SHARE_BYTES for one in opened.shares):
            raise SecAggError(f"device {place} has not opened the shares that it holds")
        self._opened[place] = opened.by_owner()

    def total(self) -> Words:
        """The sum of the survivors' vectors, ``(dim,)``, modulo ``2**bits``.

        Raises:
            SecAggError: a seed cannot be put together.
        """
        context = self.session.id + self._roll.digest
        survivors = self.survivors()
        masks = [(self_mask(context, self._self_seed(place)), -1) for place in survivors]
        for dropped in set(self._sharers) - self._masked:
            key = X25519PrivateKey.from_private_bytes(self._masking_seed(dropped))
            for place in survivors:
                if self._partners(place, dropped):
                    mask = pairwise(context, key, self._roll[place].masking)
                    masks.append((mask, -1 if place < dropped else 1))
        total = self._sum.copy()
        add_masks(total, masks)
        total &= total.dtype.type((1 << self.session.rules.bits) - 1)
        return total

    @property
    def transcript(self) -> str:
        """SHA-256 (hex) of what the survivors have signed."""
        said = self.session.signed_set(self._roll, self._sharers, self.survivors())
        return hashlib.sha256(said).hexdigest()

    def _partners(self, one: int, other: int) -> bool:
        return other in self._shares[one].neighbours or one in self._shares[other].neighbours

    def _self_seed(self, owner: int) -> bytes:
        for seed in self._seeds(owner):
            if commitment(self.session, seed) == self._shares[owner].commitment:
                return seed
        raise SecAggError(f"the shares of device {owner}'s self mask do not fit together")

    def _masking_seed(self, owner: int) -> bytes:
        for seed in self._seeds(owner):
            public = X25519PrivateKey.from_private_bytes(seed).public_key().public_bytes_raw()
            if public == self._roll[owner].masking:
                return seed
        raise SecAggError(f"the shares of device {owner}'s masking key do not fit together")

    def _seeds(self, owner: int) -> Iterator[bytes]:
        """What sets of the shares make, until the caller has found the right one."""
        found = {place + 1: own[owner] for place, own in self._opened.items() if owner in own}
        needed = self.session.rules.needed(len(self._roll))
        if len(found) < needed:
            raise SecAggError(
                f"{len(found)} shares of device {owner} were opened, {needed} are needed: too many "
                "of its neighbours are gone"
            )
        for points in islice(combinations(sorted(found), needed), _TRIES):
            try:
                yield combine({point: found[point] for point in points})
            except SecAggError:
                continue

    def _require(self, count: int, what: str) -> None:
        devices = len(self._roll)
        agreed = self.session.rules.agreed(devices) if devices else 0
        if count < (needed := max(self.session.least, agreed)):
            raise SecAggError(f"{count} {what}, {needed} are needed")
