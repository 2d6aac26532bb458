"""Entries: one contract for both stores; and what only the encrypted file promises."""

from __future__ import annotations

import os
import resource
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from locavore.client.vault.counter import FileCounter
from locavore.client.vault.entries import Entries, Sort
from locavore.client.vault.file import SealedFile
from locavore.client.vault.keys import Hardness, Key, Keyring, Passphrase
from locavore.client.vault.memory import MemoryFile
from locavore.client.vault.migrations import MIGRATIONS
from locavore.shared.errors import (
    BadInputError,
    TamperError,
    UnlockError,
    VaultBusyError,
    VaultError,
)

KEY = Key(b"k" * 32)
QUICK = Hardness(memory=64, iterations=1, lanes=1)


@pytest.fixture(params=["memory", "sealed"])
def entries(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Entries]:
    made: Entries = (
        MemoryFile() if request.param == "memory" else SealedFile.create(tmp_path / "v", KEY)
    )
    yield made
    made.close()


class TestEntries:
    """What holds for every store of entries."""

    def test_what_is_put_can_be_got(self, entries: Entries) -> None:
        with entries.transaction() as batch:
            batch.put(Sort.RECORD, "a", b"one")
            batch.put(Sort.SETTING, "a", b"two")
            batch.put_all(Sort.RECORD, [("b", b""), ("c", b"\0" * 9999)])
        assert entries.get(Sort.RECORD, "a") == b"one"
        assert entries.get(Sort.SETTING, "a") == b"two"
        assert list(entries.all(Sort.RECORD)) == [b"one", b"", b"\0" * 9999]
        assert entries.count(Sort.RECORD) == 3
        assert entries.holds(Sort.RECORD, "b")
        assert not entries.holds(Sort.MEDIA, "b")

    def test_what_is_put_again_is_replaced(self, entries: Entries) -> None:
        for value in (b"1", b"22", b"333"):
            with entries.transaction() as batch:
                batch.put(Sort.SETTING, "x", value)
        assert entries.get(Sort.SETTING, "x") == b"333"
        assert entries.count(Sort.SETTING) == 1

    def test_what_is_deleted_is_gone(self, entries: Entries) -> None:
        with entries.transaction() as batch:
            batch.put(Sort.RECORD, "a", b"one")
        with entries.transaction() as batch:
            batch.delete(Sort.RECORD, "a")
        assert not entries.holds(Sort.RECORD, "a")
        with pytest.raises(KeyError):
            entries.get(Sort.RECORD, "a")
        with pytest.raises(KeyError), entries.transaction() as batch:
            batch.delete(Sort.RECORD, "a")

    def test_a_failed_transaction_leaves_nothing(self, entries: Entries) -> None:
        with entries.transaction() as batch:
            batch.put(Sort.RECORD, "kept", b"1")
        revision = entries.revision
        with pytest.raises(ZeroDivisionError), entries.transaction() as batch:
            batch.put(Sort.RECORD, "kept", b"2")
            batch.put_all(Sort.RECORD, [("new", b"3")])
            batch.delete(Sort.RECORD, "kept")
            with entries.transaction() as inner:
                inner.clear()
            raise ZeroDivisionError
        assert list(entries.all(Sort.RECORD)) == [b"1"]
        assert entries.get(Sort.RECORD, "kept") == b"1"
        assert entries.revision == revision
        with entries.transaction() as batch:
            batch.put(Sort.RECORD, "new", b"4")
        assert list(entries.all(Sort.RECORD)) == [b"1", b"4"]

    def test_rows_grow(self, entries: Entries) -> None:
        with entries.transaction() as batch:
            batch.put_all(Sort.RECORD, [("a", b"a"), ("b", b"b")])
        middle = entries.last_row
        with entries.transaction() as batch:
            batch.delete(Sort.RECORD, "b")
            batch.put(Sort.RECORD, "c", b"c")
        assert entries.last_row > middle
        assert list(entries.all(Sort.RECORD, middle)) == [b"c"]

    def test_owned_entries(self, entries: Entries) -> None:
        with entries.transaction() as batch:
            batch.put(Sort.RECORD, "r", b"record")
            batch.put(Sort.MEDIA, "0/r", b"medium", owner="r")
        assert entries.get(Sort.MEDIA, "0/r", owner="r") == b"medium"

    def test_clear(self, entries: Entries) -> None:
        with entries.transaction() as batch:
            batch.put_all(Sort.RECORD, [("a", b"a"), ("b", b"b")])
        with entries.transaction() as batch:
            batch.clear()
            batch.put(Sort.CERTIFICATE, "0", b"said")
        assert entries.count(Sort.RECORD) == 0
        assert entries.get(Sort.CERTIFICATE, "0") == b"said"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A closed store with a few entries."""
    file = SealedFile.create(tmp_path / "v", KEY)
    with file.transaction() as batch:
        batch.put_all(Sort.RECORD, ((f"r{i}", f"record {i}".encode()) for i in range(40)))
        batch.put(Sort.MEDIA, "0/r1", b"medium" * 99, owner="r1")
    with file.transaction() as batch:
        batch.put(Sort.SETTING, "s", b"setting")
    file.close()
    return tmp_path / "v"


def reopened(folder: Path) -> SealedFile:
    return SealedFile.open(folder, KEY)


def test_it_reopens(folder: Path) -> None:
    file = reopened(folder)
    assert file.get(Sort.RECORD, "r7") == b"record 7"
    assert file.get(Sort.MEDIA, "0/r1", owner="r1") == b"medium" * 99
    assert file.count(Sort.RECORD) == 40
    assert file.check() == 42
    file.close()


def test_closing_leaves_only_the_file_its_counter_and_its_lock(folder: Path) -> None:
    assert {path.name for path in folder.iterdir()} == {"vault.db", "counter", "lock"}
    assert all(
        path.stat().st_mode & 0o077 == 0 for path in folder.iterdir() if path.name != "vault.db"
    )
    assert folder.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("wrong", [Passphrase("wrong", QUICK), Key(b"x" * 32)])
def test_wrong_keys_get_one_answer(wrong: Passphrase | Key, tmp_path: Path) -> None:
    for name, right in (("a", Passphrase("right", QUICK)), ("b", KEY)):
        SealedFile.create(tmp_path / name, right).close()
        with pytest.raises(UnlockError, match=r"^the vault does not open: wrong passphrase or key"):
            SealedFile.open(tmp_path / name, wrong)


@pytest.mark.parametrize(
    "change",
    [
        lambda header: header.replace('"iterations": 1', '"iterations": 2'),
        lambda header: header.replace('"memory": 64', '"memory": 99999999999'),
        lambda header: header[:-9] + ("0" if header[-9] != "0" else "1") + header[-8:],
        lambda header: "{}",
        lambda header: "",
    ],
)
def test_a_changed_header_opens_nothing(change: Callable[[str], str], tmp_path: Path) -> None:
    SealedFile.create(tmp_path / "v", Passphrase("right", QUICK)).close()
    with sqlite3.connect(tmp_path / "v" / "vault.db") as raw:
        (header,) = raw.execute("SELECT header FROM head").fetchone()
        raw.execute("UPDATE head SET header = ?", (change(header),))
    raw.close()
    with pytest.raises(UnlockError, match="wrong passphrase or key, or its header was changed"):
        SealedFile.open(tmp_path / "v", Passphrase("right", QUICK))


def test_a_second_writer_is_refused_and_a_reader_is_not(folder: Path) -> None:
    writer = reopened(folder)
    with pytest.raises(VaultBusyError, match="another process writes"):
        reopened(folder)
    reader = SealedFile.open(folder, KEY, read_only=True)
    with pytest.raises(VaultError, match="for reading only"), reader.transaction():
        pass
    before = reader.revision
    with writer.transaction() as batch:
        batch.put(Sort.RECORD, "fresh", b"new")
        batch.delete(Sort.RECORD, "r0")
    assert reader.get(Sort.RECORD, "fresh") == b"new"
    assert not reader.holds(Sort.RECORD, "r0")
    assert reader.revision == before + 1
    writer.rekey(Key(b"n" * 32))
    with pytest.raises(UnlockError, match="changed meanwhile"):
        reader.get(Sort.RECORD, "fresh")
    reader.close()
    writer.close()


def test_rekey_changes_keys_and_nothing_else(folder: Path) -> None:
    file = reopened(folder)
    database = folder / "vault.db"
    with sqlite3.connect(database) as raw:
        before = raw.execute("SELECT body, key FROM entries ORDER BY id").fetchall()
    raw.close()
    file.rekey(Passphrase("new", QUICK))
    file.close()
    with sqlite3.connect(database) as raw:
        after = raw.execute("SELECT body, key FROM entries ORDER BY id").fetchall()
    raw.close()
    assert [body for body, _ in after] == [body for body, _ in before]
    assert not {key for _, key in after if key} & {key for _, key in before}
    with pytest.raises(UnlockError):
        reopened(folder)
    again = SealedFile.open(folder, Passphrase("new", QUICK))
    assert again.check() == 42
    again.close()


def raw_change(folder: Path, *statements: str) -> None:
    connection = sqlite3.connect(folder / "vault.db")
    with connection:
        for statement in statements:
            connection.execute(statement)
    connection.close()


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM entries WHERE id = 7",
        "UPDATE entries SET version = 2 WHERE id = 7",
        "UPDATE entries SET id = 999 WHERE id = 7",
        "UPDATE entries SET sort = 8 WHERE id = 7",
        "UPDATE entries SET name = x'00' WHERE id = 7",
        "INSERT INTO entries SELECT 999, sort, version, x'01', key, body FROM entries WHERE id = 7",
        "UPDATE head SET state = zeroblob(200)",
        "DELETE FROM head",
    ],
)
def test_a_changed_set_of_entries_is_noticed_at_once(statement: str, folder: Path) -> None:
    raw_change(folder, statement)
    with pytest.raises(TamperError):
        reopened(folder)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET body = (SELECT body FROM entries WHERE id = 8) WHERE id = 7",
        "UPDATE entries SET key = (SELECT key FROM entries WHERE id = 8), "
        "body = (SELECT body FROM entries WHERE id = 8) WHERE id = 7",
        "UPDATE entries SET body = substr(body, 1, length(body) - 1) WHERE id = 7",
        "UPDATE entries SET body = x'' WHERE id = 7",
        "UPDATE entries SET key = zeroblob(60) WHERE id = 7",
    ],
)
def test_changed_bytes_are_noticed_when_read(statement: str, folder: Path) -> None:
    raw_change(folder, statement)
    file = reopened(folder)
    with pytest.raises(TamperError, match="not what was written"):
        file.get(Sort.RECORD, "r6")
    with pytest.raises(TamperError):
        file.check()
    assert file.get(Sort.RECORD, "r7" if "id = 8" not in statement else "r9")
    file.close()


def test_every_flipped_byte_of_every_body_and_key_is_noticed(folder: Path) -> None:
    connection = sqlite3.connect(folder / "vault.db")
    key, body = connection.execute("SELECT key, body FROM entries WHERE id = 7").fetchone()
    for column, value in (("key", key), ("body", body)):
        for place in range(len(value)):
            bad = value[:place] + bytes([value[place] ^ 1]) + value[place + 1 :]
            connection.execute(f"UPDATE entries SET {column} = ? WHERE id = 7", (bad,))
            connection.commit()
            file = reopened(folder)
            with pytest.raises(TamperError):
                file.get(Sort.RECORD, "r6")
            file.close()
        connection.execute(f"UPDATE entries SET {column} = ? WHERE id = 7", (value,))
        connection.commit()
    connection.close()


def test_an_older_version_of_an_entry_cannot_be_put_back(folder: Path) -> None:
    file = reopened(folder)
    connection = sqlite3.connect(folder / "vault.db")
    old = connection.execute("SELECT * FROM entries WHERE sort = 8").fetchone()
    with file.transaction() as batch:
        batch.put(Sort.SETTING, "s", b"newer")
    file.close()
    connection.execute("DELETE FROM entries WHERE sort = 8")
    connection.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?)", old)
    connection.commit()
    connection.close()
    with pytest.raises(TamperError, match="added, removed or put back"):
        reopened(folder)


def test_an_older_copy_of_the_whole_file_is_noticed(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "vault.db", tmp_path / "old")
    file = reopened(folder)
    with file.transaction() as batch:
        batch.delete(Sort.RECORD, "r0")
    file.close()
    shutil.copy(tmp_path / "old", folder / "vault.db")
    with pytest.raises(TamperError, match="an older copy was put back"):
        reopened(folder)
    with pytest.raises(TamperError, match="an older copy was put back"):
        SealedFile.open(folder, KEY, read_only=True)
    restored = SealedFile.open(folder, KEY, accept_rollback=True)
    assert restored.holds(Sort.RECORD, "r0")
    restored.close()
    reopened(folder).close()  # and is the current one from then on


@pytest.mark.parametrize("change", ["gone", "forged", "empty"])
def test_a_missing_or_forged_counter_is_noticed(change: str, folder: Path) -> None:
    counter = folder / "counter"
    if change == "gone":
        counter.unlink()
    else:
        counter.write_bytes(b"" if change == "empty" else os.urandom(128))
    with pytest.raises(TamperError, match="counter is gone or was changed"):
        reopened(folder)
    SealedFile.open(folder, KEY, accept_rollback=True).close()
    reopened(folder).close()


def test_a_torn_counter_leaves_the_one_before(tmp_path: Path) -> None:
    counter = FileCounter(tmp_path / "counter", b"key")
    for count in range(5):
        counter.write(count)
    raw = bytearray(counter.path.read_bytes())
    raw[3] ^= 1  # the slot of 4
    counter.path.write_bytes(raw)
    assert counter.read() == 3


@pytest.mark.parametrize("kept", [0, 100, 4096, 9000])
def test_a_truncated_file_is_noticed(kept: int, folder: Path) -> None:
    os.truncate(folder / "vault.db", kept)
    with pytest.raises((TamperError, VaultError)):
        reopened(folder)


def test_a_damaged_page_is_a_clear_error(folder: Path) -> None:
    raw = bytearray((folder / "vault.db").read_bytes())
    raw[4096 * 2 : 4096 * 3] = b"\xff" * 4096
    (folder / "vault.db").write_bytes(raw)
    with pytest.raises(TamperError):
        file = reopened(folder)
        file.check()


def test_a_full_disk_loses_nothing(folder: Path) -> None:
    file = reopened(folder)
    pages = file._connection.execute("PRAGMA page_count").fetchone()[0]
    file._connection.execute(f"PRAGMA max_page_count = {pages + 2}")
    refused = pytest.raises(VaultError, match="nothing was stored: database or disk is full")
    with refused, file.transaction() as batch:
        batch.put(Sort.RECORD, "big", os.urandom(100_000))
    assert not file.holds(Sort.RECORD, "big")
    assert file.check() == 42
    file._connection.execute("PRAGMA max_page_count = 1000000")
    with file.transaction() as batch:
        batch.put(Sort.RECORD, "big", b"fits now")
    file.close()
    assert reopened(folder).check() == 43


def test_a_write_that_the_system_cuts_short_loses_nothing(folder: Path) -> None:
    file = reopened(folder)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))  # files cannot grow beyond
    try:
        refused = pytest.raises(VaultError, match="nothing was stored: disk I/O error")
        with refused, file.transaction() as batch:
            batch.put(Sort.RECORD, "big", os.urandom(1_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not file.holds(Sort.RECORD, "big")
    assert file.check() == 42
    with file.transaction() as batch:
        batch.put(Sort.RECORD, "big", os.urandom(1_000_000))
    file.close()
    again = reopened(folder)
    assert again.check() == 43
    again.close()


def test_a_file_system_that_became_read_only(folder: Path) -> None:
    file = reopened(folder)
    file._connection.execute("PRAGMA query_only = ON")  # SQLite answers as for a read-only one
    refused = pytest.raises(VaultError, match="nothing was stored: attempt to write a readonly")
    with refused, file.transaction() as batch:
        batch.put(Sort.RECORD, "x", b"x")
    assert file.check() == 42
    file.close()


def test_layouts_from_blank_and_from_the_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = "locavore.client.vault.migrations.MIGRATIONS"
    with monkeypatch.context() as patch:
        patch.setattr(module, MIGRATIONS[:1])
        old = SealedFile.create(tmp_path / "old", KEY)
        with old.transaction() as batch:
            batch.put(Sort.RECORD, "a", b"from the first layout")
        old.close()
    SealedFile.create(tmp_path / "new", KEY).close()
    with pytest.raises(VaultError, match="open it for writing once"):
        SealedFile.open(tmp_path / "old", KEY, read_only=True)
    moved = reopened(tmp_path / "old")
    assert moved.get(Sort.RECORD, "a") == b"from the first layout"
    moved.close()
    layouts = []
    for name in ("old", "new"):
        connection = sqlite3.connect(tmp_path / name / "vault.db")
        layouts.append(connection.execute("SELECT sql FROM sqlite_master ORDER BY name").fetchall())
        connection.close()
    assert layouts[0] == layouts[1]


def test_a_newer_layout_is_refused(folder: Path) -> None:
    raw_change(folder, f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    with pytest.raises(VaultError, match="install a newer locavore"):
        reopened(folder)


def test_there_is_one_vault_a_folder(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="there is a vault in"):
        SealedFile.create(folder, KEY)
    with pytest.raises(BadInputError, match="there is no vault in"):
        reopened(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("make", "problem"),
    [
        (lambda: Passphrase(""), "the passphrase is empty"),
        (lambda: Key(b"short"), "a key has 32 bytes, got 5"),
        (lambda: Hardness(memory=1), "memory must be 32.."),
        (lambda: Hardness(iterations=0), "iterations and lanes must be at least 1"),
    ],
)
def test_bad_keys(make: Callable[[], object], problem: str) -> None:
    with pytest.raises(BadInputError, match=problem):
        make()


def test_secrets_do_not_show_in_reprs() -> None:
    assert "secret" not in repr(Passphrase("secret"))
    assert "kkkk" not in repr(KEY)


def test_a_keyring_keeps_key_and_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    keyring = pytest.importorskip("keyring", reason="needs the extra 'keyring'")
    from keyring.backend import KeyringBackend

    class Kept(KeyringBackend):  # type: ignore[misc]
        priority = 1
        values: dict[tuple[str, str], str]

        def __init__(self) -> None:
            super().__init__()
            self.values = {}

        def get_password(self, service: str, username: str) -> str | None:
            return self.values.get((service, username))

        def set_password(self, service: str, username: str, password: str) -> None:
            self.values[service, username] = password

    backend, before = Kept(), keyring.get_keyring()
    keyring.set_keyring(backend)
    try:
        unlock = Keyring("ann")
        file = SealedFile.create(tmp_path / "v", unlock)
        shutil.copytree(tmp_path / "v", tmp_path / "old")
        with file.transaction() as batch:
            batch.put(Sort.RECORD, "a", b"1")
        file.close()
        # The whole folder is put back, with its counter: the keyring still knows better.
        shutil.rmtree(tmp_path / "v")
        (tmp_path / "old").rename(tmp_path / "v")
        with pytest.raises(TamperError, match="an older copy was put back"):
            SealedFile.open(tmp_path / "v", unlock)
        with pytest.raises(UnlockError, match="holds no key for 'bob'"):
            SealedFile.open(tmp_path / "v", Keyring("bob"))
        SealedFile.open(tmp_path / "v", unlock, accept_rollback=True).close()
    finally:
        keyring.set_keyring(before)
