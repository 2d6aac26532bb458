"""Records in a vault: contexts, consent, retention, media, and that what is forgotten is gone."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from locavore.client.device import Device
from locavore.client.retrieval import Where
from locavore.client.vault.certificate import Certificate
from locavore.client.vault.entries import Sort
from locavore.client.vault.keys import Key
from locavore.client.vault.vault import Vault
from locavore.privacy.ledger import Charge, Ledger
from locavore.shared.adapters import Array
from locavore.shared.contexts import (
    Consent,
    Context,
    PersonalFaceBody,
    PersonalizedSubject,
    Provenance,
    UserBehavior,
    UserDocument,
    UserProfile,
)
from locavore.shared.errors import BadInputError, PrivacyError, TamperError

KEY = Key(b"k" * 32)
NOW = datetime(2026, 5, 1, tzinfo=UTC)
FOUND = Consent(retrieve=True)
BIG = os.urandom(700_000)

EVERY_KIND: list[Context] = [
    UserProfile(attributes={"role": "nurse", "名前": "Ann"}, time=NOW, consent=FOUND),
    UserDocument(body="body", title="title", time=NOW, consent=Consent.full()),
    UserDocument(body="half a pair: \ud83d", time=NOW),
    UserBehavior(item="film", action="rated", rating=4.5, time=NOW),
    PersonalFaceBody(media=b"\x89PNG", media_type="image/png", caption="me", time=NOW),
    PersonalFaceBody(media=b"", media_type="audio/wav", time=NOW),
    PersonalizedSubject(
        name="cat",
        media=(BIG, b"", b"small"),
        media_type="image/png",
        time=NOW,
        expires=NOW + timedelta(days=99999),
        provenance=Provenance(source="photos", uri="a/b.png"),
    ),
]


class Clock:
    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture(params=["memory", "sealed"])
def vault(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Vault]:
    made = Vault.in_memory() if request.param == "memory" else Vault.create(tmp_path / "v", KEY)
    yield made
    made.close()


class TestVault:
    """What holds in memory and on disk."""

    def test_a_new_vault_is_empty(self, vault: Vault) -> None:
        assert len(vault) == 0
        assert list(vault) == []

    @pytest.mark.parametrize("record", EVERY_KIND, ids=lambda r: type(r).__name__)
    def test_every_kind_comes_back_as_it_was(self, vault: Vault, record: Context) -> None:
        vault.add(record)
        assert vault.get(record.id) == record
        assert list(vault) == [record]
        vault.forget([record.id])
        assert vault.entries.count(Sort.MEDIA) == 0

    def test_iteration_is_oldest_first(self, vault: Vault) -> None:
        for days in (1, 3, 2):
            vault.add(UserDocument(body=str(days), time=NOW - timedelta(days=days)))
        assert [record.text for record in vault] == ["3", "2", "1"]

    def test_a_taken_id_is_refused(self, vault: Vault) -> None:
        vault.add(UserDocument(body="first", id="x"))
        with pytest.raises(BadInputError, match="record 'x' already"):
            vault.add_all([UserDocument(body="other"), UserDocument(body="second", id="x")])
        with pytest.raises(BadInputError, match="already"):
            vault.add_all([UserDocument(body="1", id="y"), UserDocument(body="2", id="y")])
        assert [record.text for record in vault] == ["first"]

    def test_unknown_ids_are_refused_and_nothing_is_forgotten(self, vault: Vault) -> None:
        vault.add(UserDocument(body="a", id="x"))
        with pytest.raises(BadInputError, match="no record 'y'"):
            vault.get("y")
        with pytest.raises(BadInputError, match="no record 'y'"):
            vault.forget(["x", "y"])
        assert vault.holds("x")

    def test_a_replaced_record_is_found_by_its_new_text_only(self, vault: Vault) -> None:
        record = UserDocument(body="the old kettle", id="x", consent=FOUND)
        vault.add(record)
        assert len(vault.retriever().retrieve("kettle")) == 1
        assert vault.replace(replace(record, body="the new boat")) is None
        assert vault.retriever().retrieve("kettle") == []
        assert vault.retriever().retrieve("boat")[0].record.text == "the new boat"

    def test_withdrawn_consent_ends_retrieval(self, vault: Vault) -> None:
        record = UserDocument(body="kettle", id="x", consent=FOUND)
        vault.add(record)
        assert vault.retriever().retrieve("kettle")
        vault.replace(replace(record, consent=Consent()))
        assert vault.retriever().retrieve("kettle") == []

    def test_searches_see_each_change(self, vault: Vault) -> None:
        device = Device(store=vault)
        for number in range(30):  # enough that small segments are merged
            device.remember(
                UserDocument(body=f"word{number} kettle", id=str(number), consent=FOUND)
            )
            assert [hit.record.id for hit in device.recall(f"word{number}")] == [str(number)]
        for number in range(0, 30, 3):
            device.forget(str(number))
            assert device.recall(f"word{number}") == []
        assert len(device.recall("kettle", k=99)) == 20

    def test_filters(self, vault: Vault) -> None:
        device = Device(store=vault)
        for days, source in enumerate(["mail", "notes", "mail"]):
            device.remember(
                UserDocument(
                    body="kettle",
                    id=str(days),
                    time=NOW + timedelta(days=days),
                    provenance=Provenance(source=source),
                    consent=Consent(retrieve=True, train=days == 1, federate=days == 1),
                )
            )
        device.remember(UserProfile(attributes={"owns": "kettle"}, id="p", consent=FOUND))

        def ids(where: Where) -> set[str]:
            return {hit.record.id for hit in device.recall("kettle", 9, where)}

        assert ids(Where()) == {"0", "1", "2", "p"}
        assert ids(Where(sources=["mail"])) == {"0", "2"}
        assert ids(Where(kinds=["profile"])) == {"p"}
        assert ids(Where(since=NOW + timedelta(days=1), until=NOW + timedelta(days=2))) == {"1"}
        assert ids(Where(train=True)) == ids(Where(federate=True)) == {"1"}

    def test_the_ledger_of_a_vault(self, vault: Vault) -> None:
        charge = Charge(
            purpose="text",
            round=1,
            unit="record",
            relation="add-or-remove-one",
            noise_multiplier=2.0,
            sampling_rate=0.5,
        )
        ledger = Ledger(vault.journal, delta=1e-5, budgets={"record": 3.0})
        epsilon = ledger.charge(charge)
        assert 0 < epsilon < 3
        assert Ledger(vault.journal, delta=1e-5).epsilon() == epsilon
        with pytest.raises(PrivacyError, match="above the budget"):
            ledger.charge(*[replace(charge, round=n) for n in range(2, 40)])
        assert ledger.charges == [charge]
        vault.add(UserDocument(body="x", id="x"))
        vault.forget_everything()
        assert ledger.charges == [charge]  # spent stays spent

    def test_what_left_stands_in_the_certificate(self, vault: Vault) -> None:
        for name in "ab":
            vault.add(UserDocument(body=name, id=name))
        for round in (1, 2):
            vault.note_use(
                "ab" if round == 1 else "b",
                purpose="text",
                round=round,
                unit="record",
                epsilon=round / 2,
                delta=1e-5,
            )
        (left,) = vault.forget(["b"]).left
        assert (left.rounds, left.epsilon, left.unit) == ((1, 2), 1.0, "record")
        assert vault.uses("a")[0].rounds == (1,)
        assert vault.uses("b") == ()
        assert any(
            "cannot be recalled: rounds 1, 2" in s for s in vault.certificates[0].sentences()
        )

    def test_certificates_are_signed(self, vault: Vault) -> None:
        vault.add(UserDocument(body="secret", id="mail-7"))
        said = vault.forget(["mail-7"])
        said.verify()
        assert said.names("mail-7")
        assert not said.names("mail-8")
        assert "mail-7" not in said.to_json()
        assert Certificate.from_json(said.to_json()) == said == vault.certificates[0]
        for changed in (
            replace(said, time="2020-01-01T00:00:00+00:00"),
            replace(said, records=()),
            replace(said, key=Vault.in_memory().entries.identity.hex()),
            replace(said, signature=""),
        ):
            with pytest.raises(TamperError):
                changed.verify()
        with pytest.raises(TamperError, match="another vault"):
            said.verify("00" * 32)
        with pytest.raises(BadInputError, match="no certificate"):
            Certificate.from_json("{}")


def test_expiry_is_enforced_and_time_does_not_go_back(tmp_path: Path) -> None:
    clock = Clock()
    Vault.create(tmp_path / "v", KEY).close()
    vault = Vault.open(tmp_path / "v", KEY, clock=clock)
    for days in (1, 2, 3):
        vault.add(
            UserDocument(
                body="kettle", id=str(days), expires=NOW + timedelta(days=days), consent=FOUND
            )
        )
    vault.add(UserDocument(body="kettle", id="stays", consent=FOUND))
    assert len(vault.retriever()) == 4
    clock.now = NOW + timedelta(days=1)
    assert {record.id for record in vault} == {"2", "3", "stays"}
    assert [said.why for said in vault.certificates] == ["expired"]
    assert len(vault.retriever()) == 3
    vault.close()
    reader_clock = Clock()
    reader_clock.now = NOW + timedelta(days=2, hours=1)
    reader = Vault.open(tmp_path / "v", KEY, read_only=True, clock=reader_clock)
    assert {record.id for record in reader} == {"3", "stays"}
    assert len(reader) == 2
    assert len(reader.retriever()) == 2
    with pytest.raises(BadInputError, match="no record '2'"):
        reader.get("2")
    reader.close()
    clock.now = NOW + timedelta(days=4)
    vault = Vault.open(tmp_path / "v", KEY, clock=clock)
    assert {record.id for record in vault} == {"stays"}
    vault.add(UserDocument(body="x", id="again", expires=NOW + timedelta(days=3)))
    clock.now = NOW  # somebody turned the clock back
    assert not any(record.id == "again" for record in vault)
    vault.close()


@pytest.mark.parametrize("time", ["expires", "time"])
def test_times_carry_a_zone(time: str) -> None:
    with pytest.raises(BadInputError, match=f"a record's {time} must carry a time zone"):
        UserDocument(body="x", **{time: datetime(2026, 1, 1)})  # type: ignore[arg-type]


class _Letters:
    """Embeds by letters, so that vectors are secret too."""

    name = "letters"

    def embed(self, texts: Sequence[str]) -> Array:
        rows = np.array(
            [[t.lower().count(c) + 0.01 for c in "abcdefgh"] for t in texts], np.float32
        )
        unit: Array = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        return unit


def _bytes_of(folder: Path) -> bytes:
    return b"\n".join(path.read_bytes() for path in sorted(folder.iterdir()))


def test_a_thousand_secrets_are_nowhere(tmp_path: Path) -> None:
    """Not while they are kept, and not a wrapped key of them once they are forgotten."""
    folder = tmp_path / "v"
    device = Device.create(folder, key=KEY.raw, embedder=_Letters())
    secrets = [f"{os.urandom(5).hex()}-{i}" for i in range(1000)]
    media = [os.urandom(300) for _ in range(50)]
    device.remember_all(
        [
            UserDocument(
                body=f"Do not tell {s} to Quill.",
                id=f"id-{s}",
                consent=Consent.full(),
                provenance=Provenance(source=f"src-{s}", uri=f"uri-{s}"),
            )
            for s in secrets[:950]
        ]
        + [
            PersonalizedSubject(name=s, media=(m,), media_type="image/png", consent=FOUND)
            for s, m in zip(secrets[950:], media, strict=True)
        ]
    )
    assert device.recall(secrets[3], k=1)[0].record.id == f"id-{secrets[3]}"
    vault, vectors = device.store, []
    for segment in vault._index._loaded.values():
        assert segment.vectors is not None
        vectors += [segment.vectors.codes.tobytes(), segment.vectors.scales.tobytes()]
    planted = [s.encode() for s in secrets] + media + vectors + [b"Quill", b"src-", b"document"]

    def hits() -> list[bytes]:
        whole = _bytes_of(folder)
        return [secret for secret in planted if secret in whole]

    assert len(_bytes_of(folder)) > 500_000
    assert hits() == []  # unlocked, with its log
    file = vault.entries
    keys = [row[0] for row in file._connection.execute("SELECT key FROM entries")]  # type: ignore[attr-defined]
    assert sum(key in _bytes_of(folder) for key in keys if key) > 1000
    for s in secrets[:20]:
        device.forget(f"id-{s}")
    device.forget(source=f"src-{secrets[20]}")
    everything = [record.id for record in vault]
    device.store.forget(everything)
    assert len(vault) == 0
    assert device.recall(secrets[3]) == []
    assert hits() == []
    forgotten = [key for key in keys if key and key in _bytes_of(folder)]
    # what is left is the manifest of the (now empty) index: no record, segment or vector
    assert len(forgotten) <= 1
    device.close()
    assert hits() == []


def test_nothing_personal_shows_in_a_store_never_unlocked(tmp_path: Path) -> None:
    device = Device.create(tmp_path / "v", passphrase="correct horse")
    device.remember_all(EVERY_KIND)
    device.recall("title")
    device.close()
    whole = _bytes_of(tmp_path / "v")
    for word in (b"nurse", b"title", b"photos", b"a/b.png", b"image/png", b"document", b"PNG"):
        assert word not in whole
    for word in (b"correct", b"2026-05", str(NOW.timestamp()).encode(), BIG[:16]):
        assert word not in whole


def test_forgetting_everything_leaves_a_certificate_and_no_key(tmp_path: Path) -> None:
    device = Device.create(tmp_path / "v", key=KEY.raw)
    device.remember_all([*EVERY_KIND, UserDocument(body="first to go", id="first")])
    first = device.forget("first")
    file = device.store.entries
    old = [row[0] for row in file._connection.execute("SELECT key FROM entries")]  # type: ignore[attr-defined]
    old += [row[0].encode() for row in file._connection.execute("SELECT header FROM head")]  # type: ignore[attr-defined]
    said = device.forget_everything()
    said.verify()
    assert len(said.records) == len(EVERY_KIND)
    assert not any(key in _bytes_of(tmp_path / "v") for key in old if key)
    device.remember(UserDocument(body="a new life", consent=FOUND))
    assert device.recall("life")
    device.close()
    again = Device.open(tmp_path / "v", key=KEY.raw)
    assert len(again.store) == 1
    assert again.store.certificates == [first, said]
    again.close()


def test_export_is_everything_in_plain_files(vault: Vault, tmp_path: Path) -> None:
    device = Device(store=vault)
    device.remember_all(EVERY_KIND)
    device.forget(EVERY_KIND[3].id)
    assert device.export(tmp_path / "me.zip") == len(EVERY_KIND) - 1
    with zipfile.ZipFile(tmp_path / "me.zip") as archive:
        rows = [json.loads(line) for line in archive.read("records.jsonl").splitlines()]
        assert {row["id"] for row in rows} == {record.id for record in vault}
        (subject,) = [row for row in rows if row["kind"] == "subject"]
        assert archive.read(subject["media"][0]) == BIG
        assert len(json.loads(archive.read("certificates.json"))) == 1
    with pytest.raises(BadInputError, match="exists already"):
        device.export(tmp_path / "me.zip")


def test_a_person_teaches_which_ranking_to_trust() -> None:
    device = Device()
    for age in range(8):
        body = "kettle " * (8 - age) + "word " * age
        device.remember(
            UserDocument(body=body, id=str(age), time=NOW + timedelta(days=age), consent=FOUND)
        )
    assert device.recall("kettle", 1)[0].record.id == "0"  # most words
    for _ in range(12):
        device.prefer(device.recall("kettle", 8), "7")  # always takes the newest
    assert device.recall("kettle", 1)[0].record.id == "7"
    assert sum(device.store.weights.values()) == pytest.approx(2.02)
    with pytest.raises(BadInputError, match="not among these hits"):
        device.prefer(device.recall("kettle", 2), "none")


def test_another_embedder_takes_over() -> None:
    device = Device(embedder=_Letters())
    device.remember(UserDocument(body="cabbage", consent=FOUND))
    assert device.recall("bag")[0].why == {"meaning": 1, "recency": 1}

    class Other(_Letters):
        name = "others"

    device.embedder = Other()
    assert device.recall("bag")[0].why["meaning"] == 1
    assert device.store._index.segments(lambda _: iter(()))[0].vectors.embedder == "others"  # type: ignore[union-attr]


@pytest.mark.parametrize("given", [{}, {"passphrase": "a", "key": b"k" * 32}])
def test_one_way_to_unlock(given: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="give one"):
        Device.create(tmp_path / "v", **given)  # type: ignore[arg-type]


def test_a_device_without_a_model_remembers_and_recalls_but_does_not_generate() -> None:
    device = Device()
    with pytest.raises(BadInputError, match="opened without a model"):
        _ = device.model
