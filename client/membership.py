"""A device's membership in a federation: how it joins, what it pins, how it leaves.

An *invitation* comes from whoever runs the federation, by a way that the person trusts: it names
the terms by their digest and the authority that the server's certificate is signed by, so that what
the server says later cannot change either. It can be used once.

Needs the extra ``federate``.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)

from ..privacy.secagg.roster import SignedRoster
from ..privacy.secagg.session import Roster
from ..privacy.terms import Terms
from ..shared.admission import ADMISSION_PREFIX, Enrolment, Leave
from ..shared.errors import AdmissionError, BadInputError, FederationError, SecAggError
from .secured import secured

__all__ = ["Invitation", "Membership", "join", "read_invitation", "terms_of"]


@dataclass(frozen=True, kw_only=True)
class Invitation:
    """What a person gets from whoever runs a federation.

    Args:
        token: lets one device in, once. secret.
        terms: SHA-256 (hex) of the federation's terms.
        certificates: PEM of the authorities that sign the server's certificate; None: those that
            the system trusts.
        base: the base's name in the server's repository; None where it has none.
        root: that repository's root metadata, which the device pins.
    """

    token: str
    terms: str
    certificates: str | None = None
    base: str | None = None
    root: str | None = None

    def to_json(self) -> str:
        """As text, for a file or a message."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Invitation:
        """From :meth:`to_json`.

        Raises:
            BadInputError: it is no invitation.
        """
        try:
            return cls(**json.loads(text))
        except (ValueError, TypeError) as error:
            raise BadInputError(f"this is no invitation: {error}") from None


@dataclass(frozen=True, kw_only=True)
class Membership:
    """What a device keeps of a federation; it belongs into the vault.

    Args:
        url: of the server, ``https://host:port``.
        certificates: see :class:`Invitation`.
        terms: what was agreed to.
        identity: the device's long-term Ed25519 key, 32 bytes. secret.
        node_key: PEM of the node's EC key. secret.
        node_id: as the server knows the node.
        budget: ε that may be spent, as agreed to.
        roster_version: the newest roster that was seen.
        last_round: of which the shared adapter is in the vault.
    """

    url: str
    certificates: str | None
    terms: Terms
    identity: bytes
    node_key: str
    node_id: int
    budget: float
    roster_version: int = 0
    last_round: int = 0

    @property
    def identity_key(self) -> Ed25519PrivateKey:
        """The identity, for signing."""
        return Ed25519PrivateKey.from_private_bytes(self.identity)

    @property
    def flower_key(self) -> ec.EllipticCurvePrivateKey:
        """The node's key."""
        key = load_pem_private_key(self.node_key.encode(), None)
        assert isinstance(key, ec.EllipticCurvePrivateKey)
        return key

    @property
    def address(self) -> str:
        """``host:port``."""
        parsed = httpx.URL(self.url)
        return f"{parsed.host}:{parsed.port or (443 if parsed.scheme == 'https' else 80)}"

    def to_json(self) -> str:
        """As text, to be kept encrypted."""
        said = {**vars(self), "terms": self.terms.to_json(), "identity": self.identity.hex()}
        return json.dumps(said)

    @classmethod
    def from_json(cls, text: str) -> Membership:
        """From :meth:`to_json`."""
        said: dict[str, Any] = json.loads(text)
        said |= {
            "terms": Terms.from_json(said["terms"]),
            "identity": bytes.fromhex(said["identity"]),
        }
        return cls(**said)

    def roster(self, digest: str) -> tuple[Roster, Membership]:
        """Fetch the roster of a digest; also returns the membership that has seen it.

        Raises:
            SecAggError: it is not signed by who lets devices in, is older than one that was seen,
                or is another one.
            FederationError: the server cannot be reached.
        """
        raw = _asked(self.url, self.certificates, "GET", f"/roster?digest={digest}").text
        signed = SignedRoster.from_json(raw)
        admission = bytes.fromhex(self.terms.admission)
        roster = signed.verified(admission, self.terms.digest, self.roster_version)
        if roster.digest != digest:
            raise SecAggError("the server has sent another roster than it named")
        return roster, replace(self, roster_version=signed.version)

    def leave(self) -> None:
        """Ask the server to let this device in no more. The vault forgets the membership then.

        Raises:
            FederationError: the server cannot be reached or refuses.
        """
        body = Leave.sign(self.identity_key, self.terms.digest)
        _asked(self.url, self.certificates, "POST", "/leave", asdict(body))


def terms_of(url: str, invitation: Invitation) -> Terms:
    """The terms that an invitation names, from the server.

    Raises:
        FederationError: the server cannot be reached, or shows other terms.
        BadInputError: they cannot be read.
    """
    terms = Terms.from_json(_asked(url, invitation.certificates, "GET", "/terms").text)
    if terms.digest != invitation.terms:
        raise FederationError(
            f"{url} shows terms {terms.digest[:16]}, the invitation is for "
            f"{invitation.terms[:16]}: ask for a new invitation, and why"
        )
    return terms


def join(url: str, invitation: Invitation, terms: Terms, *, budget: float) -> Membership:
    """Become a member under terms that the person has agreed to.

    Args:
        url: of the server.
        invitation: is used up.
        terms: from :func:`terms_of`.
        budget: ε that may be spent at most; what exceeds it is refused by the ledger.

    Raises:
        AdmissionError: the invitation does not hold.
        FederationError: the server cannot be reached.
    """
    identity = Ed25519PrivateKey.generate()
    node_key = ec.generate_private_key(ec.SECP384R1())
    public = node_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    body = Enrolment.sign(identity, terms.digest, invitation.token, public.decode())
    answer = _asked(url, invitation.certificates, "POST", "/enrol", asdict(body)).json()
    private = node_key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    return Membership(
        url=url,
        certificates=invitation.certificates,
        terms=terms,
        identity=identity.private_bytes_raw(),
        node_key=private.decode(),
        node_id=int(answer["node_id"]),
        budget=budget,
    )


def read_invitation(path: Path) -> Invitation:
    """An invitation from a file.

    Raises:
        BadInputError: there is none.
    """
    try:
        return Invitation.from_json(path.read_text())
    except OSError as error:
        raise BadInputError(f"the invitation cannot be read: {error}") from None


def _asked(
    url: str, certificates: str | None, method: str, path: str, body: object = None
) -> httpx.Response:
    """An answer of the server."""
    if not url.startswith("https://"):
        raise BadInputError(f"a federation's server is spoken to over https://, got {url!r}")
    try:
        with secured(certificates) as client:
            response = client.request(
                method, f"{url.rstrip('/')}{ADMISSION_PREFIX}{path}", json=body
            )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise FederationError(f"{url} cannot be reached: {error}") from None
    if response.is_error:
        try:
            why = response.json()["error"]
        except (ValueError, KeyError, TypeError):
            why = f"HTTP {response.status_code}"
        refused = response.status_code == httpx.codes.FORBIDDEN
        kind = AdmissionError if refused else FederationError
        raise kind(f"{url} refuses: {str(why)[:300]}")
    return response
