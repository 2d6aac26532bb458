"""Our text runtime against torch, onnxruntime-genai and llama.cpp, with the same weights.

Every variant has a process of its own. The processes take turns, so that a busy moment hits all
of them, and the median of several turns counts. One text, no batch, greedy tokens, the same
number of threads; nothing samples or turns tokens into text. Memory is a process's peak
resident set, with its interpreter and libraries.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from locavore.home import find_base, installed_bases
from locavore.shared.errors import BadInputError

from . import peers
from .equality import compare_with_twin
from .report import Goal, Options, Report, machine_line
from .tiny import build_tiny_bases
from .workers import Measured, Worker

if TYPE_CHECKING:
    from locavore.export.quantize import Precision

__all__ = ["COLUMNS", "GOALS", "Figures", "Variant", "ratios", "run"]

NAME = "text_runtime"
SOURCE = "smollm2-135m-instruct"
PRECISIONS: tuple[Precision, ...] = ("int4", "int8", "int8-dynamic")
TORCH, GENAI, LLAMA = "torch fp32", "onnxruntime-genai int4", "llama.cpp q4_0"
ADAPTED = " + adapter"
THREADS, RANK = 2, 8
_PREFIXES = 16

GOALS = (
    Goal(name="int4 decode with adapter / torch fp32", bound=5.0),
    Goal(name="int4 size / fp32", bound=0.27, at_most=True),
    Goal(name="best prefill / torch fp32", bound=3.0),
    Goal(name="llama.cpp q4_0 decode (moonshot)", bound=1.0, moonshot=True),
)
COLUMNS = (
    "variant",
    "prefill tok/s",
    "x torch",
    "decode tok/s",
    "x torch",
    "peak MB",
    "disk MB",
    "/ fp32",
    "swap ms",
    "same",
)


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Tokens of the prompt, tokens decoded after it, and measured turns."""

    prompt: int
    new: int
    turns: int


FULL = Sizes(prompt=256, new=64, turns=5)
QUICK = Sizes(prompt=96, new=8, turns=1)


@dataclass(frozen=True)
class Variant:
    """A runtime under its name in the table, and the command of its worker."""

    name: str
    command: tuple[str, ...]
    ours: bool = False


@dataclass(frozen=True, kw_only=True)
class Figures:
    """Medians of one variant.

    Args:
        prefill: prompt tokens per second.
        decode: tokens per second after the prompt.
        swap: seconds to swap an adapter; none for a variant without.
        nbytes: size on disk.
        peak: peak resident set in bytes; none where it cannot be read.
        answers: its next token after each of several beginnings of the prompt.
    """

    ours: bool
    prefill: float
    decode: float
    swap: float | None
    nbytes: int
    peak: int | None
    answers: Sequence[int]


def run(options: Options) -> Report:
    """Check our variants against their twins, then measure everything side by side."""
    with tempfile.TemporaryDirectory(prefix="locavore-") as scratch:
        return _run(options, _bases(options, Path(scratch)))


def _run(options: Options, bases: Mapping[str, str]) -> Report:
    sizes = QUICK if options.quick else FULL
    text = _prompt(bases[next(iter(bases))], sizes.prompt)
    checked = {name: compare_with_twin(find_base(base), text, RANK) for name, base in bases.items()}
    variants, notes = _variants(bases, options)
    measured = _measure(variants, text, sizes)
    return Report(
        benchmark=NAME,
        lines=[
            machine_line(),
            f"{sizes.prompt} prompt tokens, {sizes.new} decoded, {THREADS} threads, adapter of "
            f"rank {RANK} on every layer, median of {sizes.turns}",
            f"same: next token as torch fp32 after {_PREFIXES} beginnings of the prompt; with a "
            "random adapter it need not be",
            *(f"{name}: {equality.sentence()}" for name, equality in checked.items()),
            *notes,
        ],
        columns=COLUMNS,
        rows=_rows(measured),
        ratios=ratios(measured),
        goals=() if options.quick or options.bases else GOALS,
        failures=[
            f"{name}: {wrong}" for name, equality in checked.items() for wrong in equality.wrong
        ],
    )


def _bases(options: Options, scratch: Path) -> dict[str, str]:
    """Precision to the name or path of a built base; missing ones of the default are built."""
    if options.bases:
        found = {find_base(base).manifest.precision: base for base in options.bases}
        if len(found) < len(options.bases):
            raise BadInputError("the bases to compare must differ in their precision")
        return found
    if options.quick:
        return build_tiny_bases(scratch, PRECISIONS)
    names: dict[str, str] = {precision: f"{SOURCE}-{precision}" for precision in PRECISIONS}
    built = {folder.name for folder in installed_bases()}
    for precision, name in names.items():
        if name not in built:
            print(f"building {name}; once, then cached", flush=True)
            command = [sys.executable, "-c", "from locavore.cli import main; main()"]
            command += ["base", "build", SOURCE, "--precision", precision]
            subprocess.run(command, check=True)
    return names


def _prompt(base: str, tokens: int) -> list[int]:
    """Public writing in the base's own tokens, behind its start token."""
    from tokenizers import Tokenizer

    from locavore.server.simulation.corpus import load_sotu

    package = find_base(base)
    tokenizer = Tokenizer.from_file(str(package.path("tokenizer.json")))
    texts = (text for author in load_sotu().public.values() for text in author)
    bos = package.manifest.details["special"]["bos"]
    ids: list[int] = [] if bos is None else [bos]
    while len(ids) < tokens:
        ids += tokenizer.encode(next(texts) + "\n", add_special_tokens=False).ids
    return ids[:tokens]


def _variants(bases: Mapping[str, str], options: Options) -> tuple[list[Variant], list[str]]:
    """Every variant that can run here, and a sentence for each that cannot."""
    threads, notes = str(THREADS), []
    known = not options.quick and not options.bases
    source = peers.float_folder(SOURCE) if known else None
    model = str(source or find_base(next(iter(bases.values()))).folder)
    variants = [Variant(TORCH, _python("torch_float", model, threads))]
    for precision, base in bases.items():
        for rank, suffix in ((0, ""), (RANK, ADAPTED)):
            command = _python("ours", base, threads, str(rank))
            variants.append(Variant(precision + suffix, command, ours=True))
    if source is None:
        return variants, ["peers are left out: they run in full, on the default bases only"]
    for name, found in (
        (GENAI, peers.genai_command(source, THREADS)),
        (LLAMA, peers.llama_command(source, THREADS)),
    ):
        if found is None:
            notes.append(f"{name} is left out: it is not installed; 'make bench-env' does it")
        else:
            variants.append(Variant(name, tuple(found)))
    return variants, notes


def _python(worker: str, *arguments: str) -> tuple[str, ...]:
    return (sys.executable, "-m", f"tests.benchmarks.work.{worker}", *arguments)


def _measure(variants: Sequence[Variant], text: Sequence[int], sizes: Sizes) -> dict[str, Figures]:
    """Start every worker, then let them take turns."""
    beginnings = [text[: len(text) * (i + 1) // _PREFIXES] for i in range(_PREFIXES)]
    with contextlib.ExitStack() as stack:
        workers = {v: stack.enter_context(Worker(v.command)) for v in variants}
        answers = {
            v: [worker.measure(ids, 0).tokens[0] for ids in beginnings]
            for v, worker in workers.items()
        }
        turns: dict[Variant, list[Measured]] = {variant: [] for variant in variants}
        for _ in range(sizes.turns + 1):
            for variant, worker in workers.items():
                turns[variant].append(worker.measure(text, sizes.new))
        return {
            v.name: _figures(v, turns[v][1:], answers[v], worker, len(text))
            for v, worker in workers.items()
        }


def _figures(
    variant: Variant,
    turns: Sequence[Measured],
    answers: Sequence[int],
    worker: Worker,
    prompt: int,
) -> Figures:
    """Medians of a variant's turns, without the first: that one warmed up."""
    swaps = [turn.swap for turn in turns if turn.swap is not None]
    return Figures(
        ours=variant.ours,
        prefill=prompt / median(turn.prefill for turn in turns),
        decode=(len(turns[0].tokens) - 1) / median(turn.decode for turn in turns),
        swap=median(swaps) if swaps else None,
        nbytes=worker.ready["bytes"],
        peak=worker.peak_bytes(),
        answers=answers,
    )


def ratios(measured: Mapping[str, Figures]) -> dict[str, float]:
    """Every variant's speed over torch's, and the figures that the goals bound."""
    torch = measured[TORCH]
    found = {}
    for name, value in measured.items():
        if name != TORCH:
            found[f"{name} prefill / torch fp32"] = value.prefill / torch.prefill
            found[f"{name} decode / torch fp32"] = value.decode / torch.decode
    fastest = max(value.prefill for value in measured.values() if value.ours)
    found["best prefill / torch fp32"] = fastest / torch.prefill
    adapted = measured.get(f"int4{ADAPTED}")
    if adapted is not None:
        found["int4 decode with adapter / torch fp32"] = adapted.decode / torch.decode
        found["int4 size / fp32"] = adapted.nbytes / torch.nbytes
        if LLAMA in measured:
            name = "llama.cpp q4_0 decode (moonshot)"
            found[name] = adapted.decode / measured[LLAMA].decode
    return found


def _rows(measured: Mapping[str, Figures]) -> list[list[str]]:
    torch = measured[TORCH]
    return [
        [
            name,
            f"{value.prefill:.0f}",
            f"{value.prefill / torch.prefill:.2f}",
            f"{value.decode:.1f}",
            f"{value.decode / torch.decode:.2f}",
            "-" if value.peak is None else f"{value.peak / 1e6:.0f}",
            f"{value.nbytes / 1e6:.0f}",
            f"{value.nbytes / torch.nbytes:.3f}",
            "-" if value.swap is None else f"{value.swap * 1e3:.1f}",
            _same(value.answers, torch.answers),
        ]
        for name, value in measured.items()
    ]


def _same(found: Sequence[int], expected: Sequence[int]) -> str:
    equal = sum(a == b for a, b in zip(found, expected, strict=True))
    return f"{equal}/{len(expected)}"
