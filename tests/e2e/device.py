"""A device process of the end-to-end test: the real one, with an accident if asked for.

Usage: device.py VAULT RECORDINGS [dies-before-update | dies-after-upload | sends-garbage]
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
from flwr.app import Array, ArrayRecord, Context, Message

from locavore.client import Device, TextModel, secure_sum
from locavore.client.participation import Participation
from locavore.home import base_of
from locavore.privacy.distributed import WholeNumbers
from locavore.shared.errors import LocavoreError
from locavore.shared.wire import MESSAGE_TYPES

QUICK: dict[str, Any] = {
    "busy_poll_s": 0.3,
    "idle_poll_s": 0.3,
    "longest_wait_s": 1.0,
    "heartbeat_s": 10.0,
}


def recording(folder: Path, name: str) -> type[WholeNumbers]:
    """Whole numbers that write down what goes into a sum."""

    class Recording(WholeNumbers):
        def __init__(self, plan: Any, width: int, seed: bytes, entry: float = 0.0) -> None:
            super().__init__(plan, width, seed, entry)
            self.path = folder / f"{seed.hex()}-{name}.npy"

        def encode(self, *arguments: Any) -> Any:
            words = super().encode(*arguments)
            np.save(self.path, words)
            return words

    return Recording


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def main(vault: Path, recordings: Path, accident: str = "") -> int:
    logging.basicConfig(level=logging.INFO)
    logging.getLogger("httpx").setLevel(logging.WARNING)
    secure_sum.WholeNumbers = recording(recordings, vault.name)  # type: ignore[attr-defined]
    with Device.open(vault, passphrase="only a test") as device:
        device.use_model(TextModel(base_of(device.store.membership.terms.base_id), threads=1))
        taking_part = Participation(device=device)
        answer = taking_part.app()

        def app(message: Message, context: Context) -> Message:
            kind = message.metadata.message_type
            if accident == "dies-before-update" and kind == MESSAGE_TYPES["advertise"]:
                die()
            if accident == "dies-after-upload" and kind == MESSAGE_TYPES["confirm"]:
                die()
            reply = answer(message, context)
            if accident == "sends-garbage" and kind == MESSAGE_TYPES["mask"]:
                garbage = np.full(7, 255, np.uint8)
                reply.content["arrays"] = ArrayRecord({"masked": Array(garbage)})
            return reply

        node = taking_part.node(app=app, **QUICK)
        signal.signal(signal.SIGTERM, lambda *_: node.stop())
        try:
            node.run()
        except LocavoreError as error:
            print(f"error: {error}", file=sys.stderr)
            return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), *sys.argv[3:]))
