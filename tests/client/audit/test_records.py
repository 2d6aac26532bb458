"""Audits of record-level training on the tiny base: clean training holds, a bug does not."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'train'")

import torch

from locavore.client.audit.canaries import (
    Canary,
    CanaryCohort,
    CountedNoise,
    PairedNoise,
    QuietNoise,
    directions,
    random_tokens,
    with_canaries,
)
from locavore.client.audit.records import RecordAudit
from locavore.client.audit.runs import audit_gradient_canaries, audit_input_canaries
from locavore.client.training.adapted import shared_chains
from locavore.client.training.cohort import Cohort
from locavore.client.training.objectives.language import token_batch
from locavore.client.training.text import TextTwin
from locavore.privacy.audit.findings import Finding
from locavore.privacy.clipping import AdaptiveClip
from locavore.privacy.noise import Doubles, NoiseSource, SecureNoise, insecure_seeded_noise
from locavore.privacy.plan import RecordPlan
from locavore.shared.errors import BadInputError
from locavore.shared.forms import Directions, SharedForm

from ...plans import record_plan


@pytest.fixture
def cohort(twin: TextTwin, directions: Directions) -> Cohort:
    return twin.cohort(shared_chains(SharedForm("ffa", twin.base_id, directions.limited(2))))


RECORDS = random_tokens(60, 9, 512, np.random.default_rng(0))
EXTREMES = [[70, 71], [9] * 40, *random_tokens(1, 60, 512, np.random.default_rng(1))]


def audit(cohort: Cohort, plan: RecordPlan, **changes: Any) -> RecordAudit:
    settings: dict[str, Any] = {
        "records": RECORDS,
        "extremes": EXTREMES,
        "collate": token_batch,
        "rng": np.random.default_rng(3),
    }
    return RecordAudit(cohort=cohort, plan=plan, **(settings | changes))


def broken(findings: list[Finding]) -> set[str]:
    return {finding.audit for finding in findings if not finding.holds}


@pytest.mark.parametrize(
    "plan",
    [
        record_plan(clip=1.0, local_steps=2, expected_batch=8),
        record_plan(clip=AdaptiveClip(initial=0.4, count_noise=5.0), relation="replace-one"),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_the_devices_training_holds(cohort: Cohort, plan: RecordPlan) -> None:
    found = audit(cohort, plan)
    assert broken(found.findings()) == set()
    bound = found.canary_bound()
    assert 0.6 * found.claim_of_a_step < bound.epsilon < found.claim_of_a_step


class TooQuiet(RecordPlan):
    def add_noise(self, total: Doubles, noise: NoiseSource, entry: float = 0.0) -> Doubles:
        return total + self._scales(len(total), entry) / 2 * noise.gaussian(len(total))


class TwiceAsLong(RecordPlan):
    def clip_factors(self, norms: Any, entry: float = 0.0) -> Doubles:
        return 2 * super().clip_factors(norms, entry)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [(TooQuiet, {"noise of a step", "canaries"}), (TwiceAsLong, {"sensitivity", "canaries"})],
)
def test_a_bug_is_caught_by_who_should(
    cohort: Cohort, kind: type[RecordPlan], expected: set[str]
) -> None:
    assert broken(audit(cohort, kind(clip=1.0, relation="zero-out")).findings()) == expected


def test_what_cannot_be_audited_is_refused(cohort: Cohort) -> None:
    with pytest.raises(BadInputError, match="claims nothing"):
        audit(cohort, record_plan(noise_multiplier=0))
    with pytest.raises(BadInputError, match=r"12 records are needed, got 3; canaries"):
        audit(cohort, record_plan(), records=RECORDS[:3], canaries=10**6)
    with pytest.raises(BadInputError, match="canaries must be"):
        audit_gradient_canaries(
            cohort, record_plan(), token_batch, RECORDS, canaries=1, rng=np.random.default_rng()
        )
    with pytest.raises(BadInputError, match="two canaries"):
        audit_input_canaries(
            cohort, record_plan(), token_batch, RECORDS, [[1, 2]], rng=np.random.default_rng()
        )


# --- whole runs -----------------------------------------------------------------------------


def test_gradient_canaries_in_a_run_come_close_to_its_claim(cohort: Cohort) -> None:
    plan = record_plan(clip=1.0, expected_batch=400, noise_multiplier=2.0, rounds=4)
    found = audit_gradient_canaries(
        cohort,
        plan,
        token_batch,
        RECORDS[:8],
        canaries=300,
        confidence=0.999,
        noise=lambda round: insecure_seeded_noise(1, round),
        rng=np.random.default_rng(0),
    )
    assert found.claim == pytest.approx(plan.epsilon(8 + len(found.scores.included)))
    assert all(finding.holds for finding in found.findings())
    best = max(bound.epsilon for bound in found.bounds)
    assert 0.6 * found.claim < best <= found.claim
    assert len(found.bounds) == 4


def test_a_sampled_run_is_judged_without_assumptions(cohort: Cohort) -> None:
    plan = record_plan(clip=1.0, expected_batch=32, rounds=2)
    found = audit_gradient_canaries(
        cohort, plan, token_batch, RECORDS, canaries=100, rng=np.random.default_rng(0)
    )
    assert [bound.auditor for bound in found.bounds] == ["one run, guesses", "Clopper-Pearson"]
    assert all(finding.holds for finding in found.findings())


def test_input_canaries_refute_the_claim_of_a_run_with_more_noise(cohort: Cohort) -> None:
    canaries = random_tokens(80, 8, 512, np.random.default_rng(5))
    claim = record_plan(clip=0.5, expected_batch=100, noise_multiplier=12.0).epsilon(60)
    plan = record_plan(clip=0.5, expected_batch=100, noise_multiplier=0.2)
    found = audit_input_canaries(
        cohort,
        plan,
        token_batch,
        RECORDS[:20],
        canaries,
        noise=lambda round: insecure_seeded_noise(2, round),
        rng=np.random.default_rng(0),
    )
    (bound,) = found.bounds
    assert claim < bound.epsilon < found.claim
    assert bound.refutes(claim)


# --- canaries -------------------------------------------------------------------------------


def test_canaries_among_records_leave_the_records_alone(cohort: Cohort) -> None:
    rows: list[Any] = [RECORDS[0], Canary(1), RECORDS[1]]
    given = torch.from_numpy(
        np.random.default_rng(0).normal(size=(2, cohort.dim)).astype(np.float32)
    )
    batch = with_canaries(token_batch, RECORDS[2])(rows)
    theta = torch.zeros(1, cohort.dim)
    found = CanaryCohort(cohort, given).gradients(theta, batch)
    plain = cohort.gradients(theta, token_batch([RECORDS[0], RECORDS[2], RECORDS[1]]))
    whole = torch.cat([part.flatten(1) for part in found.parts.values()], 1)
    expected = torch.cat([part.flatten(1) for part in plain.parts.values()], 1)
    torch.testing.assert_close(whole[[0, 2]], expected[[0, 2]])
    torch.testing.assert_close(whole[1], given[1])
    with pytest.raises(BadInputError, match="per sample"):
        CanaryCohort(cohort, given).gradients(theta, batch, per="owner")
    with pytest.raises(BadInputError, match="canaries must be"):
        CanaryCohort(cohort, given[:, 1:])


def test_directions() -> None:
    rng = np.random.default_rng(0)
    found = directions(20, 30, rng)
    np.testing.assert_allclose(found @ found.T, np.eye(20), atol=1e-12)
    loose = directions(40, 30, rng, orthogonal=False)
    np.testing.assert_allclose(np.linalg.norm(loose, axis=1), 1)
    with pytest.raises(BadInputError, match="cannot be orthogonal"):
        directions(40, 30, rng)


def test_noise_for_neighbours() -> None:
    paired = PairedNoise(SecureNoise(), 10)
    first, second = paired.again(), paired.again()
    np.testing.assert_array_equal(first.gaussian(7), second.gaussian(7))
    np.testing.assert_array_equal(first.gaussian(7), second.gaussian(7))
    assert (first.uniform(3) < 1e-9).all()
    quiet = QuietNoise(1)
    assert not quiet.gaussian(5).any()
    assert not quiet.discrete_gaussian(5, 9.0).any()
    np.testing.assert_array_equal(quiet.uniform(5), QuietNoise(1).uniform(5))
    counted = CountedNoise(SecureNoise())
    counted.gaussian(3)
    counted.discrete_gaussian(3, 10.0)
    assert counted.draws == 2
    assert counted.uniform(100).max() > 1e-3


def test_a_plan_that_is_replaced_keeps_its_bug() -> None:
    """The audits change plans a little; that must not repair them."""
    assert isinstance(replace(TooQuiet(relation="zero-out"), local_steps=1), TooQuiet)
