"""Signed documents of a repository, as pure functions: what is due, who must sign, what is missing.

Rules:

1. A document that changes gets the next version, a new expiry, and loses its signatures.
2. A root counts when enough holders of the root before it *and* of itself have signed it.
3. Every other document counts when enough holders that its delegator names have signed it.
4. Thresholds are never higher than the number of keys, and never below 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime, timedelta

from securesystemslib.signer import Key, SSlibKey
from tuf.api.metadata import (
    DelegatedRole,
    Delegations,
    Metadata,
    MetaFile,
    Role,
    Root,
    Snapshot,
    T,
    Targets,
    Timestamp,
)

from ...shared.errors import BadInputError

__all__ = [
    "ADAPTERS",
    "OFFLINE",
    "ONLINE",
    "Missing",
    "Validity",
    "delegate_adapters",
    "first_root",
    "first_targets",
    "keys_of",
    "missing",
    "renewed",
    "require_threshold",
    "snapshot_of",
    "timestamp_of",
    "validity_of",
    "with_keys",
]

OFFLINE = ("root", "targets")
ONLINE = ("snapshot", "timestamp")
ADAPTERS = "adapters"
"""The role that a server may hold, to publish shared adapters and nothing else."""

_DAYS = "x-locavore-days"


@dataclass(frozen=True, kw_only=True)
class Validity:
    """For how many days what is signed is good. They are written into the root.

    Args:
        root: until the holders of root keys must meet again.
        targets: until the holders of targets keys must sign again, with or without a change.
        snapshot: renewed by the server.
        timestamp: renewed by the server; for so long an old state can be shown as the newest one.
        adapters: renewed by the server.
    """

    root: int = 365
    targets: int = 90
    snapshot: int = 7
    timestamp: int = 1
    adapters: int = 7

    def __post_init__(self) -> None:
        wrong = [f"{role} {days}" for role, days in vars(self).items() if not 1 <= days <= 3650]
        if wrong:
            raise BadInputError(f"validity must be 1..3650 days, got {', '.join(wrong)}")

    def expiry(self, role: str, now: datetime) -> datetime:
        """When a role's document ends that is signed now (UTC)."""
        return (now + timedelta(days=getattr(self, role))).replace(microsecond=0)


@dataclass(frozen=True)
class Missing:
    """How many signatures a document lacks, and whose would count."""

    count: int
    holders: tuple[Key, ...]


def first_root(
    keys: Mapping[str, Sequence[SSlibKey]],
    thresholds: Mapping[str, int],
    validity: Validity,
    now: datetime,
) -> Metadata[Root]:
    """The first root, unsigned. ``keys`` and ``thresholds`` are by role; 1 is the default.

    Raises:
        BadInputError: a role without keys, or a threshold out of bounds.
    """
    roles = {}
    for role in (*OFFLINE, *ONLINE):
        ids = list(dict.fromkeys(key.keyid for key in keys[role]))
        roles[role] = Role(ids, require_threshold(role, thresholds.get(role, 1), len(ids)))
    by_id: dict[str, Key] = {key.keyid: key for role in (*OFFLINE, *ONLINE) for key in keys[role]}
    root = Root(1, None, validity.expiry("root", now), by_id, roles, consistent_snapshot=True)
    root.unrecognized_fields[_DAYS] = dict(vars(validity))
    return Metadata(root)


def first_targets(expiry: datetime) -> Metadata[Targets]:
    """An empty list of targets, unsigned."""
    return Metadata(Targets(1, None, expiry))


def delegate_adapters(targets: Targets, key: SSlibKey) -> None:
    """Let a server's key sign ``adapters/…``, and nothing else."""
    role = DelegatedRole(ADAPTERS, [key.keyid], 1, terminating=True, paths=["adapters/*/*"])
    targets.delegations = Delegations({key.keyid: key}, {ADAPTERS: role})


def validity_of(root: Root) -> Validity:
    """The validity that a root was made with."""
    return Validity(**root.unrecognized_fields.get(_DAYS, {}))


def renewed(document: Metadata[T], expiry: datetime, *, published: bool) -> Metadata[T]:
    """What to sign next: a new version of what is published, or a draft without signatures."""
    fresh = deepcopy(document)
    fresh.signatures.clear()
    fresh.signed.expires = expiry
    fresh.signed.version += published
    return fresh


def with_keys(
    delegator: Root | Targets,
    role: str,
    *,
    drop: Sequence[str],
    add: Sequence[SSlibKey],
    threshold: int | None,
) -> None:
    """Change a role's keys.

    Raises:
        BadInputError: a key to drop is not the role's, or a threshold out of bounds.
    """
    held = delegator.get_delegated_role(role)
    for key in add:
        delegator.add_key(key, role)
    for keyid in drop:
        if keyid not in held.keyids:
            raise BadInputError(f"key {keyid[:8]} is not one of the role {role}")
        if keyid not in {key.keyid for key in add}:
            delegator.revoke_key(keyid, role)
    held.threshold = require_threshold(role, threshold or held.threshold, len(held.keyids))


def keys_of(delegator: Root | Targets, role: str) -> dict[str, Key]:
    """Keys of a role by their ids."""
    return {keyid: delegator.get_key(keyid) for keyid in delegator.get_delegated_role(role).keyids}


def missing(
    document: Metadata[T], role: str, delegator: Root | Targets, previous: Root | None = None
) -> Missing:
    """What a document lacks.

    Args:
        delegator: names the role's keys; for a root, the root itself.
        previous: the root before, for a root.
    """
    judges: list[Root | Targets] = [delegator] if previous is None else [previous, delegator]
    count, holders = 0, dict[str, Key]()
    for judge in judges:
        verdict = judge.get_verification_result(role, document.signed_bytes, document.signatures)
        if not verdict:
            count = max(count, verdict.missing)
            holders |= verdict.unsigned
    return Missing(count, tuple(holders.values()))


def snapshot_of(
    documents: Mapping[str, tuple[int, bytes]], version: int, expiry: datetime
) -> Metadata[Snapshot]:
    """A snapshot of documents: role to its version and bytes."""
    meta = {
        f"{role}.json": MetaFile.from_data(number, raw, ["sha256"])
        for role, (number, raw) in documents.items()
    }
    return Metadata(Snapshot(version, None, expiry, meta))


def timestamp_of(
    snapshot: tuple[int, bytes], version: int, expiry: datetime
) -> Metadata[Timestamp]:
    """A timestamp that points to a snapshot: its version and bytes."""
    return Metadata(
        Timestamp(version, None, expiry, MetaFile.from_data(*snapshot, hash_algorithms=["sha256"]))
    )


def require_threshold(role: str, threshold: int, keys: int) -> int:
    """A threshold within 1 and the number of keys.

    Raises:
        BadInputError: it is not.
    """
    if not 1 <= threshold <= keys:
        raise BadInputError(
            f"the threshold of {role} must be 1..{keys}, as many as it has keys, got {threshold}"
        )
    return threshold
