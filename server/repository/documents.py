"""The documents of a repository in its folder: what is published, and drafts that wait."""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Any

from securesystemslib.signer import Key, SSlibKey
from tuf.api.metadata import Metadata, Root, TargetFile, Targets

from ...shared.errors import RepositoryError
from ...shared.files import write_whole
from . import roles
from .keys import holder
from .roles import ADAPTERS, OFFLINE, ONLINE

__all__ = ["Documents", "RoleState"]

Document = Metadata[Any]


class RoleState:
    """How it stands with one role.

    Args:
        role: its name.
        version: of the draft if there is one, else of what is published.
        expires: when that ends (UTC).
        draft: whether it waits to be published.
        missing: signatures that it lacks.
        holders: people whose signatures would count.
        keys: names of all holders of the role.
        threshold: how many of them must sign.
    """

    def __init__(
        self,
        role: str,
        document: Document,
        *,
        draft: bool,
        lacks: roles.Missing,
        judge: Root | Targets,
    ) -> None:
        self.role = role
        self.version: int = document.signed.version
        self.expires: datetime = document.signed.expires
        self.draft = draft
        self.missing = lacks.count
        self.holders = tuple(map(_named, lacks.holders))
        self.keys = tuple(map(_named, roles.keys_of(judge, role).values()))
        self.threshold = int(judge.get_delegated_role(role).threshold)


class Documents:
    """Reads and writes documents; a draft counts until its version was published.

    Args:
        folder: the repository's.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.published, self.staged = folder / "public" / "metadata", folder / "staged"

    def newest_path(self, role: str) -> Path | None:
        """File of what is published of a role."""
        if role == "timestamp":
            path = self.published / "timestamp.json"
            return path if path.is_file() else None
        found = {
            int(match[1]): path
            for path in self.published.glob(f"*.{role}.json")
            if (match := re.fullmatch(rf"(\d+)\.{role}\.json", path.name))
        }
        return found[max(found)] if found else None

    def newest(self, role: str) -> Document | None:
        """What is published of a role."""
        path = self.newest_path(role)
        return None if path is None else Metadata.from_bytes(path.read_bytes())

    def draft(self, role: str) -> Document | None:
        """What waits to be published of a role."""
        path = self.staged / f"{role}.json"
        if not path.is_file():
            return None
        draft: Document = Metadata.from_bytes(path.read_bytes())
        published = self.newest(role)
        waits = published is None or draft.signed.version > published.signed.version
        return draft if waits else None

    def latest(self, role: str) -> Document:
        """The draft, else what is published.

        Raises:
            RepositoryError: neither is there.
        """
        found = self.draft(role) or self.newest(role)
        if found is None:
            raise RepositoryError(f"{self.folder} has no {role}; was it copied in part?")
        return found

    def begin(self, role: str, now: datetime) -> Document:
        """A role's document to change: its draft without signatures, or the next version."""
        draft = self.draft(role)
        return roles.renewed(
            draft or self.latest(role), self.expiry(role, now), published=draft is None
        )

    def save_draft(self, role: str, draft: Document) -> None:
        """Keep a draft, with the signatures that it has."""
        write_whole(self.staged / f"{role}.json", draft.to_bytes())

    def put(self, role: str, document: Document) -> None:
        """Publish a document; what was published before it stays under its own version."""
        raw = document.to_bytes()
        name = role if role == "timestamp" else f"{document.signed.version}.{role}"
        write_whole(self.published / f"{name}.json", raw)
        if role == "root":
            write_whole(self.published / "root.json", raw)

    def drop_drafts(self) -> None:
        """Remove all drafts, published or not."""
        for path in self.staged.glob("*.json"):
            path.unlink()

    @property
    def root(self) -> Root:
        """The newest root, draft or published."""
        signed: Root = self.latest("root").signed
        return signed

    @property
    def listed(self) -> Targets:
        """The newest list of targets, draft or published."""
        signed: Targets = self.latest("targets").signed
        return signed

    def published_targets(self) -> dict[str, TargetFile]:
        """Indexes that devices are offered now, by their paths."""
        newest = (self.newest(role) for role in self.listing[1:])
        return {path: t for found in newest if found for path, t in found.signed.targets.items()}

    @property
    def online_adapters(self) -> bool:
        """Whether a server's key publishes adapters."""
        delegations = self.listed.delegations
        return delegations is not None and ADAPTERS in (delegations.roles or {})

    @property
    def listing(self) -> tuple[str, ...]:
        """Roles whose documents a snapshot pins, and the root before them."""
        return (*OFFLINE, ADAPTERS) if self.online_adapters else OFFLINE

    def expiry(self, role: str, now: datetime) -> datetime:
        """When a role's document ends that is signed now."""
        return roles.validity_of(self.root).expiry(role, now)

    def judge(self, role: str) -> Root | Targets:
        """The document that names the keys of a role."""
        return self.listed if role == ADAPTERS else self.root

    def eligible(self, role: str) -> set[str]:
        """Ids of keys whose signatures count under a role's draft."""
        judges = [self.judge(role)]
        if role == "root" and (published := self.newest("root")) is not None:
            judges.append(published.signed)
        return {keyid for judge in judges for keyid in judge.get_delegated_role(role).keyids}

    def missing(self, role: str) -> roles.Missing:
        """What a role's newest document lacks, also after the keys of its role changed."""
        previous = self.newest("root") if role == "root" and self.draft("root") else None
        return roles.missing(
            self.latest(role), role, self.judge(role), previous.signed if previous else None
        )

    def require_signed(self, role: str) -> None:
        """Refuse to publish what too few have signed.

        Raises:
            RepositoryError: with the names of those whose signatures would count.
        """
        lacks = self.missing(role)
        if lacks.count:
            whose = ", ".join(map(_named, lacks.holders))
            raise RepositoryError(
                f"{role} version {self.latest(role).signed.version} lacks {lacks.count} "
                f"signature(s), of any of {whose}; let them run 'locavore repo sign'"
            )

    def states(self) -> list[RoleState]:
        """How it stands with every role that has a document."""
        return [
            RoleState(
                role,
                self.latest(role),
                draft=self.draft(role) is not None,
                lacks=self.missing(role),
                judge=self.judge(role),
            )
            for role in (*self.listing, *ONLINE)
            if self.draft(role) or self.newest(role)
        ]


def _named(key: Key) -> str:
    return holder(key) if isinstance(key, SSlibKey) else key.keyid[:8]
