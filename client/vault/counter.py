"""A counter beside the vault that only grows: who puts an old copy back is found out.

The vault counts its own changes; the same count stands in a small file beside it and, where the
vault is opened by the operating system's keyring, in that too. The mirror is written *after* the
vault, so it never runs ahead: a vault that is behind its mirror was rolled back.

What this cannot see: vault and every mirror put back together. Only hardware that counts could.
"""

from __future__ import annotations

import hmac
import os
import struct
from pathlib import Path

from .keys import Keyring

__all__ = ["FileCounter", "KeyringCounter"]

_SLOT = 64  # bytes; two slots are written in turn, so that a torn write leaves the other


class FileCounter:
    """The count in a file, authenticated."""

    def __init__(self, path: Path, key: bytes) -> None:
        self.path, self._key = path, key

    def read(self) -> int | None:
        """The highest count that is authentic; None when there is none."""
        if not self.path.exists():
            return None
        raw = self.path.read_bytes()
        found = [self._parse(raw[start : start + 40]) for start in (0, _SLOT)]
        return max((count for count in found if count is not None), default=None)

    def write(self, count: int) -> None:
        """Write a new count."""
        packed = struct.pack(">Q", count)
        handle = os.open(self.path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.pwrite(handle, (packed + self._tag(packed)).ljust(_SLOT), _SLOT * (count % 2))
        finally:
            os.close(handle)

    def _tag(self, packed: bytes) -> bytes:
        return hmac.digest(self._key, packed, "sha256")

    def _parse(self, slot: bytes) -> int | None:
        packed, tag = slot[:8], slot[8:]
        if not hmac.compare_digest(self._tag(packed), tag):
            return None
        return int(struct.unpack(">Q", packed)[0])


class KeyringCounter:
    """The count in the operating system's keyring."""

    def __init__(self, keyring: Keyring, store: str) -> None:
        self._keyring, self._name = keyring, f"{store}/counter"

    def read(self) -> int | None:
        """The count; None when there is none."""
        found = self._keyring.read(self._name)
        return None if found is None else int(found)

    def write(self, count: int) -> None:
        """Write a new count."""
        self._keyring.write(self._name, str(count))
