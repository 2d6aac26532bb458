"""Shamir's secret sharing of 32-byte seeds.

Shamir, "How to Share a Secret", CACM 1979: a random polynomial of degree ``threshold - 1`` over a
prime field whose value at 0 is the secret; a share is its value at another point. Fewer shares than
the threshold tell nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from ...shared.errors import SecAggError

__all__ = ["SEED_BYTES", "SHARE_BYTES", "combine", "split"]

SEED_BYTES = 32
SHARE_BYTES = 33
_PRIME = 2**257 - 93  # the largest below 2^257: every seed is an element, and so is every share
_DRAWN = 64  # bytes that are reduced to an element; the bias is below 2^-254


def split(
    seed: bytes, points: Sequence[int], threshold: int, random: Callable[[int], bytes]
) -> list[bytes]:
    """One share of ``seed`` for every point, of which any ``threshold`` give it back.

    Args:
        seed: secret: 32 bytes.
        points: distinct, from 1.
        threshold: 1..len(points).
        random: gives that many bytes.

    Raises:
        SecAggError: a point is used twice or 0, or the threshold is out of its range.
    """
    if len(seed) != SEED_BYTES:
        raise SecAggError(f"a seed has {SEED_BYTES} bytes, got {len(seed)}")
    if not 1 <= threshold <= len(points):
        raise SecAggError(f"threshold must be 1..{len(points)}, got {threshold}")
    _require_points(points)
    coefficients = [int.from_bytes(seed, "little")]
    coefficients += [
        int.from_bytes(random(_DRAWN), "little") % _PRIME for _ in range(threshold - 1)
    ]
    return [_value(coefficients, point).to_bytes(SHARE_BYTES, "little") for point in points]


def combine(shares: Mapping[int, bytes]) -> bytes:
    """The seed, from as many shares as its threshold; by point.

    Raises:
        SecAggError: they are not shares of one seed, as far as that can be told.
    """
    _require_points(list(shares))
    values = {point: int.from_bytes(share, "little") for point, share in shares.items()}
    total = 0
    for point, value in values.items():
        above, below = 1, 1
        for other in values:
            if other != point:
                above = above * other % _PRIME
                below = below * (other - point) % _PRIME
        total += value * above * pow(below, -1, _PRIME)
    seed = total % _PRIME
    if seed >> (8 * SEED_BYTES):
        raise SecAggError("the shares do not belong together: one of them is forged")
    return seed.to_bytes(SEED_BYTES, "little")


def _value(coefficients: Sequence[int], point: int) -> int:
    value = 0
    for coefficient in reversed(coefficients):
        value = (value * point + coefficient) % _PRIME
    return value


def _require_points(points: Sequence[int]) -> None:
    if len(set(points)) != len(points) or not all(0 < point < _PRIME for point in points):
        raise SecAggError(f"points must be distinct and from 1, got {list(points)[:20]}")
