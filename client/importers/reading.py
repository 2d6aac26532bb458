"""What every reader shares: what it is told, and how a record gets an id that lasts."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ...shared.contexts import Consent, Provenance

__all__ = ["Reading"]

MAX_BYTES = 64 << 20  # of one file that becomes one record


@dataclass(frozen=True, kw_only=True)
class Reading:
    """How a source is read.

    Args:
        consent: what its records may be used for.
        me: mail addresses of the person; only what they sent is taken from mail.
        root: folder to which the records' ``uri`` is relative.
        skipped: told of each file or message that is left out, and why.
    """

    consent: Consent = field(default_factory=lambda: Consent(retrieve=True))
    me: frozenset[str] = frozenset()
    root: Path | None = None
    skipped: Callable[[str, str], None] = lambda _what, _why: None

    def uri(self, path: Path) -> str:
        """The path, relative to the root where it lies in it."""
        if self.root is not None and path.is_relative_to(self.root):
            return path.relative_to(self.root).as_posix()
        return path.name

    def common(
        self, source: str, uri: str, content: str | bytes, time: datetime | None
    ) -> dict[str, Any]:
        """Fields that every record has. The id is that of the content: it is not read twice."""
        raw = content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content
        digest = hashlib.sha256(f"{source}\n{uri}\n".encode("utf-8", "surrogatepass") + raw)
        return {
            "id": digest.hexdigest()[:32],
            "time": _with_zone(time) if time is not None else datetime.now(UTC),
            "consent": self.consent,
            "provenance": Provenance(source=source, uri=uri),
        }

    def bytes_of(self, path: Path) -> bytes | None:
        """A file's content, unless it is too long for one record."""
        size = path.stat().st_size
        if size > MAX_BYTES:
            self.skipped(str(path), f"{size} bytes are more than {MAX_BYTES}")
            return None
        return path.read_bytes()


def changed(path: Path) -> datetime:
    """When a file was last changed."""
    return datetime.fromtimestamp(path.stat().st_mtime, UTC)


def _with_zone(time: datetime) -> datetime:
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)
