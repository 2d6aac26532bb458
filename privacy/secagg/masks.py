"""Masks: seeds stretched to vectors and added up, modulo a power of two.

A vector holds numbers modulo ``2**bits`` in 16-bit words, or in 32-bit words where ``bits`` is
above 16. Words wrap round; what is above ``bits`` is cut off when a vector is packed. A seed is
stretched by AES-128 in counter mode under a key that HKDF derives, and stretches one mask only.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

__all__ = ["MASK_KEY_BYTES", "Words", "add_masks", "derive", "pack", "packed_bytes", "unpack"]

Words = npt.NDArray[Any]  # uint16 or uint32
MASK_KEY_BYTES = 16
_CHUNK = 1 << 15  # bytes that are stretched at a time, so that they stay in the processor's cache


def derive(secret: bytes, purpose: bytes, length: int = 32) -> bytes:
    """A key for one purpose from a shared secret or a seed (HKDF-SHA256, RFC 5869)."""
    return HKDF(algorithm=SHA256(), length=length, salt=None, info=purpose).derive(secret)


def add_masks(total: Words, masks: Iterable[tuple[bytes, int]]) -> None:
    """Add masks to ``total`` in place.

    Args:
        total: contiguous, ``(dim,)`` uint16 or uint32.
        masks: key of :data:`MASK_KEY_BYTES`, and 1 to add or -1 to subtract.
    """
    streams = [
        (Cipher(algorithms.AES(key), modes.CTR(bytes(16))).encryptor(), sign) for key, sign in masks
    ]
    step = _CHUNK // total.itemsize
    zeros, drawn = bytes(_CHUNK), bytearray(_CHUNK + 15)  # update_into asks for 15 to spare
    stretched = np.frombuffer(drawn, total.dtype, count=step)
    for start in range(0, len(total), step):
        part = total[start : start + step]
        for stream, sign in streams:
            stream.update_into(zeros, drawn)
            if sign > 0:
                part += stretched[: len(part)]
            else:
                part -= stretched[: len(part)]


def packed_bytes(dim: int, bits: int) -> int:
    """Length of a packed vector of ``dim`` numbers."""
    return -(-dim * bits // 8)


def pack(words: Words, bits: int) -> npt.NDArray[np.uint8]:
    """``bits`` bits a number, little-endian, without gaps."""
    raw = np.ascontiguousarray(words, words.dtype.newbyteorder("<")).view(np.uint8)
    if bits == 8 * words.itemsize:
        return raw
    apart = np.unpackbits(raw.reshape(len(words), words.itemsize), axis=1, bitorder="little")
    return np.packbits(apart[:, :bits], bitorder="little")


def unpack(packed: npt.NDArray[np.uint8], dim: int, bits: int) -> Words:
    """The words of a packed vector of ``dim`` numbers."""
    kind = np.dtype("<u2" if bits <= 16 else "<u4")
    if bits == 8 * kind.itemsize:
        return packed.view(kind).astype(kind.newbyteorder("="))
    apart = np.unpackbits(packed, count=dim * bits, bitorder="little").reshape(dim, bits)
    raw = np.zeros((dim, 8 * kind.itemsize), np.uint8)
    raw[:, :bits] = apart
    return np.packbits(raw, axis=1, bitorder="little").view(kind)[:, 0].astype(kind)
