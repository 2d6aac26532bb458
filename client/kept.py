"""The half of a shared form that stays on the device, over the rounds of a federation.

It is trained on the person's records and lies in the vault; it goes when any record is forgotten,
and starts from nothing again. A round that is asked again after an interruption begins from what
was kept before it, so the device gives the same answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from safetensors.numpy import load, save

from ..shared.adapters import Array
from .vault.vault import Vault

__all__ = ["KeptHalf"]

_REMEMBERED = 2  # rounds: the last one, and the one before, in case the last is asked again


@dataclass(frozen=True)
class KeptHalf:
    """What one device keeps for one federation.

    Args:
        of: what it belongs to, such as the plan's digest; another's is not gone on from.
        dim: numbers that are kept.
        read: the bytes that ``write`` was given last; empty where there are none.
        write: keeps bytes.
    """

    of: str
    dim: int
    read: Callable[[], bytes]
    write: Callable[[bytes], None]

    @classmethod
    def in_vault(cls, vault: Vault, of: str, dim: int) -> KeptHalf:
        """Kept in a person's vault."""
        return cls(of, dim, vault.kept_half, vault.keep_half)

    def before(self, round: int) -> Array:
        """What was kept of the rounds before this one ``(dim,)``; zero where nothing was."""
        rounds = self._rounds()
        earlier = [number for number in rounds if number < round]
        return rounds[max(earlier)] if earlier else np.zeros(self.dim, np.float32)

    def after(self, round: int, values: Array) -> None:
        """Keep what a round has made of it."""
        rounds = {n: kept for n, kept in self._rounds().items() if n < round} | {round: values}
        newest = sorted(rounds)[-_REMEMBERED:]
        self.write(save({f"{self.of} {number}": rounds[number] for number in newest}))

    def latest(self) -> Array:
        """What is kept now ``(dim,)``."""
        rounds = self._rounds()
        return rounds[max(rounds)] if rounds else np.zeros(self.dim, np.float32)

    def _rounds(self) -> dict[int, Array]:
        raw = self.read()
        found = {}
        for name, kept in (load(raw) if raw else {}).items():
            of, number = name.rsplit(" ", 1)
            if of == self.of and kept.shape == (self.dim,):
                found[int(number)] = kept
        return found
