"""Who is let in: once for each invitation, with keys of their own, until revoked."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("prometheus_client", reason="a coordinator needs the extra 'serve'")

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from locavore.privacy.secagg.roster import SignedRoster
from locavore.server.coordinator.admission import Admission
from locavore.shared.admission import Enrolment, Leave
from locavore.shared.errors import AdmissionError, FederationError

TERMS = "ab" * 32


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


class Desk:
    """An admission, its clock, and how nodes are registered."""

    def __init__(self, folder: Path) -> None:
        self.key, self.clock = Ed25519PrivateKey.generate(), Clock()
        self.admission = Admission(folder / "a" / "admission.db", self.key, TERMS, self.clock)
        self.registered: list[bytes] = []

    def register(self, pem: bytes) -> int:
        self.registered.append(pem)
        return (1 << 63) + len(self.registered)

    def request(self, token: str, key: Ed25519PrivateKey | None = None) -> Enrolment:
        return Enrolment.sign(key or Ed25519PrivateKey.generate(), TERMS, token, pem())

    def enrol(self, key: Ed25519PrivateKey | None = None) -> tuple[Enrolment, int]:
        request = self.request(self.admission.invite(), key)
        return request, self.admission.enrol(request, self.register)

    @property
    def roster(self) -> set[str]:
        return {identity.hex() for identity in self.admission.roster().identities}


def pem(curve: Callable[[], ec.EllipticCurve] = ec.SECP384R1) -> str:
    public = ec.generate_private_key(curve()).public_key()
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    made = Desk(tmp_path)
    yield made
    made.admission.close()


def test_an_invitation_lets_one_device_in(desk: Desk) -> None:
    request, node = desk.enrol()
    assert node == (1 << 63) + 1
    assert desk.registered == [request.node_key.encode()]
    assert desk.roster == {request.identity}
    assert desk.admission.nodes() == {node: True}


def test_a_token_is_not_kept_as_it_is(desk: Desk, tmp_path: Path) -> None:
    token = desk.admission.invite()
    raw = b"".join(path.read_bytes() for path in (tmp_path / "a").iterdir())
    assert token.encode() not in raw


def refused(desk: Desk, request: Enrolment, why: str) -> None:
    before = desk.roster, list(desk.registered)
    with pytest.raises(AdmissionError, match=why):
        desk.admission.enrol(request, desk.register)
    assert (desk.roster, desk.registered) == before


def test_a_token_holds_once(desk: Desk) -> None:
    request, _ = desk.enrol()
    refused(desk, desk.request(request.token), "unknown, was used, or is over")


def test_a_made_up_token_holds_never(desk: Desk) -> None:
    refused(desk, desk.request("guess"), "unknown, was used, or is over")


def test_an_invitation_is_over_in_time(desk: Desk) -> None:
    token = desk.admission.invite(days=2)
    desk.clock.now += 2 * 86400 + 1
    refused(desk, desk.request(token), "unknown, was used, or is over")


def test_an_identity_is_let_in_once(desk: Desk) -> None:
    key = Ed25519PrivateKey.generate()
    desk.enrol(key)
    refused(desk, desk.request(desk.admission.invite(), key), "has been let in before")


def test_a_request_is_signed_by_its_identity_over_all_of_it(desk: Desk) -> None:
    request = desk.request(desk.admission.invite())
    other = Ed25519PrivateKey.generate().public_key().public_bytes_raw().hex()
    for changed in (
        replace(request, identity=other),
        replace(request, node_key=pem()),
        replace(request, signature="00" * 64),
        replace(request, signature="xy"),
        Enrolment.sign(Ed25519PrivateKey.generate(), "cd" * 32, request.token, pem()),
    ):
        refused(desk, changed, "not signed by the identity")


@pytest.mark.parametrize("key", ["no key", pem(ec.SECP256R1)])
def test_a_nodes_key_is_of_the_right_kind(desk: Desk, key: str) -> None:
    request = Enrolment.sign(Ed25519PrivateKey.generate(), TERMS, desk.admission.invite(), key)
    refused(desk, request, "EC public key of P-384")


def test_where_registering_fails_the_invitation_still_holds(desk: Desk) -> None:
    request = desk.request(desk.admission.invite())

    def broken(_: bytes) -> int:
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        desk.admission.enrol(request, broken)
    assert not desk.roster
    desk.admission.enrol(request, desk.register)
    assert desk.roster == {request.identity}


def test_who_is_revoked_is_in_no_later_roster(desk: Desk) -> None:
    first, node = desk.enrol()
    second, _ = desk.enrol()
    assert desk.admission.revoke(first.identity[:12]) == node
    assert desk.roster == {second.identity}
    assert desk.admission.nodes()[node] is False
    with pytest.raises(AdmissionError, match="0 devices"):
        desk.admission.revoke("ffffffffffffffff")
    with pytest.raises(AdmissionError, match="2 devices have an identity ''"):
        desk.admission.revoke("")


def test_who_leaves_is_revoked_and_nobody_can_leave_for_another(desk: Desk) -> None:
    key = Ed25519PrivateKey.generate()
    _, node = desk.enrol(key)
    request = Leave.sign(key, TERMS)
    with pytest.raises(AdmissionError, match="not signed"):
        desk.admission.leave(replace(Leave.sign(desk.key, TERMS), identity=request.identity))
    with pytest.raises(AdmissionError, match="not signed"):
        desk.admission.leave(Leave.sign(key, "cd" * 32))
    assert desk.admission.leave(request) == node
    assert not desk.roster


def test_every_change_signs_a_newer_roster_and_older_ones_stay(desk: Desk) -> None:
    digests = [desk.admission.roster().digest]
    for _ in range(3):
        desk.enrol()
        digests.append(desk.admission.roster().digest)
    admission = desk.key.public_key().public_bytes_raw()
    found = [SignedRoster.from_json(desk.admission.signed_roster(d)) for d in digests]
    assert [one.version for one in found] == [1, 2, 3, 4]
    for one, digest in zip(found, digests, strict=True):
        assert one.verified(admission, TERMS).digest == digest
    with pytest.raises(AdmissionError, match="no roster"):
        desk.admission.signed_roster("00")


def test_the_register_is_there_after_a_restart(desk: Desk, tmp_path: Path) -> None:
    request, node = desk.enrol()
    again = Admission(tmp_path / "a" / "admission.db", desk.key, TERMS, desk.clock)
    assert again.nodes() == {node: True}
    assert again.keys() == {node: request.node_key.encode()}
    assert [row[0] for row in again.devices()] == [request.identity]
    again.close()


@pytest.mark.parametrize(
    "said", [None, [], {}, {"token": 1}, {"identity": "a", "signature": "b", "more": "c"}]
)
def test_a_request_has_its_fields_and_no_others(said: object) -> None:
    with pytest.raises(AdmissionError, match="must have the fields identity, signature"):
        Leave.read(said)


@pytest.mark.parametrize("value", [1, None, "a" * 5000])
def test_fields_are_texts_of_a_length(value: object) -> None:
    with pytest.raises(AdmissionError, match="texts of 4096 characters at most"):
        Leave.read({"identity": value, "signature": "b"})


def test_a_register_of_other_terms_is_refused(desk: Desk, tmp_path: Path) -> None:
    with pytest.raises(FederationError, match="is of a federation with other terms"):
        Admission(tmp_path / "a" / "admission.db", desk.key, "cd" * 32, desk.clock)


def test_leaving_twice_makes_no_roster(desk: Desk) -> None:
    key = Ed25519PrivateKey.generate()
    desk.enrol(key)
    desk.admission.leave(Leave.sign(key, TERMS))
    before = desk.admission.signed_roster(desk.admission.roster().digest)
    desk.admission.leave(Leave.sign(key, TERMS))
    after = desk.admission.signed_roster(desk.admission.roster().digest)
    assert SignedRoster.from_json(after).version == SignedRoster.from_json(before).version
