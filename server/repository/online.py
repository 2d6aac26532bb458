"""What a server signs by itself: snapshot and timestamp, and adapters where that was agreed."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Root, Targets

from ...shared.errors import RepositoryError
from . import roles
from .documents import Documents
from .keys import Passphrase, load_public, load_signer
from .roles import ADAPTERS

__all__ = ["OnlineKeys", "refresh", "write_snapshot", "write_timestamp"]


class OnlineKeys:
    """The private keys in a repository's ``keys`` folder.

    Args:
        passphrase: asked for the passphrase of a key that is encrypted.
    """

    def __init__(self, folder: Path, passphrase: Passphrase) -> None:
        self._folder, self._passphrase = folder, passphrase

    def signer(self, role: str, delegator: Root | Targets) -> CryptoSigner:
        """A key that the delegator names for a role.

        Raises:
            RepositoryError: there is none in the folder.
        """
        wanted = delegator.get_delegated_role(role).keyids
        for path in sorted(self._folder.glob("*.pem")):
            if path.with_suffix(".pub").is_file() and load_public(path).keyid in wanted:
                return load_signer(path, self._passphrase)
        raise RepositoryError(
            f"{self._folder} holds no key of the role {role}; put it back, or make a new one with "
            "'locavore repo rotate'"
        )

    def fresh_path(self, role: str) -> Path:
        """A file for a role's next key."""
        number = 1
        while (path := self._folder / f"{role}-{number}.pem").exists():
            number += 1
        return path


def write_snapshot(documents: Documents, signer: CryptoSigner, now: datetime) -> None:
    """Pin the published lists of targets together."""
    published = documents.newest("snapshot")
    snapshot = roles.snapshot_of(
        _pinned(documents),
        published.signed.version + 1 if published else 1,
        documents.expiry("snapshot", now),
    )
    snapshot.sign(signer)
    documents.put("snapshot", snapshot)


def write_timestamp(documents: Documents, signer: CryptoSigner, now: datetime) -> None:
    """Say that the published snapshot is the newest one."""
    published, path = documents.newest("timestamp"), documents.newest_path("snapshot")
    assert path is not None  # it was just written, or found
    timestamp = roles.timestamp_of(
        (_version(path), path.read_bytes()),
        published.signed.version + 1 if published else 1,
        documents.expiry("timestamp", now),
    )
    timestamp.sign(signer)
    documents.put("timestamp", timestamp)


def refresh(documents: Documents, keys: OnlineKeys, now: datetime) -> dict[str, datetime]:
    """Renew the timestamp, and what else the server signs when half of its time is over.

    Returns:
        When each role's published document expires (UTC).

    Raises:
        RepositoryError: nothing was published yet, or a key is missing.
    """
    published = documents.newest("root")
    if published is None or documents.newest("snapshot") is None:
        raise RepositoryError(f"{documents.folder} was not published yet")
    root: Root = published.signed
    timestamp = keys.signer("timestamp", root)  # before anything is written
    if _half_over(documents, ADAPTERS, now):
        listed = documents.newest("targets")
        assert listed is not None  # a snapshot pins it
        adapters = documents.newest(ADAPTERS)
        assert adapters is not None  # half of its time is over
        renewed = roles.renewed(adapters, documents.expiry(ADAPTERS, now), published=True)
        renewed.sign(keys.signer(ADAPTERS, listed.signed))
        documents.put(ADAPTERS, renewed)
    if _is_behind(documents) or _half_over(documents, "snapshot", now):
        write_snapshot(documents, keys.signer("snapshot", root), now)
    write_timestamp(documents, timestamp, now)
    newest = {state.role: documents.newest(state.role) for state in documents.states()}
    return {role: found.signed.expires for role, found in newest.items() if found}


def _pinned(documents: Documents) -> dict[str, tuple[int, bytes]]:
    """Published lists of targets: role to version and bytes."""
    paths = {role: documents.newest_path(role) for role in ("targets", ADAPTERS)}
    return {role: (_version(path), path.read_bytes()) for role, path in paths.items() if path}


def _is_behind(documents: Documents) -> bool:
    snapshot = documents.newest("snapshot")
    shown = {name: meta.version for name, meta in snapshot.signed.meta.items()} if snapshot else {}
    return shown != {f"{role}.json": number for role, (number, _) in _pinned(documents).items()}


def _half_over(documents: Documents, role: str, now: datetime) -> bool:
    document = documents.newest(role)
    if document is None:
        return False
    whole = documents.expiry(role, now) - now
    return bool(document.signed.expires - now < whole / 2)


def _version(path: Path) -> int:
    return int(path.name.split(".")[0])
