"""Audits of user-level privacy through the real apps, and recordings of what travels."""

from __future__ import annotations

from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

pytest.importorskip("flwr", reason="the federation needs the extra 'federate'")
pytest.importorskip("torch", reason="needs the extra 'train'")

from locavore.privacy.audit.findings import Finding
from locavore.privacy.clipping import AdaptiveClip
from locavore.privacy.matrix import Correlation
from locavore.privacy.noise import Doubles, NoiseSource, insecure_seeded_noise
from locavore.privacy.plan import UserPlan
from locavore.server.simulation.audit import UserAudit
from locavore.server.strategy import FederatedStrategy
from locavore.shared.errors import BadInputError

from ...benchmarks.planted_bugs import wire_run
from ...plans import record_plan, user_plan


def audit(plan: UserPlan, **changes: Any) -> UserAudit:
    settings: dict[str, Any] = {"rounds": 6, "dim": 200, "rng": np.random.default_rng(1)}
    return UserAudit(plan=plan, **(settings | changes))


def broken(findings: list[Finding]) -> set[str]:
    return {finding.audit for finding in findings if not finding.holds}


@pytest.mark.parametrize(
    "plan",
    [
        user_plan(),
        user_plan(trust="local"),
        user_plan(trust="secure-aggregation"),
        user_plan(clip=AdaptiveClip(initial=0.5, count_noise=2.0), relation="zero-out"),
        user_plan(population=12),
        user_plan(within=record_plan()),
    ],
    ids=["central", "local", "summed", "adaptive", "sampled", "both units"],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_federations_hold(plan: UserPlan) -> None:
    found = audit(plan, sampled_rounds=12)
    assert broken(found.findings()) == set()


def test_canary_devices_come_close_to_the_claim() -> None:
    found = audit(
        user_plan(cohort=20),
        confidence=0.95,
        server_noise=lambda round: insecure_seeded_noise(5, round),  # one run in twenty is beyond
    )
    known, cosine = found.bounds()
    assert 0.6 * found.claim_of_a_round < known.epsilon < found.claim_of_a_round
    assert 0.5 * found.claim_of_a_round < cosine.epsilon < found.claim_of_a_round
    assert "no bound" in str(found.estimate())


class Unclipped(UserPlan):
    def seal(self, change: Doubles, entry: float, noise: NoiseSource) -> Doubles:
        return np.nan_to_num(change, posinf=0.0, neginf=0.0)

    def bounded(self, contribution: Any, entry: float) -> Any:
        return contribution  # the server would cut it otherwise


def test_devices_that_do_not_clip_are_caught() -> None:
    found = audit(Unclipped(relation="add-or-remove-one", trust="central", cohort=4, clip=1.0))
    assert "sensitivity" in broken(found.sensitivity())


def test_rounds_that_nobody_pays_for_are_caught() -> None:
    with patch.object(FederatedStrategy, "_charge", lambda self, round: None):
        assert broken(audit(user_plan()).accounting()) == {"accounting"}


def test_what_cannot_be_audited_is_refused() -> None:
    with pytest.raises(BadInputError, match="claims nothing"):
        audit(user_plan(noise_multiplier=0.0))
    with pytest.raises(BadInputError, match="correlated"):
        audit(user_plan(correlation=Correlation(kind="banded", size=2)))
    with pytest.raises(BadInputError, match="keeps devices apart"):
        audit(user_plan(separation=2))
    with pytest.raises(BadInputError, match="dim must be at least 200"):
        audit(user_plan(), dim=50)


def test_what_travels_is_recorded_and_holds() -> None:
    """Of three devices that know a secret, one fails over it in every round."""
    listed, found, errors = wire_run()
    assert (listed.holds, found.holds, errors.holds) == (True, True, True)
    assert "2 errors" in errors.found
