"""Who is let in: invitations that hold once, devices, revocations, and the signed roster.

One SQLite file. Tokens are kept as SHA-256. Every change makes a new roster, signed by the
admission key, which the coordinator holds: see :mod:`locavore.privacy.secagg.roster`.
"""

from __future__ import annotations

import hashlib
import secrets
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from ...privacy.secagg.roster import SignedRoster
from ...privacy.secagg.session import Roster
from ...shared.admission import Enrolment, Leave
from ...shared.errors import AdmissionError, FederationError

__all__ = ["Admission"]

INVITATION_DAYS = 14.0
_DAY_S = 86400.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS token (hash BLOB PRIMARY KEY, expires REAL NOT NULL, used REAL);
CREATE TABLE IF NOT EXISTS device (
    identity BLOB PRIMARY KEY, node INTEGER NOT NULL, node_key BLOB NOT NULL,
    admitted REAL NOT NULL, revoked REAL
);
CREATE TABLE IF NOT EXISTS roster (version INTEGER PRIMARY KEY, digest TEXT, signed TEXT);
"""


class Admission:
    """The register of a federation's devices.

    Args:
        path: of the SQLite file; it may be opened by several processes.
        key: signs rosters.
        terms: digest of the federation's terms.
        clock: seconds since the epoch.

    Raises:
        FederationError: the file is of a federation with other terms.
    """

    def __init__(
        self,
        path: Path,
        key: Ed25519PrivateKey,
        terms: str,
        clock: Callable[[], float] = time.time,
    ) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._key, self._terms, self._clock = key, terms, clock
        self._lock = threading.Lock()
        self._database = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, timeout=10
        )
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute("PRAGMA synchronous=FULL")
        self._database.executescript(_SCHEMA)
        with self._transaction() as database:
            found = database.execute("SELECT signed FROM roster LIMIT 1").fetchone()
            if found is None:
                self._sign_roster(database)
            elif SignedRoster.from_json(found[0]).federation != terms:
                raise FederationError(
                    f"{path} is of a federation with other terms: its devices have not agreed to "
                    "these. Use an empty state folder, or the settings it began with"
                )

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def invite(self, days: float = INVITATION_DAYS) -> str:
        """A token that lets one device in, within so many days. secret."""
        token = secrets.token_urlsafe(24)
        with self._transaction() as database:
            expires = self._clock() + days * _DAY_S
            database.execute("INSERT INTO token VALUES (?, ?, NULL)", (_hashed(token), expires))
        return token

    def enrol(self, request: Enrolment, register: Callable[[bytes], int]) -> int:
        """Let a device in; returns its node id. All of it happens, or nothing does.

        Args:
            request: of the device.
            register: registers a node's public key (PEM) and gives its id.

        Raises:
            AdmissionError: the token is unknown, used or over, the request is not signed by its
                identity, the identity is known already, or the node's key is none of P-384.
        """
        request.verify(self._terms)
        _require_key(request.node_key)
        identity = bytes.fromhex(request.identity)
        with self._transaction() as database:
            row = database.execute(
                "SELECT expires, used FROM token WHERE hash = ?", (_hashed(request.token),)
            ).fetchone()
            now = self._clock()
            if row is None or row[1] is not None or row[0] < now:
                raise AdmissionError("the invitation is unknown, was used, or is over; ask anew")
            if database.execute("SELECT 1 FROM device WHERE identity = ?", (identity,)).fetchone():
                raise AdmissionError("this identity has been let in before; make a new one")
            node: int = register(request.node_key.encode())
            hashed = _hashed(request.token)
            database.execute("UPDATE token SET used = ? WHERE hash = ?", (now, hashed))
            packed = node - (1 << 64) if node >= 1 << 63 else node
            row = (identity, packed, request.node_key.encode(), now)
            database.execute("INSERT INTO device VALUES (?, ?, ?, ?, NULL)", row)
            self._sign_roster(database)
        return node

    def leave(self, request: Leave) -> int:
        """A device goes for good; returns its node id, so that it is revoked.

        Raises:
            AdmissionError: the request is not signed by its identity, which must be a device's.
        """
        request.verify(self._terms)
        return self.revoke(request.identity)

    def revoke(self, identity: str) -> int:
        """Let a device in no more; returns its node id.

        Args:
            identity: hex, or the beginning of it.

        Raises:
            AdmissionError: no device, or several, have such an identity.
        """
        with self._transaction() as database:
            found = [
                (known, node & (1 << 64) - 1)
                for known, node in database.execute("SELECT identity, node FROM device")
                if known.hex().startswith(identity.lower())
            ]
            if len(found) != 1 or not identity:
                raise AdmissionError(f"{len(found)} devices have an identity {identity[:64]!r}")
            known, revoked = found[0]
            assert isinstance(revoked, int)
            changed = database.execute(
                "UPDATE device SET revoked = ? WHERE identity = ? AND revoked IS NULL",
                (self._clock(), known),
            )
            if changed.rowcount:
                self._sign_roster(database)
        return revoked

    def nodes(self) -> dict[int, bool]:
        """Every node that was let in: whether it still is."""
        rows = self._rows("SELECT node, revoked IS NULL FROM device")
        return {node & (1 << 64) - 1: bool(is_in) for node, is_in in rows}

    def keys(self) -> dict[int, bytes]:
        """The public key (PEM) of every node that is let in."""
        rows = self._rows("SELECT node, node_key FROM device WHERE revoked IS NULL")
        return {node & (1 << 64) - 1: key for node, key in rows}

    def devices(self) -> list[tuple[str, int, float, float | None]]:
        """Identity, node id, when it was let in, and when it was revoked."""
        rows = self._rows("SELECT identity, node, admitted, revoked FROM device ORDER BY admitted")
        return [(i.hex(), node & (1 << 64) - 1, since, until) for i, node, since, until in rows]

    def roster(self) -> Roster:
        """Who is in, now."""
        (row,) = self._rows("SELECT signed FROM roster ORDER BY version DESC LIMIT 1")
        return Roster(SignedRoster.from_json(row[0]).identities)

    def signed_roster(self, digest: str) -> str:
        """The roster of a digest as JSON, also where it is no longer the newest.

        Raises:
            AdmissionError: there was none.
        """
        rows = self._rows(
            "SELECT signed FROM roster WHERE digest = ? ORDER BY version DESC LIMIT 1", digest
        )
        if not rows:
            raise AdmissionError(f"there is no roster {digest[:64]!r}")
        return str(rows[0][0])

    def _rows(self, query: str, *values: str) -> list[Any]:
        """What a query finds, never in the middle of another thread's change."""
        with self._lock:
            return self._database.execute(query, values).fetchall()

    def _sign_roster(self, database: sqlite3.Connection) -> None:
        rows = database.execute("SELECT identity FROM device WHERE revoked IS NULL").fetchall()
        (last,) = database.execute("SELECT COALESCE(MAX(version), 0) FROM roster").fetchone()
        signed = SignedRoster.sign(self._key, self._terms, last + 1, (row[0] for row in rows))
        digest = Roster(signed.identities).digest
        row = (signed.version, digest, signed.to_json())
        database.execute("INSERT INTO roster VALUES (?, ?, ?)", row)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield self._database
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")


def _hashed(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _require_key(pem: str) -> None:
    try:
        key = load_pem_public_key(pem.encode())
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, ec.EllipticCurvePublicKey) or key.curve.name != "secp384r1":
        raise AdmissionError("the node's key must be an EC public key of P-384")
