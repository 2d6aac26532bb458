"""Authoring: thresholds, rotation, expiry, publishing whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)
from securesystemslib.signer import CryptoSigner
from tuf.api.metadata import Metadata, Root, Snapshot, Timestamp

from locavore.server.repository.keys import load_public, load_signer, make_key
from locavore.server.repository.repository import Repository
from locavore.server.repository.roles import Validity
from locavore.server.repository.sources import find_source
from locavore.shared.errors import (
    AdapterError,
    BadInputError,
    DistributionError,
    IntegrityError,
    RepositoryError,
)
from locavore.shared.files import lock_folder
from locavore.shared.packages import sign_package

NOW = datetime(2026, 5, 1, tzinfo=UTC)
WORD = b"correct horse"


class Holders:
    """Makes keys and repositories."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def one(self, name: str) -> CryptoSigner:
        path = self.folder / f"{name}.pem"
        make_key(path, WORD)
        return load_signer(path, lambda _: WORD)

    def repository(
        self, root: list[CryptoSigner], targets: list[CryptoSigner], **how: Any
    ) -> Repository:
        return Repository.create(
            self.folder / "repository",
            root=[signer.public_key for signer in root],
            targets=[signer.public_key for signer in targets],
            now=NOW,
            **how,
        )


@pytest.fixture
def holders(tmp_path: Path) -> Holders:
    return Holders(tmp_path)


@pytest.fixture
def package(tmp_path: Path, key: Ed25519PrivateKey) -> Path:
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "model.onnx").write_bytes(b"graph")
    sign_package(folder, key=key, name="tiny", modality="text", precision="int8", details={})
    return folder


def metadata(repository: Repository) -> dict[str, bytes]:
    folder = repository.public / "metadata"
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def timestamp(repository: Repository) -> Timestamp:
    return Metadata[Timestamp].from_bytes(metadata(repository)["timestamp.json"]).signed


def test_two_of_three_must_sign(holders: Holders) -> None:
    ann, bob, eve, tia = (holders.one(name) for name in ("ann", "bob", "eve", "tia"))
    repository = holders.repository([ann, bob, eve], [tia], root_threshold=2)
    with pytest.raises(RepositoryError, match=r"root version 1 lacks 2 signature.*ann .*bob .*eve"):
        repository.publish(NOW)
    assert repository.sign(ann) == ["root"]
    with pytest.raises(RepositoryError, match=r"lacks 1 signature.*of any of bob .*, eve"):
        repository.publish(NOW)
    repository.sign(ann)  # twice is once
    with pytest.raises(RepositoryError, match="lacks 1"):
        repository.publish(NOW)
    repository.sign(eve)
    with pytest.raises(RepositoryError, match=r"targets version 1 lacks 1"):
        repository.publish(NOW)
    assert metadata(repository) == {}  # nothing was put in place
    assert repository.sign(tia) == ["targets"]
    repository.publish(NOW)
    assert sorted(metadata(repository)) == [
        "1.root.json",
        "1.snapshot.json",
        "1.targets.json",
        "root.json",
        "timestamp.json",
    ]
    assert repository.root_bytes() == metadata(repository)["root.json"]
    assert not list((repository.folder / "staged").iterdir())


def published(holders: Holders, **how: Any) -> tuple[Repository, CryptoSigner, CryptoSigner]:
    ann, tia = holders.one("ann"), holders.one("tia")
    repository = holders.repository([ann], [tia], **how)
    repository.sign(ann)
    repository.sign(tia)
    repository.publish(NOW)
    return repository, ann, tia


def test_who_is_no_holder_signs_nothing(holders: Holders) -> None:
    repository, ann, _ = published(holders)
    with pytest.raises(RepositoryError, match="no draft waits for the key ann"):
        repository.sign(ann)  # there is no draft at all
    repository.renew("root", NOW)
    with pytest.raises(RepositoryError, match="no draft waits for the key eve"):
        repository.sign(holders.one("eve"))


def test_expiry_is_what_the_terms_say(holders: Holders) -> None:
    validity = Validity(root=100, targets=50, snapshot=10, timestamp=2)
    repository, *_ = published(holders, validity=validity)
    ends = {state.role: state.expires - NOW for state in repository.states()}
    assert ends == {role: timedelta(days=getattr(validity, role)) for role in ends}
    assert set(ends) == {"root", "targets", "snapshot", "timestamp"}


@pytest.mark.parametrize("days", [0, -1, 4000])
def test_terms_are_bounded(days: int) -> None:
    with pytest.raises(BadInputError, match="validity must be"):
        Validity(root=days)


def test_a_change_takes_the_signatures_away(holders: Holders, package: Path, trusted: Any) -> None:
    repository, _, tia = published(holders)
    repository.renew("targets", NOW)
    repository.sign(tia)
    repository.add(find_source(package, trusted), "tiny", "1", NOW)
    with pytest.raises(RepositoryError, match="targets version 2 lacks 1"):
        repository.publish(NOW)
    repository.sign(tia)
    repository.publish(NOW)
    assert list(repository.targets()) == ["bases/tiny/1.json"]
    index = repository.index("bases/tiny/1.json")
    assert index.publisher == trusted[0].hex()
    assert set(index.files) == {"manifest.json", "manifest.sig", "model.onnx"}


@pytest.mark.parametrize("version", ["1", "1.0", "1.0.0"])
def test_what_was_listed_is_never_changed(
    version: str, holders: Holders, package: Path, trusted: Any
) -> None:
    repository, *_ = published(holders)
    repository.add(find_source(package, trusted), "tiny", "1", NOW)
    with pytest.raises(BadInputError, match="tiny 1 is there already"):
        repository.add(find_source(package, trusted), "tiny", version, NOW)
    repository.add(find_source(package, trusted), "other", version, NOW)


@pytest.mark.parametrize(
    ("name", "version"), [("../tiny", "1"), ("Tiny", "1"), ("tiny", "one"), ("tiny", "1/2")]
)
def test_names_that_are_none(
    name: str, version: str, holders: Holders, package: Path, trusted: Any
) -> None:
    repository, *_ = published(holders)
    with pytest.raises(BadInputError, match=r"a (name|version) is"):
        repository.add(find_source(package, trusted), name, version, NOW)


def test_only_what_verifies_is_published(holders: Holders, package: Path, trusted: Any) -> None:
    (package / "model.onnx").write_bytes(b"grapH")
    with pytest.raises(IntegrityError, match="SHA-256"):
        find_source(package, trusted)
    with pytest.raises(IntegrityError, match="not signed by any"):
        find_source(package, [])
    with pytest.raises(BadInputError, match="neither a base-model package"):
        find_source(holders.folder, trusted)
    (holders.folder / "adapter_config.json").write_text("{}")
    with pytest.raises(AdapterError):
        find_source(holders.folder, trusted)


def test_a_pack_that_is_missing_is_not_published(
    holders: Holders, package: Path, trusted: Any
) -> None:
    repository, _, tia = published(holders)
    repository.add(find_source(package, trusted), "tiny", "1", NOW)
    repository.sign(tia)
    pack = next((repository.public / "packs").iterdir())
    pack.write_bytes(pack.read_bytes()[:-1])
    with pytest.raises(RepositoryError, match="missing or cut"):
        repository.publish(NOW)
    (repository.public / "targets").rename(repository.public / "lost")
    with pytest.raises(RepositoryError, match="is not what was added"):
        repository.publish(NOW)


# Rotation


def test_a_root_key_is_replaced_by_old_and_new_holders(holders: Holders) -> None:
    repository, ann, _ = published(holders)
    bob = holders.one("bob")
    repository.rotate("root", drop=[ann.public_key], add=[bob.public_key], now=NOW)
    repository.sign(bob)
    with pytest.raises(RepositoryError, match=r"root version 2 lacks 1 signature.*of any of ann"):
        repository.publish(NOW)
    repository.sign(ann)  # the holders before must agree
    repository.publish(NOW)
    repository.renew("root", NOW)
    with pytest.raises(RepositoryError, match="no draft waits for the key ann"):
        repository.sign(ann)
    repository.sign(bob)
    repository.publish(NOW)
    assert Metadata[Root].from_bytes(repository.root_bytes()).signed.version == 3


def test_a_targets_key_is_replaced_with_a_new_list(holders: Holders) -> None:
    repository, ann, tia = published(holders)
    bob = holders.one("bob")
    repository.rotate("targets", drop=[tia.public_key], add=[bob.public_key], now=NOW)
    repository.sign(ann)
    with pytest.raises(RepositoryError, match=r"targets version 2 lacks 1 .* of any of bob"):
        repository.publish(NOW)
    repository.sign(bob)
    repository.publish(NOW)


@pytest.mark.parametrize("role", ["snapshot", "timestamp"])
def test_an_online_key_is_replaced_by_a_fresh_one(role: str, holders: Holders) -> None:
    repository, ann, _ = published(holders)
    old = repository.root_bytes()
    repository.rotate(role, now=NOW)
    repository.sign(ann)
    repository.publish(NOW)
    before, after = (
        Metadata[Root].from_bytes(raw).signed.roles[role].keyids
        for raw in (
            old,
            repository.root_bytes(),
        )
    )
    assert len(before) == len(after) == 1
    assert before != after


def test_the_adapters_key_is_replaced(holders: Holders) -> None:
    repository, _, tia = published(holders, online_adapters=True)
    repository.rotate("adapters", now=NOW)
    repository.sign(tia)
    repository.publish(NOW)
    assert "2.adapters.json" in metadata(repository)
    repository.refresh(NOW)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda r, k: r.rotate("mirror", now=NOW), "role must be one of root, targets"),
        (lambda r, k: r.rotate("adapters", now=NOW), "role must be one of"),
        (lambda r, k: r.rotate("root", now=NOW), "name the keys of root"),
        (lambda r, k: r.rotate("root", drop=[k], now=NOW), "not one of the role root"),
        (lambda r, k: r.rotate("root", threshold=2, now=NOW), "threshold of root must be 1..1"),
        (lambda r, k: r.rotate("root", add=[k], threshold=3, now=NOW), "must be 1..2"),
        (lambda r, k: r.renew("snapshot", NOW), "only root and targets are signed by people"),
    ],
)
def test_rotations_that_are_none(
    change: Callable[[Repository, Any], None], said: str, holders: Holders
) -> None:
    repository, *_ = published(holders)
    with pytest.raises(BadInputError, match=said):
        change(repository, holders.one("eve").public_key)
    with pytest.raises(RepositoryError, match="no draft"):
        repository.sign(load_signer(holders.folder / "ann.pem", lambda _: WORD))


# What the server does


def test_a_refresh_renews_the_timestamp(holders: Holders) -> None:
    repository, *_ = published(holders)
    before = timestamp(repository)
    later = NOW + timedelta(hours=6)
    ends = repository.refresh(later)
    after = timestamp(repository)
    assert after.version == before.version + 1
    assert after.expires == later + timedelta(days=1) == ends["timestamp"]
    assert after.snapshot_meta.version == before.snapshot_meta.version
    assert ends["root"] == NOW + timedelta(days=365)


def test_a_refresh_renews_the_snapshot_in_time(holders: Holders) -> None:
    repository, *_ = published(holders, online_adapters=True)
    repository.refresh(NOW + timedelta(days=4))
    names = set(metadata(repository))
    assert {"2.snapshot.json", "2.adapters.json"} <= names
    raw = metadata(repository)["2.snapshot.json"]
    assert Metadata[Snapshot].from_bytes(raw).signed.meta["adapters.json"].version == 2


def test_nothing_is_refreshed_before_it_was_published(holders: Holders) -> None:
    repository = holders.repository([holders.one("ann")], [holders.one("tia")])
    with pytest.raises(RepositoryError, match="was not published yet"):
        repository.refresh(NOW)
    with pytest.raises(RepositoryError, match="was not published yet"):
        repository.root_bytes()


@pytest.mark.parametrize("role", ["snapshot", "timestamp"])
def test_a_lost_online_key_is_said_before_anything_changes(role: str, holders: Holders) -> None:
    repository, *_ = published(holders)
    (repository.folder / "keys" / f"{role}-1.pem").unlink()
    before = metadata(repository)
    with pytest.raises(RepositoryError, match=f"holds no key of the role {role}"):
        repository.publish(NOW)
    assert metadata(repository) == before
    if role == "timestamp":
        with pytest.raises(RepositoryError, match="holds no key of the role timestamp"):
            repository.refresh(NOW)


def test_a_draft_root_does_not_stop_the_refresh(holders: Holders) -> None:
    repository, *_ = published(holders)
    repository.rotate("timestamp", now=NOW)
    before = timestamp(repository).version
    repository.refresh(NOW)
    assert timestamp(repository).version == before + 1


def test_one_process_at_a_time(holders: Holders) -> None:
    repository, *_ = published(holders)
    with lock_folder(repository.folder), pytest.raises(DistributionError, match="another process"):
        repository.refresh(NOW)


class Killed(BaseException):
    """The process ends here."""


def test_dying_while_publishing_leaves_a_state_that_can_be_published(
    holders: Holders, package: Path, trusted: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, ann, tia = published(holders)
    countdown = 0
    real = os.replace

    def deadly(*arguments: Any, **named: Any) -> None:
        nonlocal countdown
        countdown -= 1
        if not countdown:
            raise Killed
        real(*arguments, **named)

    monkeypatch.setattr(os, "replace", deadly)
    for step in range(1, 8):
        repository.add(find_source(package, trusted), "tiny", str(step), NOW)
        repository.rotate("snapshot", now=NOW)
        repository.sign(ann)
        repository.sign(tia)
        before = timestamp(repository)
        countdown = step
        try:
            repository.publish(NOW)
            assert step > 5
        except Killed:
            assert timestamp(repository) == before  # the state before, as a device sees it
        countdown = 0
        Repository.open(repository.folder).publish(NOW)
        shown = timestamp(repository).snapshot_meta.version
        raw = metadata(repository)[f"{shown}.snapshot.json"]
        pinned = Metadata[Snapshot].from_bytes(raw).signed.meta["targets.json"].version
        newest = Metadata[Any].from_bytes(metadata(repository)[f"{pinned}.targets.json"])
        assert f"bases/tiny/{step}.json" in newest.signed.targets


# Keys and folders


def test_a_key_is_private_and_encrypted(tmp_path: Path) -> None:
    path = tmp_path / "ann.pem"
    made = make_key(path, WORD)
    assert path.stat().st_mode & 0o077 == 0
    assert b"ENCRYPTED" in path.read_bytes()
    assert load_public(path).keyid == load_public(path.with_suffix(".pub")).keyid == made.keyid
    with pytest.raises(RepositoryError, match="the passphrase is wrong"):
        load_signer(path, lambda _: b"another")
    with pytest.raises(BadInputError, match="exists"):
        make_key(path, WORD)
    with pytest.raises(BadInputError, match="must not be empty"):
        make_key(tmp_path / "bob.pem", b"")
    with pytest.raises(BadInputError, match="public half"):
        make_key(tmp_path / "bob.pub", WORD)


def test_files_that_are_no_keys(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="cannot be read"):
        load_signer(tmp_path / "none.pem", lambda _: WORD)
    with pytest.raises(BadInputError, match="no public key"):
        load_public(tmp_path / "none.pem")
    (tmp_path / "junk.pem").write_bytes(b"junk")
    with pytest.raises(RepositoryError, match="no private key"):
        load_signer(tmp_path / "junk.pem", lambda _: WORD)
    rsa = generate_private_key(65537, 2048)
    (tmp_path / "rsa.pem").write_bytes(
        rsa.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    )
    (tmp_path / "rsa.pub").write_bytes(
        rsa.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    )
    with pytest.raises(BadInputError, match="no Ed25519 key"):
        load_signer(tmp_path / "rsa.pem", lambda _: WORD)
    with pytest.raises(BadInputError, match="no Ed25519 key"):
        load_public(tmp_path / "rsa.pub")


def test_an_online_key_may_be_encrypted_too(holders: Holders) -> None:
    repository, *_ = published(holders)
    path = repository.folder / "keys" / "timestamp-1.pem"
    signer = load_signer(path, lambda _: b"")
    path.write_bytes(
        signer._private_key.private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(WORD)
        )
    )
    with pytest.raises(RepositoryError, match="is encrypted"):
        repository.refresh(NOW)
    Repository.open(repository.folder, lambda _: WORD).refresh(NOW)


def test_a_repository_begins_in_an_empty_folder(holders: Holders, tmp_path: Path) -> None:
    ann = holders.one("ann")
    with pytest.raises(BadInputError, match="no repository in"):
        Repository.open(tmp_path)
    with pytest.raises(BadInputError, match=r"threshold of root must be 1\.\.1"):
        holders.repository([ann, ann], [ann], root_threshold=2)
    assert not (tmp_path / "repository").exists()
    holders.repository([ann], [ann])
    with pytest.raises(BadInputError, match="is not empty"):
        holders.repository([ann], [ann])
