"""SQLite as the vault uses it: connections, the writer's lock, and errors said in our words."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ...shared.errors import TamperError, VaultBusyError, VaultError

__all__ = ["DATABASE", "clear_errors", "connected", "locked", "remove"]

DATABASE, _LOCK = "vault.db", "lock"


def connected(folder: Path, *, read_only: bool) -> sqlite3.Connection:
    """A connection to a vault's file, set up so that deleted bytes are overwritten."""
    database = (folder / DATABASE).resolve()
    mode = "rw"
    if read_only:
        alone = not os.access(folder, os.W_OK) and not Path(f"{database}-wal").exists()
        mode = "ro&immutable=1" if alone else "ro"
    connection = sqlite3.connect(
        f"{database.as_uri()}?mode={mode}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
        timeout=5,
    )
    for pragma in ("temp_store = MEMORY", "trusted_schema = OFF", "cell_size_check = ON"):
        connection.execute(f"PRAGMA {pragma}")
    if not read_only:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA secure_delete = ON")
    return connection


def locked(folder: Path) -> int:
    """The lock of the one writer; closing it lets go.

    Raises:
        VaultBusyError: another process has it.
        VaultError: the folder cannot be written to.
    """
    try:
        handle = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError as error:
        raise VaultError(f"the vault in {folder} cannot be written to: {error.strerror}") from None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise VaultBusyError(
            f"another process writes to the vault in {folder}; close it, or open this one with "
            "read_only"
        ) from None
    return handle


def remove(draft: Path) -> None:
    """Remove a database that was not finished."""
    for suffix in ("", "-wal", "-shm", "-journal"):
        Path(f"{draft}{suffix}").unlink(missing_ok=True)


@contextmanager
def clear_errors() -> Iterator[None]:
    """SQLite's and the system's errors as ours."""
    try:
        yield
    except sqlite3.OperationalError as error:
        raise VaultError(f"nothing was stored: {error}") from None
    except sqlite3.DatabaseError as error:
        raise TamperError(f"the vault's file is damaged: {error}") from None
    except OSError as error:
        raise VaultError(f"the vault's files cannot be used: {error}") from None
