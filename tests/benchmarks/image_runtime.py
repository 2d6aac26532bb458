"""Our image runtime against torch in float32: the same prompts, noise, sampler and steps.

Every variant has a process of its own; the processes take turns, and the median of several turns
counts. One picture at a time, as a device draws. Memory is a process's peak resident set, with its
interpreter and libraries. Distances are of finished pictures to torch's, in levels of 0..255.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from locavore.home import find_base, installed_bases, signing_key
from locavore.shared.errors import BadInputError

from .report import Goal, Options, Report, machine_line
from .workers import Worker

if TYPE_CHECKING:
    from locavore.export.quantize import Precision

__all__ = ["COLUMNS", "GOALS", "Figures", "ratios", "run"]

NAME = "image_runtime"
SOURCE = "drawings-32"
PRECISIONS: tuple[Precision, ...] = ("float32", "int8", "int4")
TORCH = "torch fp32"
THREADS = 2
PROMPTS = ("red apple", "cat face", "yellow car", "house", "green tree", "blue bird")

GOALS = (
    Goal(name="int8 pictures a second / torch fp32", bound=1.5),
    Goal(name="int8 size / fp32", bound=0.35, at_most=True),
    Goal(name="int8 peak memory / torch fp32", bound=0.5, at_most=True),
    Goal(name="int8 distance of pictures", bound=2.0, at_most=True),
)
COLUMNS = ("variant", "s/picture", "x torch", "disk MB", "/ fp32", "peak MB", "distance", "PSNR dB")


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Of one variant.

    Args:
        seconds: a picture, the median.
        nbytes: size on disk.
        peak: peak resident set in bytes; none where it cannot be read.
        pixels: ``(B, H, W, 3)``.
    """

    seconds: float
    nbytes: int
    peak: int | None
    pixels: Any

    def distance(self, other: Figures) -> float:
        """Mean absolute distance in levels."""
        return float(np.abs(self.pixels.astype(float) - other.pixels).mean())

    def psnr(self, other: Figures) -> float:
        """Peak signal-to-noise ratio of all pictures together, in decibels."""
        error = float(np.square(self.pixels.astype(float) - other.pixels).mean())
        return float("inf") if error == 0 else 10 * float(np.log10(255**2 / error))


def run(options: Options) -> Report:
    """Draw the same pictures with every variant."""
    with tempfile.TemporaryDirectory(prefix="locavore-") as scratch:
        bases = _bases(options, Path(scratch))
        steps, turns = (4, 1) if options.quick else (24, 3)
        measured = _measure(bases, steps, turns, Path(scratch))
    return Report(
        benchmark=NAME,
        lines=[
            machine_line(),
            f"{len(PROMPTS)} prompts, {steps} steps, {THREADS} threads, median of {turns} turns",
        ],
        columns=COLUMNS,
        rows=_rows(measured),
        ratios=ratios(measured),
        goals=() if options.quick else GOALS,
        failures=_failures(measured),
    )


def _bases(options: Options, scratch: Path) -> dict[str, str]:
    """Precision to the name or path of a built base; missing ones of the default are built."""
    if options.bases:
        found = {find_base(base).manifest.precision: base for base in options.bases}
        if "float32" not in found or len(found) < len(options.bases):
            raise BadInputError(
                "give a base in float32, from which torch draws, and others of other precisions"
            )
        return found
    if options.quick:
        return _tiny(scratch)
    names: dict[str, str] = {precision: f"{SOURCE}-{precision}" for precision in PRECISIONS}
    built = {folder.name for folder in installed_bases()}
    for precision, name in names.items():
        if name not in built:
            print(f"building {name}; once, then cached", flush=True)
            command = [sys.executable, "-c", "from locavore.cli import main; main()"]
            command += ["base", "build", SOURCE, "--precision", precision]
            subprocess.run(command, check=True)
    return names


def _tiny(scratch: Path) -> dict[str, str]:
    from locavore.export.build_images import ImagePlan, build_image_base

    from ..tiny_images import own_tiny_source, public_pictures

    paths: dict[str, str] = {}
    for precision in PRECISIONS[:2]:
        plan = ImagePlan(precision=precision, direction_rank=1, public=public_pictures())
        build_image_base(own_tiny_source(), scratch / precision, plan, signing_key())
        paths[precision] = str(scratch / precision)
    return paths


def _measure(bases: Mapping[str, str], steps: int, turns: int, scratch: Path) -> dict[str, Figures]:
    commands = {TORCH: ("torch", bases["float32"])}
    commands |= {precision: ("ours", base) for precision, base in bases.items()}
    module = "tests.benchmarks.work.images"
    with contextlib.ExitStack() as stack:
        workers = {
            name: stack.enter_context(Worker((sys.executable, "-m", module, *given, str(THREADS))))
            for name, given in commands.items()
        }
        seconds: dict[str, list[float]] = {name: [] for name in workers}
        pixels: dict[str, list[Any]] = {name: [] for name in workers}
        for turn in range(turns + 1):
            for i, prompt in enumerate(PROMPTS):
                for name, worker in workers.items():
                    out = scratch / "drawn.npy"
                    asked = {"prompts": [prompt], "steps": steps, "seed": i, "out": str(out)}
                    took = worker.ask(asked)["seconds"]
                    if turn:  # the first warmed up
                        seconds[name].append(took)
                    else:
                        pixels[name].append(np.load(out)[0])
        return {
            name: Figures(
                seconds=median(seconds[name]),
                nbytes=worker.ready["bytes"],
                peak=worker.peak_bytes(),
                pixels=np.stack(pixels[name]),
            )
            for name, worker in workers.items()
        }


def ratios(measured: Mapping[str, Figures]) -> dict[str, float]:
    """Every variant against torch."""
    torch = measured[TORCH]
    found = {}
    for name, value in measured.items():
        if name == TORCH:
            continue
        found[f"{name} pictures a second / torch fp32"] = torch.seconds / value.seconds
        found[f"{name} size / fp32"] = value.nbytes / torch.nbytes
        found[f"{name} distance of pictures"] = value.distance(torch)
        if value.peak is not None and torch.peak is not None:
            found[f"{name} peak memory / torch fp32"] = value.peak / torch.peak
    return found


def _failures(measured: Mapping[str, Figures]) -> list[str]:
    apart = measured["float32"].distance(measured[TORCH])
    return [] if apart < 0.1 else [f"float32 pictures are {apart:.2f} levels from torch's"]


def _rows(measured: Mapping[str, Figures]) -> list[list[str]]:
    torch = measured[TORCH]
    return [
        [
            name,
            f"{value.seconds:.3f}",
            f"{torch.seconds / value.seconds:.2f}",
            f"{value.nbytes / 1e6:.1f}",
            f"{value.nbytes / torch.nbytes:.3f}",
            "-" if value.peak is None else f"{value.peak / 1e6:.0f}",
            f"{value.distance(torch):.2f}",
            f"{value.psnr(torch):.1f}",
        ]
        for name, value in measured.items()
    ]
