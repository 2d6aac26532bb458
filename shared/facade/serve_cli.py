"""``locavore serve`` and ``locavore federation``: a coordinator from the shell."""

from __future__ import annotations

import logging
import os
import sys
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer
from rich.console import Console
from rich.table import Table

from .home import find_base
from .shared.errors import BadInputError
from .terminal import end_on_sigterm

if TYPE_CHECKING:
    from .server.coordinator.serve import Coordinator

__all__ = ["federation_app", "serve"]

federation_app = typer.Typer(
    no_args_is_help=True,
    help="Who may join a coordinator's federation; also while it runs.",
)
console = Console(width=None if sys.stdout.isatty() else 100)

File = Annotated[Path, typer.Argument(help="The coordinator's TOML file.")]


def serve(
    file: Annotated[
        Optional[Path],  # noqa: UP045  # typer reads this form
        typer.Argument(help="The coordinator's TOML file."),
    ] = None,
    dev: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="Make certificates, keys and a file for this machine in a folder."),
    ] = None,
    base: Annotated[
        str, typer.Option(help="With --dev: the base to train.")
    ] = "smollm2-135m-instruct-int8",
    unit: Annotated[
        str, typer.Option(help="With --dev: what is hidden, a record or a user.")
    ] = "record",
    devices: Annotated[int, typer.Option(help="With --dev: devices per round.")] = 5,
    rounds: Annotated[int, typer.Option(help="With --dev: rounds in all.")] = 3,
    until_done: Annotated[bool, typer.Option(help="End after the last round.")] = False,
) -> None:
    """Coordinate a federation of real devices: Flower's protocol, TLS, known devices only.

    Killed at any point, it goes on where it was when it is started again.
    """
    if (file is None) == (dev is None):
        raise BadInputError("name the coordinator's TOML file, or a folder with --dev")
    if dev is not None:
        file = _localhost(dev, base, unit, devices, rounds)
    assert file is not None
    coordinator = _coordinator(file)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    for name in ("flwr", "httpx", "alembic"):  # after flwr has set itself up
        logging.getLogger(name).setLevel(logging.WARNING)
    end_on_sigterm()
    try:
        with coordinator.serving() as (ports, status, link):
            host = coordinator.config.listen.host
            _say(f"devices: https://{host}:{ports.devices}")
            _say(f"operator's page: http://127.0.0.1:{ports.operator}/")
            coordinator.federate(link, status, lambda report: _say(report.sentence()))
            _say("all rounds are done")
            if not until_done:
                threading.Event().wait()
    except KeyboardInterrupt:
        _say("stopped; started again, it goes on where it was")


@federation_app.command("invite")
def invite(
    file: File,
    out: Annotated[Path, typer.Argument(help="File to write the invitation to.")],
    days: Annotated[float, typer.Option(help="How long it holds.")] = 14.0,
) -> None:
    """Make an invitation, which lets one device in, once. Hand it over by a way that is safe."""
    from .client.membership import Invitation

    coordinator = _coordinator(file)
    authorities = coordinator.config.listen.authorities
    invitation = Invitation(
        token=coordinator.admission.invite(days),
        terms=coordinator.terms.digest,
        certificates=None if authorities is None else authorities.read_text(),
        base=coordinator.config.base_target,
        root=coordinator.repository_root,
    )
    handle = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "w") as stream:
        stream.write(invitation.to_json())
    _say(f"wrote {out}: it lets one device in, within {days:g} days")


@federation_app.command("devices")
def list_devices(file: File) -> None:
    """List the devices that were let in."""
    table = Table("identity", "let in", "revoked")
    for identity, _, since, until in _coordinator(file).admission.devices():
        table.add_row(identity[:16], _date(since), "" if until is None else _date(until))
    console.print(table)


@federation_app.command("revoke")
def revoke(
    file: File,
    identity: Annotated[str, typer.Argument(help="The identity, or the beginning of it.")],
) -> None:
    """Let a device in no more; a running coordinator follows within seconds."""
    _coordinator(file).admission.revoke(identity)
    _say(f"{identity} is let in no more")


def _coordinator(file: Path) -> Coordinator:
    from .terminal import require

    require("serve", "this command", "flwr", "prometheus_client", "dp_accounting")
    from .server.coordinator.config import CoordinatorConfig
    from .server.coordinator.serve import Coordinator

    config = CoordinatorConfig.load(file)
    return Coordinator(config, find_base(config.base))


def _localhost(folder: Path, base: str, unit: str, devices: int, rounds: int) -> Path:
    from .server.coordinator.localhost import make_localhost

    new = not (folder / "coordinator.toml").exists()
    package = find_base(base)
    file = make_localhost(
        folder, package=package, base=base, unit=unit, devices=devices, rounds=rounds
    )
    if new:
        _say(f"made {file}, with certificates and a repository for this machine")
        _say(f"for each device: locavore federation invite {file} INVITATION")
        _say("and then there: locavore device join https://127.0.0.1:8443 INVITATION")
    return file


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M")


def _say(text: str) -> None:
    console.print(text, markup=False, highlight=False, soft_wrap=True)
