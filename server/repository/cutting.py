"""Content-defined cutting: a change moves the cuts near it, and all others stay.

A gear hash rolls over the bytes; where its top bits are zero, a chunk ends. Bit k of the hash
depends on the last k + 1 bytes, so the top bits see a window of 32 bytes and nothing before it.
Source: Xia et al., "FastCDC", USENIX ATC 2016, §3 (gear hash, cut-point skipping).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from ...shared.chunk_index import MAX_CHUNK_BYTES

__all__ = ["MIN_CHUNK_BYTES", "cut"]

MIN_CHUNK_BYTES = 8_192

_BITS = 15  # 8 KiB + 2^15 bytes: about 40 KiB a chunk
_WINDOW = 32  # bytes: as many as the hash has bits
_BLOCK = 4 << 20
_GEAR = np.frombuffer(
    b"".join(hashlib.sha256(b"locavore gear %d" % i).digest()[:4] for i in range(256)), "<u4"
).astype(np.uint32)


def cut(stream: BinaryIO) -> Iterator[bytes]:
    """Chunks of a stream in order, each at most ``MAX_CHUNK_BYTES`` long."""
    pending, window = b"", b""
    while block := stream.read(_BLOCK):
        ends = _ends(window, block) + len(pending)
        window = (window + block)[1 - _WINDOW :]
        data, start = pending + block, 0
        while (end := _next_end(ends, start, len(data))) is not None:
            yield data[start:end]
            start = end
        pending = data[start:]
    if pending:
        yield pending


def _next_end(ends: npt.NDArray[np.intp], start: int, size: int) -> int | None:
    """Where the chunk from ``start`` ends; None when the bytes that decide are yet to come."""
    first = int(np.searchsorted(ends, start + MIN_CHUNK_BYTES))
    last = start + MAX_CHUNK_BYTES
    if first < len(ends) and ends[first] <= last:
        return int(ends[first])
    return last if last <= size else None


def _ends(window: bytes, block: bytes) -> npt.NDArray[np.intp]:
    """Places in ``block`` behind which a chunk may end; ``window`` is what came before it."""
    hashes = _GEAR[np.frombuffer(window + block, np.uint8)]  # (n,) of one byte each
    reach = 1
    while reach < _WINDOW:  # a hash of 2m bytes is that of m, and that of the m before, moved up
        earlier = hashes[:-reach] << np.uint32(reach)
        hashes[reach:] += earlier
        reach *= 2
    return np.flatnonzero(hashes[len(window) :] >> np.uint32(32 - _BITS) == 0) + 1
