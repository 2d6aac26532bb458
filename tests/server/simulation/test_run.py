"""The main job, end to end, on a tiny base and a few invented people."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'simulate'")
pytest.importorskip("flwr", reason="needs the extra 'simulate'")

from locavore.client.federated import FederatedLearner
from locavore.client.runtime import TextModel
from locavore.client.training.private import PrivateTraining
from locavore.server.aggregation import RobustMean, ServerOptimizer
from locavore.server.simulation.config import REFERENCE, SimulationConfig
from locavore.server.simulation.corpus import Corpus, Person
from locavore.server.simulation.grid import run_in_process
from locavore.server.simulation.run import run_simulation
from locavore.server.simulation.run_audit import audit_run, load_run
from locavore.server.simulation.writing import WritingStudy
from locavore.shared.adapters import load_adapter
from locavore.shared.contexts import Consent, UserDocument
from locavore.shared.errors import BadInputError, FederationError
from locavore.shared.packages import Package

from ...plans import record_plan, user_plan

THINGS = ("kettle", "roof", "goat", "ledger", "canoe", "lamp", "garden", "bell", "stove", "oar")
DAYS = ("Monday", "Tuesday", "Friday", "Sunday")


def person(name: str, voice: str, records: int, consent: Consent | None = None) -> Person:
    start = datetime(2020, 1, 1, tzinfo=UTC)
    documents = [
        UserDocument(
            id=f"{name}-{i}",
            body=f"{voice} On {DAYS[i % 4]} the {THINGS[i % 10]} number {i} was near the hill.",
            time=start + timedelta(days=i),
            consent=consent or Consent.full(),
        )
        for i in range(records + 2)
    ]
    return Person(name, tuple(documents[:records]), tuple(documents[records:]))


@pytest.fixture
def corpus(public_texts: tuple[str, ...]) -> Corpus:
    public = {f"author {i}": (text, text[::-1], text * 2) for i, text in enumerate(public_texts)}
    return Corpus(
        (
            person("quill", "Alas and alack!", 40),
            person("brisk", "Right then, team.", 44),
            person("newcomer", "Hm.", 5),
            person("shy", "Secretly yours.", 40, Consent(retrieve=True)),
        ),
        public,
    )


CONFIG = SimulationConfig(
    plan=record_plan(rounds=2, expected_batch=8, learning_rate=0.05),
    private=PrivateTraining(steps=3, batch=8, rank=2),
    made=1,
)


def study(corpus: Corpus, **changes: Any) -> WritingStudy:
    how: dict[str, Any] = {"prompt_tokens": 8, "tokens": 6, "data_name": "invented", **changes}
    return WritingStudy(corpus=corpus, **how)


@pytest.fixture
def run(package: Package, corpus: Corpus, tmp_path: Path) -> Callable[..., dict[str, Any]]:
    return functools.partial(run_simulation, package, study(corpus), CONFIG, tmp_path / "run")


def theta(folder: Path) -> dict[str, tuple[Any, Any]]:
    return dict(load_adapter(folder / "shared").factors)


def test_a_run_writes_what_it_promises(run: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    result = run()
    folder = tmp_path / "run"
    assert json.loads((folder / "result.json").read_text()) == json.loads(json.dumps(result))
    html = (folder / "report.html").read_text()
    assert "quill" in html
    assert "<svg" in html
    assert result["arms"] == [*WritingStudy.arms, REFERENCE]
    for arm in result["arms"]:
        expected = {"quill", "brisk"}
        if not arm.startswith("shared"):
            expected |= {"newcomer", "shy"}
        assert set(result["scores"][arm]) == expected
    assert result["summary"]["base"]["gain"] is None
    assert [row["round"] for row in result["rounds"]] == [1, 2]
    assert set(result["rounds"][1]["loss"]) == {"quill", "brisk"}
    assert all(check["effect"] > 0 for check in result["checks"].values())


def test_a_run_is_recorded_where_that_is_asked_for(
    package: Package, corpus: Corpus, tmp_path: Path
) -> None:
    config = replace(CONFIG, record=True, reference=False)
    result = run_simulation(package, study(corpus), config, tmp_path / "run")
    sections, reasons = audit_run(load_run(tmp_path / "run"))
    assert [section.name for section in sections] == ["claims", "wire"]
    assert not [f for section in sections for f in section.findings if not f.holds]
    assert sections[0].findings[3].found == "4 left, 4 charged"
    quoted = sum(len(sample["trace"]) for sample in result["samples"])
    assert sections[1].findings[1].found.startswith(f"{2 + quoted} secrets")
    assert set(reasons) == {"mechanism", "training"}
    trained, _ = audit_run(load_run(tmp_path / "run", package), {"wire"})
    assert [section.name for section in trained] == ["claims", "training"]


def test_a_secure_sum_is_recorded_and_audited_with_the_plan_for_users(
    package: Package, corpus: Corpus, tmp_path: Path
) -> None:
    people = [person(f"p{i}", "So it goes.", 34) for i in range(4)]
    plan = user_plan(trust="secure-aggregation", cohort=4, rounds=1)
    config = replace(CONFIG, plan=plan, record=True, reference=False)
    run_simulation(package, study(replace(corpus, people=tuple(people))), config, tmp_path / "run")
    sections, reasons = audit_run(load_run(tmp_path / "run"))
    assert [section.name for section in sections] == ["claims", "wire", "mechanism"]
    assert not [f for section in sections for f in section.findings if not f.holds]
    assert sections[0].findings[3].found == "4 left, 4 charged"
    assert {row[0] for row in sections[1].figures[0].data["rows"]} > {"advertise", "mask", "open"}
    assert reasons == {"training": "the run's plan claims nothing of records"}


class Listener:
    """Keeps what a run says, in order."""

    def __init__(self) -> None:
        self.heard: list[str] = []

    def plan(self, work: dict[str, tuple[int, float]]) -> None:
        self.heard.append("plan")

    def step(self, phase: str, what: str = "") -> None:
        self.heard.append("step")

    def note(self, text: str) -> None:
        self.heard.append(text)


@pytest.mark.parametrize(("noise", "warns"), [(0.3, False), (50.0, True)])
def test_signal_to_noise_is_said_before_training(
    package: Package, corpus: Corpus, tmp_path: Path, noise: float, warns: bool
) -> None:
    config = replace(CONFIG, plan=replace(CONFIG.plan, noise_multiplier=noise), reference=False)
    listener = Listener()
    result = run_simulation(package, study(corpus), config, tmp_path / "run", progress=listener)
    assert listener.heard[0] == "plan"
    assert f"{result['plan']['signal_to_noise']:.2f}" in listener.heard[1]
    assert ("warning" in listener.heard[1]) == warns == (result["plan"]["signal_to_noise"] < 1)
    assert set(listener.heard[2:]) == {"step"}


def test_the_private_adapters_lower_the_loss_on_later_writing(
    run: Callable[..., dict[str, Any]],
) -> None:
    summary = run()["summary"]
    assert summary["shared + private"]["loss"] < summary["base"]["loss"]


def test_devices_without_enough_consented_records_only_retrieve(
    run: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    result = run()
    modes = {device["name"]: device["mode"] for device in result["data"]["devices"]}
    assert modes["newcomer"] == modes["shy"] == "retrieval only"
    assert set(result["epsilon"]) == {"quill", "brisk"}
    assert not (tmp_path / "run" / "devices" / "shy" / "private").exists()
    assert not (tmp_path / "run" / "devices" / "shy" / "ledger.jsonl").exists()


def test_epsilon_follows_from_the_ledger(
    run: Callable[..., dict[str, Any]], tmp_path: Path
) -> None:
    result = run()
    rows = (tmp_path / "run" / "devices" / "quill" / "ledger.jsonl").read_text().splitlines()
    assert len(rows) == CONFIG.plan.rounds
    assert result["epsilon"]["quill"] == pytest.approx(CONFIG.plan.epsilon(40, rounds=2))


@pytest.fixture
def captured(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, bytes]]:
    """Everything that travels in a run, as serialized bytes with its direction."""
    seen: list[tuple[str, bytes]] = []

    def tap(message: Any, direction: str) -> None:
        content = message.content
        raw = b"".join(
            a.data + key.encode() for r in content.array_records.values() for key, a in r.items()
        )
        raw += repr([dict(r) for r in content.config_records.values()]).encode()
        raw += repr([dict(r) for r in content.metric_records.values()]).encode()
        seen.append((direction, raw))

    def tapped(*arguments: Any, **options: Any) -> Any:
        return run_in_process(*arguments, **{**options, "tap": tap})

    monkeypatch.setattr("locavore.server.simulation.federation.run_in_process", tapped)
    return seen


def test_nothing_personal_is_on_the_wire(
    run: Callable[..., dict[str, Any]],
    captured: list[tuple[str, bytes]],
    corpus: Corpus,
    package: Package,
    tmp_path: Path,
) -> None:
    run()
    up = b"".join(raw for direction, raw in captured if direction == "up")
    assert len(up) > 1000
    model = TextModel(package, threads=1)
    for owner in corpus.people[:2]:
        private = load_adapter(tmp_path / "run" / "devices" / owner.name / "private")
        for a, b in private.factors.values():
            assert a.tobytes() not in up
            assert b.tobytes() not in up
        for document in owner.train:
            ids = model.encode(document.body)
            assert document.body[:20].encode() not in up
            for kind in (np.int64, np.int32, np.uint16):
                assert np.array(ids[:6], kind).tobytes() not in up
            assert repr(ids[:6])[1:-1].encode() not in up
        assert f"{len(owner.train)}".encode() not in _words(up)


def _words(raw: bytes) -> set[bytes]:
    """Values of the config and metric records, which travel as text beside the arrays."""
    return set(raw.split(b"{", 1)[-1].replace(b",", b" ").replace(b"}", b" ").split())


def test_an_interrupted_run_resumes_to_the_same_adapter(
    run: Callable[..., dict[str, Any]],
    package: Package,
    corpus: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = run_simulation(package, study(corpus), CONFIG, tmp_path / "whole")
    original = FederatedLearner.begin

    def interrupted(self: Any, round: int) -> Any:
        if round == 2:
            raise KeyboardInterrupt
        return original(self, round)

    with monkeypatch.context() as patch:
        patch.setattr(FederatedLearner, "begin", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run()
    with pytest.raises(FederationError, match="resume"):
        run()
    result = run(resume=True)
    assert [row["round"] for row in result["rounds"]] == [1, 2]
    assert result["epsilon"] == whole["epsilon"]
    for site, (a, b) in theta(tmp_path / "whole").items():
        other_a, other_b = theta(tmp_path / "run")[site]
        assert np.array_equal(a, other_a)
        assert np.array_equal(b, other_b)


def test_a_federation_without_data_says_so(
    package: Package, public_texts: tuple[str, ...], tmp_path: Path
) -> None:
    empty = Corpus((Person("nobody", (), ()),), {"a": public_texts, "b": public_texts})
    with pytest.raises(FederationError, match="enough records"):
        run_simulation(package, study(empty), CONFIG, tmp_path / "run")


@pytest.mark.parametrize(
    ("policy", "ranks", "options"),
    [
        ("share-a", (), {}),
        ("fedex", (), {"carried": 4}),
        ("alternate-round", (1, 2), {"optimizer": ServerOptimizer(kind="fedadam")}),
    ],
)
def test_another_policy_runs_and_resumes(
    policy: str,
    ranks: tuple[int, ...],
    options: dict[str, Any],
    package: Package,
    corpus: Corpus,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = replace(CONFIG, policy=policy, ranks=ranks, reference=False, **options)
    run = functools.partial(run_simulation, package, study(corpus), config)
    whole = run(tmp_path / "whole")
    assert whole["plan"]["policy"] == policy
    assert whole["summary"]["shared + private"]["loss"] < whole["summary"]["base"]["loss"]
    original = FederatedLearner.begin

    def interrupted(self: Any, round: int) -> Any:
        if round == 2:
            raise KeyboardInterrupt
        return original(self, round)

    with monkeypatch.context() as patch:
        patch.setattr(FederatedLearner, "begin", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(tmp_path / "cut")
    again = run(tmp_path / "cut", resume=True)
    assert again["scores"]["shared"] == whole["scores"]["shared"]
    if policy == "share-a":
        assert list((tmp_path / "cut" / "devices" / "quill").glob("kept-*.safetensors"))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"policy": "flora", "plan": user_plan()}, "'flora' has no bounded sensitivity"),
        ({"policy": "share-a", "engine": "ray"}, "need the engine 'cohort', got 'ray'"),
        ({"robust": RobustMean(kind="krum"), "cohort": 3}, "rounds of 5 devices or more, got 3"),
        ({"ranks": (3,)}, r"rank must be 1..2 .* got \[3\]"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_runs(
    changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(BadInputError, match=said):
        replace(CONFIG, **changes)


def test_bad_configurations_list_every_problem() -> None:
    with pytest.raises(BadInputError, match=r"rank.*made.*policy"):
        SimulationConfig(rank=0, made=0, policy="dense")
