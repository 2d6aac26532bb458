"""The signed statement that something was forgotten: what, when, and what could not be recalled."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from ...shared.errors import BadInputError, TamperError
from .lineage import Cut

__all__ = ["Certificate", "Left", "issue", "sign"]


@dataclass(frozen=True, kw_only=True)
class Left:
    """A federated training that used a forgotten record. What left cannot be recalled.

    Args:
        purpose: of the training, as in the ledger.
        rounds: numbers of the rounds.
        unit: what ε protects: a record, or the user.
        epsilon: of everything that had been charged by the last of them; the bound on what
            anybody could learn.
        delta: at which ε is stated.
    """

    purpose: str
    rounds: tuple[int, ...]
    unit: str
    epsilon: float
    delta: float


@dataclass(frozen=True, kw_only=True)
class Certificate:
    """What was forgotten. It names records by hash, and holds nothing of them.

    Args:
        store: id of the vault.
        time: when, by the device's clock (ISO 8601).
        why: ``asked``, ``expired``, ``consent`` or ``everything``.
        records: SHA-256 of each record's id, in hex.
        adapters: of every base whose private adapter the records had touched: digests of the
            adapter before and of the one that is used from now on, None where there is none, and
            how many slices of its chain are still to be trained again.
        left: federated trainings that had used the records.
        key: public key of the vault (Ed25519, hex).
        signature: over all of the above (hex).
    """

    store: str
    time: str
    why: str
    records: tuple[str, ...]
    adapters: tuple[Cut, ...]
    left: tuple[Left, ...]
    key: str
    signature: str

    @property
    def due(self) -> int:
        """Slices that are still to be trained again, of all bases."""
        return sum(cut.due for cut in self.adapters)

    def names(self, record_id: str) -> bool:
        """Whether it speaks of that record."""
        return _hashed(record_id) in self.records

    def verify(self, key: str | None = None) -> None:
        """Check the signature, and that it is of the vault with this public key, if given.

        Raises:
            TamperError: it was changed, or is of another vault.
        """
        if key is not None and key != self.key:
            raise TamperError("the certificate was signed by another vault")
        try:
            public = Ed25519PublicKey.from_public_bytes(bytes.fromhex(self.key))
            public.verify(bytes.fromhex(self.signature), _message(asdict(self)))
        except (InvalidSignature, ValueError):
            raise TamperError("the certificate is not what was signed") from None

    def to_json(self) -> str:
        """The certificate as a file."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Certificate:
        """Read a certificate; :meth:`verify` says whether it holds.

        Raises:
            BadInputError: it is none.
        """
        try:
            row = json.loads(text)
            left = tuple(Left(**{**one, "rounds": tuple(one["rounds"])}) for one in row["left"])
            cuts = tuple(Cut(**one) for one in row["adapters"])
            return cls(**{**row, "adapters": cuts, "left": left, "records": tuple(row["records"])})
        except (ValueError, TypeError, KeyError):
            raise BadInputError("this is no certificate of a vault") from None

    def sentences(self) -> list[str]:
        """What it says, to be read by a person."""
        said = [f"{len(self.records)} records forgotten ({self.why}) on {self.time}"]
        for cut in self.adapters:
            if cut.before != cut.after:
                said.append(
                    f"private adapter {_short(cut.before)} of {cut.base_id} is destroyed; in use "
                    f"now: {_short(cut.after)}"
                )
            if cut.due:
                said.append(
                    f"{cut.due} slices of that of {cut.base_id} are to be trained again, without "
                    "the records"
                )
        for one in self.left:
            rounds = ", ".join(map(str, one.rounds))
            said.append(
                f"cannot be recalled: rounds {rounds} of {one.purpose!r}, which left with "
                f"ε = {one.epsilon:.3g} a {one.unit} at δ = {one.delta:g}"
            )
        return said


def issue(
    *,
    identity: bytes,
    store: str,
    time: datetime,
    why: str,
    records: Sequence[str],
    cuts: Sequence[Cut],
    left: Sequence[Left],
) -> Certificate:
    """Sign what was forgotten with the vault's own key."""
    key = Ed25519PrivateKey.from_private_bytes(identity).public_key().public_bytes_raw()
    return sign(
        Certificate(
            store=store,
            time=time.isoformat(),
            why=why,
            records=tuple(sorted(map(_hashed, records))),
            adapters=tuple(cuts),
            left=tuple(left),
            key=key.hex(),
            signature="",
        ),
        identity,
    )


def sign(said: Certificate, identity: bytes) -> Certificate:
    """The same statement with a signature by the vault's key."""
    private = Ed25519PrivateKey.from_private_bytes(identity)
    return replace(said, signature=private.sign(_message(asdict(said))).hex())


def _message(said: dict[str, object]) -> bytes:
    signed = {name: value for name, value in said.items() if name != "signature"}
    return b"locavore forgotten 2\n" + json.dumps(signed, sort_keys=True).encode()


def _hashed(record_id: str) -> str:
    return hashlib.sha256(record_id.encode()).hexdigest()


def _short(digest: str | None) -> str:
    return "none" if digest is None else digest[:12]
