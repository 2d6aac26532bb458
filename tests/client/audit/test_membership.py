"""Membership inference on adapters of the tiny base: found where they overfit, and only there."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'train'")
pytest.importorskip("scipy", reason="needs the extra 'train'")

import torch

from locavore.client.audit.canaries import random_tokens
from locavore.client.audit.membership import MembershipAudit
from locavore.client.audit.shadows import draw_membership, local_trainer, plan_trainer
from locavore.client.audit.written import write_texts
from locavore.client.runtime import TextModel
from locavore.client.training.adapted import shared_chains
from locavore.client.training.local import LocalTraining
from locavore.client.training.objectives.language import token_batch
from locavore.client.training.optimizers import Optimizer
from locavore.client.training.private import private_chains
from locavore.client.training.text import TextTwin
from locavore.privacy.audit.membership import area
from locavore.privacy.audit.sections import Section
from locavore.privacy.noise import insecure_seeded_noise
from locavore.shared.errors import BadInputError
from locavore.shared.forms import Directions, SharedForm

from ...plans import record_plan

RECORDS = random_tokens(40, 8, 512, np.random.default_rng(0))
PUBLIC = random_tokens(12, 8, 512, np.random.default_rng(1))
SINGLE = [[record] for record in RECORDS]


def private_audit(
    twin: TextTwin, directions: Directions, steps: int, **changes: Any
) -> MembershipAudit:
    cohort = twin.cohort(private_chains(directions, 4)[0])
    rate = 2e-2 if steps > 1 else 1e-9
    how = LocalTraining(steps=steps, batch=16, optimizer=Optimizer(kind="adam", learning_rate=rate))
    settings: dict[str, Any] = {"units": SINGLE, "public": PUBLIC, "targets": 4, "shadows": 8}
    return MembershipAudit(
        cohort=cohort,
        train=local_trainer(cohort, how, token_batch),
        collate=token_batch,
        **settings | changes,
    )


@pytest.fixture
def overfitted(twin: TextTwin, directions: Directions) -> MembershipAudit:
    return private_audit(twin, directions, 40)


def test_members_of_an_overfitted_adapter_are_found(overfitted: MembershipAudit) -> None:
    areas = {name: area(scores) for name, scores in overfitted.scores.items()}
    assert areas["LiRA, online"] > 0.95
    assert areas["RMIA"] > 0.95
    assert min(areas.values()) > 0.9
    refuted = {finding.audit for finding in overfitted.findings() if not finding.holds}
    assert {"membership, LiRA, online", "membership, RMIA"} <= refuted
    section = overfitted.section()
    assert Section.from_json(section.to_json()).name == "membership"
    assert [figure.kind for figure in section.figures] == ["roc", "table"]
    rows = section.figures[1].data["rows"]
    assert len(rows) == 4
    assert all("too few" in row[3] for row in rows)  # 80 others say nothing of 0.1 %


def test_an_adapter_that_learned_nothing_gives_nobody_away(
    twin: TextTwin, directions: Directions
) -> None:
    audit = private_audit(twin, directions, 1, confidence=0.999)
    members = len(audit.scores["loss"].included)
    for scores in audit.scores.values():  # the area's deviation by chance, four times
        others = len(scores.excluded)
        assert abs(area(scores) - 0.5) < 4 * ((members + others + 1) / 12 / members / others) ** 0.5
    assert all(finding.holds for finding in audit.findings())


def test_whole_users_are_found_by_all_their_records(twin: TextTwin, directions: Directions) -> None:
    users = [RECORDS[i : i + 2] for i in range(0, 40, 2)]
    audit = private_audit(twin, directions, 20, units=users)
    assert audit.claim is None
    assert len(audit.scores["loss"]) == 4 * 20
    assert area(audit.scores["LiRA, online"]) > 0.95
    assert "user" in audit.section().title


def test_a_private_shared_adapter_keeps_its_claim(twin: TextTwin, directions: Directions) -> None:
    plan = record_plan(clip=1.0, expected_batch=16, rounds=2, noise_multiplier=1.0)
    form = SharedForm("core", twin.base_id, directions.limited(2))
    cohort = twin.cohort(shared_chains(form))
    audit = MembershipAudit(
        cohort=cohort,
        train=plan_trainer(
            cohort, plan, token_batch, noise=lambda k, r: insecure_seeded_noise(k, r)
        ),
        collate=token_batch,
        units=SINGLE,
        public=PUBLIC,
        plan=plan,
        targets=2,
        shadows=4,
        confidence=0.999,
    )
    found = audit.findings()
    assert len(found) == 4
    assert all(finding.holds for finding in found)
    assert audit.claim is not None
    assert f"ε is at most {audit.claim:.4g}" in found[0].claim


def test_a_claim_that_is_too_low_is_refuted(twin: TextTwin, directions: Directions) -> None:
    """The adapters overfit; the plan says that they were noised."""
    audit = private_audit(twin, directions, 40, plan=record_plan(noise_multiplier=10.0))
    assert audit.claim is not None
    assert audit.claim < 1
    refuted = [finding for finding in audit.findings() if not finding.holds]
    assert {finding.audit for finding in refuted} >= {"membership, LiRA, online"}


def test_shadows_have_each_unit_in_half_and_targets_by_coins() -> None:
    found = draw_membership(50, targets=40, shadows=6, rng=np.random.default_rng(0))
    np.testing.assert_array_equal(found[40:].sum(0), 3)
    coins = found[:40]
    assert abs(coins.mean() - 0.5) < 4 * 0.5 / 2000**0.5
    assert len(set(coins.sum(1))) > 3  # no number of members is fixed
    with pytest.raises(BadInputError, match="16 units"):
        draw_membership(8, targets=1, shadows=4, rng=np.random.default_rng(0))


def test_texts_alone_give_away_who_was_learned_by_heart(
    twin: TextTwin, directions: Directions, model: TextModel
) -> None:
    rng = np.random.default_rng(3)
    names = ("Kim", "Bo", "Ida", "Sven", "Lou", "Mia", "Tor", "Ann")
    words = [*names, "kettle", "roof", "goat", "ledger", "canoe", "boat", "lamp", "garden"]
    texts = [f"The {' '.join(rng.choice(words, 4))} was in the garden." for _ in range(60)]
    records = [model.encode(text)[:16] for text in texts]
    audit = private_audit(
        twin,
        directions,
        80,
        units=[[record] for record in records[:40]],
        public=records[40:],
        samples=200,
        sample_tokens=16,
    )
    assert area(audit.scores["samples only"]) > 0.6  # by chance 0.046 from 0.5
    (finding,) = [one for one in audit.findings() if one.audit == "membership, samples only"]
    assert finding.claim.startswith("who sees texts of the adapter finds members no better")


def test_what_is_written_is_the_adapters_and_repeatable(overfitted: MembershipAudit) -> None:
    cohort = overfitted.cohort
    theta = overfitted.trained.theta[:2]
    prompts = [[5], [6]]
    found = write_texts(
        cohort, theta, prompts, tokens=5, generator=torch.Generator().manual_seed(0)
    )
    assert [len(text) for texts in found for text in texts] == [5] * 4
    assert found[0] != found[1]
    again = write_texts(
        cohort, theta, prompts, tokens=5, generator=torch.Generator().manual_seed(0)
    )
    assert found == again
    with pytest.raises(BadInputError, match="one length"):
        write_texts(cohort, theta, [[1], [1, 2]], tokens=1, generator=torch.Generator())
