"""``dp_step``: the price of a private step, beside the step without privacy and Opacus' engines.

Every engine is a process of its own with one thread. Time: they take turns, medians of several
turns. Memory: a second process each, in which freed memory returns to the system at once, so
that the peak is what was needed and not what the allocator kept.
"""

from __future__ import annotations

import contextlib
import json
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from statistics import median

import numpy as np

from .report import Goal, Options, Report, machine_line
from .work.dp_step import ENGINES, Sizes
from .workers import Worker

__all__ = ["run"]

_PLAIN, _OURS, _MICRO = "non-private", "ours", "ours, 4 at once"
_QUICK = Sizes(hidden=32, layers=1, inner=48, vocabulary=64, rank=2, batch=6, tokens=16)
_ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
# Exact memory: every block of 64 kB and more is mapped for itself and returned when freed.
_EXACT_MEMORY = {**_ONE_THREAD, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
_AGREEMENT = 1e-4
_GOALS = (
    Goal(name=f"{_OURS} time / {_PLAIN}", bound=1.05, at_most=True),
    Goal(name=f"{_OURS} peak / {_PLAIN}", bound=1.03, at_most=True),
    Goal(name=f"{_MICRO} time / {_PLAIN}", bound=1.05, at_most=True),
    Goal(name=f"{_MICRO} peak / {_PLAIN}", bound=0.60, at_most=True),
)


def run(options: Options) -> Report:
    """Measure every engine; ``--quick`` asserts only that their updates agree."""
    sizes, turns = (_QUICK, 1) if options.quick else (Sizes(), 7)
    taken, updates, peaks = _turns(sizes, turns)
    if not options.quick:
        peaks = {name: _exact_peak(name, sizes) for name in ENGINES}
    ratios = _ratios(taken, peaks)
    return Report(
        benchmark="dp_step",
        lines=[
            machine_line(),
            f"Llama of {sizes.layers} x {sizes.hidden}, rank {sizes.rank} at every linear layer "
            f"of its blocks, {sizes.batch} records of {sizes.tokens} tokens, 1 thread",
        ],
        columns=["engine", "s / step", "/ plain", "peak MB", "/ plain", "differs from ours"],
        rows=[
            [
                name,
                f"{median(taken[name]):.3f}",
                f"{ratios[f'{name} time / {_PLAIN}']:.2f}",
                f"{peaks[name] / 1e6:.0f}",
                f"{ratios[f'{name} peak / {_PLAIN}']:.2f}",
                "-" if name == _PLAIN else f"{_distance(updates[name], updates[_OURS]):.0e}",
            ]
            for name in ENGINES
        ],
        ratios={name: ratio for name, ratio in ratios.items() if not name.startswith(_PLAIN)},
        goals=() if options.quick else _GOALS,
        failures=[
            f"{name}'s clipped update differs from ours by {gap:.1e}"
            for name, update in updates.items()
            if name != _PLAIN and (gap := _distance(update, updates[_OURS])) > _AGREEMENT
        ],
    )


def _turns(
    sizes: Sizes, turns: int
) -> tuple[dict[str, list[float]], dict[str, np.ndarray], dict[str, int]]:
    """Seconds of steps, engines in turns; each engine's update and its peak so far."""
    taken: dict[str, list[float]] = {name: [] for name in ENGINES}
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="locavore-")))
        workers = {
            name: stack.enter_context(Worker(_command(name, sizes), _ONE_THREAD))
            for name in ENGINES
        }
        for _ in range(turns + 1):
            for name, worker in workers.items():
                taken[name].append(worker.ask({"step": True})["seconds"])
        updates = {}
        for i, (name, worker) in enumerate(workers.items()):
            worker.ask({"save": str(folder / f"{i}.npy")})
            updates[name] = np.load(folder / f"{i}.npy")
        peaks = {name: worker.peak_bytes() or 0 for name, worker in workers.items()}
    return {name: values[1:] for name, values in taken.items()}, updates, peaks


def _exact_peak(name: str, sizes: Sizes) -> int:
    with Worker(_command(name, sizes), _EXACT_MEMORY) as worker:
        worker.ask({"step": True})
        return worker.peak_bytes() or 0


def _command(name: str, sizes: Sizes) -> list[str]:
    module = "tests.benchmarks.work.dp_step"
    return [sys.executable, "-W", "ignore", "-m", module, name, json.dumps(asdict(sizes))]


def _ratios(taken: Mapping[str, list[float]], peaks: Mapping[str, int]) -> dict[str, float]:
    """Times turn by turn, so that what slows the machine for a while slows both."""
    found = {}
    for name in ENGINES:
        pairs = zip(taken[name], taken[_PLAIN], strict=True)
        found[f"{name} time / {_PLAIN}"] = median(own / plain for own, plain in pairs)
        found[f"{name} peak / {_PLAIN}"] = peaks[name] / max(1, peaks[_PLAIN])
    return found


def _distance(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())
