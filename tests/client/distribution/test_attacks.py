"""The attacks that TUF names, one by one, against the real updater over real sockets.

Each is tried on a device that holds nothing, and on one that holds version 1. Nothing may be opened
that the attacker made, and what was in use must stay in use.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, MetaFile, Snapshot, TargetFile, Targets, Timestamp

from locavore.client.distribution import Limits, PackageUpdater
from locavore.server.repository.packs import index_folder
from locavore.server.repository.roles import Validity
from locavore.server.repository.sources import find_source
from locavore.shared.chunk_index import Index
from locavore.shared.errors import (
    DistributionError,
    DownloadError,
    IntegrityError,
    PackageError,
    UntrustedError,
)

from .world import NAME, Site, World, Worlds, files

FAR = 2**31 - 1


@pytest.fixture(params=["fresh", "holding"])
def state(request: pytest.FixtureRequest) -> str:
    """Whether the device holds version 1 when it is attacked."""
    return str(request.param)


class Attack:
    """A device under attack; ``world`` has published version 1, and 2 where asked."""

    def __init__(self, world: World, state: str, *, released: bool = True) -> None:
        self.world, self.device = world, world.device()
        if state == "holding":
            self.device.update(NAME)
        self.before = self.installed()
        if released:
            world.release("2", world.patched(1))

    def installed(self) -> dict[str, bytes]:
        folder = self.device.current(NAME)
        return {} if folder is None else files(folder)

    def refused(
        self, *errors: type[Exception], match: str | None = None, device: Any = None
    ) -> None:
        """The update fails in this way, opens nothing and changes nothing."""
        with pytest.raises(errors, match=match):
            (device or self.device).update(
                NAME, check=lambda _: pytest.fail("the attacker's package was opened")
            )
        assert self.installed() == self.before

    def recovers(self, version: str = "2") -> None:
        """With an honest server everything goes on."""
        self.world.site.forge.clear()
        assert self.device.update(NAME).version == version


def rewrite(raw: bytes, change: Callable[[Any], None], *signers: CryptoSigner) -> tuple[int, bytes]:
    """Metadata with a change, signed by some keys; its version and bytes."""
    document: Metadata[Any] = Metadata.from_bytes(raw)
    change(document.signed)
    document.signatures.clear()
    for signer in signers:
        document.sign(signer, append=True)
    return document.signed.version, document.to_bytes()


def forged_timestamp(world: World, snapshot: tuple[int, bytes], version: int = 1000) -> bytes:
    """A timestamp over another snapshot, by a thief of the timestamp key."""

    def change(signed: Timestamp) -> None:
        signed.version = version
        signed.snapshot_meta = MetaFile.from_data(*snapshot, hash_algorithms=["sha256"])

    return rewrite(world.metadata("timestamp.json"), change, world.online("timestamp"))[1]


def forged_snapshot(
    world: World, targets: tuple[int, bytes], version: int = 1000
) -> tuple[int, bytes]:
    """A snapshot over another list of targets, by a thief of the snapshot key."""

    def change(signed: Snapshot) -> None:
        signed.version = version
        signed.meta["targets.json"] = MetaFile.from_data(*targets, hash_algorithms=["sha256"])

    newest = world.metadata("timestamp.json")
    number = Metadata[Timestamp].from_bytes(newest).signed.snapshot_meta.version
    return rewrite(world.metadata(f"{number}.snapshot.json"), change, world.online("snapshot"))


def evil_package(world: World, public: Path, version: str = "3", name: str = NAME) -> Index:
    """A package of the attacker's, with its packs where a mirror would put them."""
    folder = world.folder / "evil"
    folder.mkdir(exist_ok=True)
    (folder / "model.onnx").write_bytes(b"evil graph")
    return index_folder(
        folder,
        public,
        [],
        names=["model.onnx"],
        kind="bases",
        name=name,
        version=version,
        base_id="tiny",
        publisher=world.trusted[0].hex(),
    )


def with_target(world: World, index: Index, *signers: CryptoSigner) -> tuple[int, bytes]:
    """A list of targets with an index of the attacker's, whose file is served as well."""
    raw = index.to_json()
    target = TargetFile.from_data(f"bases/{NAME}/{index.version}.json", raw, ["sha256"])
    world.site.forge[f"targets/{target.get_prefixed_paths()[0]}"] = raw

    def change(signed: Targets) -> None:
        signed.version = 1000
        signed.targets[target.path] = target

    newest = max(
        int(path.name.split(".")[0])
        for path in (world.repository.public / "metadata").glob("*.targets.json")
    )
    return rewrite(world.metadata(f"{newest}.targets.json"), change, *signers)


def take_over(world: World, targets: tuple[int, bytes]) -> None:
    """Serve a forged list of targets with all that a thief of the online keys can sign."""
    snapshot = forged_snapshot(world, targets)
    world.site.forge |= {
        "metadata/1000.targets.json": targets[1],
        "metadata/1000.snapshot.json": snapshot[1],
        "metadata/timestamp.json": forged_timestamp(world, snapshot),
    }


def test_arbitrary_software(state: str, world: World, worlds: Worlds) -> None:
    """The attacker serves software of their own, signed by keys of their own."""
    attack = Attack(world, state)
    evil = worlds()
    evil.release("1")
    evil.release("9", [b"evil"])
    world.site.folder = evil.repository.public
    attack.refused(UntrustedError)
    world.site.folder = world.repository.public
    attack.recovers()


def test_arbitrary_software_in_signed_places(state: str, world: World) -> None:
    """Index and packs are replaced, the metadata is left as it is."""
    attack = Attack(world, state)
    for name in files(world.repository.public):
        if name.startswith("targets/"):
            world.site.forge = {name: evil_package(world, world.folder / "mirror").to_json()}
            if ".2.json" in name:
                attack.refused(UntrustedError, DownloadError)
    for name, raw in files(world.repository.public).items():
        if name.startswith("packs/"):
            world.site.forge[name] = b"\x00" * len(raw)
    world.site.forge = {k: v for k, v in world.site.forge.items() if k.startswith("packs/")}
    attack.refused(IntegrityError, match="do not match their signed SHA-256")
    attack.recovers()


@pytest.mark.parametrize(
    ("endless", "bound"),
    [
        (r"metadata/\d+\.root\.json", Limits().root_bytes),
        (r"metadata/timestamp\.json", Limits().timestamp_bytes),
        (r"metadata/.*snapshot\.json", Limits().snapshot_bytes),
        (r"metadata/.*targets\.json", Limits().targets_bytes),
        (r"targets/.*", 10_000),
        (r"packs/.*", 100_000),
    ],
)
def test_endless_data(endless: str, bound: int, state: str, world: World) -> None:
    """What is sent never ends; the device stops at a bound that it knows beforehand."""
    attack = Attack(world, state)
    world.site.endless = endless
    world.site.sent = 0
    if endless.startswith("packs"):  # what was asked for is cut off, and does not match
        attack.refused(IntegrityError)
    else:
        attack.refused(DownloadError, match="more than is allowed")
    assert world.site.idle.wait(30)  # until the server has noticed
    in_flight = 8_000_000  # what the kernel buffers between the two
    assert world.site.sent < bound + in_flight
    world.site.endless = ""
    attack.recovers()


def test_extraneous_dependencies(state: str, world: World) -> None:
    """The attacker asks for more to be installed than was signed."""
    attack = Attack(world, state)
    extra = evil_package(world, world.folder / "mirror")
    for name, raw in files(world.folder / "mirror").items():
        world.site.forge[name] = raw
    for name, raw in files(world.repository.public).items():
        if name.endswith(".2.json"):
            index = Index.from_json(raw)
            index = replace(
                index,
                files={**index.files, "plugin.onnx": extra.files["model.onnx"]},
                packs={**index.packs, **extra.packs},
            )
            world.site.forge[name] = index.to_json()
    attack.refused(UntrustedError, DownloadError)
    attack.recovers()
    folder = attack.device.current(NAME)
    assert folder is not None
    assert not (folder / "plugin.onnx").exists()


def test_fast_forward(state: str, world: World) -> None:
    """A thief of the online keys counts up to the highest version; new keys undo it."""
    attack = Attack(world, state)
    number, snapshot = rewrite(
        world.metadata("2.snapshot.json"),
        lambda signed: setattr(signed, "version", FAR),
        world.online("snapshot"),
    )
    world.site.forge = {
        f"metadata/{FAR}.snapshot.json": snapshot,
        "metadata/timestamp.json": forged_timestamp(world, (number, snapshot), FAR),
    }
    attack.device.versions(NAME)  # it believes them: they are signed
    world.site.forge.clear()
    attack.refused(UntrustedError, match="older state than this device has seen")

    for role in ("snapshot", "timestamp"):
        world.repository.rotate(role, now=world.now)
    world.sign_all()
    world.repository.publish(world.now)
    attack.recovers()


def test_indefinite_freeze(state: str, worlds: Worlds) -> None:
    """An old state is shown for ever; once it has expired, it is refused."""
    world = worlds(now=datetime.now(UTC) - timedelta(days=3), validity=Validity(timestamp=4))
    world.release("1")
    attack = Attack(world, state, released=False)
    frozen = world.copy_public("frozen")
    old = Metadata[Timestamp].from_bytes(world.metadata("timestamp.json"))
    old.signed.expires = world.now + timedelta(days=1)  # as if two days had gone by
    old.signed.version += 1
    old.sign(world.online("timestamp"))
    world.site.forge = {"metadata/timestamp.json": old.to_bytes()}
    world.site.folder = frozen
    attack.refused(UntrustedError, match="expired")
    world.now = datetime.now(UTC)
    world.release("2", world.patched(1))
    world.site.folder = world.repository.public
    attack.recovers()


@pytest.mark.parametrize("role", ["root", "timestamp", "snapshot", "targets"])
def test_nothing_that_expired_is_taken(role: str, worlds: Worlds) -> None:
    long = {"root": 90, "targets": 90, "snapshot": 90, "timestamp": 90}
    world = worlds(
        now=datetime.now(UTC) - timedelta(days=30), validity=Validity(**{**long, role: 29})
    )
    world.release("1")
    attack = Attack(world, "fresh", released=False)
    attack.refused(UntrustedError, match="expired")


@pytest.mark.parametrize("how", ["missing", "broken", "html", "empty"])
def test_malicious_mirror(how: str, state: str, world: World) -> None:
    """A mirror withholds or garbles; another mirror of the same repository helps."""
    attack = Attack(world, state)
    if how == "broken":
        world.site.status = 503
    else:
        raw = {"missing": None, "html": b"<html>log in first</html>", "empty": b""}[how]
        world.site.forge = dict.fromkeys(files(world.repository.public), raw)
    attack.refused(DistributionError, PackageError)
    good = Site(world.copy_public("mirror"))
    try:
        assert world.device(url=good.url).update(NAME).version == "2"
    finally:
        good.close()


def test_mix_and_match(state: str, world: World) -> None:
    """Documents of different times are put together."""
    attack = Attack(world, state)
    newest = {name: world.metadata(name) for name in ("2.snapshot.json", "2.targets.json")}
    for name in newest:
        old = world.metadata(f"1.{name.split('.', 1)[1]}")
        world.site.forge = {f"metadata/{name}": old}
        attack.refused(UntrustedError, DownloadError)
    old_timestamp = json.loads(world.metadata("timestamp.json"))
    old_timestamp["signed"]["meta"]["snapshot.json"]["version"] = 1
    world.site.forge = {"metadata/timestamp.json": json.dumps(old_timestamp).encode()}
    attack.refused(UntrustedError)
    attack.recovers()


def test_mix_and_match_of_packs(state: str, world: World) -> None:
    """The old version's bytes are served under the new pack's name."""
    attack = Attack(world, state)
    packs = {
        name: raw
        for name, raw in files(world.repository.public).items()
        if name.startswith("packs/")
    }
    first, second = packs
    world.site.forge = {
        first: packs[second].ljust(len(packs[first]), b"\0"),
        second: packs[first][: len(packs[second])],
    }
    attack.refused(IntegrityError, DownloadError)
    attack.recovers()


def test_rollback(world: World) -> None:
    """A whole older state is shown, correctly signed and not expired."""
    attack = Attack(world, "holding", released=False)
    old = world.copy_public("old")
    world.release("2", world.patched(1))
    assert attack.device.update(NAME).version == "2"
    attack.before = attack.installed()
    world.site.folder = old
    attack.refused(UntrustedError, match="older state than this device has seen")
    attack.refused(UntrustedError, device=world.device())  # in a new process as well
    world.site.folder = world.repository.public
    assert attack.device.update(NAME).version == "2"


def test_rollback_of_the_root(world: World) -> None:
    """Keys that were taken away do not come back with an older root."""
    attack = Attack(world, "holding", released=False)
    old = world.copy_public("old")
    for role in ("snapshot", "timestamp"):
        world.repository.rotate(role, now=world.now)
    world.sign_all()
    world.repository.publish(world.now)
    attack.device.update(NAME)
    world.site.folder = old  # signed by the keys of root 1, which this device has left behind
    attack.refused(UntrustedError)


def test_wrong_software(state: str, world: World) -> None:
    """What is offered is trusted, and something else than was asked for."""
    attack = Attack(world, state)
    world.release("2", [b"another model"], name="other")
    served = files(world.repository.public)
    ours = next(n for n in served if n.startswith(f"targets/bases/{NAME}/") and ".2." in n)
    other = next(n for n in served if n.startswith("targets/bases/other/"))
    world.site.forge = {ours: served[other]}
    attack.refused(UntrustedError, DownloadError)
    attack.recovers()


def test_wrong_software_by_mistake_of_the_signers(state: str, world: World) -> None:
    """An index is signed under another name or version than its own."""
    attack = Attack(world, state)
    for name, version in (("other", "3"), (NAME, "1")):
        index = replace(evil_package(world, world.repository.public), name=name, version=version)
        raw = replace(index, version="3").to_json() if name == NAME else index.to_json()
        target = TargetFile.from_data(
            f"bases/{NAME}/{'3' if name == 'other' else '4'}.json", raw, ["sha256"]
        )
        world.site.forge = {f"targets/{target.get_prefixed_paths()[0]}": raw}

        def change(signed: Targets, target: TargetFile = target) -> None:
            signed.version = 1000
            signed.targets[target.path] = target

        listed = rewrite(world.metadata("2.targets.json"), change, *world.signers)
        take_over(world, listed)
        attack.refused(UntrustedError, match=r"in the place of bases tiny [34]")


@pytest.mark.parametrize("stolen", ["one", "one, twice", "one, and one of another role"])
def test_key_compromise_below_the_threshold(stolen: str, state: str, worlds: Worlds) -> None:
    """A thief of one targets key of two, and of both online keys, publishes nothing."""
    world = worlds(targets=(3, 2))
    world.release("1")
    attack = Attack(world, state)
    signers = {
        "one": world.signers[:1],
        "one, twice": [world.signers[0]] * 2,
        "one, and one of another role": [world.signers[0], world.online("snapshot")],
    }[stolen]
    evil = evil_package(world, world.repository.public)
    take_over(world, with_target(world, evil, *signers))
    attack.refused(UntrustedError, match="not signed by the keys .* 1/2 keys")


def test_key_compromise_at_the_threshold_would_succeed(worlds: Worlds) -> None:
    """The attack above is a real one: with one key more it works."""
    world = worlds(targets=(3, 2))
    world.release("1")
    evil = evil_package(world, world.repository.public)
    take_over(world, with_target(world, evil, *world.signers[:2]))
    assert world.device().update(NAME).version == "3"


def test_key_compromise_of_a_root_holder(state: str, world: World, worlds: Worlds) -> None:
    """One root holder of two cannot hand the repository over."""
    attack = Attack(world, state)

    def change(signed: Any) -> None:
        signed.version = 2
        signed.roles["root"].threshold = 1
        signed.roles["root"].keyids = [world.roots[0].public_key.keyid]

    _, root = rewrite(world.metadata("1.root.json"), change, world.roots[0])
    world.site.forge = {"metadata/2.root.json": root}
    attack.refused(UntrustedError, match="1/2 keys")
    attack.recovers()


def test_key_compromise_of_the_adapters_key(worlds: Worlds) -> None:
    """Who holds the server's key for adapters cannot publish a base with it."""
    world = worlds(online_adapters=True)
    world.release("1")
    device = world.device()
    raw = evil_package(world, world.repository.public).to_json()
    target = TargetFile.from_data(f"bases/{NAME}/3.json", raw, ["sha256"])
    world.site.forge[f"targets/{target.get_prefixed_paths()[0]}"] = raw

    def listed(signed: Targets) -> None:
        signed.version = 1000
        signed.targets[target.path] = target

    adapters = rewrite(world.metadata("1.adapters.json"), listed, world.online("adapters"))

    def pinned(signed: Snapshot) -> None:
        signed.version = 1000
        signed.meta["adapters.json"] = MetaFile.from_data(*adapters, hash_algorithms=["sha256"])

    snapshot = rewrite(world.metadata("1.snapshot.json"), pinned, world.online("snapshot"))
    world.site.forge |= {
        "metadata/1000.adapters.json": adapters[1],
        "metadata/1000.snapshot.json": snapshot[1],
        "metadata/timestamp.json": forged_timestamp(world, snapshot),
    }
    assert device.versions("anything", kind="adapters") == []
    assert device.versions(NAME) == ["1"]
    assert device.update(NAME).version == "1"


@pytest.mark.parametrize("role", ["timestamp", "2.snapshot", "2.targets"])
def test_unsigned_metadata(role: str, state: str, world: World) -> None:
    attack = Attack(world, state)
    document = json.loads(world.metadata(f"{role}.json"))
    document["signatures"] = []
    world.site.forge = {f"metadata/{role}.json": json.dumps(document).encode()}
    attack.refused(UntrustedError, DownloadError)
    attack.recovers()


def test_an_unsigned_artefact(state: str, world: World) -> None:
    """A version that lies on the server, and that nobody signed, does not exist."""
    attack = Attack(world, state, released=False)
    package = world.package("unsigned", [b"new"])
    world.repository.add(find_source(package, world.trusted), NAME, "2", world.now)
    names = [name for name in files(world.repository.public) if ".2.json" in name]
    assert names  # it is there
    assert attack.device.update(NAME).version == "1"
    digest = hashlib.sha256(files(world.repository.public)[names[0]]).hexdigest()
    assert digest in names[0]


def test_a_device_that_pins_another_root(world: World, worlds: Worlds) -> None:
    other = worlds()
    other.release("1")
    device = PackageUpdater(world.folder / "device", world.site.url, other.pinned)
    with pytest.raises(UntrustedError, match="is this the repository that the root came from"):
        device.update(NAME)
