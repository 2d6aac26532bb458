"""The journal of the round that is under way: whom it asks, and what was heard so far.

A server that dies in the middle of a round goes on from it. It says the same again to the same
devices, which answer the same again and are charged once; and of a secure sum, what was heard in a
phase stays heard, since a device takes each step once.

The folder ``round-000004.journal`` holds ``begin`` and one file a phase; each appears whole or not
at all, and the folder goes when the round's checkpoint is there.
"""

from __future__ import annotations

import json
import os
import shutil
from base64 import b64decode, b64encode
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import safe_open
from safetensors.numpy import save

from ..privacy.secagg.session import Roster
from ..shared.errors import BadInputError, FederationError
from ..shared.files import write_whole
from ..shared.wire import Phase, Records
from .replies import Replies

__all__ = ["Journal"]

_NONCE_BYTES = 16


@dataclass
class Journal:
    """What is known of one round.

    Args:
        folder: where it is kept.
        round: the round's number, from 1.
        plan: digest of the plan under which it asks.
        asked: the nodes of its cohort; None where it has not begun.
        nonce: 16 bytes of its secure sum.
        roster: who could take part in that when it began.
    """

    folder: Path
    round: int
    plan: str = ""
    asked: tuple[int, ...] | None = None
    nonce: bytes = b""
    roster: Roster | None = None

    @classmethod
    def open(cls, folder: Path, round: int, plan: str = "") -> Journal:
        """The journal of a round among the checkpoints in ``folder``.

        Args:
            folder: of the federation's checkpoints.
            round: the round's number.
            plan: digest of the plan under which it asks.

        Raises:
            FederationError: it cannot be read, or is of another plan.
        """
        place = folder / f"round-{round:06d}.journal"
        begin = place / "begin"
        if not begin.exists():
            return cls(place, round, plan)
        try:
            said = json.loads(begin.read_bytes())
            known = said["roster"]
            roster = None if known is None else Roster(bytes.fromhex(one) for one in known)
            if said["plan"] != plan:
                raise BadInputError(f"it is of plan {said['plan']!r}, not {plan!r}")
            nonce = bytes.fromhex(said["nonce"])
            return cls(place, round, plan, tuple(said["asked"]), nonce, roster)
        except (OSError, ValueError, KeyError, TypeError, BadInputError) as error:
            raise FederationError(
                f"{begin} cannot be read: {error}; delete {place} to ask round {round} anew: its "
                "devices are then charged for it twice"
            ) from error

    def begin(self, asked: Sequence[int], roster: Roster | None = None) -> None:
        """Write down whom the round asks, before they are asked; once."""
        if self.asked is not None:
            return
        self.asked, self.nonce, self.roster = tuple(asked), os.urandom(_NONCE_BYTES), roster
        self.folder.mkdir(parents=True, exist_ok=True)
        known = None if roster is None else [one.hex() for one in sorted(roster.identities)]
        said = {"plan": self.plan, "asked": self.asked, "nonce": self.nonce.hex(), "roster": known}
        write_whole(self.folder / "begin", json.dumps(said).encode())

    def write(self, phase: Phase, heard: Replies) -> None:
        """Write down what a phase has brought."""
        tensors: dict[str, npt.NDArray[Any]] = {"": np.zeros(0, np.uint8)}
        for node, records in heard.good.items():
            for name, array in records.get("arrays", {}).items():
                tensors[f"{node} {name}"] = np.ascontiguousarray(array)
        configs = {
            node: {key: _plain(value) for key, value in records.get("config", {}).items()}
            for node, records in heard.good.items()
        }
        said = {**vars(heard), "good": configs}
        write_whole(self.folder / phase, save(tensors, {"heard": json.dumps(said)}))

    def heard(self, phase: Phase) -> Replies | None:
        """What a phase has brought, if it was over when the server died."""
        path = self.folder / phase
        if not path.exists():
            return None
        good: dict[int, dict[str, dict[str, object]]] = {}
        with safe_open(path, framework="numpy") as file:
            said = json.loads(file.metadata()["heard"])
            for node, config in said["good"].items():
                good[int(node)] = {"config": {key: _rich(value) for key, value in config.items()}}
            for name in file.keys():  # noqa: SIM118
                node, _, key = name.partition(" ")
                if key:
                    arrays = good[int(node)].setdefault("arrays", {})
                    arrays[key] = file.get_tensor(name)
        whole: dict[int, Records] = dict(good)
        return replace(Replies(**{**said, "good": {}}), good=whole)

    def delete(self) -> None:
        """Forget the round: its checkpoint is there."""
        shutil.rmtree(self.folder, ignore_errors=True)


def _plain(value: object) -> object:
    return {"bytes": b64encode(value).decode()} if isinstance(value, bytes) else value


def _rich(value: object) -> object:
    return b64decode(value["bytes"]) if isinstance(value, dict) else value
