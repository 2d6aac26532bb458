"""What travelled in a simulated federation, as the wire audit reads it; kept in a file if wanted.

A recording is one JSON object a line: which way a message went, and its bytes in base64.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flwr.app import Message

from ...privacy.audit.wire import Recorded
from ...shared.errors import BadInputError
from ...shared.wire import MESSAGE_TYPES, describe
from .grid import Direction, from_bytes, to_bytes

__all__ = ["Recorder", "load_recording", "recording_to", "terms_of"]

_PHASES = {name: phase for phase, name in MESSAGE_TYPES.items()}


@dataclass
class Recorder:
    """Keeps every message: give :meth:`tap` to the grid."""

    messages: list[Recorded] = field(default_factory=list)

    def tap(self, message: Message, way: Direction) -> None:
        """Keep a message in the form in which its receiver gets it."""
        self.messages.append(_recorded(message, way, to_bytes(message)))

    def save(self, path: Path) -> None:
        """Write the recording."""
        path.write_text("".join(_line(one.way, one.raw) for one in self.messages), "utf-8")


def recording_to(path: Path) -> Callable[[Message, Direction], None]:
    """A tap for the grid that adds every message to a file, and keeps none in memory."""

    def tap(message: Message, way: Direction) -> None:
        with path.open("a", encoding="utf-8") as stream:
            stream.write(_line(way, to_bytes(message)))

    return tap


def load_recording(path: Path) -> list[Recorded]:
    """Read what :meth:`Recorder.save` wrote.

    Raises:
        BadInputError: it is no recording.
    """
    found = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        try:
            said = json.loads(line)
            raw = base64.b64decode(said["raw"], validate=True)
            found.append(_recorded(from_bytes(raw), said["way"], raw))
        except (ValueError, KeyError, TypeError, binascii.Error) as error:
            raise BadInputError(f"{path}, line {number} is no recorded message: {error}") from None
        except Exception as error:  # what is no message of Flower's may fail in any way
            name = type(error).__name__
            raise BadInputError(f"{path}, line {number} is no recorded message: {name}") from None
    return found


def terms_of(messages: Sequence[Recorded]) -> tuple[int, str]:
    """Length of the shared vector and the plan's digest, as the first broadcast has them.

    Raises:
        BadInputError: there is no broadcast.
    """
    for one in messages:
        said: Any = one.records.get("config", {})
        if one.way == "down" and {"dim", "plan"} <= set(said):
            return int(said["dim"]), str(said["plan"])
    raise BadInputError("no message of the recording broadcasts a shared vector")


def _line(way: Direction, raw: bytes) -> str:
    return json.dumps({"way": way, "raw": base64.b64encode(raw).decode()}) + "\n"


def _recorded(message: Message, way: Direction, raw: bytes) -> Recorded:
    error = message.error.reason if message.has_error() else ""
    return Recorded(
        phase=_PHASES.get(message.metadata.message_type),
        way=way,
        records=describe(message.content) if message.has_content() else {},
        raw=raw,
        error=error or "",
    )
