"""The device's side of a secure sum.

A device does five things, in this order and each once. Asked for anything else it refuses; shown
anything that does not fit, it forgets its secrets and takes no further part. The package's
docstring has the protocol.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ...shared.errors import SecAggError
from .masks import MASK_KEY_BYTES, Words, add_masks, derive
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
from .shamir import SEED_BYTES, SHARE_BYTES, split

__all__ = ["SecAggDevice", "commitment", "exchange", "pairwise", "self_mask"]

_Step = Literal["advertise", "share", "mask", "confirm", "open", "closed"]
_CHECKED = 32  # signatures of a set that a device checks; drawn by itself after it was shown them
_NONCE = bytes(12)  # every sealing key seals one message only


class SecAggDevice:
    """One device in one session.

    Args:
        session: made from this device's own plan.
        identity: this device's long-term key.
        roster: from whom this device has it, it trusts with saying who the other devices are.
        random: gives that many bytes; the operating system's.
    """

    def __init__(
        self,
        session: Session,
        identity: Ed25519PrivateKey,
        roster: Roster,
        random: Callable[[int], bytes],
    ) -> None:
        if roster.digest != session.roster:
            raise SecAggError("the session is for another roster than this device's")
        self.session = session
        self._identity = identity
        self._roster = roster
        self._random = random
        self._step: _Step = "advertise"
        self._sealing = X25519PrivateKey.from_private_bytes(random(SEED_BYTES))
        self._masking_seed = random(SEED_BYTES)  # secret: everybody's pairwise masks with us
        self._self_seed = random(SEED_BYTES)  # secret: what hides us once those are known
        self._masking = X25519PrivateKey.from_private_bytes(self._masking_seed)
        self._place = -1
        self._roll = Roll(())
        self._drawn: tuple[int, ...] = ()
        self._sharers: tuple[int, ...] = ()
        self._survivors: tuple[int, ...] = ()
        self._held: dict[int, bytes] = {}  # secret: shares of others' seeds, by place

    def advertise(self) -> Advertisement:
        """This device's keys."""
        with self._taking("advertise", "share"):
            self._own = Advertisement.sign(
                self._identity,
                self.session,
                self._sealing.public_key().public_bytes_raw(),
                self._masking.public_key().public_bytes_raw(),
            )
            return self._own

    def share(self, roll: Roll) -> Shares:
        """Draw neighbours among the devices of the round and seal shares for them.

        Raises:
            SecAggError: too few devices, one that is not on the roster or twice there, keys that
                are not signed by their device, or this device's own keys are not there.
        """
        with self._taking("share", "mask"):
            self._admit(roll)
            count = self.session.rules.drawn(len(roll))
            others = [place for place in range(len(roll)) if place != self._place]
            self._drawn = tuple(others[i] for i in self._some(len(others), count))
            for place in self._drawn:
                roll[place].verify(self.session)
            points = [place + 1 for place in self._drawn]
            needed = self.session.rules.needed(len(roll))
            pairs = zip(
                split(self._self_seed, points, needed, self._random),
                split(self._masking_seed, points, needed, self._random),
                strict=True,
            )
            sealed = tuple(
                AESGCM(self._sealing_key(self._place, place)).encrypt(_NONCE, b"".join(pair), None)
                for place, pair in zip(self._drawn, pairs, strict=True)
            )
            return Shares(self._drawn, sealed, commitment(self.session, self._self_seed))

    def mask(self, vector: Words, inbox: Inbox) -> Words:
        """The vector with this device's masks on it.

        Args:
            vector: sensitive: ``(dim,)`` uint16, or uint32 where the session has more bits.
            inbox: who is in the round, and the shares that this device is to hold.

        Raises:
            SecAggError: too few devices or neighbours are left, more devices want to be this
                device's neighbours than chance would have it, or a share is forged.
        """
        with self._taking("mask", "confirm"):
            self._receive(inbox)
            partners = {*self._drawn, *inbox.senders} & set(self._sharers)
            masks = [
                (self._pairwise(place), 1 if self._place < place else -1) for place in partners
            ]
            masked = vector.copy()
            add_masks(masked, [*masks, (self_mask(self._context, self._self_seed), 1)])
            return masked

    def confirm(self, survivors: Sequence[int]) -> bytes:
        """Sign whose vectors are in the sum.

        Raises:
            SecAggError: they are too few, are not all in the round, or this device is missing.
        """
        with self._taking("confirm", "open"):
            self._survivors = self._places(survivors, self._sharers, "survivors")
            if self._place not in self._survivors:
                raise SecAggError("this device has sent its vector, but the sum leaves it out")
            self._require_enough(len(self._survivors), "devices in the sum")
            return self._identity.sign(self._signed)

    def open(self, signatures: Mapping[int, bytes]) -> Opened:
        """Open the shares that this device holds, once it has seen that others agree.

        Args:
            signatures: of :meth:`confirm`, by place.

        Raises:
            SecAggError: too few signatures, or one that is not of this set of survivors.
        """
        with self._taking("open", "closed"):
            signers = self._places(sorted(signatures), self._survivors, "signers")
            self._require_enough(len(signers), "signatures")
            signed = self._signed
            for i in self._some(len(signers), min(_CHECKED, len(signers))):
                place = signers[i]
                if not signed_by(self._roll[place].identity, signatures[place], signed):
                    raise SecAggError(
                        f"device {place} has not signed this set of survivors: others were shown "
                        "another one"
                    )
            owners = tuple(sorted(self._held))
            shares = []
            for owner in owners:
                ours, theirs = self._held[owner][:SHARE_BYTES], self._held[owner][SHARE_BYTES:]
                shares.append(ours if owner in self._survivors else theirs)
            return Opened(owners, tuple(shares))

    def _admit(self, roll: Roll) -> None:
        identities = [member.identity for member in roll.members]
        if len(roll) < self.session.least:
            raise SecAggError(
                f"{len(roll)} devices are in the round, the plan wants at least "
                f"{self.session.least}"
            )
        if any(a >= b for a, b in itertools.pairwise(identities)):
            raise SecAggError("a device is twice in the round, or they are not in order")
        if strangers := [i for i in identities if i not in self._roster.identities]:
            raise SecAggError(
                f"{len(strangers)} devices of the round are not on the roster, such as "
                f"{strangers[0].hex()[:16]}"
            )
        if self._own not in roll.members:
            raise SecAggError("this device's keys are not in the round, or were exchanged")
        self._roll, self._place = roll, roll.members.index(self._own)
        self._context = self.session.id + roll.digest

    def _receive(self, inbox: Inbox) -> None:
        rules = self.session.rules
        self._sharers = self._places(inbox.sharers, range(len(self._roll)), "sharers")
        if self._place not in self._sharers:
            raise SecAggError("this device has handed out shares, but the round leaves it out")
        self._require_enough(len(self._sharers), "devices have handed out shares")
        senders = self._places(inbox.senders, self._sharers, "senders")
        if self._place in senders or len(senders) != len(inbox.sealed):
            raise SecAggError("every sender but this device itself has one sealed share")
        if len(senders) > 4 * rules.neighbours + 10:
            raise SecAggError(
                f"{len(senders)} devices want to be this device's neighbours, where about "
                f"{rules.neighbours} would by chance"
            )
        left = len(set(self._drawn) & set(self._sharers))
        if left < rules.needed(len(self._roll)):
            raise SecAggError(
                f"{left} of this device's {len(self._drawn)} neighbours are left, it needs "
                f"{rules.needed(len(self._roll))}"
            )
        for sender, sealed in zip(senders, inbox.sealed, strict=True):
            self._roll[sender].verify(self.session)
            self._held[sender] = self._unsealed(sender, sealed)

    def _unsealed(self, sender: int, sealed: bytes) -> bytes:
        try:
            if len(sealed) != SEALED_BYTES:
                raise InvalidTag
            return AESGCM(self._sealing_key(sender, self._place)).decrypt(_NONCE, sealed, None)
        except InvalidTag:
            raise SecAggError(
                f"the shares of device {sender} are forged, or of another round"
            ) from None

    def _require_enough(self, count: int, what: str) -> None:
        needed = max(self.session.least, self.session.rules.agreed(len(self._roll)))
        if count < needed:
            raise SecAggError(f"{count} {what} of {len(self._roll)}, at least {needed} are needed")

    def _places(self, places: Sequence[int], among: Sequence[int], what: str) -> tuple[int, ...]:
        if sorted(set(places)) != list(places) or not set(among).issuperset(places):
            raise SecAggError(f"{what} are not distinct devices of the round, in order")
        return tuple(places)

    def _some(self, count: int, wanted: int) -> list[int]:
        """``wanted`` of ``range(count)`` by this device's own randomness, in order."""
        drawn = np.frombuffer(self._random(8 * count), np.uint64)
        return sorted(np.argsort(drawn, kind="stable")[:wanted].tolist())

    @property
    def _signed(self) -> bytes:
        return self.session.signed_set(self._roll, self._sharers, self._survivors)

    def _sealing_key(self, sender: int, holder: int) -> bytes:
        other = holder if sender == self._place else sender
        secret = exchange(self._sealing, self._roll[other].sealing)
        return derive(secret, b"sealed shares %d %d " % (sender, holder) + self._context)

    def _pairwise(self, place: int) -> bytes:
        return pairwise(self._context, self._masking, self._roll[place].masking)

    def _taking(self, step: _Step, following: _Step) -> _Turn:
        return _Turn(self, step, following)

    def _forget(self) -> None:
        del self._sealing, self._masking, self._masking_seed, self._self_seed
        self._held = {}


class _Turn:
    """One step of a device, in its turn; none follows where anything goes wrong in it."""

    def __init__(self, device: SecAggDevice, step: _Step, following: _Step) -> None:
        self._device, self._step, self._following = device, step, following

    def __enter__(self) -> None:
        if self._device._step != self._step:
            at = self._device._step
            raise SecAggError(f"asked to {self._step}, but this device is about to {at}: refused")

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        self._device._step = self._following if kind is None else "closed"
        if self._device._step == "closed":
            self._device._forget()


def exchange(key: X25519PrivateKey, other: bytes) -> bytes:
    """The secret that two keys share; SecAggError where the other is no key."""
    try:
        return key.exchange(X25519PublicKey.from_public_bytes(other))
    except ValueError:
        raise SecAggError("a device has advertised a key that is none") from None


def pairwise(context: bytes, key: X25519PrivateKey, other: bytes) -> bytes:
    """The key of the mask between two devices."""
    return derive(exchange(key, other), b"pairwise mask " + context, MASK_KEY_BYTES)


def self_mask(context: bytes, seed: bytes) -> bytes:
    """The key of a device's own mask."""
    return derive(seed, b"self mask " + context, MASK_KEY_BYTES)


def commitment(session: Session, seed: bytes) -> bytes:
    """By which the server knows the seed of a self mask when it has it."""
    return hashlib.sha256(b"self mask" + session.id + seed).digest()
