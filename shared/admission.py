"""What a device says to be let into a federation, and to leave it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Self

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from .errors import AdmissionError

__all__ = ["ADMISSION_PREFIX", "REPOSITORY_PREFIX", "Enrolment", "Leave"]

ADMISSION_PREFIX = "/v1/locavore"
REPOSITORY_PREFIX = "/repository"
"""Where a coordinator serves its repository."""

_MOST = 4096  # characters of a field


@dataclass(frozen=True, kw_only=True)
class _Signed:
    """Something that a device has signed with its identity.

    Args:
        identity: Ed25519 public key (hex).
        signature: of it (hex), over the rest and the federation's terms.
    """

    identity: str
    signature: str

    @classmethod
    def read(cls, said: Any) -> Self:
        """From what arrived as JSON.

        Raises:
            AdmissionError: a field is missing, unknown, too long or no text.
        """
        names = {field.name for field in fields(cls)}
        if not isinstance(said, Mapping) or set(said) != names:
            raise AdmissionError(f"a request must have the fields {', '.join(sorted(names))}")
        if any(not isinstance(value, str) or len(value) > _MOST for value in said.values()):
            raise AdmissionError(f"the fields of a request are texts of {_MOST} characters at most")
        return cls(**said)

    def _verify(self, message: bytes) -> None:
        try:
            key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.identity))
            key.verify(bytes.fromhex(self.signature), message)
        except (InvalidSignature, ValueError):
            raise AdmissionError("the request is not signed by the identity in it") from None


@dataclass(frozen=True, kw_only=True)
class Enrolment(_Signed):
    """A device asks to be let in.

    Args:
        token: of its invitation. secret.
        node_key: PEM of its node's EC public key.
    """

    token: str
    node_key: str

    @classmethod
    def sign(cls, key: Ed25519PrivateKey, terms: str, token: str, node_key: str) -> Enrolment:
        """Make one, for the federation with the terms of this digest."""
        signature = key.sign(_enrolled(terms, token, node_key)).hex()
        return cls(identity=_public(key), signature=signature, token=token, node_key=node_key)

    def verify(self, terms: str) -> None:
        """Raise AdmissionError where it is not signed by its identity."""
        self._verify(_enrolled(terms, self.token, self.node_key))


@dataclass(frozen=True, kw_only=True)
class Leave(_Signed):
    """A device asks to be let in no more."""

    @classmethod
    def sign(cls, key: Ed25519PrivateKey, terms: str) -> Leave:
        """Make one, for the federation with the terms of this digest."""
        return cls(identity=_public(key), signature=key.sign(_left(terms)).hex())

    def verify(self, terms: str) -> None:
        """Raise AdmissionError where it is not signed by its identity."""
        self._verify(_left(terms))


def _public(key: Ed25519PrivateKey) -> str:
    return key.public_key().public_bytes_raw().hex()


def _enrolled(terms: str, token: str, node_key: str) -> bytes:
    return "\n".join(["locavore enrolment 1", terms, token, node_key]).encode()


def _left(terms: str) -> bytes:
    return f"locavore leave 1\n{terms}".encode()
