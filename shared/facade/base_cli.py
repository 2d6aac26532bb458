"""``locavore base``: build, fetch and look at base-model packages."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Optional

import typer
from rich.console import Console
from rich.table import Table

from .fetching import fetch_base
from .home import bases_folder, find_base, installed_bases, signing_key
from .shared.errors import BadInputError
from .terminal import require, status

__all__ = ["DEFAULT_BASE", "DEFAULT_PRECISION", "Precision", "base_app", "build_base"]

DEFAULT_BASE = "smollm2-135m-instruct"
DEFAULT_PRECISION = "int8"
ENCODER = "all-minilm-l6-v2"
_DIRECTION_TEXTS = 40

base_app = typer.Typer(no_args_is_help=True, help="Base-model packages.")
console = Console(width=None if sys.stdout.isatty() else 100)

Precision = Annotated[str, typer.Option(help="int8, int4, int8-dynamic or float32.")]


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
    before = installed_bases()
    built = build_base(source, precision, public_text, force=force)
    said = "built already, --force builds it anew:" if built in before and not force else "built"
    console.print(f"{said} {built.name} in {built}", highlight=False, soft_wrap=True)


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


def build_base(source: str, precision: str, public_text: Path | None, *, force: bool) -> Path:
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
