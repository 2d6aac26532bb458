"""An audited run: canaries among the records of a whole private training, told by what comes out.

Each canary is there by a coin of its own. The device's training runs as the plan says, sampling and
all rounds; then the canaries are scored by the change of the shared vector, and the scores are held
against the ε that the plan claims for the run.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import numpy as np
import torch

from ...privacy.audit.evidence import Estimate, LowerBound, Scores
from ...privacy.audit.findings import Finding, against
from ...privacy.audit.gaussian import gaussian_bound, gaussian_estimate
from ...privacy.audit.many_runs import threshold_bound
from ...privacy.audit.one_run import (
    guesses_for,
    guesses_for_gaussian,
    one_run_bound,
    one_run_gaussian_bound,
)
from ...privacy.noise import Doubles, NoiseSource, SecureNoise
from ...privacy.plan import RecordPlan
from ...shared.errors import BadInputError
from ..training.cohort import Batch, Cohort
from ..training.passes import AT_ONCE
from ..training.shared import private_training
from .canaries import Canary, CanaryCohort, directions, with_canaries
from .records import Build

__all__ = ["AuditedRun", "audit_gradient_canaries", "audit_input_canaries"]

_LONG = 100.0  # times the clipping norm


class _Level(TypedDict):
    delta: float
    confidence: float


@dataclass(frozen=True, kw_only=True)
class AuditedRun:
    """What a run gave away.

    Args:
        claim: ε of the run, by its plan.
        scores: of the canaries.
        bounds: of ε, each valid by itself: to take the highest of several costs confidence.
        estimate: the most plausible ε of the scores, if they are Gaussian.
    """

    claim: float
    scores: Scores
    bounds: tuple[LowerBound, ...]
    estimate: Estimate

    def findings(self) -> list[Finding]:
        """The claim against every bound."""
        return [against(self.claim, bound, audit="run") for bound in self.bounds]


def audit_gradient_canaries(
    cohort: Cohort,
    plan: RecordPlan,
    collate: Callable[[Sequence[Any]], Batch],
    records: Sequence[Any],
    *,
    canaries: int = 100,
    confidence: float = 0.95,
    build: Build = private_training,
    noise: Callable[[int], NoiseSource] = lambda _: SecureNoise(),
    rng: np.random.Generator,
) -> AuditedRun:
    """White box: canaries whose gradient is a direction of their own, in every step.

    Where everybody is in every step the scores are Gaussian, and all auditors speak; under
    sampling those that assume nothing do.

    Args:
        cohort, plan, collate, build, noise: see :class:`~.records.RecordAudit`.
        records: public ones, among which the canaries are.
        canaries: at most half the shared numbers.
        confidence: of each bound.
        rng: draws the canaries and their coins.

    Raises:
        BadInputError: no noise, too many canaries, or a coin that fell one way for all.
    """
    if not 2 <= canaries <= cohort.dim // 2:
        raise BadInputError(f"canaries must be 2..{cohort.dim // 2}, got {canaries}")
    drawn = directions(canaries, cohort.dim, rng)
    long = torch.from_numpy((drawn * _LONG * plan.norm()).astype(np.float32))
    training = build(CanaryCohort(cohort, long), plan, with_canaries(collate, records[0]))
    there = _coins(canaries, rng)
    inside = [Canary(int(place)) for place in np.flatnonzero(there)]
    moved = _moved(training, plan, cohort.dim, [*records, *inside], noise)
    scores = Scores.of(drawn @ -moved, there)
    whole = plan.sampling_rate(len(records) + len(inside)) == 1
    return _run(plan, len(records) + len(inside), scores, confidence, rng, whole, apart=True)


def audit_input_canaries(
    cohort: Cohort,
    plan: RecordPlan,
    collate: Callable[[Sequence[Any]], Batch],
    records: Sequence[Any],
    canaries: Sequence[Any],
    *,
    confidence: float = 0.95,
    build: Build = private_training,
    noise: Callable[[int], NoiseSource] = lambda _: SecureNoise(),
    rng: np.random.Generator,
) -> AuditedRun:
    """Canaries that are ordinary records, scored by their share in the change.

    The change is written as a combination of the gradients that canaries and records have at the
    start (least squares). The shares are not independent, so only the auditor that assumes nothing
    gives a bound.

    Args:
        canaries: records that are not among ``records``.
        cohort, plan, collate, records, confidence, build, noise, rng: see
            :func:`audit_gradient_canaries`.
    """
    if len(canaries) < 2:
        raise BadInputError(f"at least two canaries are needed, got {len(canaries)}")
    gradients = _at_the_start(cohort, collate, [*canaries, *records])
    gradients /= np.maximum(np.linalg.norm(gradients, axis=1, keepdims=True), 1e-300)
    there = _coins(len(canaries), rng)
    inside = [canary for canary, yes in zip(canaries, there, strict=True) if yes]
    training = build(cohort, plan, collate)
    moved = _moved(training, plan, cohort.dim, [*records, *inside], noise)
    shares = np.linalg.lstsq(gradients.T, -moved, rcond=None)[0]
    scores = Scores.of(shares[: len(canaries)], there)
    return _run(plan, len(records) + len(inside), scores, confidence, rng, False, apart=False)


def _at_the_start(
    cohort: Cohort, collate: Callable[[Sequence[Any]], Batch], records: Sequence[Any]
) -> Doubles:
    """Each record's gradient where the adapter changes nothing yet, ``(m, dim)``."""
    start, rows = torch.zeros(1, cohort.dim), []
    for first in range(0, len(records), AT_ONCE):
        found = cohort.gradients(start, collate(records[first : first + AT_ONCE]))
        rows.append(torch.cat([part.flatten(1) for part in found.parts.values()], 1))
    gradients: Doubles = torch.cat(rows).double().cpu().numpy()
    return gradients


def _coins(count: int, rng: np.random.Generator) -> np.ndarray[Any, np.dtype[np.bool_]]:
    there = rng.random(count) < 0.5
    if there.all() or not there.any():
        raise BadInputError("every coin fell the same way; draw again, with more canaries")
    return there


def _moved(
    training: Any,
    plan: RecordPlan,
    dim: int,
    records: Sequence[Any],
    noise: Callable[[int], NoiseSource],
) -> Doubles:
    """How the shared vector has moved after all rounds of a federation of this device alone."""
    if not plan.private:
        raise BadInputError("a plan without noise claims nothing that could be audited")
    theta = np.zeros(plan.width(dim), np.float32)
    for round in range(1, plan.rounds + 1):
        theta = theta + training.round(theta, [records], [noise(round)], number=round)[0]
    return theta[:dim].astype(np.float64)


def _run(
    plan: RecordPlan,
    records: int,
    scores: Scores,
    confidence: float,
    rng: np.random.Generator,
    gaussian: bool,
    *,
    apart: bool,
) -> AuditedRun:
    """All bounds that the scores allow: Gaussian ones, and those for canaries that are apart."""
    claim, at = plan.epsilon(records), _Level(delta=plan.delta, confidence=confidence)
    # Scores that are worse than the claim's own Gaussian are told apart at their ends alone.
    most = len(scores) if gaussian else len(scores) // 2
    guesses = min(most, guesses_for(claim, len(scores), **at))
    bounds = [one_run_bound(scores, guesses=guesses, **at)]
    if apart:
        bounds.append(threshold_bound(scores, rng=rng, **at))
    if gaussian:
        guesses = guesses_for_gaussian(claim, len(scores), **at)
        bounds.append(one_run_gaussian_bound(scores, guesses=guesses, **at))
        bounds.append(gaussian_bound(scores, **at))
    return AuditedRun(
        claim=claim,
        scores=scores,
        bounds=tuple(bounds),
        estimate=gaussian_estimate(scores, delta=plan.delta),
    )
