"""Killed at any point, nothing that was acknowledged is lost, and nothing is half there."""

from __future__ import annotations

import os
import random
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from locavore.client.device import Device
from locavore.client.vault.entries import Sort
from locavore.client.vault.keys import Key
from locavore.client.vault.vault import Vault
from locavore.privacy.ledger import Charge, Ledger
from locavore.shared.contexts import Consent, Context, PersonalizedSubject, UserDocument

KEY = Key(b"k" * 32)
NOW = datetime(2026, 5, 1, tzinfo=UTC)
KILLS = 100


def document(number: int, medium: bytes = b"") -> Context:
    consent = Consent.full()
    if medium:
        return PersonalizedSubject(name=f"thing {number}", id=str(number), media=(medium,))
    return UserDocument(body=f"note {number} on kettles", id=str(number), consent=consent, time=NOW)


def charge(round: int) -> Charge:
    return Charge(
        purpose="text",
        round=round,
        unit="record",
        relation="add-or-remove-one",
        noise_multiplier=2.0,
        sampling_rate=0.5,
    )


WORKER = """
import os, sys, traceback
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_faults import KEY, document
from locavore.client.device import Device
from locavore.client.vault.vault import Vault

def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())

def live(number):
    device = Device(store=Vault.open(Path(sys.argv[1]), KEY))
    while True:
        say("try", "add", number)
        device.remember(document(number, os.urandom(300_000) if number % 5 == 0 else b""))
        say("did", "add", number)
        if number % 3 == 0 and device.store.holds(str(number - 1)):
            say("try", "forget", number - 1)
            device.forget(str(number - 1))
            say("did", "forget", number - 1)
        if number % 7 == 0:
            device.recall("kettles")
        if number % 11 == 0:
            say("try", "charge", number)
            device.store.journal.append(lambda before: [b"line %d\\n" % number])
            say("did", "charge", number)
        if number % 13 == 0:
            device.store.entries.rekey(KEY)
        number += 1

say("ready")
for line in sys.stdin:  # one life a line: the first number that it may use
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        say("dead")
        continue
    say("pid", os.getpid())
    try:
        live(int(line))
    except BaseException:
        say("failed", traceback.format_exc().replace("\\n", " | "))
        os._exit(1)
"""
# The child never reads on: it works until it is killed.


@pytest.mark.slow
def test_a_hundred_kills(tmp_path: Path) -> None:
    folder = tmp_path / "v"
    Vault.create(folder, KEY).close()
    script = tmp_path / "worker.py"
    script.write_text(WORKER.format(tests=str(Path(__file__).parent)))
    environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
    with subprocess.Popen(
        [sys.executable, str(script), str(folder), "0"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=environment,
        text=True,
    ) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        dice = random.Random(0)
        kept: set[str] = set()
        charged: set[bytes] = set()
        assert worker.stdout.readline() == "ready\n"
        number = changes = 0
        for _ in range(KILLS):
            worker.stdin.write(f"{number}\n")
            worker.stdin.flush()
            pid = int(worker.stdout.readline().split()[1])
            asked: tuple[str, int] | None = None
            fatal = dice.randrange(1, 25)
            wait = dice.random() * 0.004
            said = 0
            while (line := worker.stdout.readline()) != "dead\n":
                assert not line.startswith("failed"), line
                stage, what, which = line.split()
                number = max(number, int(which) + 1)
                if stage == "try":
                    asked = (what, int(which))
                else:
                    asked = None
                    changes += 1
                    if what == "add":
                        kept.add(which)
                    elif what == "forget":
                        kept.remove(which)
                    else:
                        charged.add(b"line %d\n" % int(which))
                said += 1
                if said == fatal:
                    time.sleep(wait)
                    os.kill(pid, signal.SIGKILL)
            vault = Vault.open(folder, KEY)
            found = {record.id for record in vault}
            lines = set(vault.journal.lines())
            if asked is not None:  # not acknowledged: may have happened or not
                what, which_one = asked
                if what == "add" and str(which_one) in found:
                    kept.add(str(which_one))
                elif what == "forget" and str(which_one) not in found:
                    kept.discard(str(which_one))
                elif what == "charge" and b"line %d\n" % which_one in lines:
                    charged.add(b"line %d\n" % which_one)
            assert found == kept
            assert lines == charged
            vault.entries.check()  # type: ignore[attr-defined]
            hits = vault.retriever().retrieve("kettles", k=10_000) if kept else []
            assert {hit.record.id for hit in hits} <= kept
            vault.close()
        worker.stdin.close()
    assert changes > KILLS


def test_an_image_taken_before_every_statement_opens_whole(tmp_path: Path) -> None:
    """As if the power went before each statement that SQLite ran: all or nothing, each time."""
    folder = tmp_path / "v"
    vault = Vault.create(folder, KEY)
    device = Device(store=vault)
    device.remember_all([document(0), document(1, b"m" * 600_000), document(2)])
    device.recall("kettles")
    images: list[Path] = []

    def copy(_: str) -> None:
        image = tmp_path / f"image{len(images)}"
        shutil.copytree(folder, image)
        images.append(image)

    connection: sqlite3.Connection = vault.entries._connection  # type: ignore[attr-defined]
    allowed = []
    for act in (
        lambda: device.remember(document(3)),
        lambda: device.forget("1"),
        lambda: Ledger(vault.journal, delta=1e-5).charge(charge(1)),
        lambda: device.recall("kettles"),
        lambda: vault.entries.rekey(KEY),  # type: ignore[attr-defined]
        lambda: device.forget_everything(),
    ):
        before = ({record.id for record in vault}, len(vault.journal.lines()))
        first = len(images)
        connection.set_trace_callback(copy)
        act()
        connection.set_trace_callback(None)
        after = ({record.id for record in vault}, len(vault.journal.lines()))
        allowed += [(image, before, after) for image in images[first:]]
    vault.close()
    assert len(allowed) > 50
    for image, before, after in allowed:
        opened = Vault.open(image, KEY)
        opened.entries.check()  # type: ignore[attr-defined]
        found = ({record.id for record in opened}, len(opened.journal.lines()))
        assert found in (before, after)
        assert {h.record.id for h in opened.retriever().retrieve("kettles", 9)} <= found[0]
        opened.close()


class VaultMachine(RuleBasedStateMachine):
    """Random lives of a vault beside a dictionary."""

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp())
        self.key = Key(os.urandom(32))
        self.model: dict[str, Context] = {}
        self.clock = NOW
        self.count = 0
        Vault.create(self.folder / "v", self.key).close()
        self.reopen()

    def reopen(self) -> None:
        self.vault = Vault.open(self.folder / "v", self.key, clock=lambda: self.clock)
        self.device = Device(store=self.vault)

    @rule(text=st.text(max_size=40), medium=st.binary(max_size=40), days=st.integers(0, 9))
    def remember(self, text: str, medium: bytes, days: int) -> None:
        record = PersonalizedSubject(
            name=text,
            media=(medium,) * (days % 3),
            id=f"r{self.count}",
            consent=Consent(retrieve=days % 2 == 0),
            expires=self.clock + timedelta(days=days) if days > 4 else None,
            time=NOW,
        )
        self.count += 1
        self.device.remember(record)
        self.model[record.id] = record

    @precondition(lambda self: self.model)
    @rule(data=st.data())
    def forget(self, data: st.DataObject) -> None:
        record_id = data.draw(st.sampled_from(sorted(self.model)))
        said = self.device.forget(record_id)
        said.verify()
        assert said.names(record_id)
        del self.model[record_id]

    @rule()
    def forget_everything(self) -> None:
        if self.count % 4 == 0:
            self.device.forget_everything()
            self.model.clear()

    @rule()
    def rekey(self) -> None:
        self.key = Key(os.urandom(32))
        self.vault.entries.rekey(self.key)  # type: ignore[attr-defined]

    @rule()
    def close_and_open(self) -> None:
        self.vault.close()
        self.reopen()

    @rule()
    def crash(self) -> None:
        """What a killed process leaves: the files as they are, without closing."""
        image = self.folder / f"image{random.random()}"
        shutil.copytree(self.folder / "v", image)
        self.vault.close()
        shutil.rmtree(self.folder / "v")
        image.rename(self.folder / "v")
        self.reopen()

    @rule(days=st.integers(1, 4))
    def time_passes(self, days: int) -> None:
        self.clock += timedelta(days=days)
        self.model = {
            name: record
            for name, record in self.model.items()
            if record.expires is None or record.expires > self.clock
        }

    @rule(text=st.text(min_size=1, max_size=9))
    def recall(self, text: str) -> None:
        for hit in self.device.recall(text, 99):
            assert hit.record == self.model[hit.record.id]
            assert hit.record.consent.retrieve

    @invariant()
    def holds_what_the_dictionary_holds(self) -> None:
        if hasattr(self, "vault"):
            assert {record.id: record for record in self.vault} == self.model
            assert len(self.vault) == len(self.model)

    def teardown(self) -> None:
        if hasattr(self, "vault"):
            assert self.vault.entries.count(Sort.RECORD) == len(self.model)
            self.vault.entries.check()  # type: ignore[attr-defined]
            self.vault.close()
            shutil.rmtree(self.folder)


VaultMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)
TestLives = VaultMachine.TestCase
