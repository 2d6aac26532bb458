"""What may travel between a device and the server, and nothing else.

Rules, in the order in which they are checked:

1. A message holds exactly the records of its row in :data:`WIRE`, each with exactly its keys.
2. A *vector* is one-dimensional float32 of the announced length, and every value is finite;
   *packed* is one-dimensional uint8 of the announced length. A broadcast announces both lengths:
   ``dim`` of the vector that it brings, ``up`` of the one that answers it.
3. A *count* is a whole number from 1; a *digest* is 64 lower-case hex digits; a *name* is text;
   *bytes* are at most :data:`MAX_BYTES` long, or exactly as long as the row says.
4. A reply carries the plan and the round of the message that it answers.

Under a plan with secure aggregation ``advertise`` takes the place of ``train``, and the four
messages after it make the sum, see :mod:`locavore.privacy.secagg`. No update travels by itself.

The device checks before a reply exists, the server checks again on receipt. Both sides look at a
plain description (record name to key to value), so that the rules know nothing of Flower.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal, cast

import numpy as np

from .adapters import Array
from .errors import WireError

__all__ = [
    "MAX_BYTES",
    "MESSAGE_TYPES",
    "STEPS",
    "WIRE",
    "Broadcast",
    "Phase",
    "Records",
    "check_incoming",
    "check_outgoing",
    "check_step",
    "describe",
    "silence_flower",
]

Phase = Literal["train", "evaluate", "advertise", "share", "mask", "confirm", "open"]
STEPS: tuple[Phase, ...] = ("share", "mask", "confirm", "open")
"""What follows ``advertise`` in a secure sum."""

MESSAGE_TYPES: Mapping[Phase, str] = MappingProxyType(
    {
        "train": "train",
        "evaluate": "evaluate",
        "advertise": "train.advertise",
        **{step: f"query.{step}" for step in STEPS},
    }
)
"""Flower's name of each phase's messages."""

MAX_BYTES = 1 << 24
Records = Mapping[str, Mapping[str, object]]
_Rows = Mapping[str, Mapping[str, str]]

_BROADCAST: _Rows = {
    "config": {
        "round": "count",
        "dim": "count",
        "up": "count",
        "plan": "digest",
        "base": "name",
    },
    "arrays": {"theta": "vector"},
}
_UPDATE: _Rows = {
    "config": {"round": "count", "plan": "digest"},
    "arrays": {"delta": "vector"},
}

_ANSWER = {"round": "count", "plan": "digest"}
_HIDDEN: Mapping[str, _Rows] = {
    "advertise down": {
        "config": {**_BROADCAST["config"], "nonce": "bytes 16", "roster": "digest"},
        "arrays": _BROADCAST["arrays"],
    },
    "advertise up": {"config": {**_ANSWER, "keys": "bytes 160"}},
    "share down": {"config": {**_ANSWER, "roll": "bytes"}},
    "share up": {
        "config": {**_ANSWER, "neighbours": "bytes", "sealed": "bytes", "commitment": "bytes 32"}
    },
    "mask down": {"config": {**_ANSWER, "sharers": "bytes", "senders": "bytes", "sealed": "bytes"}},
    "mask up": {"config": _ANSWER, "arrays": {"masked": "packed"}},
    "confirm down": {"config": {**_ANSWER, "survivors": "bytes"}},
    "confirm up": {"config": {**_ANSWER, "signature": "bytes 64"}},
    "open down": {"config": {**_ANSWER, "signers": "bytes", "signatures": "bytes"}},
    "open up": {"config": {**_ANSWER, "owners": "bytes", "shares": "bytes"}},
}

WIRE: Mapping[str, _Rows] = MappingProxyType(
    {
        "train down": _BROADCAST,
        "train up": _UPDATE,
        "evaluate down": _BROADCAST,
        "evaluate up": {},  # an acknowledgement; what was measured stays on the device
        **_HIDDEN,
    }
)
"""Everything that may travel: message to record to key to kind of value."""

_DIGEST = re.compile(r"[0-9a-f]{64}")
_MAX_NAME = 200  # characters
_MAX_QUOTED = 60  # characters of a stranger's value that an error repeats


@dataclass(frozen=True, eq=False)
class Broadcast:
    """What the server sends to every device of a round.

    Args:
        theta: the shared vector, ``(dim,)`` float32.
        round: number of the round, from 1.
        plan: SHA-256 (hex) of the public training plan.
        base: identity of the base model's weights.
        nonce: of a secure sum, 16 bytes; empty where updates travel by themselves.
        roster: SHA-256 (hex) of who may take part in that sum.
        up: length of the vector that answers it; as long as ``theta`` when not given.
    """

    theta: Array
    round: int
    plan: str
    base: str
    nonce: bytes = b""
    roster: str = ""
    up: int | None = None

    @property
    def answered_by(self) -> int:
        """Length of the vector that answers it."""
        return self.theta.size if self.up is None else self.up

    def records(self) -> Records:
        """The plain description that travels."""
        config: dict[str, object] = {
            "round": self.round,
            "dim": self.theta.size,
            "up": self.answered_by,
            "plan": self.plan,
            "base": self.base,
        }
        if self.nonce:
            config |= {"nonce": self.nonce, "roster": self.roster}
        return {"arrays": {"theta": self.theta}, "config": config}


def check_incoming(records: Records, *, phase: Phase) -> Broadcast:
    """Check what a server sent and return it typed.

    Raises:
        WireError: a record, key or value that is not on the allow-list.
    """
    dim = records.get("config", {}).get("dim")
    _check(records, f"{phase} down", dim if isinstance(dim, int) else 0)
    config = cast(Mapping[str, Any], records["config"])
    theta = cast(Array, records["arrays"]["theta"])
    nonce, roster = config.get("nonce", b""), config.get("roster", "")
    said = (config["round"], config["plan"], config["base"])
    return Broadcast(theta, *said, nonce, roster, config["up"])


def check_step(records: Records, *, phase: Phase) -> Mapping[str, Any]:
    """Check what a server sent for a step of a secure sum, and return its fields.

    Raises:
        WireError: a record, key or value that is not on the allow-list.
    """
    _check(records, f"{phase} down", 0)
    return records["config"]


def check_outgoing(records: Records, *, phase: Phase, dim: int, plan: str, round: int) -> None:
    """Check what a device is about to send, or what the server received from it.

    Args:
        records: the reply.
        phase: what the reply answers.
        dim: announced length of the shared vector, or of the packed one.
        plan: plan of the message that is answered.
        round: round of the message that is answered.

    Raises:
        WireError: a record, key, shape, type or value that is not on the allow-list.
    """
    _check(records, f"{phase} up", dim)
    for key, expected in {"plan": plan, "round": round}.items():
        found = records.get("config", {}).get(key, expected)
        if found != expected:
            raise WireError(f"{key} must be {expected!r} as in the message answered, got {found!r}")


def describe(content: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, object]]:
    """Flower's records as a plain description: arrays become numpy arrays.

    Raises:
        WireError: an array cannot be decoded.
    """
    return {
        name: {key: _decode(key, value) for key, value in record.items()}
        for name, record in content.items()
    }


def silence_flower() -> None:
    """Switch Flower's telemetry and update check off unless the user has set them.

    Flower reads one of its switches when it is imported, which may have happened already.
    """
    os.environ.setdefault("FLWR_DISABLE_UPDATE_CHECK", "1")
    enabled = os.environ.setdefault("FLWR_TELEMETRY_ENABLED", "0")
    if telemetry := sys.modules.get("flwr.supercore.telemetry"):
        vars(telemetry)["FLWR_TELEMETRY_ENABLED"] = enabled


def _check(records: Records, message: str, dim: int) -> None:
    rows = WIRE[message]
    _check_names(records, rows, f"a {message!r} message")
    for name, row in rows.items():
        _check_names(records[name], row, f"record {name!r} of a {message!r} message")
        for key, kind in row.items():
            check, *size = kind.split()
            wanted = int(size[0]) if size else dim if name == "arrays" else 0
            if problem := _CHECKS[check](records[name][key], wanted):
                raise WireError(f"{name}.{key} of a {message!r} message must be {problem}")


def _check_names(found: Mapping[str, object], allowed: Mapping[str, object], where: str) -> None:
    for name in found:
        if name not in allowed:
            raise WireError(
                f"{_quote(name)} is not on the allow-list of {where}; remove it, "
                f"allowed is {', '.join(allowed) or 'nothing'}"
            )
    for name in allowed:
        if name not in found:
            raise WireError(f"{name!r} is missing from {where}")


def _vector_problem(value: object, dim: int) -> str | None:
    if type(value) is not np.ndarray:
        return f"a numpy array, got {type(value).__name__}"
    if value.dtype != np.float32 or value.shape != (dim,):
        return f"float32 of shape ({dim},), got {value.dtype} of shape {value.shape}"
    bad = int(np.count_nonzero(~np.isfinite(value)))
    return f"finite, got {bad} values that are not" if bad else None


def _packed_problem(value: object, dim: int) -> str | None:
    if type(value) is not np.ndarray:
        return f"a numpy array, got {type(value).__name__}"
    if value.dtype != np.uint8 or value.shape != (dim,):
        return f"uint8 of shape ({dim},), got {value.dtype} of shape {value.shape}"
    return None


def _bytes_problem(value: object, length: int) -> str | None:
    if type(value) is not bytes:
        return f"bytes, got {type(value).__name__}"
    if length and len(value) != length:
        return f"{length} bytes, got {len(value)}"
    return f"at most {MAX_BYTES} bytes, got {len(value)}" if len(value) > MAX_BYTES else None


def _count_problem(value: object, dim: int) -> str | None:
    return None if _is_count(value) else f"a whole number from 1, got {_quote(value)}"


def _digest_problem(value: object, dim: int) -> str | None:
    if isinstance(value, str) and _DIGEST.fullmatch(value):
        return None
    return f"64 lower-case hex digits, got {_quote(value)}"


def _name_problem(value: object, dim: int) -> str | None:
    if isinstance(value, str) and 0 < len(value) <= _MAX_NAME:
        return None
    return f"text of 1..{_MAX_NAME} characters, got {_quote(value)}"


_CHECKS: Mapping[str, Callable[[object, int], str | None]] = {
    "vector": _vector_problem,
    "packed": _packed_problem,
    "bytes": _bytes_problem,
    "count": _count_problem,
    "digest": _digest_problem,
    "name": _name_problem,
}


def _is_count(value: object) -> bool:
    return type(value) is int and value >= 1


def _quote(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _MAX_QUOTED else f"{text[:_MAX_QUOTED]}…"


def _decode(key: str, value: Any) -> object:
    if not hasattr(value, "numpy"):
        return cast(object, value)
    try:
        return cast(object, value.numpy())
    except Exception as error:  # a stranger's bytes may fail in any way
        raise WireError(f"array {_quote(key)} cannot be decoded: {type(error).__name__}") from None
