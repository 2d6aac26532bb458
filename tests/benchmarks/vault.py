"""The vault against plain SQLite and against encrypted SQLite builds, side by side.

python -m tests.benchmarks vault [--quick]
"""

from __future__ import annotations

import importlib
import os
import sqlite3
import statistics
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from locavore.client.retrieval import Retriever, Segment
from locavore.client.retrieval.segment import Vectors
from locavore.client.vault.codec import kind_of
from locavore.client.vault.entries import Sort
from locavore.client.vault.file import SealedFile
from locavore.client.vault.keys import Key, Passphrase
from locavore.client.vault.vault import Vault
from locavore.shared.contexts import Consent, UserDocument

from .report import Goal, Options, Report, format_table, machine_line

_SIZE, _DIM = 700, 384
_WORDS = [f"{a}{b}{c}" for a in "bdfklmnprst" for b in "aeiou" for c in ("r", "n", "st", "lk", "p")]
Ids = Sequence[str]


class _Sql:
    """A table of named bodies, in any module with sqlite3's interface."""

    def __init__(self, module: Any, folder: Path, key: str) -> None:
        self.connection = module.connect(str(folder / "peer.db"), isolation_level=None)
        for pragma in (key, "journal_mode = WAL", "synchronous = FULL", "secure_delete = ON"):
            if pragma:
                self.connection.execute(f"PRAGMA {pragma}").fetchall()
        self.connection.execute(
            "CREATE TABLE IF NOT EXISTS r (id INTEGER PRIMARY KEY, name TEXT UNIQUE, body BLOB)"
        )

    def write(self, ids: Ids, bodies: Sequence[bytes]) -> None:
        self.connection.execute("BEGIN")
        insert = "INSERT INTO r (name, body) VALUES (?, ?)"
        self.connection.executemany(insert, zip(ids, bodies, strict=True))
        self.connection.execute("COMMIT")

    def read(self, ids: Ids) -> None:
        for name in ids:
            self.connection.execute("SELECT body FROM r WHERE name = ?", (name,)).fetchone()

    def close(self) -> None:
        self.connection.close()


class _Ours:
    def __init__(self, folder: Path) -> None:
        self.file = SealedFile.create(folder / "v", Key(b"k" * 32))

    def write(self, ids: Ids, bodies: Sequence[bytes]) -> None:
        with self.file.transaction() as batch:
            batch.put_all(Sort.RECORD, zip(ids, bodies, strict=True))

    def read(self, ids: Ids) -> None:
        for name in ids:
            self.file.get(Sort.RECORD, name)

    def close(self) -> None:
        self.file.close()


def _stores() -> dict[str, Callable[[Path], _Sql | _Ours]]:
    found: dict[str, Callable[[Path], _Sql | _Ours]] = {
        "plain sqlite3": lambda folder: _Sql(sqlite3, folder, ""),
        "locavore": _Ours,
    }
    try:
        cipher = importlib.import_module("sqlcipher3.dbapi2")
        raw = f"key = \"x'{'6b' * 32}'\""
        found["sqlcipher3"] = lambda folder: _Sql(cipher, folder, raw)
    except ImportError:
        print("sqlcipher3 is not installed here and left out: pip install sqlcipher3==0.6.4")
    return found


def _seconds(work: Callable[[], object]) -> float:
    begun = time.perf_counter()
    work()
    return time.perf_counter() - begun


def _turns(count: int, turns: int) -> dict[str, tuple[float, float]]:
    """Median µs per record written and read, store by store in turn."""
    ids = [uuid.uuid4().hex for _ in range(count)]
    bodies = [os.urandom(_SIZE) for _ in range(count)]
    times: dict[str, list[tuple[float, float]]] = {}
    for _ in range(turns):
        for name, make in _stores().items():
            with tempfile.TemporaryDirectory() as folder:
                store = make(Path(folder))
                write = _seconds(lambda store=store: store.write(ids, bodies))  # type: ignore[misc]
                read = _seconds(lambda store=store: store.read(ids))  # type: ignore[misc]
                store.close()
            times.setdefault(name, []).append((write / count * 1e6, read / count * 1e6))
    return {
        name: (statistics.median(w for w, _ in own), statistics.median(r for _, r in own))
        for name, own in times.items()
    }


def _milliseconds(work: Callable[[], object], turns: int) -> float:
    return statistics.median(_seconds(work) for _ in range(turns)) * 1e3


def _search(count: int, turns: int) -> tuple[float, float, float]:
    """Ms for the ten nearest of ``count`` vectors: from the encrypted file, warm, and in numpy."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((count, _DIM)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    query = rows[7]
    with tempfile.TemporaryDirectory() as folder:
        file = SealedFile.create(Path(folder) / "v", Key(b"k" * 32))
        parts = [Vectors.of("e", rows[i : i + 4096]) for i in range(0, count, 4096)]
        with file.transaction() as batch:
            for number, part in enumerate(parts):
                batch.put(Sort.VECTORS, str(number), part.to_bytes())

        def nearest(found: Sequence[Vectors]) -> None:
            scores = np.concatenate([part.scores(query) for part in found])
            assert 7 in np.argpartition(-scores, 10)[:10]

        def cold() -> None:
            nearest([Vectors.from_bytes(raw) for raw in file.all(Sort.VECTORS)])

        figures = (
            _milliseconds(cold, turns),
            _milliseconds(lambda: nearest(parts), turns),
            _milliseconds(lambda: np.argpartition(-(rows @ query), 10)[:10], turns),
        )
        file.close()
    return figures


def _words(count: int, turns: int) -> tuple[float, float, float]:
    """Ms to index ``count`` documents of 60 words, to load the index, and to ask it."""
    rng = np.random.default_rng(0)
    documents = [
        UserDocument(
            body=" ".join(_WORDS[int(i) % len(_WORDS)] for i in rng.zipf(1.3, 60)),
            consent=Consent(retrieve=True),
        )
        for _ in range(count)
    ]
    records = {record.id: record for record in documents}
    build = _seconds(lambda: Segment.build((kind_of(r), r) for r in documents)) * 1e3
    segment = Segment.build((kind_of(r), r) for r in documents)
    raw = segment.to_bytes()
    load = _milliseconds(lambda: Segment.from_bytes(raw), turns)
    retriever = Retriever([segment], lambda record_id: records[record_id])
    query = " ".join(_WORDS[3:40:9])
    return build, load, _milliseconds(lambda: retriever.retrieve(query, 10), turns)


def _unlock(count: int) -> tuple[float, float]:
    """Ms to open a store of ``count`` records by a key and by a passphrase."""
    times = []
    for unlock in (Key(b"k" * 32), Passphrase("correct horse battery staple")):
        with tempfile.TemporaryDirectory() as folder:
            vault = Vault.create(Path(folder) / "v", unlock)
            rows = [(uuid.uuid4().hex, os.urandom(_SIZE)) for _ in range(count)]
            with vault.transaction() as batch:
                batch.put_all(Sort.RECORD, rows)
            vault.close()
            opened: list[Vault] = []
            times.append(
                _seconds(lambda: opened.append(Vault.open(Path(folder) / "v", unlock))) * 1e3  # noqa: B023
            )
            opened[0].close()
    return times[0], times[1]


def run(options: Options) -> Report:
    """Compare stores, search and unlocking in one run."""
    count, turns = (2000, 3) if options.quick else (20_000, 7)
    machine = machine_line()
    times = _turns(count, turns)
    plain = times["plain sqlite3"]
    sizes = (1000, 10_000) if options.quick else (1000, 10_000, 100_000)
    near = {n: _search(n, 5 if options.quick else 15) for n in sizes}
    words = {n: _words(n, 5) for n in sizes[: 1 if options.quick else None]}
    by_key, by_passphrase = _unlock(count)
    lines = [
        machine,
        "",
        f"ten nearest of n vectors of {_DIM} numbers, int8, ms",
        *format_table(
            ["n", "from the encrypted file", "warm", "numpy float32"],
            [[f"{n:,}", *(f"{ms:.2f}" for ms in own)] for n, own in near.items()],
        ),
        "",
        "BM25 over n documents of 60 words, ms",
        *format_table(
            ["n", "build", "load", "query"],
            [[f"{n:,}", *(f"{ms:.1f}" for ms in own)] for n, own in words.items()],
        ),
        "",
        f"unlocking {count} records: {by_key:.0f} ms by key, {by_passphrase:.0f} ms by passphrase "
        "(Argon2id, 64 MiB, 3 passes)",
        "",
        f"{_SIZE}-byte records by id, {count} in one transaction, µs each",
    ]
    ratios = {
        "write": times["locavore"][0] / plain[0],
        "read": times["locavore"][1] / plain[1],
        "10k search cold, ms": near[10_000][0],
        "10k search warm, ms": near[10_000][1],
    }
    bounds = (2.5, 3.1, 5.0, 1.0)
    return Report(
        benchmark="vault",
        lines=lines,
        columns=["store", "write", "read", "write, × plain", "read, × plain"],
        rows=[
            [name, f"{w:.2f}", f"{r:.2f}", f"{w / plain[0]:.2f}", f"{r / plain[1]:.2f}"]
            for name, (w, r) in times.items()
        ],
        ratios=ratios,
        goals=[
            Goal(name=name, bound=bound, at_most=True)
            for name, bound in zip(ratios, bounds, strict=True)
            if not options.quick  # a small size, where a transaction's own cost weighs
        ],
    )
