"""An encrypted file of entries: SQLite in WAL mode, one writer, many readers.

- Every entry has its own data key, wrapped by the master; body and key are AES-256-GCM, bound to
  store, sort, version and hashed name.
- In clear are: row numbers, sorts (record, media, index, ...), versions, sizes, the header. Names,
  times, kinds, sources and everything else are not.
- One sealed state, written with every transaction, holds a digest over all entries and a count of
  changes; the count is mirrored outside (:mod:`.counter`).
- Deleted bytes are overwritten in the file (``secure_delete``), and the write-ahead log is cut off
  after every transaction that deleted something. What a flash drive keeps of overwritten blocks is
  out of reach; there it is the destroyed key that protects.
"""

from __future__ import annotations

import hashlib
import json
import os
import sqlite3
import struct
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ...shared.errors import BadInputError, TamperError, UnlockError, VaultError
from .counter import FileCounter, KeyringCounter
from .directory import Directory, Entry
from .entries import Sort
from .keys import Keyring, MasterKeys, Unlock, seal, unseal
from .migrations import MIGRATIONS, migrate, version
from .sqlite import DATABASE, clear_errors, connected, locked, remove

__all__ = ["SealedFile"]

_COUNTER = "counter"
_PAGES = 64  # rows read at a time while iterating
_INSERT = "INSERT INTO entries (id, sort, version, name, key, body) VALUES (?, ?, ?, ?, ?, ?)"


@dataclass(frozen=True)
class _State:
    """What is sealed under the master: small, and written with every transaction."""

    name_key: str
    identity: str
    count: int
    next_row: int
    digest: str


class SealedFile:
    """:class:`~.entries.Entries` in a folder, encrypted. Use :meth:`create` or :meth:`open`."""

    def __init__(self, folder: Path, connection: sqlite3.Connection, lock: int | None) -> None:
        self.folder, self._connection, self._lock = folder, connection, lock
        self.read_only = lock is None
        self._keys: MasterKeys
        self._state: _State
        self._name_key = b""
        self._directory = Directory()
        self._counters: list[FileCounter | KeyringCounter] = []
        self._undo: list[Callable[[], object]] | None = None
        self._deleted = False
        self._guard = threading.RLock()
        self._seen = -1  # SQLite's data_version of what was loaded

    @classmethod
    def create(cls, folder: Path, unlock: Unlock) -> SealedFile:
        """Make an empty store.

        Raises:
            BadInputError: there is one in that folder already.
            VaultError: the folder cannot be written to.
        """
        if (folder / DATABASE).exists():
            raise BadInputError(f"there is a vault in {folder} already")
        with clear_errors():
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
            lock = locked(folder)
            draft = folder / f"{DATABASE}.new"
            remove(draft)
            keys = MasterKeys.create(unlock, os.urandom(16))
            state = _State(
                name_key=os.urandom(32).hex(),
                identity=Ed25519PrivateKey.generate().private_bytes_raw().hex(),
                count=0,
                next_row=1,
                digest=Directory().digest(),
            )
            connection = sqlite3.connect(draft, isolation_level=None)
            migrate(connection)
            sealed = _seal_state(keys, state)
            connection.execute("INSERT INTO head VALUES (1, ?, ?)", (keys.header, sealed))
            connection.close()
            for counter in _counters(folder, keys, bytes.fromhex(state.name_key), unlock):
                counter.write(0)
            draft.rename(folder / DATABASE)  # half a vault never bears the name
            os.close(lock)
        return cls.open(folder, unlock)

    @classmethod
    def open(
        cls,
        folder: Path,
        unlock: Unlock,
        *,
        read_only: bool = False,
        accept_rollback: bool = False,
    ) -> SealedFile:
        """Unlock a store.

        Args:
            read_only: read beside another process that writes.
            accept_rollback: the copy is older than the last one, and that is meant (a backup).

        Raises:
            BadInputError: there is no vault.
            UnlockError: wrong passphrase or key.
            VaultBusyError: another process writes to it.
            TamperError: the file is damaged, changed, or older than its counter.
        """
        if not (folder / DATABASE).is_file():
            raise BadInputError(f"there is no vault in {folder}")
        lock = None if read_only else locked(folder)
        connection = None
        try:
            with clear_errors():
                connection = connected(folder, read_only=read_only)
                opened = cls(folder, connection, lock)
                if read_only and version(connection) != len(MIGRATIONS):
                    raise VaultError("the vault's layout is another; open it for writing once")
                if not read_only:
                    migrate(connection)
                opened._unlock(unlock, accept_rollback=accept_rollback)
        except BaseException:
            if connection is not None:
                connection.close()
            if lock is not None:
                os.close(lock)
            raise
        return opened

    @property
    def store_id(self) -> str:
        """Names this store."""
        return self._keys.store.hex()

    @property
    def identity(self) -> bytes:
        """Raw Ed25519 private key of this store."""
        return bytes.fromhex(self._state.identity)

    @property
    def revision(self) -> int:
        """How often the store changed."""
        with self._reading():
            return self._state.count

    @property
    def last_row(self) -> int:
        """The last row that was given out."""
        with self._reading():
            return self._state.next_row - 1

    @property
    def nbytes(self) -> int:
        """Size of all files together."""
        return sum(path.stat().st_size for path in self.folder.iterdir())

    @contextmanager
    def transaction(self) -> Iterator[SealedFile]:
        """Changes within the block are one; they are on disk when it ends.

        Raises:
            VaultError: opened for reading, the disk is full, or the file system refuses.
        """
        if self.read_only:
            raise VaultError("the vault was opened for reading only")
        with self._guard, clear_errors():
            if self._undo is not None:
                yield self
                return
            self._undo, before = [], self._state
            try:
                self._connection.execute("BEGIN IMMEDIATE")
                yield self
                self._state = replace(
                    self._state, count=self._state.count + 1, digest=self._directory.digest()
                )
                self._connection.execute(
                    "UPDATE head SET state = ?", (_seal_state(self._keys, self._state),)
                )
                self._connection.execute("COMMIT")
            except BaseException:
                for step in reversed(self._undo):
                    step()
                self._state = before
                if self._connection.in_transaction:
                    self._connection.execute("ROLLBACK")
                raise
            finally:
                self._undo = None
            for counter in self._counters:
                counter.write(self._state.count)
            if self._deleted:
                self._deleted = not self.sweep()

    def put(self, sort: Sort, name: str, payload: bytes, *, owner: str | None = None) -> None:
        """Write an entry, or its next version under the same key."""
        hashed = self._hashed(sort, name)
        entry = self._directory.get(hashed)
        if entry is None and owner is None:
            self.put_all(sort, [(name, payload)])
            return
        row = self._state.next_row if entry is None else entry.row
        fresh = Entry(row, sort, 1 if entry is None else entry.version + 1)
        binding = self._binding(fresh, hashed)
        if owner is not None:
            key, wrapped = self._owner_key(owner), b""
        else:
            key = self._data_key(hashed, entry)  # type: ignore[arg-type]  # owned or there
            wrapped = self._wrapped(key, binding)
        if entry is not None:
            self._connection.execute("DELETE FROM entries WHERE id = ?", (row,))
            self._deleted = True
        self._connection.execute(
            _INSERT, (row, sort, fresh.version, hashed, wrapped, seal(key, payload, binding))
        )
        if entry is None:
            self._state = replace(self._state, next_row=row + 1)
        self._note(hashed, entry)
        self._directory.put(hashed, fresh)

    def put_all(self, sort: Sort, items: Iterable[tuple[str, bytes]]) -> None:
        """Write new entries, each under a key of its own."""
        self._connection.executemany(_INSERT, self._sealed_rows(sort, items))

    def delete(self, sort: Sort, name: str) -> None:
        """Destroy an entry and its key."""
        hashed = self._hashed(sort, name)
        entry = self._directory.remove(hashed)
        self._note(hashed, entry)
        self._connection.execute("DELETE FROM entries WHERE id = ?", (entry.row,))
        self._deleted = True

    def clear(self) -> None:
        """Destroy every entry, and the master that opened them."""
        before, self._directory = self._directory, Directory()
        assert self._undo is not None
        self._undo.append(lambda: setattr(self, "_directory", before))
        self._connection.execute("DELETE FROM entries")
        self._deleted = True
        self._renew(self._keys.renewed())

    def holds(self, sort: Sort, name: str) -> bool:
        """Whether there is such an entry."""
        with self._reading():
            return self._hashed(sort, name) in self._directory

    def count(self, sort: Sort) -> int:
        """How many entries of a sort there are."""
        with self._reading():
            return len(self._directory.rows(sort))

    def get(self, sort: Sort, name: str, *, owner: str | None = None) -> bytes:
        """An entry's payload.

        Raises:
            KeyError: there is none.
            TamperError: it is not what was written.
        """
        with self._reading():
            hashed = self._hashed(sort, name)
            entry = self._directory.get(hashed)
            if entry is None:
                raise KeyError(name)
            found = self._connection.execute(
                "SELECT version, key, body FROM entries WHERE id = ?", (entry.row,)
            ).fetchone()
            key = self._owner_key(owner) if owner is not None else None
            return self._opened(entry, hashed, found, key)

    def all(self, sort: Sort, after: int = 0) -> Iterator[bytes]:
        """Payloads of a sort, in the order of their writing; fails as :meth:`get`."""
        with self._reading():
            found = self._directory.rows(sort)
            rows = [(row, found[row]) for row in sorted(found) if row > after]
        for start in range(0, len(rows), _PAGES):
            page = dict(rows[start : start + _PAGES])
            with self._reading():
                entries = [self._directory.get(name) for name in page.values()]
                lines = self._connection.execute(
                    "SELECT id, version, key, body FROM entries "
                    "WHERE sort = ? AND id BETWEEN ? AND ?",
                    (sort, min(page), max(page)),
                )
                bodies = {row: rest for row, *rest in lines}
                opened = [
                    self._opened(entry, page[entry.row], bodies.get(entry.row))
                    for entry in entries
                    if entry is not None  # deleted since
                ]
            yield from opened

    def rekey(self, unlock: Unlock) -> None:
        """Change the passphrase or key: a new master, and every data key wrapped anew by it."""
        with self.transaction():
            self._renew(self._keys.renewed(unlock))
            self._deleted = True
        self._counters = _counters(self.folder, self._keys, self._name_key, unlock)
        for counter in self._counters:
            counter.write(self._state.count)

    def check(self) -> int:
        """Read and authenticate everything; returns how many entries there are.

        Raises:
            TamperError: something is not what was written.
        """
        with self._guard, clear_errors():
            self._load()
            damage = self._connection.execute("PRAGMA integrity_check(1)").fetchone()[0]
            if damage != "ok":
                raise TamperError(f"the vault's file is damaged: {damage}")
            for sort in Sort:
                if sort not in (Sort.MEDIA, Sort.CONCEPT):  # read with the records that own them
                    for _ in self.all(sort):
                        pass
            return len(self._directory.names())

    def sweep(self) -> bool:
        """Cut the write-ahead log off; returns whether no reader stood in the way."""
        busy = self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0]
        return not busy

    def close(self) -> None:
        """Let go of files and keys."""
        with self._guard:
            self._connection.close()
            if self._lock is not None:
                os.close(self._lock)
                self._lock = None
            self._directory = Directory()
            self._keys = None  # type: ignore[assignment]

    def _unlock(self, unlock: Unlock, *, accept_rollback: bool) -> None:
        header = self._connection.execute("SELECT header FROM head").fetchone()
        if header is None:
            raise TamperError("the vault's header is gone")
        self._keys = MasterKeys.open(unlock, header[0])
        self._load()
        self._counters = _counters(self.folder, self._keys, self._name_key, unlock)
        mirrored = [counter.read() for counter in self._counters]
        known = [count for count in mirrored if count is not None]
        if self.read_only and self._state.count < max(known, default=0):
            self._load()  # the writer went on between the two readings; the file runs ahead
        if not accept_rollback:
            if len(known) < len(mirrored):
                raise TamperError(
                    "the vault's counter is gone or was changed, so an old copy could not be told "
                    "from the last one; if you restored a backup, open it with accept_rollback"
                )
            if self._state.count < max(known):
                raise TamperError(
                    f"the vault is at change {self._state.count}, its counter at {max(known)}: an "
                    "older copy was put back; if that was you, open it with accept_rollback"
                )
        if not self.read_only:
            if accept_rollback:
                ahead = max([self._state.count, *known])
                self._state = replace(self._state, count=ahead)
                with self.transaction():
                    pass
            for counter in self._counters:
                counter.write(self._state.count)

    def _load(self) -> None:
        """Read state and directory in one snapshot, and compare them."""
        outer = self._connection.in_transaction
        if not outer:
            self._connection.execute("BEGIN")
        try:
            self._seen = self._connection.execute("PRAGMA data_version").fetchone()[0]
            sealed = self._connection.execute("SELECT state FROM head").fetchone()[0]
            directory = Directory()
            for row, sort, number, name in self._connection.execute(
                "SELECT id, sort, version, name FROM entries ORDER BY id"
            ):
                directory.put(name, Entry(row, sort, number))
        finally:
            if not outer:
                self._connection.execute("COMMIT")
        try:
            self._state = _open_state(self._keys, sealed)
        except TamperError:
            if self.read_only:
                raise UnlockError("the vault's key was changed meanwhile; open it again") from None
            raise
        if directory.digest() != self._state.digest:
            raise TamperError("entries of the vault were added, removed or put back from outside")
        self._directory, self._name_key = directory, bytes.fromhex(self._state.name_key)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        """One snapshot; a reader first takes in what the writer did."""
        with self._guard, clear_errors():
            if not self.read_only or self._connection.in_transaction:
                yield
                return
            self._connection.execute("BEGIN")
            try:
                self._connection.execute("SELECT 1 FROM head").fetchone()  # takes the snapshot
                if self._connection.execute("PRAGMA data_version").fetchone()[0] != self._seen:
                    self._load()
                yield
            finally:
                self._connection.execute("COMMIT")

    def _sealed_rows(
        self, sort: Sort, items: Iterable[tuple[str, bytes]]
    ) -> Iterator[tuple[int, int, int, bytes, bytes, bytes]]:
        wrap, urandom, hash_ = self._keys.wrap.encrypt, os.urandom, hashlib.blake2b
        directory, name_key, first_letter = self._directory, self._name_key, bytes([sort])
        prefix = self._keys.store + struct.pack(">BQ", sort, 1)
        row = self._state.next_row
        added: list[bytes] = []
        assert self._undo is not None
        self._undo.append(lambda: [directory.remove(hashed) for hashed in added])
        for name, payload in items:
            hashed = hash_(first_letter + name.encode(), key=name_key, digest_size=16).digest()
            if hashed in directory:
                raise BadInputError(f"there is an entry {name!r} already")
            binding, random = prefix + hashed, urandom(56)
            key, first, second = random[:32], random[32:44], random[44:]
            added.append(hashed)
            directory.put(hashed, Entry(row, sort, 1))
            yield (
                row,
                sort,
                1,
                hashed,
                first + wrap(first, key, binding),
                second + AESGCM(key).encrypt(second, payload, binding),
            )
            row += 1
        self._state = replace(self._state, next_row=row)

    def _note(self, hashed: bytes, before: Entry | None) -> None:
        assert self._undo is not None
        if before is None:
            self._undo.append(lambda: self._directory.remove(hashed))
        else:
            self._undo.append(lambda: self._directory.put(hashed, before))

    def _renew(self, keys: MasterKeys) -> None:
        """Wrap every data key by another master; undone with the transaction."""
        assert self._undo is not None
        before = self._keys

        def rewrapped() -> Iterator[tuple[bytes, int]]:
            for row, sort, number, name, wrapped in self._connection.execute(
                "SELECT id, sort, version, name, key FROM entries WHERE length(key) > 0"
            ).fetchall():
                binding = self._binding(Entry(row, sort, number), name)
                nonce = os.urandom(12)
                key = self._unwrapped(wrapped, binding)
                yield nonce + keys.wrap.encrypt(nonce, key, binding), row

        self._connection.executemany("UPDATE entries SET key = ? WHERE id = ?", rewrapped())
        self._connection.execute("UPDATE head SET header = ?", (keys.header,))
        self._keys = keys
        self._undo.append(lambda: setattr(self, "_keys", before))

    def _hashed(self, sort: int, name: str) -> bytes:
        data = bytes([sort]) + name.encode()
        return hashlib.blake2b(data, key=self._name_key, digest_size=16).digest()

    def _binding(self, entry: Entry, hashed: bytes) -> bytes:
        return self._keys.store + struct.pack(">BQ", entry.sort, entry.version) + hashed

    def _wrapped(self, key: bytes, binding: bytes) -> bytes:
        nonce = os.urandom(12)
        return nonce + self._keys.wrap.encrypt(nonce, key, binding)

    def _unwrapped(self, wrapped: bytes, binding: bytes) -> bytes:
        try:
            return self._keys.wrap.decrypt(wrapped[:12], wrapped[12:], binding)
        except (InvalidTag, ValueError):
            raise TamperError("a key in the vault is not what was written") from None

    def _data_key(self, hashed: bytes, entry: Entry) -> bytes:
        found = self._connection.execute(
            "SELECT key FROM entries WHERE id = ?", (entry.row,)
        ).fetchone()
        if found is None:
            raise TamperError("an entry of the vault is gone")
        return self._unwrapped(found[0], self._binding(entry, hashed))

    def _owner_key(self, owner: str) -> bytes:
        hashed = self._hashed(Sort.RECORD, owner)
        entry = self._directory.get(hashed)
        if entry is None:
            raise KeyError(owner)
        return self._data_key(hashed, entry)

    def _opened(
        self,
        entry: Entry,
        hashed: bytes,
        found: tuple[int, bytes, bytes] | list[object] | None,
        key: bytes | None = None,
    ) -> bytes:
        if found is None:
            raise TamperError("an entry of the vault is gone")
        number, wrapped, body = found
        binding = self._binding(entry, hashed)
        if number != entry.version:
            raise TamperError("an entry of the vault was put back from an older copy")
        if key is None:
            key = self._unwrapped(wrapped, binding)  # type: ignore[arg-type]
        try:
            return AESGCM(key).decrypt(body[:12], body[12:], binding)  # type: ignore[index]
        except (InvalidTag, ValueError):
            raise TamperError("an entry of the vault is not what was written") from None


def _seal_state(keys: MasterKeys, state: _State) -> bytes:
    return seal(keys.state, json.dumps(asdict(state)).encode(), keys.store + b"state")


def _open_state(keys: MasterKeys, sealed: bytes) -> _State:
    return _State(**json.loads(unseal(keys.state, sealed, keys.store + b"state")))


def _counters(
    folder: Path, keys: MasterKeys, name_key: bytes, unlock: Unlock
) -> list[FileCounter | KeyringCounter]:
    key = hashlib.blake2b(b"counter", key=name_key).digest()  # outlives the master
    found: list[FileCounter | KeyringCounter] = [FileCounter(folder / _COUNTER, key)]
    if isinstance(unlock, Keyring):
        found.append(KeyringCounter(unlock, keys.store.hex()))
    return found
