"""A deployed federation with everything that goes wrong in one: real processes, TLS, known devices.

Secure aggregation and distributed noise are on. One device is killed before its update and one
after its masked upload, one sends garbage, one has a revoked key, and the coordinator is killed in
mid-round. The rounds end, the aggregate is the survivors' sum bit for bit, every ledger is right.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("flwr", reason="a coordinator needs the extra 'serve'")
pytest.importorskip("torch", reason="devices need the extra 'train'")

from locavore.client import Device
from locavore.client.membership import Invitation, join, read_invitation, terms_of
from locavore.privacy.distributed import WholeNumbers
from locavore.privacy.ledger import Ledger
from locavore.privacy.plan import UserPlan
from locavore.server.checkpoint import Checkpoint
from locavore.server.coordinator.admission import Admission
from locavore.server.coordinator.config import CoordinatorConfig
from locavore.server.coordinator.localhost import make_certificates
from locavore.server.coordinator.serve import key_in
from locavore.shared.adapters import Array
from locavore.shared.contexts import Consent, UserDocument

HERE = Path(__file__).parent
PASSPHRASE = "only a test"
HONEST = ("ann", "ben", "cleo", "dan", "eve")
ACCIDENTS = {
    "fred": "dies-before-update",
    "gil": "dies-after-upload",
    "hal": "sends-garbage",
}
REVOKED = "ivy"
FILE = """
name = "e2e"
base = "tiny"
rank = 1
state = "state"
min_nodes = 8
reply_timeout_s = 40
step_timeout_s = 8
reconnect_s = 15
pause_s = 8

[plan]
unit = "user"
relation = "add-or-remove-one"
trust = "secure-aggregation"
cohort = 8
fewest = 5
rounds = 2
clip = 0.5
noise_multiplier = 0.6

[listen]
host = "127.0.0.1"
port = {port}
operator_port = 0
certificate = "tls/server.pem"
key = "tls/server.key"
authorities = "tls/ca.pem"
"""


class World:
    """The processes, and where their files are."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.url = folder, f"https://127.0.0.1:{port}"
        self.file = folder / "coordinator.toml"
        self.recordings = folder / "recordings"
        self.recordings.mkdir()
        make_certificates(folder / "tls")
        self.file.write_text(FILE.format(port=port))
        self.invitation = Invitation(token="", terms="")
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def checkpoints(self) -> Path:
        return self.folder / "state" / "checkpoints"

    @property
    def admission(self) -> Admission:
        """The running coordinator's register, from beside it."""
        state = self.folder / "state"
        return Admission(state / "admission.db", key_in(state, "admission"), self.invitation.terms)

    def start(self, name: str, *command: str) -> None:
        log = (self.folder / f"{name}.log").open("ab")
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        self.running[name] = subprocess.Popen(
            [sys.executable, "-W", "ignore", *command],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=self.folder,
        )
        log.close()

    def coordinator(self) -> None:
        self.start("coordinator", "-m", "locavore.cli", "serve", str(self.file), "--until-done")

    def device(self, name: str, accident: str = "") -> None:
        vault = str(self.folder / name)
        extra = [accident] if accident else []
        self.start(name, str(HERE / "device.py"), vault, str(self.recordings), *extra)

    def command(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-m", "locavore.cli", *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def log(self, name: str) -> str:
        return (self.folder / f"{name}.log").read_text()

    def settle(self, what: str, there: Callable[[], object], seconds: float) -> None:
        end = time.monotonic() + seconds
        while not there():
            if time.monotonic() > end:
                logs = "\n\n".join(f"{n}:\n{self.log(n)[-3000:]}" for n in self.running)
                raise AssertionError(f"{what}: not so after {seconds} s\n{logs}")
            time.sleep(0.1)

    def end(self) -> None:
        for process in self.running.values():
            if process.poll() is None:
                process.terminate()
        for process in self.running.values():
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


@pytest.fixture
def world(tmp_path: Path, installed: str, free_port: int) -> Iterator[World]:
    made = World(tmp_path, free_port)
    try:
        yield made
    finally:
        made.end()


def enrolled(world: World, name: str) -> str:
    """A vault with records that has joined; returns its identity."""
    invited = replace(world.invitation, token=world.admission.invite())
    terms = terms_of(world.url, invited)
    with Device.create(world.folder / name, passphrase=PASSPHRASE) as device:
        for number in range(6):
            text = f"Note {number} of {name}: the kettle squeaks again, alas, and nobody minds."
            consent = Consent(retrieve=True, train=True, federate=True)
            device.remember(UserDocument(body=text), consent=consent)
        member = join(world.url, invited, terms, budget=terms.plan.epsilon(6))
        device.store.keep_membership(member)
        return member.identity_key.public_key().public_bytes_raw().hex()


@pytest.mark.slow
def test_everything_goes_wrong_and_the_sum_is_right(world: World) -> None:
    world.coordinator()
    world.settle("the coordinator listens", lambda: "devices:" in world.log("coordinator"), 60)
    first_invitation = world.folder / "invitation.json"
    world.command("federation", "invite", str(world.file), str(first_invitation))
    world.invitation = read_invitation(first_invitation)
    identities = {name: enrolled(world, name) for name in (*HONEST, *ACCIDENTS, REVOKED)}
    world.command("federation", "revoke", str(world.file), identities[REVOKED])
    for name in (*HONEST, *ACCIDENTS, REVOKED):
        world.device(name, ACCIDENTS.get(name, ""))

    journal = world.checkpoints / "round-000001.journal"
    world.settle("round 1 shares", (journal / "share").exists, 120)
    world.running["coordinator"].kill()
    world.running["coordinator"].wait()
    world.coordinator()
    for name in ("fred", "gil"):
        world.settle(f"{name} dies", lambda n=name: world.running[n].poll() is not None, 90)  # type: ignore[misc]
        assert world.running[name].returncode == -9
    first = world.checkpoints / "round-000001.safetensors"
    world.settle("round 1 ends", first.exists, 120)
    for name in ("fred", "gil"):
        world.device(name)
    world.settle("all ends", lambda: world.running["coordinator"].poll() is not None, 180)
    assert world.running["coordinator"].returncode == 0, world.log("coordinator")

    plan = CoordinatorConfig.load(world.file).plan
    assert isinstance(plan, UserPlan)
    second = Checkpoint.load(world.checkpoints / "round-000002.safetensors")
    begin, middle = np.zeros_like(second.theta), Checkpoint.load(first).theta
    survivors = [*HONEST, "gil"]
    require_sum(world, plan, begin, middle, survivors)
    require_sum(world, plan, middle, second.theta, [*HONEST, "fred", "gil"])
    rows = second.history
    assert [(row["applied"], row["averaged"]) for row in rows] == [(True, 6), (True, 7)]
    assert "refused what node" in world.log("coordinator") or "refused the reply" in world.log(
        "coordinator"
    )

    world.settle("ivy is let in no more", lambda: world.running[REVOKED].poll() is not None, 30)
    assert world.running[REVOKED].returncode == 7
    assert "does not let this node in" in world.log(REVOKED)
    world.end()
    purpose = f"federation {plan.digest}"
    server_ledger = Ledger(world.checkpoints / "ledger.jsonl", delta=plan.delta)
    assert server_ledger.rounds(purpose) == [1, 2]
    assert server_ledger.epsilon("user") == pytest.approx(plan.epsilon(1))
    for name in (*HONEST, "gil"):
        with Device.open(world.folder / name, passphrase=PASSPHRASE) as device:
            ledger = Ledger(device.store.journal, delta=plan.delta)
            assert ledger.rounds(f"text {plan.digest}") == [1, 2], name
            assert ledger.epsilon("user") == pytest.approx(plan.epsilon(1))
            (lineage,) = device.store.lineages
            shared = lineage.shared
            assert shared is not None


def require_sum(
    world: World, plan: UserPlan, before: Array, after: Array, names: list[str]
) -> None:
    """Whether a round has added what these devices put into a sum, bit for bit."""
    sums: dict[str, dict[str, Array]] = {}
    for path in world.recordings.iterdir():
        session, name = path.stem.split("-")
        sums.setdefault(session, {})[name] = np.load(path)
    found = []
    for session, words in sums.items():
        if not set(names) <= set(words):
            continue
        total = np.array([words[name] for name in names]).sum(axis=0, dtype=np.uint16)
        numbers = WholeNumbers(plan, len(before), bytes.fromhex(session), plan.entry(before))
        change = numbers.decode(total) / plan.cohort
        found.append((before + change).astype(np.float32).tobytes() == after.tobytes())
    assert found.count(True) == 1, f"{len(sums)} sums, {found}"
