"""Secrets are found where nothing protects them, and not where they never were or noise is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'train'")

from locavore.client.audit.extraction import ExtractionAudit, Gleaned, decoded, secret_losses
from locavore.client.audit.people import Secret, notes, secrets
from locavore.client.runtime import TextModel
from locavore.client.training.private import PrivateTraining
from locavore.client.training.text import TextTwin
from locavore.privacy.audit.sections import Section
from locavore.privacy.noise import insecure_seeded_noise
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
    assert "finds little even in the private adapter" in asked.section().untested[0]


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


def test_a_secrets_loss_is_the_runtimes(twin: TextTwin, model: TextModel) -> None:
    known = "The code of Bado is"
    codes = [" 4 9 1 3", " 0 0 0 7"]
    (found,) = secret_losses(twin.model, model, [known], [codes])
    expected = [scores.sum() for scores in model.score([known] * 2, codes)]
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_decoding_is_greedy_at_width_one_and_likelier_at_more(
    twin: TextTwin, model: TextModel
) -> None:
    secret = Secret("A small boat is never", " late when")
    narrow = decoded(twin.model, model, secret, width=1)
    wide = decoded(twin.model, model, secret, width=6)
    assert narrow == " late when"  # the tiny base was trained on that sentence
    losses = secret_losses(twin.model, model, [secret.prefix], [[narrow, wide]])[0]
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
