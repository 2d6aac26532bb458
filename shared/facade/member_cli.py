"""``locavore device join`` and ``leave``: a device in a federation, from the shell."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Optional

import typer

from .device_cli import InKeyring, KeyFile, device_app, opened, say
from .fetching import fetch_base
from .home import base_of
from .shared.admission import REPOSITORY_PREFIX
from .shared.errors import BadInputError, PackageNotFoundError
from .terminal import end_on_sigterm

if TYPE_CHECKING:
    from .client import Device
    from .client.membership import Membership
    from .shared.packages import Package

__all__ = ["device_app"]


@device_app.command("join")
def join(
    url: Annotated[str, typer.Argument(help="The federation's server, https://host:port.")],
    invitation: Annotated[
        Optional[Path],  # noqa: UP045  # typer reads this form
        typer.Argument(help="The invitation's file; needed the first time."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Agree to the terms without asking.")] = False,
    while_charging: Annotated[bool, typer.Option(help="Only while on mains.")] = False,
    while_idle: Annotated[bool, typer.Option(help="Only while nothing else runs.")] = False,
    memory_budget: Annotated[
        Optional[str],  # noqa: UP045
        typer.Option(help="For a training pass beyond the base, like 600MB."),
    ] = None,
    key_file: KeyFile = None,
    keyring: InKeyring = False,
) -> None:
    """Take part in a federation until interrupted; the shared adapter comes into the vault."""
    from .terminal import require

    require("federate", "this command", "flwr", "dp_accounting")
    require("train", "this command", "torch", "transformers")
    from .client import TextModel
    from .client.gates import charging, idle
    from .client.participation import Participation

    for name in ("flwr", "httpx"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    with opened(key_file, keyring) as device:
        member = _member(device, url, invitation, yes)
        device.use_model(TextModel(_base(member, invitation)))
        gates: dict[str, Callable[[], bool]] = {}
        if while_charging:
            gates["not on mains"] = charging
        if while_idle:
            gates["not idle"] = idle
        taking_part = Participation(
            device=device,
            memory_budget=memory_budget,
            on_round=lambda round: say(f"round {round}: the new shared adapter is in the vault"),
        )
        node = taking_part.node(gates=gates)
        end_on_sigterm()
        say(f"taking part in {member.terms.name!r} until Ctrl-C; 'device leave' is for good")
        try:
            node.run()
        except KeyboardInterrupt:
            say("stopped; 'locavore device join' goes on")


@device_app.command("leave")
def leave(
    alone: Annotated[
        bool, typer.Option(help="Destroy the keys here without telling a server that is gone.")
    ] = False,
    key_file: KeyFile = None,
    keyring: InKeyring = False,
) -> None:
    """Leave the federation for good. What was sent cannot be recalled; the ledger stays."""
    with opened(key_file, keyring) as device:
        member = device.store.membership
        if not alone:
            member.leave()
        device.store.keep_membership(None)
    told = "nobody was told" if alone else "the server lets them in no more"
    say(f"left {member.terms.name!r}: its keys are destroyed, and {told}")


def _base(member: Membership, invitation: Path | None) -> Package:
    """The federation's base: as it is installed, or from the server's repository."""
    from .client.membership import read_invitation

    try:
        return base_of(member.terms.base_id)
    except PackageNotFoundError:
        invited = None if invitation is None else read_invitation(invitation)
        if invited is None or invited.base is None or invited.root is None:
            raise
        fetch_base(
            invited.base,
            member.url + REPOSITORY_PREFIX,
            invited.root.encode(),
            certificates=member.certificates,
        )
        return base_of(member.terms.base_id)


def _member(device: Device, url: str, invitation: Path | None, yes: bool) -> Membership:
    """The membership that the vault has, or a new one."""
    from .client.membership import join, read_invitation, terms_of
    from .client.participation import agreed_budget

    if device.store.is_member:
        known = device.store.membership
        if known.url != url:
            raise BadInputError(
                f"this device is a member at {known.url}; leave that first, or join there"
            )
        return known
    if invitation is None:
        raise BadInputError("this device is no member yet: name the file of an invitation")
    invited = read_invitation(invitation)
    terms = terms_of(url, invited)
    records = len(device.training_records("federate"))
    for sentence in terms.sentences(records):
        say(sentence)
    budget = agreed_budget(device, terms)
    say(f"{records} of your records may be federated; beyond epsilon {budget:.2f} in all, this")
    say("device refuses.")
    if not yes and not (sys.stdin.isatty() and typer.confirm("Agree?")):
        raise BadInputError("not joined: the terms were not agreed to")
    member = join(url, invited, terms, budget=budget)
    device.store.keep_membership(member)
    return member
