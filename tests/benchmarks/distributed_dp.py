"""Noise that devices make together, against a trusted server's Gaussian of the same ε.

python -m tests.benchmarks distributed_dp [--quick]

Every device encodes a contribution of the full clipping norm; all point the same way, which leaves
the sum least room. The sum is taken modulo ``2**bits``, as secure aggregation takes it. Beside it a
trusted server adds a Gaussian to the very same sum. Both have one noise multiplier and thus one
accounting: what whole numbers cost more has been added to the devices' noise.
"""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass

import numpy as np

from locavore.privacy.distributed import WholeNumbers
from locavore.privacy.noise import SecureNoise
from locavore.privacy.plan import UserPlan
from locavore.privacy.secagg.masks import Words
from locavore.privacy.secagg.session import SecureSum

from .report import Goal, Options, Report, machine_line

_MSE = Goal(name="MSE over central, n=100 d=2^20 b=16", bound=1.01, at_most=True)


@dataclass(frozen=True)
class _Case:
    devices: int
    power: int
    bits: int

    @property
    def name(self) -> str:
        return f"n={self.devices} d=2^{self.power} b={self.bits}"


_CASES = [_Case(100, 16, 16), _Case(100, 20, 16), _Case(100, 20, 18), _Case(1000, 16, 16)]
_QUICK = [_Case(20, 14, 16), _Case(20, 14, 20)]


def run(options: Options) -> Report:
    """Measure; noise below the claim is a failure."""
    rows, ratios, failures = [], {}, []
    for case in _QUICK if options.quick else _CASES:
        plan = UserPlan(
            relation="add-or-remove-one",
            trust="secure-aggregation",
            cohort=case.devices,
            clip=1.0,
            rounds=1,
            secure_sum=SecureSum(bits=case.bits),
        )
        ours, central, seconds = _errors(plan, 1 << case.power)
        ratio = ours / central
        ratios[f"MSE over central, {case.name}"] = ratio
        spread = 4 * (2 * 2 / (1 << case.power)) ** 0.5
        if ratio < 1 - spread:
            failures.append(f"{case.name}: there is less noise than claimed, {ratio:.4f}")
        rows.append(
            [
                case.name,
                f"{plan.epsilon(1):.3f}",
                f"{central:.4f}",
                f"{ours:.4f}",
                f"{ratio:.4f}",
                f"{spread:.4f}",
                f"{1e3 * seconds:.0f}",
            ]
        )
    return Report(
        benchmark="distributed_dp",
        lines=[
            machine_line(),
            "noise multiplier 1, clipping norm 1, one round, δ = 1e-5, ε by the accounting of the "
            "ledger; errors are mean squares a number of the sum",
        ],
        columns=("case", "ε", "central", "distributed", "ratio", "chance ±", "ms a device"),
        rows=rows,
        ratios=ratios,
        goals=() if options.quick else (_MSE,),
        failures=failures,
    )


def _errors(plan: UserPlan, width: int) -> tuple[float, float, float]:
    """Mean squared errors of the two sums, and seconds that a device took to encode."""
    direction = np.random.default_rng(0).normal(size=width)
    contribution = direction / np.linalg.norm(direction)
    numbers = WholeNumbers(plan, width, b"a sum's public seed")
    kind = np.uint16 if numbers.bits <= 16 else np.uint32
    total: Words = np.zeros(width, kind)
    taken = []
    for _ in range(plan.cohort):
        start = time.process_time()
        total += numbers.encode(contribution, SecureNoise())
        taken.append(time.process_time() - start)
    total &= kind((1 << numbers.bits) - 1)
    exact = plan.cohort * contribution
    noised = plan.add_noise(exact, SecureNoise())
    return (
        float(np.square(numbers.decode(total) - exact).mean()),
        float(np.square(noised - exact).mean()),
        statistics.median(taken),
    )
