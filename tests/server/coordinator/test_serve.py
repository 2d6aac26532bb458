"""A coordinator as it runs: TLS, joining and leaving, the operator's view, configuration."""

from __future__ import annotations

import json
import re
import ssl
import threading
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

pytest.importorskip("prometheus_client", reason="a coordinator needs the extra 'serve'")

from locavore.client.distribution import PackageUpdater
from locavore.client.membership import Invitation, Membership, join, terms_of
from locavore.home import find_base
from locavore.server.coordinator.config import CoordinatorConfig
from locavore.server.coordinator.link import Link
from locavore.server.coordinator.localhost import make_certificates, make_localhost
from locavore.server.coordinator.serve import Coordinator, Ports, key_in
from locavore.server.coordinator.status import Status
from locavore.server.strategy import RoundReport
from locavore.shared.adapters import Array
from locavore.shared.errors import (
    AdmissionError,
    BadInputError,
    DistributionError,
    FederationError,
    SecAggError,
)
from locavore.shared.packages import Package

from ..test_strategy import full


class Running:
    """A coordinator that listens."""

    def __init__(self, coordinator: Coordinator, ports: Ports, status: Status, link: Link) -> None:
        self.coordinator, self.ports, self.status, self.link = coordinator, ports, status, link
        self.url = f"https://127.0.0.1:{ports.devices}"

    def invitation(self) -> Invitation:
        authorities = self.coordinator.config.listen.authorities
        assert authorities is not None
        return Invitation(
            token=self.coordinator.admission.invite(),
            terms=self.coordinator.terms.digest,
            certificates=authorities.read_text(),
        )

    def member(self) -> Membership:
        invitation = self.invitation()
        return join(self.url, invitation, terms_of(self.url, invitation), budget=2.0)

    def operator(self, path: str) -> httpx.Response:
        return httpx.get(f"http://127.0.0.1:{self.ports.operator}{path}")


def file_in(folder: Path, unit: str = "user") -> Path:
    package = find_base("tiny")
    path = make_localhost(folder, package=package, base="tiny", unit=unit, devices=5, rounds=4)
    if "port = 0" in path.read_text():
        return path
    said = re.sub(r"port = \d+", "port = 0", path.read_text())
    path.write_text(said.replace("state =", "rank = 1\nstate ="))
    return path


@contextmanager
def running_in(folder: Path) -> Iterator[Running]:
    config = CoordinatorConfig.load(file_in(folder))
    coordinator = Coordinator(config, find_base("tiny"))
    with coordinator.serving() as (ports, status, link):
        yield Running(coordinator, ports, status, link)


@pytest.fixture
def running(tmp_path: Path, installed: str) -> Iterator[Running]:
    with running_in(tmp_path) as made:
        yield made


def test_a_device_joins_and_is_on_the_roster(running: Running) -> None:
    member = running.member()
    roster = running.coordinator.admission.roster()
    assert roster.identities == {member.identity_key.public_key().public_bytes_raw()}
    found, seen = member.roster(roster.digest)
    assert found.digest == roster.digest
    assert seen.roster_version == 2
    assert running.link.state.get_node_info(node_ids=[member.node_id])[0].status == "registered"
    assert Membership.from_json(member.to_json()) == member


def test_terms_other_than_invited_to_are_refused(running: Running) -> None:
    invitation = replace(running.invitation(), terms="ab" * 32)
    with pytest.raises(FederationError, match=r"the invitation is for abab.*ask for a new"):
        terms_of(running.url, invitation)


def test_a_server_with_another_certificate_is_not_spoken_to(
    running: Running, tmp_path: Path
) -> None:
    make_certificates(tmp_path / "other")
    invitation = replace(
        running.invitation(), certificates=(tmp_path / "other" / "ca.pem").read_text()
    )
    with pytest.raises(FederationError, match=r"cannot be reached.*CERTIFICATE_VERIFY_FAILED"):
        terms_of(running.url, invitation)


def test_nothing_is_served_without_tls(running: Running) -> None:
    with pytest.raises(httpx.TransportError):
        httpx.get(running.url.replace("https", "http") + "/healthz")


def test_an_invitation_that_was_used_is_refused(running: Running) -> None:
    invitation = running.invitation()
    terms = terms_of(running.url, invitation)
    join(running.url, invitation, terms, budget=2.0)
    with pytest.raises(AdmissionError, match="refuses: the invitation is unknown, was used"):
        join(running.url, invitation, terms, budget=2.0)


def test_who_leaves_is_let_in_no_more(running: Running) -> None:
    member = running.member()
    member.leave()
    assert not running.coordinator.admission.roster().identities
    assert running.link.state.get_node_info(node_ids=[member.node_id])[0].status == "unregistered"


def test_a_roster_is_no_older_than_one_that_was_seen(running: Running) -> None:
    member = running.member()
    old = running.coordinator.admission.roster().digest
    running.member()
    _, member = member.roster(running.coordinator.admission.roster().digest)
    with pytest.raises(SecAggError, match="roster 2 is older than 3"):
        member.roster(old)
    with pytest.raises(FederationError, match="no roster"):
        member.roster("00" * 32)


@pytest.mark.parametrize("said", [b"{", b"[]", b'{"token": 1}', b'{"a": "' + b"x" * 20_000 + b'"}'])
def test_what_is_no_enrolment_is_refused(running: Running, said: bytes) -> None:
    authorities = running.invitation().certificates
    context = ssl.create_default_context(cadata=authorities)
    answer = httpx.post(f"{running.url}/v1/locavore/enrol", content=said, verify=context)
    assert answer.status_code in (400, 403, 413)
    assert answer.json()["error"]
    assert not running.coordinator.admission.devices()


def report(round: int, theta: Array, **changes: Any) -> RoundReport:
    figures: dict[str, Any] = {
        "asked": 5,
        "averaged": 4,
        "failed": 1,
        "refused": 0,
        "silent": 0,
        "applied": True,
        "change_norm": 0.5,
        "evaluated": 4,
    }
    return RoundReport(round=round, theta=theta, **(figures | changes))


def test_an_operator_sees_rounds_devices_and_epsilon(running: Running) -> None:
    running.member()
    running.status.ended(report(1, full(1)))
    running.status.ended(report(2, full(1), applied=False, averaged=0, silent=5, change_norm=0.0))
    said = running.operator("/status.json").json()
    assert (said["round"], said["rounds"], said["admitted"], said["connected"]) == (2, 4, 1, 0)
    plan = running.coordinator.config.plan
    assert said["epsilon"] == pytest.approx(plan.epsilon(1, 2))
    assert said["epsilon_in_all"] == pytest.approx(plan.epsilon(1))
    assert [row["applied"] for row in said["history"]] == [True, False]
    assert "theta" not in json.dumps(said)


def test_the_repository_is_served_along(running: Running, tmp_path: Path) -> None:
    root = running.coordinator.repository_root
    assert root is not None
    updater = PackageUpdater(
        tmp_path / "device",
        f"{running.url}/repository",
        root.encode(),
        certificates=running.invitation().certificates,
    )
    done = updater.update("tiny")
    assert done.base_id == running.coordinator.terms.base_id
    strange = PackageUpdater(tmp_path / "other", f"{running.url}/repository", root.encode())
    with pytest.raises(DistributionError, match="cannot be reached"):
        strange.update("tiny")


def test_every_rounds_adapter_is_published_and_old_ones_go(running: Running) -> None:
    publisher = running.coordinator.publisher
    assert publisher is not None
    theta = np.linspace(-1, 1, running.coordinator.form.dim).astype(np.float32)
    assert [publisher.publish(round, round * theta) for round in (1, 2, 4, 5)] == [True] * 4
    before = publisher.repository.targets()["adapters/local/5.json"].hashes
    assert publisher.publish(5, theta)
    after = publisher.repository.targets()["adapters/local/5.json"].hashes
    assert after == before, "what was listed is never changed"
    listed = sorted(path for path in publisher.repository.targets() if "adapters/" in path)
    assert listed == ["adapters/local/4.json", "adapters/local/5.json"]


@pytest.mark.parametrize("unreadable", [False, True])
def test_an_adapter_that_cannot_be_published_ends_nothing(
    running: Running, caplog: pytest.LogCaptureFixture, unreadable: bool
) -> None:
    publisher = running.coordinator.publisher
    assert publisher is not None
    for key in (publisher.repository.folder / "keys").glob("*.pem"):
        key.unlink()
        if unreadable:
            key.mkdir()
    theta = np.ones(running.coordinator.form.dim, np.float32)
    assert not publisher.publish(1, theta)
    assert "the adapter of round 1 was not published" in caplog.text
    over = threading.Event()
    over.set()
    publisher.keep_fresh(over)
    assert "timestamp was not renewed" in caplog.text


def test_metrics_are_prometheus(running: Running) -> None:
    running.status.ended(report(1, full(1)))
    text = running.operator("/metrics").text
    assert 'locavore_rounds_total{outcome="applied"} 1.0' in text
    assert 'locavore_updates_total{outcome="averaged"} 4.0' in text
    assert 'locavore_updates_total{outcome="failed"} 1.0' in text
    assert re.search(r"^locavore_epsilon [1-9]", text, re.MULTILINE)
    assert re.search(r"^locavore_devices_admitted 0.0", text, re.MULTILINE)
    assert running.operator("/healthz").text == "ok\n"


def test_the_operators_page_is_not_for_devices(running: Running) -> None:
    context = ssl.create_default_context(cadata=running.invitation().certificates)
    for path in ("/", "/status.json", "/metrics"):
        assert httpx.get(f"{running.url}{path}", verify=context).is_client_error
    assert httpx.get(f"{running.url}/healthz", verify=context).text == "ok\n"
    assert "<title>locavore coordinator</title>" in running.operator("/").text


def test_devices_and_keys_survive_a_restart(tmp_path: Path, installed: str) -> None:
    with running_in(tmp_path) as running:
        member = running.member()
        digest = running.coordinator.terms.digest
    with running_in(tmp_path) as running:
        assert running.coordinator.terms.digest == digest
        assert running.coordinator.admission.nodes() == {member.node_id: True}
        info = running.link.state.get_node_info(node_ids=[member.node_id])
        assert info[0].status == "registered"


def test_a_port_that_is_taken_is_an_error_in_a_sentence(tmp_path: Path, installed: str) -> None:
    with running_in(tmp_path) as running:
        config = running.coordinator.config
        listen = replace(config.listen, port=running.ports.devices)
        other = Coordinator(replace(config, listen=listen), find_base("tiny"))
        with (
            pytest.raises(FederationError, match=r"cannot be listened at: is it in use\?"),
            other.serving(),
        ):
            pass


def test_a_key_is_made_once_and_for_its_owner_only(tmp_path: Path) -> None:
    first, again = key_in(tmp_path / "state", "admission"), key_in(tmp_path / "state", "admission")
    assert first.private_bytes_raw() == again.private_bytes_raw()
    assert (tmp_path / "state" / "admission.key").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("unit", ["record", "user"])
def test_a_coordinator_for_this_machine_is_made_in_one_go(
    tmp_path: Path, installed: str, unit: str
) -> None:
    package = find_base("tiny")
    path = make_localhost(tmp_path / "here", package=package, base="tiny", unit=unit)
    config = CoordinatorConfig.load(path)
    assert (config.plan.unit, config.devices, config.min_nodes) == (unit, 5, 5)
    assert (tmp_path / "here" / "tls" / "server.key").stat().st_mode & 0o077 == 0
    before = path.read_bytes()
    assert make_localhost(tmp_path / "here", package=package, base="other", unit=unit) == path
    assert path.read_bytes() == before, "what is there is left as it is"


def test_too_few_devices_make_no_secure_sums(tmp_path: Path, package: Package) -> None:
    with pytest.raises(BadInputError, match="at least 3 devices, got 2"):
        make_localhost(tmp_path, package=package, base="tiny", unit="user", devices=2)
    with pytest.raises(BadInputError, match="unit must be 'record' or 'user', got 'family'"):
        make_localhost(tmp_path, package=package, base="tiny", unit="family")


@pytest.mark.parametrize(
    ("before", "after", "why"),
    [
        ('name = "local"', "name = ", "cannot be read"),
        ('name = "local"', "", "missing 1 required keyword-only argument: 'name'"),
        ("min_nodes = 5", "min_node = 5", "the file has no field 'min_node'"),
        ("[plan]", "[plans]", r"the table \[plan\] is missing"),
        ("rounds = 4", "rounds = 0", "rounds must be at least 1"),
        ("port = 0", "port = 70000", "port must be 0..65535, got 70000"),
        ("tls/server.pem", "tls/nobody.pem", "there is no file .*nobody.pem"),
        ("[listen]", "[limits]\nnode_burst = 0\n[listen]", "node_burst must be above 0"),
        ("min_nodes = 5", "cohort = 5", "a plan for users has it in its own table"),
        ("min_nodes = 5", "pause_s = -1", "pause_s must be at least 0"),
        ("min_nodes = 5", "reply_timeout_s = 0", "reply_timeout_s must be above 0"),
    ],
)
def test_a_wrong_file_is_an_error_in_a_sentence(
    tmp_path: Path, installed: str, before: str, after: str, why: str
) -> None:
    path = file_in(tmp_path)
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))
    with pytest.raises(BadInputError, match=why) as caught:
        CoordinatorConfig.load(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_an_error_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"none.toml cannot be read"):
        CoordinatorConfig.load(tmp_path / "none.toml")


def test_a_plan_for_records_needs_a_cohort(tmp_path: Path, installed: str) -> None:
    path = file_in(tmp_path, "record")
    assert tomllib.loads(path.read_text())["cohort"] == 5
    path.write_text(path.read_text().replace("cohort = 5", ""))
    with pytest.raises(BadInputError, match="needs the number of devices per round"):
        CoordinatorConfig.load(path)
