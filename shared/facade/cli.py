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
from rich.table import Table

from .audit_attacks_cli import audit_membership, audit_update
from .audit_cli import audit_app
from .device_cli import opened
from .fetching import fetch_base
from .home import bases_folder, find_base, installed_bases, signing_key
from .leaks_cli import leaks_app
from .member_cli import device_app
from .repo_cli import repo_app
from .serve_cli import federation_app, serve
from .shared.errors import BadInputError, LocavoreError
from .shared.tasks import Task
from .tasks_cli import tasks
from .terminal import Clock, require, status

__all__ = ["app", "main", "require"]

if TYPE_CHECKING:
    from .client.device import Device
    from .client.runtime import Generation
    from .shared.contexts import Instruction

DEFAULT_BASE = "smollm2-135m-instruct"
DEFAULT_TASK = "text.writing_assistant"
DEFAULT_PRECISION = "int8"
_USUAL_BASES = {"causal_lm": DEFAULT_BASE, "image": "drawings-32"}  # by the task's engine
ENCODER = "all-minilm-l6-v2"
_DIRECTION_TEXTS = 40
_ADAPTIVE = ("fedadam", "fedyogi")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Federated on-device personalization of generative models.",
)
base_app = typer.Typer(no_args_is_help=True, help="Base-model packages.")
audit_app.add_typer(leaks_app)
audit_app.command("membership")(audit_membership)
audit_app.command("update")(audit_update)
app.add_typer(audit_app, name="audit")
app.add_typer(base_app, name="base")
app.add_typer(device_app, name="device")
app.add_typer(federation_app, name="federation")
app.add_typer(repo_app, name="repo")
console = Console(width=None if sys.stdout.isatty() else 100)

Precision = Annotated[str, typer.Option(help="int8, int4, int8-dynamic or float32.")]
BaseName = Annotated[str, typer.Option(help="A built base, by name or path.")]


@base_app.command("build")
def base_build(
    source: Annotated[
        str, typer.Argument(help="A known name, a Hugging Face folder, or a hub id.")
    ] = DEFAULT_BASE,
    precision: Precision = DEFAULT_PRECISION,
    public_text: Annotated[
        Optional[Path],  # noqa: UP045  # typer reads this form
        typer.Option(
            help="Folder of public .txt files for the shared adapter's directions; for an image "
            "base, of pictures with a .txt caption beside each."
        ),
    ] = None,
    force: Annotated[bool, typer.Option(help="Build even if it is built already.")] = False,
) -> None:
    """Build, check and sign a base: ONNX graph, adapter ports, public directions.

    all-minilm-l6-v2, or a folder in sentence-transformers' layout, becomes a text encoder;
    drawings-32, or a pipeline in Stable Diffusion's layout, an image base.
    """
    if source == ENCODER or (Path(source) / "modules.json").is_file():
        _build_encoder(source, force=force)
        return
    built = _build(source, precision, public_text, force=force)
    console.print(f"built {built.name} in {built}", highlight=False, soft_wrap=True)


@base_app.command("fetch")
def base_fetch(
    name: Annotated[str, typer.Argument(help="Name of the base in the repository.")],
    repo: Annotated[str, typer.Option(help="The repository's address.")],
    root: Annotated[
        Path, typer.Option(help="The repository's root.json, from a source that you trust.")
    ],
    version: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="This one instead of the latest."),
    ] = None,
    again: Annotated[
        bool, typer.Option(help="Try a version again that failed its check here.")
    ] = False,
) -> None:
    """Fetch a base from a repository, or bring it up to date; only what changed is downloaded.

    Every byte is verified before it is used, and the version before stays until the new one opens.
    """
    if not root.is_file():
        raise BadInputError(f"there is no root {root}; ask the repository's operator for it")
    fetch_base(name, repo, root.read_bytes(), version=version, again=again)


@base_app.command("list")
def base_list() -> None:
    """List the bases that were built on this machine, or fetched to it."""
    folders = installed_bases()
    if not folders:
        console.print(f"no bases in {bases_folder()}; build one with 'locavore base build'")
        return
    table = Table("name", "MB", "path")
    for folder in folders:
        size = sum(path.stat().st_size for path in folder.iterdir()) / 1e6
        table.add_row(folder.name, f"{size:.0f}", str(folder))
    console.print(table)


@base_app.command("verify")
def base_verify(base: Annotated[str, typer.Argument(help="Name or path.")]) -> None:
    """Check a base's signature and every file's length and hash."""
    package = find_base(base)
    count, size = len(package.manifest.files), package.nbytes / 1e6
    console.print(f"ok: {package.base_id}, {count} files, {size:.0f} MB", highlight=False)


@base_app.command("show")
def base_show(base: Annotated[str, typer.Argument(help="Name or path.")]) -> None:
    """Show a base's card and files."""
    package = find_base(base)
    console.print(package.path("CARD.md").read_text(), markup=False, highlight=False)
    table = Table("file", "MB", "sha-256")
    for name, entry in package.manifest.files.items():
        table.add_row(name, f"{entry.length / 1e6:.2f}", entry.sha256[:16])
    console.print(table)


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

    if vault and documents is not None:
        raise BadInputError("--vault and --documents: retrieve from one of the two")
    package = find_base(base or _usual_base(task))
    device = Device(open_model(package), opened().store if vault else Vault.in_memory())
    loaded = [load_adapter(folder) for folder in adapter or []]
    if loaded:
        device.private = compose(*loaded)
        device.private.require_base(device.model.base_id)
    if documents is not None and not import_records(device, read_source(documents)).added:
        raise BadInputError(f"{documents} holds nothing that can be read")
    instruction = Instruction(text=prompt, task=task, mode="chat" if chat else "continue")
    retrieved = passages if documents or vault else 0
    if package.manifest.modality == "text":
        sampling = Sampling(temperature=temperature, top_p=top_p, seed=seed)
        how = Generation(max_tokens=max_tokens, stop=tuple(stop or ()), sampling=sampling)
        _write(device, instruction, how, retrieved)
    else:
        drawing = Drawing(seed=seed, steps=steps, guidance=guidance)
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
        typer.Option(help="Folder with one subfolder per person; the built-in data otherwise."),
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
        str, typer.Option(help="What is protected: one record, or one user with all of theirs.")
    ] = "record",
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
    each, and compares them with the bare base on writing that is later than all training.
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
    if unit not in ("record", "user"):
        raise BadInputError(f"--unit must be record or user, got {unit!r}")
    clock = Clock(console)
    given: dict[str, Any] = {
        "rounds": rounds,
        "local_steps": local_steps,
        "batch": batch,
        "learning_rate": learning_rate,
        "rank": rank,
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
        if unit == "record"
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
    package = find_base(str(_build(base or chosen.base, precision, None, force=False)))
    folder = out or Path("runs") / datetime.now().strftime("%Y%m%d-%H%M%S")
    with clock:
        result = run_simulation(package, study, config, folder, resume=resume, progress=clock)
    console.print(result_table(result))
    for line in summary_lines(result):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    console.print(f"\n{folder / 'report.html'}\n{folder / 'result.json'}", highlight=False)


app.command()(serve)
app.command()(tasks)


def _build(source: str, precision: str, public_text: Path | None, *, force: bool) -> Path:
    """Build a base unless it is there; return its folder."""
    name = Path(source).name.lower() if Path(source).exists() else source.split("/")[-1].lower()
    folder = bases_folder() / f"{name}-{precision}"
    if folder in installed_bases() and not force:
        return folder
    require("export", "this command", "gguf", "onnx", "onnxscript", "torch", "transformers")
    from .export.build import BuildPlan, build_text_base
    from .export.sources import is_image_base, load_source

    if is_image_base(source):
        _build_image(source, folder, precision, public_text)
        return folder
    plan = BuildPlan(precision=precision, public_texts=_public_texts(public_text))  # type: ignore[arg-type]
    with status(console, f"building base {name} ({precision}); once, then cached") as say:
        package, report = build_text_base(
            load_source(source, say), folder, plan, signing_key(), say
        )
    console.print(f"{package.base_id}: {report.sentence()}", highlight=False, soft_wrap=True)
    return folder


def _build_image(source: str, folder: Path, precision: str, public: Path | None) -> None:
    require("export", "this command", "diffusers")
    from .export.build_images import ImagePlan, build_image_base
    from .export.image_sources import load_image_source, load_public

    with status(console, f"building image base {folder.name}; once, then cached") as say:
        loaded = load_image_source(source, say)
        plan = ImagePlan(precision=precision, public=load_public(public))  # type: ignore[arg-type]
        package, report = build_image_base(loaded, folder, plan, signing_key(), say)
    console.print(f"{package.base_id}: {report.sentence()}", highlight=False, soft_wrap=True)


def _build_encoder(source: str, *, force: bool) -> None:
    folder = bases_folder() / Path(source).name.lower()
    if folder in installed_bases() and not force:
        console.print(f"built already: {folder}", highlight=False, soft_wrap=True)
        return
    require("export", "this command", "onnx", "onnxscript", "torch", "transformers")
    from .export.encoder import build_text_encoder, load_encoder

    with status(console, f"building text encoder {folder.name}") as say:
        package = build_text_encoder(load_encoder(source, say), folder, signing_key(), say)
    console.print(f"built {package.base_id} in {folder}", highlight=False, soft_wrap=True)


def _public_texts(folder: Path | None) -> tuple[str, ...]:
    """Texts that belong to nobody's device: the given folder's, or built-in public authors'."""
    from .server.simulation.corpus import load_sotu
    from .shared.passages import cut_passages

    if folder is None:
        by_author = load_sotu().public
        texts = [text for author in zip(*by_author.values(), strict=False) for text in author]
        return tuple(texts[:_DIRECTION_TEXTS])
    files = sorted(folder.glob("*.txt")) if folder.is_dir() else []
    if not files:
        raise BadInputError(f"{folder} is not a folder with .txt files of public text")
    return tuple(
        passage
        for file in files
        for passage in cut_passages(file.read_text("utf-8"), max_words=75, min_words=30)
    )[:_DIRECTION_TEXTS]


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
