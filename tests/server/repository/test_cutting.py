"""Cuts follow the content."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from locavore.server.repository import cutting
from locavore.server.repository.cutting import MIN_CHUNK_BYTES, cut
from locavore.shared.chunk_index import MAX_CHUNK_BYTES


def chunks(raw: bytes) -> list[bytes]:
    return list(cut(io.BytesIO(raw)))


def noise(size: int, seed: int = 0) -> bytes:
    return np.random.default_rng(seed).bytes(size)


def written_out(raw: bytes) -> list[bytes]:
    """The rule, byte by byte."""
    gear = [int(g) for g in cutting._GEAR]
    found, begin, value = [], 0, 0
    for place, byte in enumerate(raw):
        value = ((value << 1) + gear[byte]) & 0xFFFFFFFF
        size = place + 1 - begin
        marked = value >> (32 - cutting._BITS) == 0
        if size == MAX_CHUNK_BYTES or (marked and size >= MIN_CHUNK_BYTES):
            found.append(raw[begin : place + 1])
            begin = place + 1
    return [*found, raw[begin:]] if begin < len(raw) else found


@pytest.mark.parametrize("size", [0, 1, 31, 32, 33, MIN_CHUNK_BYTES, 300_000])
def test_cutting_is_what_is_written_out(size: int) -> None:
    assert chunks(noise(size)) == written_out(noise(size))


@given(st.integers(0, 400_000), st.integers(0, 5), st.integers(1, 100_000))
def test_nothing_is_lost_and_sizes_are_bounded(size: int, seed: int, block: int) -> None:
    raw = noise(size, seed) + bytes(size // 2)
    found = chunks(raw)
    assert b"".join(found) == raw
    assert all(MIN_CHUNK_BYTES <= len(chunk) <= MAX_CHUNK_BYTES for chunk in found[:-1])
    assert not found or 1 <= len(found[-1]) <= MAX_CHUNK_BYTES


@pytest.mark.parametrize("block", [1_000, 4_096, 100_000])
def test_blocks_of_reading_do_not_matter(block: int, monkeypatch: pytest.MonkeyPatch) -> None:
    raw = noise(500_000)
    whole = chunks(raw)
    monkeypatch.setattr(cutting, "_BLOCK", block)
    assert chunks(raw) == whole


@pytest.mark.parametrize(
    "change",
    [
        lambda raw: b"inserted" + raw,
        lambda raw: raw[:1_000_000] + b"inserted" + raw[1_000_000:],
        lambda raw: raw[:1_000_000] + raw[1_000_100:],
        lambda raw: raw[:1_000_000] + bytes(100) + raw[1_000_100:],
    ],
)
def test_a_change_stays_where_it_is(change: Callable[[bytes], bytes]) -> None:
    raw = noise(3_000_000)
    before = set(chunks(raw))
    new = [chunk for chunk in chunks(change(raw)) if chunk not in before]
    assert sum(map(len, new)) <= 3 * MAX_CHUNK_BYTES


def test_chunks_are_some_forty_kilobytes() -> None:
    found = chunks(noise(10_000_000))
    assert 32_000 < 10_000_000 / len(found) < 48_000
