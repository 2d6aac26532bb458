"""Checkpoints of a federation: one file per finished round.

Rules:

1. A file appears whole or not at all: written beside, synced to disk, then renamed over.
2. A file carries the SHA-256 of what it holds; one that does not match is passed over.
3. A federation goes on only from a checkpoint of the same base, form, plan and length.
4. Where the federation has a key, a file is signed with it, and one that is not is no checkpoint.

The format is safetensors with the tensor ``theta``, ``noise`` where noise is correlated over the
rounds, ``optimizer NAME`` for what the server's optimizer remembers, and JSON in the metadata.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from ..privacy.noise import Doubles
from ..shared.adapters import Array
from ..shared.errors import FederationError
from ..shared.files import write_whole

__all__ = ["Checkpoint", "HistoryRow", "latest"]

FORMAT = "1"
_DOMAIN = b"locavore checkpoint 1"
_OPTIMIZER = "optimizer "
HistoryRow = Mapping[str, int | float | bool]
"""Figures of one round, see ``RoundReport.row``."""

_log = logging.getLogger("locavore.server")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """Everything that a federation needs to go on after a round.

    Args:
        round: last finished round, from 1; 0 before the first.
        theta: the shared vector, ``(dim,)`` float32.
        base_id: identity of the base model's weights.
        plan_digest: SHA-256 (hex) of the public training plan.
        form: how ``theta`` becomes an adapter, see ``shared/forms``, and how it is aggregated.
        history: figures of every round so far.
        noise: what correlated noise remembers, ``(buffers, dim)`` float64. secret: with it, noise
            can be taken off the rounds that are shown.
        optimizer: what the server's optimizer remembers, ``(dim,)`` float64 each.
    """

    round: int
    theta: Array
    base_id: str
    plan_digest: str
    form: str
    history: tuple[HistoryRow, ...] = ()
    noise: Doubles | None = None
    optimizer: Mapping[str, Doubles] = field(default_factory=dict)

    def after(self, round: int, theta: Array, row: HistoryRow) -> Checkpoint:
        """The state one round later."""
        return replace(self, round=round, theta=theta, history=(*self.history, row))

    @property
    def file(self) -> str:
        """Name of this round's file."""
        return f"round-{self.round:06d}.safetensors"

    def require(self, *, base_id: str, plan_digest: str, form: str, dim: int) -> None:
        """Refuse to go on with another federation's state.

        Raises:
            FederationError: names every difference.
        """
        pairs = {
            "base": (self.base_id, base_id),
            "plan": (self.plan_digest, plan_digest),
            "form": (self.form, form),
            "dim": (self.theta.size, dim),
        }
        wrong = [f"{k} {was!r}, not {now!r}" for k, (was, now) in pairs.items() if was != now]
        if wrong:
            raise FederationError(
                f"the checkpoint of round {self.round} is of another federation: it has "
                f"{'; '.join(wrong)}. Use an empty checkpoint folder, or the settings it began with"
            )

    def save(self, folder: Path, key: Ed25519PrivateKey | None = None) -> Path:
        """Write this round's file into ``folder``, which is made if it is missing.

        Args:
            folder: of the federation's checkpoints.
            key: signs the file.
        """
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / self.file
        state = self._state()
        tensors: dict[str, npt.NDArray[Any]] = {"theta": np.ascontiguousarray(self.theta)}
        for name, values in self.optimizer.items():
            tensors[_OPTIMIZER + name] = np.ascontiguousarray(values)
        if self.noise is not None:
            tensors["noise"] = np.ascontiguousarray(self.noise)
        digest = _digest(state, tensors)
        metadata = {"format": FORMAT, "state": state, "sha256": digest}
        if key is not None:
            metadata["signature"] = key.sign(_DOMAIN + digest.encode()).hex()
        write_whole(path, save(tensors, metadata))
        return path

    @classmethod
    def load(cls, path: Path, signer: Ed25519PublicKey | None = None) -> Checkpoint:
        """Read one file.

        Args:
            path: of the file.
            signer: whose signature it must have; None: signatures are not looked at.

        Raises:
            FederationError: missing, truncated, changed, not signed, or of an unknown format.
        """
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = file.metadata() or {}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            if metadata["format"] != FORMAT:
                raise ValueError(f"format {metadata['format']!r}, expected {FORMAT!r}")
            if metadata["sha256"] != _digest(metadata["state"], tensors):
                raise ValueError("its content does not match its SHA-256")
            if signer is not None:
                signature = bytes.fromhex(metadata.get("signature", ""))
                signer.verify(signature, _DOMAIN + metadata["sha256"].encode())
            fields = json.loads(metadata["state"])
            remembered = {
                name.removeprefix(_OPTIMIZER): tensors.pop(name)
                for name in list(tensors)
                if name.startswith(_OPTIMIZER)
            }
            history = tuple(fields["history"])
            return cls(**{**tensors, **fields, "history": history, "optimizer": remembered})
        except InvalidSignature:
            raise FederationError(f"checkpoint {path} is not signed by this federation") from None
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise FederationError(f"checkpoint {path} cannot be read: {error}") from error

    def _state(self) -> str:
        fields = {
            "round": self.round,
            "base_id": self.base_id,
            "plan_digest": self.plan_digest,
            "form": self.form,
            "history": [dict(row) for row in self.history],
        }
        return json.dumps(fields, sort_keys=True)


def latest(folder: Path, signer: Ed25519PublicKey | None = None) -> Checkpoint | None:
    """The newest checkpoint that can be read; None when the folder holds none at all.

    Args:
        folder: of the federation's checkpoints.
        signer: whose signature a checkpoint must have.

    Raises:
        FederationError: there are checkpoints, and none of them can be read.
    """
    paths = sorted(folder.glob("round-*.safetensors"), reverse=True)
    for path in paths:
        try:
            return Checkpoint.load(path, signer)
        except FederationError as error:
            _log.warning("%s; falling back to the checkpoint before it", error)
    if paths:
        raise FederationError(
            f"none of the {len(paths)} checkpoints in {folder} can be read; "
            "restore one from a backup, or start again with an empty folder"
        )
    return None


def _digest(state: str, tensors: Mapping[str, npt.NDArray[Any]]) -> str:
    digest = hashlib.sha256(state.encode())
    for name in sorted(tensors):
        digest.update(b"\x00" + name.encode() + b"\x00" + tensors[name].tobytes())
    return digest.hexdigest()
