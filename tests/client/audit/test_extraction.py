"""Secrets are found where nothing protects them, and not where they never were or noise is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="needs the extra 'train'")

from locavore.client.audit.decoding import decoded, secret_losses
from locavore.client.audit.extraction import ExtractionAudit, Gleaned
from locavore.client.audit.people import Secret, code, notes, secrets
from locavore.client.continued import continuation_losses
from locavore.client.runtime import TextModel
from locavore.client.training.objectives.language import token_batch, token_losses
from locavore.client.training.private import PrivateTraining
from locavore.client.training.text import TextTwin
from locavore.privacy.audit.sections import Section
from locavore.privacy.noise import insecure_seeded_noise
from locavore.shared.causal_graph import CausalGraph
from locavore.shared.errors import BadInputError
from locavore.shared.forms import Directions

from ...plans import record_plan

OVERFITTED = PrivateTraining(rank=4, steps=160, batch=32, learning_rate=2e-2)


def audit(
    twin: TextTwin, model: TextModel, directions: Directions, **changes: Any
) -> ExtractionAudit:
    settings: dict[str, Any] = {
        "twin": twin,
        "model": model,
        "directions": directions,
        "records": notes(40, np.random.default_rng(0)),
        "plan": record_plan(
            clip=1.0, expected_batch=16, local_steps=80, rounds=1, learning_rate=2.0
        ),
        "form": "ffa",
        "rank": 4,
        "width": 2,
        "canaries": 5,
        "often": (16,),
        "private": OVERFITTED,
        "references": 63,
        "noise": lambda number: insecure_seeded_noise(5, number),
    }
    return ExtractionAudit(**(settings | changes))


def test_an_overfitted_adapter_gives_secrets_away_and_a_noised_one_does_not(
    twin: TextTwin, model: TextModel, directions: Directions
) -> None:
    section = audit(twin, model, directions).section()
    (table,) = [figure for figure in section.figures if figure.kind == "table"]
    bits = {(row[0], row[1]): row[3] for row in table.data["rows"]}
    verbatim = {(row[0], row[1]): row[5] / row[2] for row in table.data["rows"]}
    assert all(finding.holds for finding in section.findings)
    assert bits["private adapter", "16 times"] > 5  # of 6 that 63 references can show
    assert verbatim["private adapter", "16 times"] >= 0.6
    assert bits["shared adapter, no noise", "16 times"] > 3.5
    assert bits["shared adapter, noised", "16 times"] < 3.5
    for name in ("private adapter", "shared adapter, no noise", "shared adapter, noised"):
        assert bits[name, "never there"] < 3
        assert verbatim[name, "never there"] == 0
    assert verbatim["shared adapter, noised", "16 times"] == 0
    assert not any("finds little" in sentence for sentence in section.untested)
    assert Section.from_json(section.to_json()).name == "extraction"


def test_an_attack_without_power_says_so(
    twin: TextTwin, model: TextModel, directions: Directions
) -> None:
    asked = audit(
        twin,
        model,
        directions,
        private=PrivateTraining(steps=1),
        plan=record_plan(local_steps=1, rounds=1),
        canaries=3,
        references=15,
    )
    section = asked.section()
    assert "finds little even in the private adapter" in section.untested[0]
    assert "6 coins been right" in section.untested[1]
    (bars,) = [figure for figure in section.figures if figure.kind == "bars"]
    assert bars.data["values"]["ε claimed"] == [asked.plan.epsilon(len(asked._rows))]


def test_secrets_that_are_told_apart_refute_a_plan(
    twin: TextTwin, model: TextModel, directions: Directions
) -> None:
    plan = record_plan(noise_multiplier=2.0, expected_batch=200, rounds=1)
    asked = audit(twin, model, directions, plan=plan, canaries=40, often=())
    told = Gleaned(
        bits=np.zeros(len(asked.times)),
        fitted=np.zeros(len(asked.times)),
        standing=asked.times.astype(np.float64),
        recovered=(),
        verbatim=np.zeros(len(asked.times), bool),
    )
    assert not asked.claim(told).holds
    mixed = np.random.default_rng(0).permutation(told.standing)
    assert asked.claim(replace(told, standing=mixed)).holds


def test_scores_of_a_shared_beginning_are_those_of_whole_texts(
    model: TextModel, twin: TextTwin
) -> None:
    known = [Secret("The code of Bado is", ""), Secret("The code of Kimu the old is", "")]
    rng = np.random.default_rng(1)
    codes = [[code(rng) for _ in range(20)] for _ in known]
    found = secret_losses(model, known, codes)
    whole = [
        [scores.sum() for scores in model.score([one.prefix] * len(own), own)]
        for one, own in zip(known, codes, strict=True)
    ]
    np.testing.assert_allclose(found, whole, rtol=1e-5)
    rows = [model.encode(known[0].prefix + text) for text in codes[0]]
    given = [len(model.encode(known[0].prefix))] * len(rows)
    with torch.no_grad():
        losses = token_losses(twin.model, token_batch(rows, model.start, given)).sum(1)
    np.testing.assert_allclose(found[0], losses.numpy(), rtol=1e-4)


def test_a_beginning_is_read_once_however_many_texts_share_it(
    model: TextModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    fed: list[int] = []
    run = CausalGraph.run

    def counted(graph: CausalGraph, ids: Any, *rest: Any) -> Any:
        fed.append(ids.size)
        return run(graph, ids, *rest)

    monkeypatch.setattr(CausalGraph, "run", counted)
    same = [" 1 2 3 4", " 1 2 3 5", " 1 2 3 6"]
    prefix, length = "The code of Bado is", len(model.encode("The code of Bado is 1 2 3 4"))
    secret_losses(model, [Secret(prefix, "")], [same])
    assert sum(fed) == len(model.start) + length - 1  # the last token is only looked up


def test_continuations_must_be_of_one_length(model: TextModel) -> None:
    begun = model.continued([[5, 6]])
    with pytest.raises(BadInputError, match=r"of lengths \[1, 2\]"):
        continuation_losses(begun, [[[1], [1, 2]]])
    with pytest.raises(BadInputError, match="for 1 texts, got 2 rows"):
        continuation_losses(begun, [[[1]], [[2]]])
    with pytest.raises(BadInputError, match=r"must be \(B, T\)"):
        model.continued([])


def test_decoding_is_greedy_at_width_one_and_likelier_at_more(model: TextModel) -> None:
    secret = Secret("A small boat is never", " late when")
    (narrow,) = decoded(model, [secret], width=1)
    (wide,) = decoded(model, [secret], width=6)
    assert narrow == " late when"  # the tiny base was trained on that sentence
    losses = secret_losses(model, [secret], [[narrow, wide]])[0]
    assert losses[1] <= losses[0] + 1e-6


def test_secrets_have_names_of_their_own() -> None:
    drawn = secrets(200, np.random.default_rng(0))
    assert len({secret.prefix for secret in drawn}) == 200
    assert len({secret.code for secret in drawn}) > 180


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"plan": record_plan(noise_multiplier=0)}, "without noise"),
        ({"canaries": 1}, "at least 2, got 1"),
        ({"records": ()}, "no records"),
    ],
)
def test_what_cannot_be_audited_is_refused(
    twin: TextTwin,
    model: TextModel,
    directions: Directions,
    changes: dict[str, Any],
    said: str,
) -> None:
    with pytest.raises(BadInputError, match=said):
        audit(twin, model, directions, **changes)
