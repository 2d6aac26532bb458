"""``locavore audit``: hold claims of privacy against what can be learned."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.console import Console

from .home import find_base
from .shared.errors import BadInputError, PrivacyError
from .terminal import require, say_section, status

if TYPE_CHECKING:
    pass

__all__ = ["audit_app"]

audit_app = typer.Typer(no_args_is_help=True, help="Hold privacy claims against what is learned.")
console = Console(width=None if sys.stdout.isatty() else 100)

_PUBLIC = 200  # texts that a base is audited with

Clip = Annotated[float, typer.Option(help="Norm to which a contribution is cut.")]
Noise = Annotated[float, typer.Option(help="Noise multiplier that is claimed.")]
Relation = Annotated[
    str, typer.Option(help="Neighbours: add-or-remove-one, replace-one or zero-out.")
]
Out = Annotated[
    Optional[Path],  # noqa: UP045  # typer reads this form
    typer.Option(help="JSON file of findings and figures, for the report."),
]


@audit_app.command("mechanism")
def audit_mechanism(
    trust: Annotated[str, typer.Option(help="central, secure-aggregation or local.")] = "central",
    cohort: Annotated[int, typer.Option(help="Devices in a round.")] = 6,
    clip: Clip = 1.0,
    noise: Noise = 1.0,
    relation: Relation = "add-or-remove-one",
    out: Out = None,
) -> None:
    """Audit user-level privacy: canary devices through the apps of both sides, in seconds."""
    require("simulate", "this audit", "dp_accounting", "flwr", "torch")
    from .privacy.plan import UserPlan
    from .server.simulation.audit import UserAudit

    plan = UserPlan(
        trust=trust,  # type: ignore[arg-type]  # the plan refuses others in a sentence
        cohort=cohort,
        clip=clip,
        noise_multiplier=noise,
        relation=relation,  # type: ignore[arg-type]
    )
    say_section(console, UserAudit(plan=plan).section(), out)


@audit_app.command("training")
def audit_training(
    base: Annotated[str, typer.Option(help="A built base, by name or path.")],
    clip: Clip = 6.0,
    noise: Noise = 1.0,
    batch: Annotated[int, typer.Option(help="Records per step, on average.")] = 16,
    local_steps: Annotated[int, typer.Option(help="Steps per round.")] = 1,
    rounds: Annotated[int, typer.Option(help="Rounds of the federation.")] = 3,
    relation: Relation = "add-or-remove-one",
    form: Annotated[str, typer.Option(help="Shared adapter: core (r x r) or ffa.")] = "core",
    rank: Annotated[int, typer.Option(help="Public directions per layer.")] = 2,
    out: Out = None,
) -> None:
    """Audit record-level privacy: the private training of a base, with made-up records."""
    require("train", "this audit", "dp_accounting", "scipy", "torch")
    from .client.audit.base import audit_base
    from .privacy.plan import RecordPlan

    plan = RecordPlan(
        clip=clip,
        noise_multiplier=noise,
        expected_batch=batch,
        local_steps=local_steps,
        rounds=rounds,
        relation=relation,  # type: ignore[arg-type]
    )
    if form not in ("core", "ffa"):
        raise BadInputError(f"--form must be core or ffa, got {form!r}")
    audit = audit_base(find_base(base), plan, form=form, rank=rank, records=_PUBLIC)  # type: ignore[arg-type]
    say_section(console, audit.section(), out)


@audit_app.command("wire")
def audit_wire(
    recording: Annotated[Path, typer.Argument(help="A recorded run's messages.")],
    secrets: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="File of texts that must not travel, one a line."),
    ] = None,
    adapter: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option(help="PEFT adapter folder whose numbers must not travel; several times."),
    ] = None,
    out: Out = None,
) -> None:
    """Audit a recorded run: every message against the allow-list, every byte for secrets."""
    require("federate", "this audit", "flwr")
    import numpy as np

    from .privacy.audit.wire import Secret, wire_section
    from .server.simulation.recording import load_recording, terms_of
    from .shared.adapters import load_adapter

    for path in [recording, *([secrets] if secrets else [])]:
        if not path.is_file():
            raise BadInputError(f"there is no file {path}")
    messages = load_recording(recording)
    texts = secrets.read_text("utf-8").splitlines() if secrets else []
    planted: dict[str, Secret] = {f"text {i}": line for i, line in enumerate(texts, 1) if line}
    for folder in adapter or []:
        factors = load_adapter(folder).factors.values()
        planted[str(folder)] = np.concatenate([part.ravel() for pair in factors for part in pair])
    width, plan = terms_of(messages)
    say_section(console, wire_section(messages, planted, width=width, plan=plan), out)


@audit_app.command("report")
def audit_report(
    run: Annotated[Path, typer.Argument(help="Folder of a simulated run.")],
    sections: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Argument(help="Sections that other audits wrote; those in RUN/audits are taken too."),
    ] = None,
    base: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="The run's base, by name or path, for a quick audit of training."),
    ] = None,
    out: Annotated[Path, typer.Option(help="The page.")] = Path("report.html"),
    attacks: Annotated[
        bool,
        typer.Option(
            "--all",
            help="With --base: also make quick attacks, in minutes; they are kept in RUN/audits.",
        ),
    ] = False,
) -> None:
    """Audit a run and join all sections in one page, for a lawyer and for an engineer.

    Holds the ε that was published against the ledgers and the plan, searches what was recorded,
    sends canary devices where the plan protects users, and names what was not audited.
    """
    require("simulate", "this audit", "dp_accounting", "flwr", "matplotlib", "scipy", "torch")
    from .privacy.audit.findings import verdict
    from .privacy.audit.sections import Section
    from .server.simulation.audit_report import write_audit_report
    from .server.simulation.run_audit import audit_run, load_run

    if attacks and base is None:
        raise BadInputError("--all attacks what the run's base trains: give it with --base")
    found = load_run(run, find_base(base) if base else None)
    paths = dict.fromkeys(path.resolve() for path in [*found.kept, *(sections or [])])
    given = [Section.from_json(_text(path)) for path in paths]
    with status(Console(stderr=True), "auditing") as progress:
        names = {one.name for one in given}
        made, reasons = audit_run(found, names, attacks=attacks, progress=progress)
    everything = [*made, *given]
    write_audit_report(found.result, everything, out, reasons=reasons)
    console.print(str(out), highlight=False, markup=False, soft_wrap=True)
    findings = [finding for one in everything for finding in one.findings]
    if not all(finding.holds for finding in findings):
        raise PrivacyError(verdict(findings))
    console.print(verdict(findings), highlight=False, soft_wrap=True)


def _text(path: Path) -> str:
    if not path.is_file():
        raise BadInputError(f"there is no file {path}")
    return path.read_text("utf-8")
