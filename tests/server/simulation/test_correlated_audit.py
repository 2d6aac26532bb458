"""Audits of correlated noise: what a true plan passes, and what breaks each of them."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr", reason="the simulation needs the extra 'simulate'")
pytest.importorskip("dp_accounting", reason="the claims need the extra 'train'")

from locavore.privacy.audit.findings import Finding
from locavore.privacy.matrix import Correlation
from locavore.privacy.noise import Doubles, NoiseSource, insecure_seeded_noise
from locavore.privacy.plan import UserPlan
from locavore.server.simulation.correlated_audit import CorrelatedAudit
from locavore.server.simulation.run_audit import mechanism_section
from locavore.shared.errors import BadInputError

from ...plans import user_plan

PLAN = user_plan(cohort=8, rounds=6, correlation=Correlation(kind="buffered", size=2))


def audit(plan: UserPlan = PLAN, **changes: Any) -> CorrelatedAudit:
    settings: dict[str, Any] = {"repeats": 4, "dim": 200, "rng": np.random.default_rng(1)}
    return CorrelatedAudit(plan=plan, **(settings | changes))


def broken(findings: list[Finding]) -> set[str]:
    return {finding.audit for finding in findings if not finding.holds}


def seeded(number: int) -> NoiseSource:
    return insecure_seeded_noise(11, number)


def of(kind: type[UserPlan]) -> UserPlan:
    """The plan, as another class."""
    return kind(**{field.name: getattr(PLAN, field.name) for field in fields(PLAN)})


def test_a_true_plan_holds_over_all_rounds() -> None:
    section = audit().section()
    assert broken(list(section.findings)) == set()
    assert section.name == "mechanism"
    assert "noise is correlated" in section.threat


def test_canaries_come_close_to_the_claim_of_all_rounds() -> None:
    sources = iter(range(10_000))
    found = audit(
        replace(PLAN, cohort=20),
        confidence=0.95,
        server_noise=lambda _: seeded(next(sources)),  # one run in twenty is beyond
    )
    bound = found._bound(*found._scores())
    assert 0.6 * found.claim < bound.epsilon < found.claim
    assert found.claim == pytest.approx(found.plan.epsilon(1), rel=1e-3)


class Unclipped(UserPlan):
    def seal(self, change: Doubles, entry: float, noise: NoiseSource) -> Doubles:
        return change

    def bounded(self, contribution: Any, entry: float) -> Any:
        return contribution  # the server would cut it otherwise


class TooQuiet(UserPlan):
    """Noise as if a device were in one round, though it may be in all."""

    def release(self, total: Any, entry: float, noise: Any, state: Any = None) -> Any:
        assert self.correlation is not None
        scale = self.correlation.sensitivity(self.participation) / np.linalg.norm(
            self.correlation.coefficients(self.participation)
        )
        quiet = replace(PLAN, noise_multiplier=self.noise_multiplier / float(scale))
        return quiet.release(total, entry, noise, state)


@pytest.mark.parametrize(
    ("kind", "caught"),
    [
        (Unclipped, {"sensitivity", "canary devices"}),
        (TooQuiet, {"noise of a release after C"}),
    ],
)
def test_what_breaks_the_claim_is_caught(kind: type[UserPlan], caught: set[str]) -> None:
    found = broken(audit(of(kind)).findings())
    assert caught <= found <= caught | {"canary devices"}  # of few, which may miss a little noise


def test_noise_that_repeats_is_caught() -> None:
    found = audit(server_noise=lambda _: seeded(3)).noises()
    assert "every release has noise of its own" in [f.claim for f in found if not f.holds]


def test_a_runs_plan_gets_the_audit_that_knows_its_noise() -> None:
    assert "all rounds" in mechanism_section(replace(PLAN, rounds=2)).title


def test_other_plans_are_refused() -> None:
    with pytest.raises(BadInputError, match="audited by UserAudit"):
        audit(user_plan())
    with pytest.raises(BadInputError, match="separation to 1"):
        audit(replace(PLAN, separation=2))
    with pytest.raises(BadInputError, match="at least 200"):
        audit(dim=100)
