"""Auditors on a mechanism whose ε is known exactly: are they right, and how close do they come?

python -m tests.benchmarks audit_calibration [--quick]

The mechanism is one Gaussian sum whose noise the ledger's own accounting gives for ε at δ = 1e-5.
Canaries are orthogonal and of the clipping norm, so a score is ``N(1 or 0, σ²)``. Every auditor is
told the claim and no more; what it chooses (how many guesses, which threshold) it chooses before it
sees what it counts, so that every figure is a bound at 95 %.

Beside it: medians of the public auditors on the very same mechanism, as jax-privacy 2.0 computes
them (one-run with its Bonferroni correction over all thresholds; f-DP at the best of seven shares
of guesses, chosen with hindsight; Clopper-Pearson over all thresholds).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from locavore.privacy.accounting import epsilon_of_gaussian
from locavore.privacy.audit import (
    LowerBound,
    Scores,
    gaussian_bound,
    guesses_for,
    guesses_for_gaussian,
    mu_of_epsilon,
    one_run_bound,
    one_run_gaussian_bound,
    reference_bound,
    threshold_bound,
)

from .report import Goal, Options, Report, machine_line

DELTA, CONFIDENCE = 1e-5, 0.95
REFERENCES = 10_000  # directions that nothing was put into
_BEST = "ε_LB / ε of the best auditor, ε=4 m=1000"
_COVERAGE = "least coverage of an auditor in all cells"
_CELL = "least coverage of a cell, with what chance allows"
GOALS = (
    Goal(name=_BEST, bound=0.85),
    Goal(name=_COVERAGE, bound=CONFIDENCE),
    Goal(name=_CELL, bound=CONFIDENCE),
)

Auditor = Callable[["_Cell", np.random.Generator], LowerBound]
PUBLIC: Mapping[str, Mapping[tuple[float, int], float]] = {
    "one run": {
        (1, 1000): 0.13, (2, 1000): 0.49, (4, 1000): 1.12, (4, 10000): 0.97,
        (8, 100): 1.31, (8, 1000): 2.16, (8, 10000): 1.78,
    },
    "one run, f-DP": {
        (1, 1000): 0.39, (2, 1000): 1.23, (4, 1000): 2.08, (4, 10000): 2.37,
        (8, 100): 1.63, (8, 1000): 4.23, (8, 10000): 5.18,
    },
    "Clopper-Pearson": {
        (1, 1000): 0.03, (2, 1000): 0.23, (4, 1000): 0.89, (4, 10000): 1.57,
        (8, 100): 0.87, (8, 1000): 2.03, (8, 10000): 3.27,
    },
}  # fmt: skip


@dataclass(frozen=True)
class _Cell:
    epsilon: float
    canaries: int
    deviation: float  # of the noise, in clipping norms

    @property
    def name(self) -> str:
        return f"ε={self.epsilon:g} m={self.canaries}"

    def coins(self, rng: np.random.Generator) -> Scores:
        """Scores of canaries that were each there by a coin of their own."""
        there = rng.random(self.canaries) < 0.5
        there[:2] = True, False  # in 100 canaries both sides would be empty once in 1e29
        return Scores.of(there + self.deviation * rng.normal(size=self.canaries), there)


def _one_run(cell: _Cell, rng: np.random.Generator) -> LowerBound:
    guesses = guesses_for(cell.epsilon, cell.canaries, delta=DELTA)
    return one_run_bound(cell.coins(rng), guesses=guesses, delta=DELTA)


def _one_run_gaussian(cell: _Cell, rng: np.random.Generator) -> LowerBound:
    guesses = guesses_for_gaussian(cell.epsilon, cell.canaries, delta=DELTA)
    return one_run_gaussian_bound(cell.coins(rng), guesses=guesses, delta=DELTA)


def _reference(cell: _Cell, rng: np.random.Generator) -> LowerBound:
    there = 1 + cell.deviation * rng.normal(size=cell.canaries)
    return reference_bound(there, cell.deviation * rng.normal(size=REFERENCES), delta=DELTA)


AUDITORS: Mapping[str, Auditor] = {
    "one run": _one_run,
    "one run, f-DP": _one_run_gaussian,
    "Clopper-Pearson": lambda cell, rng: threshold_bound(cell.coins(rng), delta=DELTA, rng=rng),
    "Clopper-Pearson, Gaussian": lambda cell, rng: threshold_bound(
        cell.coins(rng), delta=DELTA, rng=rng, family="gaussian"
    ),
    "Gaussian, two groups": lambda cell, rng: gaussian_bound(cell.coins(rng), delta=DELTA),
    "Gaussian, known null": _reference,
}


def cells(quick: bool = False) -> list[_Cell]:
    """Every ε with every number of canaries, and the noise that the accounting gives."""
    found = []
    for epsilon in (1.0, 4.0) if quick else (1.0, 2.0, 4.0, 8.0):
        deviation = 1 / mu_of_epsilon(epsilon, DELTA)
        exact = epsilon_of_gaussian(noise_multiplier=deviation, steps=1, delta=DELTA)
        assert abs(exact - epsilon) < 1e-6
        found += [
            _Cell(epsilon, m, deviation) for m in ((100, 1000) if quick else (100, 1000, 10000))
        ]
    return found


def run(options: Options) -> Report:
    """Measure coverage and tightness; coverage that chance does not explain is a failure."""
    trials = 40 if options.quick else 400
    rows, failures = [], []
    best, least, began = 0.0, 1.0, time.monotonic()
    pooled: Counter[str] = Counter()
    asked = cells(options.quick)
    for cell in asked:
        for number, (name, auditor) in enumerate(AUDITORS.items()):
            rng = np.random.default_rng((round(cell.epsilon), cell.canaries, number))
            found = np.array([auditor(cell, rng).epsilon for _ in range(trials)])
            right = int((found <= cell.epsilon).sum())
            pooled[name] += right
            allowed = most_coverage(right, trials)
            least = min(least, allowed)
            if allowed < CONFIDENCE:
                failures.append(f"{name} at {cell.name}: right {right} times of {trials}")
            tight = float(np.median(found)) / cell.epsilon
            if (cell.epsilon, cell.canaries) == (4, 1000):
                best = max(best, tight)
            rows.append([cell.name if not number else "", name, *_figures(cell, name, found)])
    return Report(
        benchmark="audit_calibration",
        lines=[
            machine_line(),
            f"one exact Gaussian sum, δ = {DELTA:g}; {trials} audits a row, {REFERENCES} reference "
            f"directions where the null is known; {time.monotonic() - began:.0f} s",
            "coverage: share of audits whose bound is not above ε; a cell's goal allows what one "
            "cell in 100,000 does by chance",
            "coverage in all cells: "
            + ", ".join(f"{n} {r / (trials * len(asked)):.4f}" for n, r in pooled.items()),
        ],
        columns=("mechanism", "auditor", "coverage", "median ε_LB", "ε_LB / ε", "public ε_LB"),
        rows=rows,
        ratios={
            _BEST: best,
            _COVERAGE: min(pooled.values()) / (trials * len(asked)),
            _CELL: least,
        },
        goals=GOALS[:1] + GOALS[2:] if options.quick else GOALS,  # 160 audits are too few
        failures=failures,
    )


def most_coverage(right: int, trials: int, chance: float = 1e-5) -> float:
    """The highest coverage at which so few right ones are not less likely than ``chance``."""
    from scipy.special import betaincinv

    if right == trials:
        return 1.0
    return float(betaincinv(right + 1, trials - right, 1 - chance))


def _figures(
    cell: _Cell, name: str, found: np.ndarray[tuple[int], np.dtype[np.float64]]
) -> list[str]:
    median = float(np.median(found))
    public = PUBLIC.get(name, {}).get((cell.epsilon, cell.canaries))
    return [
        f"{float((found <= cell.epsilon).mean()):.3f}",
        f"{median:.2f}",
        f"{median / cell.epsilon:.2f}",
        "–" if public is None else f"{public:.2f}",
    ]
