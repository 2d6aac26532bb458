"""What travelled in a simulated federation, as the wire audit reads it."""

from __future__ import annotations

from dataclasses import dataclass, field

from flwr.app import Message
from flwr.common.serde import message_to_proto

from ...privacy.audit.wire import Recorded
from ...shared.wire import MESSAGE_TYPES, describe
from .grid import Direction

__all__ = ["Recorder"]

_PHASES = {name: phase for phase, name in MESSAGE_TYPES.items()}


@dataclass
class Recorder:
    """Keeps every message: give :meth:`tap` to the grid."""

    messages: list[Recorded] = field(default_factory=list)

    def tap(self, message: Message, way: Direction) -> None:
        """Keep a message in the form in which its receiver gets it."""
        error = message.error.reason if message.has_error() else ""
        content = describe(message.content) if message.has_content() else {}
        self.messages.append(
            Recorded(
                phase=_PHASES.get(message.metadata.message_type),
                way=way,
                records=content,
                raw=message_to_proto(message).SerializeToString(),
                error=error or "",
            )
        )
