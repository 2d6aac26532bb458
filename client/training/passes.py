"""How the records of a cohort's owners go through the model: in passes that fit its memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch

__all__ = ["AT_ONCE", "filled_up", "passes"]

AT_ONCE = 8  # records in a pass where no memory budget says otherwise

Record = TypeVar("Record")


def passes(counts: Sequence[int], at_once: int) -> Iterator[tuple[list[int], list[slice]]]:
    """Owners with records left, and the next few of each, until there are none."""
    done = [0] * len(counts)
    while owners := [k for k, count in enumerate(counts) if done[k] < count][:at_once]:
        width = max(1, at_once // len(owners))
        yield owners, [slice(done[k], done[k] + width) for k in owners]
        for k in owners:
            done[k] += width


def filled_up(rows: Sequence[Sequence[Record]]) -> tuple[list[Record], torch.Tensor]:
    """As many records of every owner, owner-major, and which of them are really there.

    Owners with fewer are filled up with a record of somebody's, which must count nothing.
    """
    width = max(map(len, rows))
    filler = next(own[0] for own in rows if own)
    whole = [record for own in rows for record in (*own, *[filler] * (width - len(own)))]
    return whole, torch.tensor([i < len(own) for own in rows for i in range(width)])
