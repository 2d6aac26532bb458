"""``locavore repo``: a signed repository of bases and adapters from the shell."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.console import Console
from rich.table import Table

from .home import trusted_keys
from .shared.errors import BadInputError, MissingExtraError

if TYPE_CHECKING:
    from .server.repository.repository import Repository

__all__ = ["repo_app"]

_VARIABLE = "LOCAVORE_REPO_PASSPHRASE"

repo_app = typer.Typer(
    no_args_is_help=True,
    help="A repository of bases and adapters: signed by several people, served by any static "
    f"host. Passphrases of keys are asked for, or taken from ${_VARIABLE}.",
)
console = Console(width=None if sys.stdout.isatty() else 100)

Folder = Annotated[Path, typer.Argument(help="The repository's folder.")]
Keys = Optional[list[Path]]  # noqa: UP045  # typer reads this form


@repo_app.command("key")
def key(
    path: Annotated[Path, typer.Argument(help="File for the private key, ending in .pem.")],
) -> None:
    """Make a holder's key: an encrypted private one, and a public one (.pub) to hand out."""
    from .server.repository.keys import holder, make_key

    made = make_key(path, _passphrase(path, new=True))
    _say(f"made {path}, which only its passphrase opens, and {path.with_suffix('.pub')}")
    _say(f"key of {holder(made)}")


@repo_app.command("init")
def init(
    folder: Folder,
    root: Annotated[
        list[Path], typer.Option(help="Public key of a holder of the root; may be repeated.")
    ],
    targets: Annotated[
        list[Path], typer.Option(help="Public key of who signs packages; may be repeated.")
    ],
    root_threshold: Annotated[int, typer.Option(help="How many root holders must sign.")] = 1,
    targets_threshold: Annotated[int, typer.Option(help="How many of the others.")] = 1,
    online_adapters: Annotated[
        bool, typer.Option(help="Let a key of the server publish adapters, and nothing else.")
    ] = False,
    root_days: Annotated[int, typer.Option(help="For how long a root is good.")] = 365,
    targets_days: Annotated[int, typer.Option(help="For how long a list is good.")] = 90,
    snapshot_days: Annotated[int, typer.Option(help="For how long a snapshot is good.")] = 7,
    timestamp_days: Annotated[int, typer.Option(help="For how long a timestamp is good.")] = 1,
) -> None:
    """Begin a repository. Its root and its empty list then wait for signatures."""
    from .server.repository.keys import load_public
    from .server.repository.repository import Repository
    from .server.repository.roles import Validity

    repository = Repository.create(
        folder,
        root=[load_public(path) for path in root],
        targets=[load_public(path) for path in targets],
        root_threshold=root_threshold,
        targets_threshold=targets_threshold,
        online_adapters=online_adapters,
        validity=Validity(
            root=root_days,
            targets=targets_days,
            snapshot=snapshot_days,
            timestamp=timestamp_days,
        ),
        now=_now(),
    )
    _say(f"began a repository in {folder}; serve only {repository.public}, keep {folder / 'keys'}")
    _waiting(repository)


@repo_app.command("add")
def add(
    folder: Folder,
    package: Annotated[
        Path, typer.Argument(help="A base-model package, or a PEFT adapter's folder.")
    ],
    version: Annotated[str, typer.Option(help="Such as 1.2; the highest is the latest.")],
    name: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="Under which devices find it; the folder's name if not given."),
    ] = None,
) -> None:
    """Add a base or an adapter; only chunks that the repository has not are stored."""
    from .server.repository.sources import find_source

    repository = _open(folder)
    before = _size(repository.public)
    source = find_source(package, trusted_keys())
    index = repository.add(source, name or package.resolve().name, version, _now())
    grown = (_size(repository.public) - before) / 1e6
    _say(
        f"added {index.name} {index.version} to {index.kind}: {index.nbytes / 1e6:.2f} MB, of "
        f"which {grown:.2f} MB are new to the repository ({index.base_id})"
    )
    _waiting(repository)


@repo_app.command("withdraw")
def withdraw(
    folder: Folder,
    name: str,
    version: str,
    kind: Annotated[str, typer.Option(help="bases or adapters.")] = "bases",
) -> None:
    """Offer a version no longer; devices that hold it go back to the latest that is offered."""
    repository = _open(folder)
    repository.withdraw(kind, name, version, _now())
    _say(f"{name} {version} is withdrawn with the next publication")
    _waiting(repository)


@repo_app.command("tidy")
def tidy(folder: Folder) -> None:
    """Remove stored chunks and indexes that no version needs any more."""
    _say(f"freed {_open(folder).tidy() / 1e6:.2f} MB")


@repo_app.command("sign")
def sign(
    folder: Folder,
    key: Annotated[Path, typer.Option(help="Your private key (.pem).")],
    renew: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="First begin a new version of root or targets that expires later."),
    ] = None,
) -> None:
    """Show what waits for a holder's key, and sign it."""
    from .server.repository.keys import load_public, load_signer

    repository = _open(folder)
    if renew is not None:
        repository.renew(renew, _now())
    states = {state.role: state for state in repository.states()}
    waiting = repository.waiting_for(load_public(key))
    for role in waiting:
        _say(f"{role} version {states[role].version}, until {states[role].expires:%Y-%m-%d}:")
        if role == "targets":
            _packages(repository)
        else:
            for state in states.values():
                _say(f"  {state.role}: {state.threshold} of {', '.join(state.keys)}")
    repository.sign(load_signer(key, _passphrase))
    _say(f"signed {' and '.join(waiting)} as {key.stem}")
    _waiting(repository)


@repo_app.command("rotate")
def rotate(
    folder: Folder,
    role: Annotated[str, typer.Argument(help="root, targets, snapshot, timestamp or adapters.")],
    drop: Annotated[Keys, typer.Option(help="Public key to take away; may be repeated.")] = None,
    add: Annotated[Keys, typer.Option(help="Public key to add; may be repeated.")] = None,
    threshold: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(help="How many must sign from now on."),
    ] = None,
) -> None:
    """Replace a role's keys. A role of the server gets a fresh key when none is given."""
    from .server.repository.keys import load_public

    repository = _open(folder)
    repository.rotate(
        role,
        drop=[load_public(path) for path in drop or []],
        add=[load_public(path) for path in add or []],
        threshold=threshold,
        now=_now(),
    )
    _say(f"the keys of {role} change with the next publication")
    _waiting(repository)


@repo_app.command("publish")
def publish(folder: Folder) -> None:
    """Put in place what is signed, with a new snapshot and timestamp."""
    import hashlib

    repository = _open(folder)
    repository.publish(_now())
    _say(f"published; serve {repository.public}")
    root = repository.public / "metadata" / "root.json"
    _say(f"devices pin {root}, SHA-256 {hashlib.sha256(repository.root_bytes()).hexdigest()}")


@repo_app.command("refresh")
def refresh(folder: Folder) -> None:
    """Renew the timestamp; to be run several times within its days, by the server."""
    ends = _open(folder).refresh(_now())
    _say(", ".join(f"{role} until {end:%Y-%m-%d %H:%M}" for role, end in ends.items()))


@repo_app.command("show")
def show(folder: Folder) -> None:
    """Show roles, signatures that are missing, and packages."""
    repository = _open(folder)
    table = Table("role", "version", "until", "threshold", "state")
    for state in repository.states():
        waits = f"lacks {state.missing} of {', '.join(state.holders)}"
        how = "to be published" if state.draft else "published"
        if state.missing and state.role in ("root", "targets"):
            how = waits
        needed = f"{state.threshold} of {len(state.keys)}"
        table.add_row(
            state.role, str(state.version), f"{state.expires:%Y-%m-%d %H:%M}", needed, how
        )
    console.print(table)
    _packages(repository)


@repo_app.command("serve")
def serve(
    folder: Folder,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 takes a free one.")] = 8080,
) -> None:
    """Serve a repository over HTTP, and renew its timestamp; any static host does as well."""
    from importlib.util import find_spec

    if find_spec("uvicorn") is None:
        raise MissingExtraError("serve", "serving a repository")
    from .server.repository.serving import serve_repository

    repository = _open(folder)
    serve_repository(repository, host, port, _say)


def _open(folder: Path) -> Repository:
    from .server.repository.repository import Repository

    return Repository.open(folder, _passphrase)


def _now() -> datetime:
    return datetime.now(UTC)


def _size(public: Path) -> int:
    return sum(path.stat().st_size for path in public.rglob("*") if path.is_file())


def _packages(repository: Repository) -> None:
    for path, target in repository.targets().items():
        kind, name, file = path.split("/")
        size = target.custom["bytes"] / 1e6
        _say(
            f"  {kind} {name} {file.removesuffix('.json')}: {size:.2f} MB, "
            f"{target.custom['base_id']}, index {target.hashes['sha256'][:16]}"
        )


def _waiting(repository: Repository) -> None:
    drafts = [state for state in repository.states() if state.draft]
    for state in drafts:
        if state.missing and state.role != "adapters":  # the server signs these by itself
            _say(
                f"{state.role} version {state.version} waits for {state.missing} signature(s), of "
                f"any of {', '.join(state.holders)}"
            )
    if drafts and not any(state.missing for state in drafts if state.role != "adapters"):
        _say("everything is signed: 'locavore repo publish' puts it in place")


def _say(text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)


def _passphrase(path: Path, *, new: bool = False) -> bytes:
    given = os.environ.get(_VARIABLE)
    if given is None:
        asked = f"{'New passphrase' if new else 'Passphrase'} of {path}"
        given = typer.prompt(asked, hide_input=True, confirmation_prompt=new, err=True)
    if not given:
        raise BadInputError(f"the passphrase of {path} must not be empty")
    return given.encode()
