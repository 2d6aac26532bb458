"""Files that after a crash are the old ones or the new ones, and never in between."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import DistributionError

__all__ = ["lock_folder", "point_link", "sync_folder", "write_whole"]

_LOCK = "lock"


def write_whole(path: Path, raw: bytes) -> None:
    """Write a file so that after a crash there is the old one or the new one."""
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as stream:
        stream.write(raw)
        stream.flush()
        os.fsync(stream.fileno())
    temporary.replace(path)
    sync_folder(path.parent)  # the rename itself


def point_link(link: Path, target: str) -> None:
    """Let a symbolic link point to ``target``, relative to the link's folder, at one stroke."""
    temporary = link.with_name(f".{link.name}.tmp")
    temporary.unlink(missing_ok=True)
    temporary.symlink_to(target)
    temporary.replace(link)
    sync_folder(link.parent)


def sync_folder(folder: Path) -> None:
    """Put a folder's entries on disk: what was made, renamed or removed in it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Hold a folder for one writer, across threads and processes.

    Raises:
        DistributionError: another one has it.
    """
    handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DistributionError(
                f"another process works in {folder}; wait until it is done"
            ) from None
        yield
    finally:
        os.close(handle)
