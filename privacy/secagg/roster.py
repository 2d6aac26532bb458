"""A roster with a signature: who lets devices in says who they are, not the server of the sums."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from ...shared.errors import SecAggError
from .session import Roster, signed_by

__all__ = ["SignedRoster"]

_DOMAIN = b"locavore roster 1"


@dataclass(frozen=True)
class SignedRoster:
    """The devices of a federation at one time.

    Args:
        federation: digest of its terms.
        version: from 1; grows with every change.
        identities: Ed25519 public keys, in order.
        signature: by the federation's admission key.
    """

    federation: str
    version: int
    identities: tuple[bytes, ...]
    signature: bytes

    @classmethod
    def sign(
        cls, key: Ed25519PrivateKey, federation: str, version: int, identities: Iterable[bytes]
    ) -> SignedRoster:
        """Make one."""
        ordered = tuple(sorted(identities))
        return cls(federation, version, ordered, key.sign(_said(federation, version, ordered)))

    def verified(self, admission: bytes, federation: str, at_least: int = 0) -> Roster:
        """The roster.

        Args:
            admission: public key of who may sign.
            federation: whose roster it must be.
            at_least: the newest version that was seen.

        Raises:
            SecAggError: another's signature, another federation's, or an older one.
        """
        if self.federation != federation:
            raise SecAggError("the roster is another federation's")
        said = _said(self.federation, self.version, self.identities)
        if not signed_by(admission, self.signature, said):
            raise SecAggError("the roster is not signed by who lets devices in")
        if self.version < at_least:
            raise SecAggError(
                f"roster {self.version} is older than {at_least}, which this device has seen"
            )
        return Roster(self.identities)

    def to_json(self) -> str:
        """As text."""
        return json.dumps(
            {
                "federation": self.federation,
                "version": self.version,
                "identities": [identity.hex() for identity in self.identities],
                "signature": self.signature.hex(),
            }
        )

    @classmethod
    def from_json(cls, text: str) -> SignedRoster:
        """From :meth:`to_json`.

        Raises:
            SecAggError: it is none.
        """
        try:
            said = json.loads(text)
            identities = tuple(bytes.fromhex(identity) for identity in said["identities"])
            signature = bytes.fromhex(said["signature"])
            return cls(str(said["federation"]), int(said["version"]), identities, signature)
        except (ValueError, KeyError, TypeError) as error:
            raise SecAggError(f"the roster cannot be read: {error}") from None


def _said(federation: str, version: int, identities: tuple[bytes, ...]) -> bytes:
    return _DOMAIN + json.dumps([federation, version, [i.hex() for i in identities]]).encode()
