"""Does a device of a secure sum refuse what would show its vector alone?

A server that lies is played against devices, one script each. A device may refuse by a
:class:`~locavore.shared.errors.SecAggError`; what it answers otherwise is looked at.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ...shared.errors import SecAggError
from ..secagg.device import SecAggDevice
from ..secagg.masks import Words
from ..secagg.server import SecAggServer
from ..secagg.session import Roster, SecureSum, Session
from ..secagg.shamir import SHARE_BYTES
from .findings import Finding

__all__ = ["MakeDevice", "opening_findings"]

MakeDevice = Callable[[Session, Ed25519PrivateKey, Roster, Callable[[int], bytes]], SecAggDevice]
_DEVICES, _DIM = 5, 400


class _Sum:
    """Five devices and a server that carries their messages truthfully, up to a point."""

    def __init__(self, make: MakeDevice, keys: Sequence[Ed25519PrivateKey], number: int) -> None:
        roster = Roster(key.public_key().public_bytes_raw() for key in keys)
        session = Session(
            plan="a" * 64,
            round=number,
            dim=_DIM,
            fewest=3,
            roster=roster.digest,
            rules=SecureSum(),
            nonce=os.urandom(16),
        )
        self.server = SecAggServer(session, roster)
        self.devices = [make(session, key, roster, os.urandom) for key in keys]
        for device in self.devices:
            self.server.advertised(device.advertise())
        roll = self.server.roll()
        for place, device in enumerate(self.devices):
            self.server.shared(place, device.share(roll))

    def mask(self, place: int, vector: Words) -> Words:
        return self.devices[place].mask(vector, self.server.inbox(place))

    def mask_all(self) -> None:
        for place in range(_DEVICES):
            self.server.masked(place, self.mask(place, np.zeros(_DIM, np.uint16)))


def opening_findings(make: MakeDevice = SecAggDevice) -> list[Finding]:
    """Play every script against devices that ``make`` makes."""
    drawn = [Ed25519PrivateKey.generate() for _ in range(_DEVICES)]
    keys = sorted(drawn, key=lambda key: key.public_key().public_bytes_raw())
    return [_finding(claim, partial(script, make, keys)) for claim, script in _SCRIPTS.items()]


def _finding(claim: str, script: Callable[[], str | None]) -> Finding:
    try:
        leaked = script()
    except SecAggError:
        leaked = None
    return Finding(
        audit="secure sum", claim=claim, found=leaked or "so it is", holds=leaked is None
    )


def _honest(make: MakeDevice, keys: Sequence[Ed25519PrivateKey]) -> str | None:
    """Without this, a device that refuses everything would pass."""
    vectors = np.arange(_DEVICES * _DIM, dtype=np.uint16).reshape(_DEVICES, _DIM)
    try:
        one = _Sum(make, keys, 1)
        for place, vector in enumerate(vectors):
            one.server.masked(place, one.mask(place, vector))
        for place in range(_DEVICES):
            one.server.confirmed(place, one.devices[place].confirm(one.server.survivors()))
        for place, device in enumerate(one.devices):
            one.server.opened(place, device.open(one.server.signatures()))
        right = (one.server.total() == vectors.sum(0, dtype=np.uint16)).all()
    except SecAggError as error:
        return f"one failed: {error}"
    return None if right else "a sum was wrong"


def _both_shares(make: MakeDevice, keys: Sequence[Ed25519PrivateKey]) -> str | None:
    """First the others are said to be there, then to be lost: both seeds of each are needed."""
    one = _Sum(make, keys, 1)
    one.mask_all()
    everybody, fewer = list(range(_DEVICES)), list(range(_DEVICES - 1))
    signed = {place: one.devices[place].confirm(everybody) for place in everybody}
    first = one.devices[0].open(signed).by_owner()
    again = {place: one.devices[place].confirm(fewer) for place in fewer}
    second = one.devices[0].open(again).by_owner()
    return None if first == second else "it opened both shares of one device"


def _both_at_once(make: MakeDevice, keys: Sequence[Ed25519PrivateKey]) -> str | None:
    one = _Sum(make, keys, 1)
    one.mask_all()
    everybody = list(range(_DEVICES))
    opened = one.devices[0].open({p: one.devices[p].confirm(everybody) for p in everybody})
    if len(set(opened.owners)) < len(opened.owners) or any(
        len(share) != SHARE_BYTES for share in opened.shares
    ):
        return "it opened more than one share of a device"
    return None


def _split_view(make: MakeDevice, keys: Sequence[Ed25519PrivateKey]) -> str:
    """Others have signed another set of survivors than this device was shown."""
    one = _Sum(make, keys, 1)
    one.mask_all()
    everybody, fewer = list(range(_DEVICES)), list(range(_DEVICES - 1))
    signed = {place: one.devices[place].confirm(fewer) for place in fewer if place}
    signed[0] = one.devices[0].confirm(everybody)
    one.devices[0].open(signed)
    return "it opened its shares although others were shown another set"


def _too_few(make: MakeDevice, keys: Sequence[Ed25519PrivateKey]) -> str:
    one = _Sum(make, keys, 1)
    one.mask_all()
    one.devices[0].confirm([0, 1])
    return "it signed a sum of two"


def _masked_twice(make: MakeDevice, keys: Sequence[Ed25519PrivateKey]) -> str | None:
    one = _Sum(make, keys, 1)
    first = one.mask(0, np.zeros(_DIM, np.uint16))
    second = one.mask(0, np.ones(_DIM, np.uint16))
    if ((second - first) == 1).all():
        return "it masked two vectors alike: their difference is plain"
    return None


def _same_masks(make: MakeDevice, keys: Sequence[Ed25519PrivateKey]) -> str | None:
    """The same vector in two sums: nothing of it may be alike."""
    vector = np.zeros(_DIM, np.uint16)
    first, second = (_Sum(make, keys, number).mask(0, vector) for number in (1, 2))
    alike = float((first == second).mean())
    return f"{alike:.0%} of the numbers are masked as before" if alike > 0.05 else None


def _plain(make: MakeDevice, keys: Sequence[Ed25519PrivateKey]) -> str | None:
    """Masked numbers are uniform, whatever is under them."""
    masked = _Sum(make, keys, 1).mask(0, np.full(_DIM, 7, np.uint16))
    counts = np.bincount(masked >> 12, minlength=16)
    spread = float(np.square(counts - _DIM / 16).sum() / (_DIM / 16))
    from scipy.special import chdtrc

    return "its masked numbers are not uniform" if chdtrc(15, spread) < 1e-9 else None


_SCRIPTS: dict[str, Callable[[MakeDevice, Sequence[Ed25519PrivateKey]], str | None]] = {
    "honest sums come out": _honest,
    "a device opens one share of every other, once": _both_at_once,
    "a device asked again opens no second share": _both_shares,
    "a device opens nothing where views differ": _split_view,
    "a device signs no sum of too few": _too_few,
    "a device masks one vector a sum": _masked_twice,
    "masks are new in every sum": _same_masks,
    "masked vectors look like chance": _plain,
}
