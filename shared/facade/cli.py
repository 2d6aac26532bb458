"""The ``locavore`` command. Errors are one line and an exit code; see ``shared/errors.py``."""

from __future__ import annotations

import os

# Before any library starts threads. OpenMP threads that spin while they wait nearly double the time
# of training as soon as anything else runs on the machine; numpy's own threads spin as well, beside
# torch's, and its products here are small.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer
from rich.console import Console

from .audit_attacks_cli import audit_membership, audit_update
from .audit_cli import audit_app
from .base_cli import DEFAULT_BASE, DEFAULT_PRECISION, Precision, base_app, build_base
from .device_cli import opened
from .home import find_base
from .leaks_cli import leaks_app
from .learning_cli import device_app
from .repo_cli import repo_app
from .serve_cli import federation_app, serve
from .shared.errors import BadInputError, LocavoreError
from .shared.tasks import Task
from .tasks_cli import tasks
from .terminal import Clock, require

__all__ = ["app", "main"]

if TYPE_CHECKING:
    from .client.device import Device
    from .client.runtime import Generation
    from .shared.contexts import Instruction

DEFAULT_TASK = "text.writing_assistant"
_USUAL_BASES = {"causal_lm": DEFAULT_BASE, "image": "drawings-32"}  # by the task's engine
_ADAPTIVE = ("fedadam", "fedyogi")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Federated on-device personalization of generative models.",
)
audit_app.add_typer(leaks_app)
audit_app.command("membership")(audit_membership)
audit_app.command("update")(audit_update)
app.add_typer(audit_app, name="audit")
app.add_typer(base_app, name="base")
app.add_typer(device_app, name="device")
app.add_typer(federation_app, name="federation")
app.add_typer(repo_app, name="repo")
console = Console(width=None if sys.stdout.isatty() else 100)


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="What to go on with, to answer, or to draw.")],
    task: Annotated[str, typer.Option(help="See 'locavore tasks'.")] = DEFAULT_TASK,
    base: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="A built base, by name or path; the task's usual one otherwise."),
    ] = None,
    adapter: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option(help="PEFT adapter folder; several are summed."),
    ] = None,
    documents: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder of your own .txt/.md files to retrieve from."),
    ] = None,
    vault: Annotated[
        bool, typer.Option(help="Retrieve from your vault, with the adapters in it.")
    ] = False,
    passages: Annotated[int, typer.Option(help="Retrieved passages at most.")] = 2,
    chat: Annotated[bool, typer.Option(help="Answer instead of continuing.")] = False,
    max_tokens: Annotated[int, typer.Option(help="Tokens at most.")] = 100,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    top_p: Annotated[float, typer.Option(help="Nucleus.")] = 1.0,
    stop: Annotated[
        Optional[list[str]],  # noqa: UP045
        typer.Option(help="String that ends the text."),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of what is drawn by chance.")] = 0,
    steps: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="How often a picture's denoiser is asked."),
    ] = None,
    guidance: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="How closely a picture follows the prompt."),
    ] = None,
    like: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Option(help="Picture to draw like, up to four; your vault's nearest otherwise."),
    ] = None,
    like_strength: Annotated[
        float, typer.Option(help="How much such pictures count; 0 looks at none.")
    ] = 1.0,
    out: Annotated[Path, typer.Option(help="File of a picture.")] = Path("picture.png"),
) -> None:
    """Generate on this device, with adapters, retrieval, and words for things of your own."""
    from .client import Device, Vault
    from .client.engines import open_model
    from .client.image_model import Drawing
    from .client.importers import import_records, read_source
    from .client.runtime import Generation
    from .client.sampling import Sampling
    from .shared.adapters import compose, load_adapter
    from .shared.contexts import Instruction
    from .shared.pictures import Picture

    if vault and documents is not None:
        raise BadInputError("--vault and --documents: retrieve from one of the two")
    package = find_base(base or _usual_base(task))
    device = Device(open_model(package), opened().store if vault else Vault.in_memory())
    loaded = [load_adapter(folder) for folder in adapter or []]
    if loaded:
        private = compose(*loaded)
        private.require_base(device.model.base_id)
        device.private = private
    if documents is not None and not import_records(device, read_source(documents)).added:
        raise BadInputError(f"{documents} holds nothing that can be read")
    instruction = Instruction(text=prompt, task=task, mode="chat" if chat else "continue")
    retrieved = passages if documents or vault else 0
    if package.manifest.modality == "text":
        sampling = Sampling(temperature=temperature, top_p=top_p, seed=seed)
        how = Generation(max_tokens=max_tokens, stop=tuple(stop or ()), sampling=sampling)
        _write(device, instruction, how, retrieved)
    else:
        drawing = Drawing(
            seed=seed,
            steps=steps,
            guidance=guidance,
            references=tuple(Picture.load(path) for path in like or []),
            reference_strength=like_strength,
        )
        content = device.generate(instruction, drawing, k=retrieved)
        content.output.save(out)
        console.print(
            f"{out} ({content.trace.reason})", highlight=False, markup=False, soft_wrap=True
        )
    device.close()


def _usual_base(task: str) -> str:
    """Name of the base that serves a task unless somebody says otherwise."""
    engine = Task.of(task).engine
    if engine not in _USUAL_BASES:
        raise BadInputError(f"there is no engine for {task!r} yet; give --base of another task")
    return f"{_USUAL_BASES[engine]}-{DEFAULT_PRECISION}"


def _write(device: Device, instruction: Instruction, how: Generation, passages: int) -> None:
    """Print a text as it comes, then what was used for it."""
    told = device.request(instruction, how, k=passages)
    device.use_adapters(*device.available_adapters())
    for piece in told.stream():  # type: ignore[attr-defined]  # of a text
        sys.stdout.write(piece)
        sys.stdout.flush()
    sys.stdout.write("\n")
    for hit in told.used:
        source = hit.record.provenance.uri or hit.record.id
        console.print(f"used: {source} ({hit.why})", style="dim", highlight=False)


@app.command()
def simulate(
    task: Annotated[str, typer.Option(help="What is personalized.")] = DEFAULT_TASK,
    data: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Folder with one per person, or the name of other built-in data."),
    ] = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Run folder; runs/<time> when not given."),
    ] = None,
    resume: Annotated[bool, typer.Option(help="Go on with an interrupted run in --out.")] = False,
    quick: Annotated[
        bool, typer.Option(help="Three devices and little work: a smoke run.")
    ] = False,
    base: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Known name, path or hub id; built if need be."),
    ] = None,
    precision: Precision = DEFAULT_PRECISION,
    devices: Annotated[int, typer.Option(help="Devices of the built-in data at most.")] = 10,
    rounds: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Rounds of the federation."),
    ] = None,
    local_steps: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="DP-SGD steps per device and round."),
    ] = None,
    batch: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Records per step, on average."),
    ] = None,
    unit: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="What is protected: one record, or one user with all of theirs."),
    ] = None,
    trust: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="For users: central (default), secure-aggregation or local."),
    ] = None,
    clip: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Norm to which a record's gradient or a user's change (0.05) is cut."),
    ] = None,
    noise: Annotated[float, typer.Option(help="Noise multiplier; ε follows from it.")] = 1.0,
    relation: Annotated[
        str, typer.Option(help="Neighbours: add-or-remove-one, replace-one or zero-out.")
    ] = "add-or-remove-one",
    learning_rate: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Of the shared adapter."),
    ] = None,
    policy: Annotated[
        str,
        typer.Option(
            help="What of the shared adapter travels: core, ffa, alternate-round, alternate-step, "
            "fedit, share-a, share-b, fedex, flora or flexlora."
        ),
    ] = "core",
    server_optimizer: Annotated[
        str, typer.Option(help="How the server steps: fedavg, fedavgm, fedadam or fedyogi.")
    ] = "fedavg",
    server_rate: Annotated[
        Optional[float],  # noqa: UP045
        typer.Option(help="Its learning rate: 1, or 0.01 where every number has its own step."),
    ] = None,
    robust: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(
            help="In the mean's place: trimmed-mean, median, krum, multi-krum, norm-bound."
        ),
    ] = None,
    proximal: Annotated[
        float, typer.Option(help="Pull of local training to where it began (FedProx).")
    ] = 0.0,
    rank: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Public directions per layer."),
    ] = None,
    private_steps: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Steps of each private adapter."),
    ] = None,
    private_pull: Annotated[
        float, typer.Option(help="Pull of the private adapter to the shared one (Ditto).")
    ] = 0.0,
    reference: Annotated[bool, typer.Option(help="Also train without privacy.")] = True,
    engine: Annotated[
        str, typer.Option(help="Devices train together in this process (cohort), or on ray.")
    ] = "cohort",
    ray_address: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Of a running Ray cluster; a local one is started otherwise."),
    ] = None,
    workers: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="Ray workers, each with the base in memory; one a processor."),
    ] = None,
    memory_budget: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="What a training pass may take beyond the base, such as 600MB."),
    ] = None,
    record: Annotated[
        bool, typer.Option("--record", help="Keep all messages in the run's folder, for audits.")
    ] = False,
    seed: Annotated[int, typer.Option(help="Of sampling and noise.")] = 0,
) -> None:
    """Simulate a private federation and compare what personalization gains.

    Trains a shared adapter with differential privacy across devices, then a private adapter on
    each, and compares them with the bare base on what was kept from all training.
    """
    require("simulate", "this command", "dp_accounting", "flwr", "matplotlib", "sklearn", "torch")
    from .client.training.local import LocalTraining
    from .client.training.optimizers import Optimizer
    from .client.training.private import PrivateTraining
    from .privacy.plan import RecordPlan, UserPlan
    from .server.aggregation import RobustMean, ServerOptimizer
    from .server.simulation.config import SimulationConfig
    from .server.simulation.run import run_simulation
    from .server.simulation.studies import setting
    from .server.simulation.table import result_table, summary_lines

    if resume and out is None:
        raise BadInputError("--resume needs --out: the folder of the run to go on with")
    if unit not in (None, "record", "user"):
        raise BadInputError(f"--unit must be record or user, got {unit!r}")
    clock = Clock(console)
    given: dict[str, Any] = {
        "rounds": rounds,
        "local_steps": local_steps,
        "batch": batch,
        "learning_rate": learning_rate,
        "rank": rank,
        "unit": unit,
    }
    chosen = setting(task)
    changes = {
        **(chosen.quick if quick else {}),
        **{n: v for n, v in given.items() if v is not None},
    }
    chosen = replace(chosen, **changes)
    study = chosen.load(data, devices, quick=quick, seed=seed)
    common: dict[str, Any] = {
        "relation": relation,
        "noise_multiplier": noise,
        "rounds": chosen.rounds,
        **({"trust": trust} if trust else {}),
    }
    plan = (
        RecordPlan(
            expected_batch=chosen.batch,
            local_steps=chosen.local_steps,
            learning_rate=chosen.learning_rate,
            clip=chosen.clip if clip is None else clip,
            **common,
        )
        if chosen.unit == "record"
        else UserPlan(
            cohort=study.devices,
            clip=0.05 if clip is None else clip,
            **{"trust": "central", **common},
        )
    )
    private = {**chosen.private, "pull": private_pull}
    if private_steps is not None:
        private["steps"] = private_steps
    config = SimulationConfig(
        plan=plan,
        locally=LocalTraining(
            steps=1 if quick else None,
            batch=chosen.batch,
            optimizer=Optimizer(learning_rate=chosen.learning_rate, proximal=proximal),
        ),
        policy=policy,
        rank=chosen.rank,
        optimizer=ServerOptimizer(
            kind=server_optimizer,  # type: ignore[arg-type]  # checked there
            learning_rate=server_rate or (0.01 if server_optimizer in _ADAPTIVE else 1.0),
        ),
        robust=None if robust is None else RobustMean(kind=robust),  # type: ignore[arg-type]
        private=PrivateTraining(**private),
        made=chosen.made,
        reference=reference and not quick,
        engine=engine,  # type: ignore[arg-type]  # checked by the config
        ray_address=ray_address,
        workers=workers,
        memory_budget=memory_budget,
        record=record,
        seed=seed,
    )
    package = find_base(str(build_base(base or chosen.base, precision, None, force=False)))
    folder = out or Path("runs") / datetime.now().strftime("%Y%m%d-%H%M%S")
    with clock:
        result = run_simulation(package, study, config, folder, resume=resume, progress=clock)
    console.print(result_table(result))
    for line in summary_lines(result):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(f"\n{folder / 'report.html'}\n{folder / 'result.json'}", highlight=False)


app.command()(serve)
app.command()(tasks)


def main() -> None:
    """Run the command line; library errors become one line and their exit code."""
    try:
        app(standalone_mode=False)
    except LocavoreError as error:
        Console(stderr=True).print(
            f"error: {error}", style="red", highlight=False, markup=False, soft_wrap=True
        )
        sys.exit(error.exit_code)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        Console(stderr=True).print(
            "interrupted; 'locavore simulate --resume --out RUN' goes on after the last round"
        )
        sys.exit(130)
    except Exception as error:
        from click import ClickException

        if not isinstance(error, ClickException):
            raise
        error.show()
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
