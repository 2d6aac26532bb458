"""``locavore audit membership`` and ``locavore audit update``: attacks on adapters and updates."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.console import Console

from .home import find_base
from .shared.errors import BadInputError
from .terminal import require, say_section

if TYPE_CHECKING:
    pass

__all__ = ["audit_membership", "audit_update"]

console = Console(width=None if sys.stdout.isatty() else 100)

Base = Annotated[str, typer.Option(help="A built base, by name or path.")]
Clip = Annotated[float, typer.Option(help="Norm to which a record's gradient is cut.")]
Noise = Annotated[float, typer.Option(help="Noise multiplier; 0: no privacy is claimed.")]
Batch = Annotated[int, typer.Option(help="Records per step, on average.")]
Data = Annotated[
    Optional[Path],  # noqa: UP045  # typer reads this form
    typer.Option(help="Folder with a subfolder of texts a person; the built-in corpus otherwise."),
]
Out = Annotated[
    Optional[Path],  # noqa: UP045
    typer.Option(help="JSON file of findings, figures and threat model."),
]


def audit_membership(
    base: Base,
    adapter: Annotated[str, typer.Option(help="private, or shared.")] = "shared",
    unit: Annotated[str, typer.Option(help="What is guessed: record, or user.")] = "record",
    noise: Noise = 1.0,
    clip: Clip = 6.0,
    batch: Batch = 16,
    local_steps: Annotated[int, typer.Option(help="Steps per round.")] = 1,
    rounds: Annotated[int, typer.Option(help="Rounds of the federation.")] = 3,
    steps: Annotated[int, typer.Option(help="Steps of a private adapter.")] = 4,
    form: Annotated[str, typer.Option(help="Shared adapter: core (r x r) or ffa.")] = "core",
    rank: Annotated[int, typer.Option(help="Public directions per layer.")] = 2,
    records: Annotated[int, typer.Option(help="Records, or users with 4 each, to guess.")] = 64,
    tokens: Annotated[int, typer.Option(help="To which records are cut.")] = 32,
    targets: Annotated[int, typer.Option(help="Adapters that are attacked.")] = 4,
    shadows: Annotated[int, typer.Option(help="Adapters that the attacker trains.")] = 16,
    samples: Annotated[
        int,
        typer.Option(help="Texts an adapter writes, for an attacker who sees no more; 0: none."),
    ] = 0,
    data: Data = None,
    out: Out = None,
) -> None:
    """Audit membership: can those that an adapter was trained on be told from others?"""
    require("train", "this audit", "dp_accounting", "scipy", "torch")
    from .client.audit.attacked import attack_membership
    from .client.training.private import PrivateTraining
    from .privacy.plan import RecordPlan
    from .server.simulation.quick_audits import candidates

    _one_of("--adapter", adapter, ("private", "shared"))
    _one_of("--unit", unit, ("record", "user"))
    _one_of("--form", form, ("core", "ffa"))
    plan = RecordPlan(
        clip=clip,
        noise_multiplier=noise,
        expected_batch=batch,
        local_steps=local_steps,
        rounds=rounds,
        relation="add-or-remove-one",
    )
    private = PrivateTraining(rank=rank, steps=steps, batch=batch)
    units, public = candidates(data, unit, records)
    audit = attack_membership(
        find_base(base),
        units,
        public,
        private if adapter == "private" else plan,
        form=form,  # type: ignore[arg-type]  # checked above
        rank=rank,
        tokens=tokens,
        targets=targets,
        shadows=shadows,
        samples=samples,
    )
    say_section(console, audit.section(), out)


def audit_update(
    base: Base,
    form: Annotated[str, typer.Option(help="Shared adapter: core, ffa or lora.")] = "core",
    rank: Annotated[int, typer.Option(help="Public directions per layer.")] = 2,
    noise: Noise = 1.0,
    clip: Clip = 6.0,
    batch: Batch = 16,
    devices: Annotated[int, typer.Option(help="Devices of a secure sum.")] = 8,
    records: Annotated[int, typer.Option(help="Devices that are attacked, with a text each.")] = 8,
    tokens: Annotated[int, typer.Option(help="To which texts are cut.")] = 10,
    data: Data = None,
    out: Out = None,
) -> None:
    """Audit updates: can a text be read off what its device sends, or off a sum of many?"""
    require("train", "this audit", "dp_accounting", "scipy", "torch")
    from .client.audit.attacked import attack_updates
    from .privacy.plan import RecordPlan
    from .server.simulation.quick_audits import candidates

    _one_of("--form", form, ("core", "ffa", "lora"))
    if devices < 2:
        raise BadInputError(f"--devices must be at least 2, got {devices}")
    plan = RecordPlan(
        clip=clip, noise_multiplier=noise, expected_batch=batch, relation="add-or-remove-one"
    )
    units, public = candidates(data, "record", records)
    audit = attack_updates(
        find_base(base),
        [text for unit in units for text in unit],
        public[: devices - 1],
        plan,
        form=form,  # type: ignore[arg-type]  # checked above
        rank=rank,
        tokens=tokens,
    )
    say_section(console, audit.section(), out)


def _one_of(option: str, value: str, known: Sequence[str]) -> None:
    if value not in known:
        raise BadInputError(f"{option} must be {' or '.join(known)}, got {value!r}")
