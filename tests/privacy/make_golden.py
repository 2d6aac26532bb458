"""Write ``golden.csv``: ε of many plans by accountants that share no code.

``python -m tests.privacy.make_golden`` (some minutes). Google's PLD beside a convolution on a grid;
Opacus' PRV where it knows the relation; the closed form at rate 1.
"""

from __future__ import annotations

import csv
import itertools
from pathlib import Path
from typing import Any

import absl.logging

from locavore.privacy.accounting import epsilon_of_dp_sgd, epsilon_of_gaussian

from .convolution import epsilon_by_convolution

__all__ = ["COLUMNS", "GOLDEN", "cells", "convolved"]

GOLDEN = Path(__file__).parent / "golden.csv"
COLUMNS = ("sigma", "rate", "steps", "delta", "relation", "pld", "convolution", "prv", "exact")
_GREATEST = 60.0


def cells() -> list[dict[str, Any]]:
    """Plans whose ε is not absurd."""
    grid = itertools.product(
        (0.5, 0.7, 1.0, 1.5, 2.0, 4.0),
        (1.0, 0.2, 0.05, 0.01),
        (1, 30, 1000),
        (1e-5, 1e-6),
        ("add-or-remove-one", "replace-one"),
    )
    names = ("noise_multiplier", "sampling_rate", "steps", "delta")
    found = []
    for *numbers, relation in grid:
        plan = dict(zip(names, numbers, strict=True))
        bound = epsilon_of_dp_sgd(**plan, accountant="rdp")
        if bound * (2 if relation == "replace-one" else 1) < _GREATEST:
            found.append({**plan, "relation": relation})
    return found


def convolved(plan: dict[str, Any]) -> float:
    """ε by the convolution on a grid."""
    return epsilon_by_convolution(
        plan["noise_multiplier"],
        plan["sampling_rate"],
        plan["steps"],
        plan["delta"],
        plan["relation"],
    )


def _row(plan: dict[str, Any]) -> list[str]:
    exact = prv = None
    if plan["sampling_rate"] == 1.0:
        exact = epsilon_of_gaussian(**{k: v for k, v in plan.items() if k != "sampling_rate"})
    if plan["relation"] != "replace-one":
        prv = epsilon_of_dp_sgd(**plan, accountant="opacus-prv")
    found = (epsilon_of_dp_sgd(**plan), convolved(plan), prv, exact)
    return [*map(str, plan.values()), *("" if x is None else f"{x:.6f}" for x in found)]


def main() -> None:
    """Compute every cell."""
    absl.logging.set_verbosity("fatal")  # the Rényi bound tells of every order that it drops
    with GOLDEN.open("w", newline="") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for plan in cells():
            writer.writerow(_row(plan))
            stream.flush()


if __name__ == "__main__":
    main()
