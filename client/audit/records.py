"""Audits of record-level training, on the very code that a device runs.

- *sensitivity*: what one record adds to a step, found exactly: two neighbours under one noise.
- *noise*: what is released where every gradient is zero.
- *canaries*: gradient canaries, all there, against directions that nothing was put into; the ε of
  one step without amplification, by :func:`~locavore.privacy.audit.gaussian.reference_bound`.
- *sampling*: who enters which step.
- *accounting*: what was charged for all of it.

What is released is read as a step's noised sum: the training must move by plain steps of the
plan's learning rate, as it does by default. Audits use public or made-up records: nothing that
they see is a person's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ...privacy.accounting import epsilon_of_gaussian
from ...privacy.audit.accounts import account_findings
from ...privacy.audit.evidence import LowerBound
from ...privacy.audit.findings import Finding, against
from ...privacy.audit.gaussian import reference_bound
from ...privacy.audit.noises import noise_findings
from ...privacy.audit.promises import promised_deviations, promised_norm, silent_vote
from ...privacy.audit.sampling import sampling_findings
from ...privacy.audit.sections import Section, epsilon_bars, histogram
from ...privacy.clipping import AdaptiveClip
from ...privacy.noise import Doubles, NoiseSource, SecureNoise
from ...privacy.plan import RecordPlan
from ...shared.errors import BadInputError
from ..training.cohort import Batch, Cohort
from ..training.shared import SharedTraining, private_training
from .canaries import Canary, CanaryCohort, CountedNoise, PairedNoise, directions, with_canaries

__all__ = ["Build", "RecordAudit"]

Build = Callable[[Cohort, RecordPlan, Callable[..., Batch]], SharedTraining[Any]]
"""Makes the training that is audited; a device's is ``private_training``."""

_LONG = 100.0  # times the clipping norm: what a canary's gradient measures
_SLACK = 1e-3  # of float32 sums
_ENTRY = 0.4  # where the norm adapts: it has moved since the first round


@dataclass(frozen=True, kw_only=True)
class RecordAudit:
    """What is audited, and how thoroughly.

    Args:
        cohort: the adapters and the loss.
        plan: the mechanism and its claim; with noise.
        collate: makes a batch of records.
        records: public ones, 12 at least, among which canaries are put.
        extremes: records that a person could have and that should hurt most: the shortest, the
            longest, the same token again and again.
        build: makes the training.
        noise: a round's source, as a device has it. Noise that repeats is found by it.
        canaries: gradient canaries in a round; there must be room for as many more directions.
        rounds: of canaries, and of noise alone.
        steps: whose sampling is watched.
        confidence: of the bound on ε.
        rng: of the audit itself.
    """

    cohort: Cohort
    plan: RecordPlan
    collate: Callable[[Sequence[Any]], Batch]
    records: Sequence[Any]
    extremes: Sequence[Any] = ()
    build: Build = private_training
    noise: Callable[[int], NoiseSource] = lambda _: SecureNoise()
    canaries: int = 50
    rounds: int = 24
    steps: int = 60
    confidence: float = 1 - 1e-7
    rng: np.random.Generator = field(default_factory=np.random.default_rng)

    def __post_init__(self) -> None:
        problems = []
        if not self.plan.private:
            problems.append("a plan without noise claims nothing that could be audited")
        if len(self.records) < 12:
            problems.append(f"at least 12 records are needed, got {len(self.records)}")
        if not 2 <= self.canaries <= self.cohort.dim // 2:
            problems.append(
                f"canaries must be 2..{self.cohort.dim // 2}, half the shared numbers, "
                f"got {self.canaries}"
            )
        if problems:
            raise BadInputError("; ".join(problems))

    def findings(self) -> list[Finding]:
        """All audits, in the order of the module's docstring."""
        return list(self.section().findings)

    def section(self) -> Section:
        """All audits, with what canaries showed."""
        there, away = self.canary_scores()
        claim, bound = self.claim_of_a_step, self._bound(there, away)
        plan = self.plan
        return Section(
            name="training",
            title="Record-level training on the device",
            threat="Somebody sees every update that a device sends, and knows the base, the shared "
            "vector, the plan and all of the device's records but one. They choose that one as "
            "they like, even its gradient, and ask whether it was there.",
            findings=(
                *self.sensitivity(),
                *self.noises(),
                against(claim, bound, audit="canaries"),
                *self.sampling(),
                *self.accounting(),
            ),
            figures=(
                epsilon_bars(
                    f"One step with every record in it (δ = {plan.delta:g})",
                    [("gradient canaries", claim, bound)],
                ),
                histogram(
                    "How much of each canary is in what a step releases, in clipping norms",
                    {
                        "canaries that were there": there,
                        "directions that nothing was put into": away,
                    },
                ),
            ),
            untested=(
                f"The ε of the whole run ({plan.rounds} rounds, sampled) by attack: the bound is "
                "for one step, and sampling and composition were tested each by itself.",
                "Randomness that an attacker can predict: noise was tested for its size and for "
                "repeating, not for how its seed was drawn.",
                "A person's own records: made-up or public ones stand for them, "
                f"{len(self.records)} here, and the ε that is charged above is for so many.",
            ),
        )

    @property
    def claim_of_a_step(self) -> float:
        """ε of one step on everybody, as the plan's noise multiplier claims it."""
        return epsilon_of_gaussian(
            noise_multiplier=self.plan.noise_multiplier, steps=1, delta=self.plan.delta
        )

    def canary_bound(self) -> LowerBound:
        """ε that canaries show of one step on everybody."""
        return self._bound(*self.canary_scores())

    def canary_scores(self) -> tuple[Doubles, Doubles]:
        """Of canaries that were all there, and of directions that nothing was put into.

        Each ``(rounds canaries,)``, in clipping norms.
        """
        once = replace(self.plan, local_steps=1)
        there, away = [], []
        for round in range(1, self.rounds + 1):
            drawn = directions(2 * self.canaries, self.cohort.dim, self.rng)
            used, unused = drawn[: self.canaries], drawn[self.canaries :]
            work = self._work(once, used * (_LONG * self._norm))
            records = [Canary(place) for place in range(self.canaries)]
            source = CountedNoise(self.noise(round), everybody=True)
            released = work.sum(records, source, round)[: self.cohort.dim] / self._norm
            there.append(used @ released)
            away.append(unused @ released)
        return np.concatenate(there), np.concatenate(away)

    def sensitivity(self) -> list[Finding]:
        """What one record adds: no more than the clipping norm, whoever else is there."""
        found = self._gradient_sensitivity()
        for name, clip in self._clips().items():
            found += self._record_sensitivity(name, clip)
        return found

    def noises(self) -> list[Finding]:
        """What is released of records without gradients, of two owners in every round."""
        once = replace(self.plan, local_steps=1)
        work = self._work(once, np.zeros((1, self.cohort.dim)))
        records = [[Canary(0)] * 12] * 2
        released = []
        for round in range(1, self.rounds + 1):
            sources = [
                CountedNoise(self.noise(2 * round + owner), everybody=True) for owner in range(2)
            ]
            released += list(work.sums(records, sources, round))
        noise = np.array(released)
        noise[:, self.cohort.dim :] -= len(records[0]) * silent_vote(self.plan.clip)
        promised = promised_deviations(self.plan, noise.shape[1], self._entry)
        return noise_findings(noise, promised * (1 - _SLACK), what="a step")

    def sampling(self) -> list[Finding]:
        """Who enters which step."""
        return sampling_findings(self._entered(), self._charged_rate())

    def accounting(self) -> list[Finding]:
        """What all rounds were charged, against what was seen of one."""
        count, plan = len(self.records), self.plan
        charges: list[Any] = []
        for round in range(1, plan.rounds + 1):
            charges += plan.charges(round, count, list(range(1, round)))
        work = self._work(plan, np.zeros((1, self.cohort.dim)))
        source = CountedNoise(self.noise(1))
        work.sum([Canary(0)] * count, source, 1)
        return account_findings(
            charges,
            plan.epsilon(count),
            delta=plan.delta,
            relation=plan.relation,
            noise_multiplier=plan.noise_multiplier,
            steps=plan.rounds * source.draws,
        )

    def _bound(self, there: Doubles, away: Doubles) -> LowerBound:
        return reference_bound(there, away, delta=self.plan.delta, confidence=self.confidence)

    @cached_property
    def _entry(self) -> float:
        return _ENTRY if isinstance(self.plan.clip, AdaptiveClip) else 0.0

    @property
    def _norm(self) -> float:
        return promised_norm(self.plan.clip, self._entry)

    def _work(self, plan: RecordPlan, gradients: Doubles) -> _Work:
        canaries = CanaryCohort(self.cohort, torch.from_numpy(gradients.astype(np.float32)))
        seen: list[npt.NDArray[np.int64]] = []
        collated = with_canaries(self.collate, self.records[0])

        def collate(rows: Sequence[Any]) -> Batch:
            batch = collated(rows)
            seen.append(batch["canary"].numpy())
            return batch

        training = self.build(canaries, plan, collate)
        return _Work(training, plan, self.cohort.dim, self._entry, seen)

    def _gradient_sensitivity(self) -> list[Finding]:
        """Gradients that are long everywhere, in one matrix alone, or nowhere finite."""
        dim, reach = self.cohort.dim, _LONG * self._norm
        everywhere = directions(1, dim, self.rng)[0]
        cases = [everywhere, np.where(np.arange(dim) == 0, np.inf, everywhere)]
        for name in self.cohort.slots:
            inside = self.cohort.mask(frozenset([name])).numpy()
            cases.append(inside / math.sqrt(inside.sum()))
        once = replace(self.plan, local_steps=1)
        work = self._work(once, np.array([np.zeros(dim), *(reach * case for case in cases)]))
        others = [Canary(0)] * 12
        noise = PairedNoise(self.noise(1), self.plan.width(dim))
        without = work.sum(others, noise.again(), 1)
        most, loudest = 0.0, 0.0
        for place in range(1, len(cases) + 1):
            added = work.sum([*others, Canary(place)], noise.again(), 1) - without
            most = max(most, _length(added[:dim] / self._norm))
            loudest = max(loudest, _length(added[dim:]))
        found = Finding(
            audit="sensitivity",
            claim="no gradient adds more than the clipping norm",
            found=f"{most:.4f} times the norm, of {len(cases)} made-up gradients",
            holds=most <= 1 + _SLACK,
        )
        return [found, *self._vote_sensitivity(loudest)]

    def _vote_sensitivity(self, loudest: float) -> list[Finding]:
        clip = self.plan.clip
        if not isinstance(clip, AdaptiveClip):
            return []
        reach = clip.rate * max(clip.quantile, 1 - clip.quantile)
        return [
            Finding(
                audit="sensitivity",
                claim=f"no vote on the norm is above {reach:g}",
                found=f"{loudest:.4g} at most",
                holds=loudest <= reach * (1 + _SLACK) + 1e-5,
            )
        ]

    def _record_sensitivity(self, name: str, clip: float) -> list[Finding]:
        """Records of the extreme kinds, among others and among half of them."""
        if not self.extremes:
            return []
        plan = replace(self.plan, clip=clip, local_steps=1)
        work = self._work(plan, np.zeros((1, self.cohort.dim)))
        noise = PairedNoise(self.noise(1), self.cohort.dim)
        crowds = [list(self.records[:6]), list(self.records[6:9])]  # each in one pass with it
        without = [work.sum(crowd, noise.again(), 1) for crowd in crowds]
        most, apart = 0.0, 0.0
        for record in self.extremes:
            added = [
                work.sum([*crowd, record], noise.again(), 1) - before
                for crowd, before in zip(crowds, without, strict=True)
            ]
            most = max(most, *(_length(one) / clip for one in added))
            apart = max(apart, _length(added[0] - added[1]) / _length(added[1]))
        return [
            Finding(
                audit="sensitivity",
                claim=f"no record adds more than the clipping norm ({name})",
                found=f"{most:.4f} times the norm, of {len(self.extremes)} extreme records",
                holds=most <= 1 + _SLACK,
            ),
            Finding(
                audit="sensitivity",
                claim=f"what a record adds does not depend on others ({name})",
                found=f"it differs by {apart:.2g} between two crowds",
                holds=apart <= 0.01,
            ),
        ]

    def _clips(self) -> dict[str, float]:
        """A norm that clips every extreme record, and one that clips none."""
        if not self.extremes:
            return {}
        theta = torch.zeros(1, self.cohort.dim)
        norms = self.cohort.gradients(theta, self.collate(list(self.extremes))).norms()
        return {"all clipped": 0.5 * float(norms.min()), "none clipped": 20 * float(norms.max())}

    def _entered(self) -> npt.NDArray[np.bool_]:
        """Who was seen in which step, ``(steps, records)``."""
        count = len(self.records)
        once = replace(self.plan, local_steps=1)
        work = self._work(once, np.zeros((count, self.cohort.dim)))
        entered = np.zeros((self.steps, count), bool)
        for step in range(self.steps):
            work.seen.clear()
            source = self.noise(1000 + step)
            work.sum([Canary(place) for place in range(count)], source, step + 1)
            for marks in work.seen:
                entered[step, marks] = True
        return entered

    def _charged_rate(self) -> float:
        charges = self.plan.charges(1, len(self.records))
        return max((charge.sampling_rate for charge in charges), default=0.0)


@dataclass(frozen=True)
class _Work:
    """A training at arm's length: what it releases, read as a step's noised sum."""

    training: SharedTraining[Any]
    plan: RecordPlan
    dim: int
    entry: float
    seen: list[npt.NDArray[np.int64]]

    def sums(
        self, records: Sequence[Sequence[Any]], noise: Sequence[NoiseSource], number: int
    ) -> Doubles:
        """``(K, width)``: gradients and, where the norm adapts, the votes."""
        theta = np.zeros(self.plan.width(self.dim), np.float32)
        theta[self.dim :] = self.entry
        moved = self.training.round(theta, records, noise, number=number).astype(np.float64)
        start = self.plan.clip.initial if isinstance(self.plan.clip, AdaptiveClip) else 0.0
        length = self.plan.learning_rate / (start or float(self.plan.norm()))
        moved[:, : self.dim] /= -length
        return moved * self.plan.expected_batch

    def sum(self, records: Sequence[Any], noise: NoiseSource, number: int) -> Doubles:
        """Of one owner, ``(width,)``."""
        found: Doubles = self.sums([records], [noise], number)[0]
        return found


def _length(vector: Doubles) -> float:
    norm = float(np.linalg.norm(vector))
    return norm if math.isfinite(norm) else math.inf
