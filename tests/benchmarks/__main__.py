"""Run a benchmark: ``python -m tests.benchmarks NAME [--quick] [--base NAME ...]``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

from locavore.shared.errors import LocavoreError

from . import (
    audit_calibration,
    deployment,
    distributed_dp,
    distribution,
    dp_correctness,
    dp_step,
    forgetting,
    image_runtime,
    likes,
    planted_bugs,
    policies,
    references,
    secagg,
    simulation,
    subjects,
    text_runtime,
    vault,
)
from .report import Options, Report

__all__ = ["BENCHMARKS", "main"]

BENCHMARKS: dict[str, Callable[[Options], Report]] = {
    "deployment": deployment.run,
    "audit_calibration": audit_calibration.run,
    "distributed_dp": distributed_dp.run,
    "distribution": distribution.run,
    "dp_correctness": dp_correctness.run,
    "dp_step": dp_step.run,
    "forgetting": forgetting.run,
    "image_runtime": image_runtime.run,
    "likes": likes.run,
    "policies": policies.run,
    "planted_bugs": planted_bugs.run,
    "references": references.run,
    "secagg": secagg.run,
    "simulation": simulation.run,
    "subjects": subjects.run,
    "text_runtime": text_runtime.run,
    "vault": vault.run,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one benchmark; 0 when its goals hold, 1 when one is missed, else an error's code."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("name", choices=sorted(BENCHMARKS))
    parser.add_argument("--quick", action="store_true", help="tiny sizes; correctness, no speed")
    parser.add_argument(
        "--base",
        action="append",
        default=[],
        metavar="BASE",
        help="a built base, by name or path, instead of the default ones; may be repeated",
    )
    given = parser.parse_args(arguments)
    try:
        report = BENCHMARKS[given.name](Options(quick=given.quick, bases=tuple(given.base)))
    except LocavoreError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    print(report.text())
    print(report.json_line())
    return 0 if report.holds else 1


if __name__ == "__main__":
    sys.exit(main())
