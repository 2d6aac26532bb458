"""The file's layout, as numbered steps. A step that was released never changes."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable

from ...shared.errors import VaultError

__all__ = ["MIGRATIONS", "migrate", "version"]


def _1_entries(connection: sqlite3.Connection) -> None:
    connection.execute(
        "CREATE TABLE head (id INTEGER PRIMARY KEY CHECK (id = 1), header TEXT NOT NULL, "
        "state BLOB NOT NULL)"
    )
    connection.execute(
        "CREATE TABLE entries (id INTEGER PRIMARY KEY, sort INTEGER NOT NULL, "
        "version INTEGER NOT NULL, name BLOB NOT NULL, key BLOB NOT NULL, body BLOB NOT NULL)"
    )


def _2_directory(connection: sqlite3.Connection) -> None:
    # Covers what unlocking reads, so that it need not go through the bodies.
    connection.execute("CREATE INDEX directory ON entries (id, sort, version, name)")


MIGRATIONS: tuple[Callable[[sqlite3.Connection], None], ...] = (_1_entries, _2_directory)


def version(connection: sqlite3.Connection) -> int:
    """How many steps were applied to this file."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def migrate(connection: sqlite3.Connection) -> None:
    """Apply the steps that are missing, each in a transaction of its own.

    Raises:
        VaultError: the file was made by a newer version.
    """
    applied = version(connection)
    if applied > len(MIGRATIONS):
        raise VaultError(
            f"the vault has layout {applied}, this version knows {len(MIGRATIONS)}; "
            "install a newer locavore"
        )
    for number, step in enumerate(MIGRATIONS[applied:], applied + 1):
        connection.execute("BEGIN IMMEDIATE")
        step(connection)
        connection.execute(f"PRAGMA user_version = {number}")
        connection.execute("COMMIT")
