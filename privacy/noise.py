"""Where randomness that protects privacy comes from.

Gaussian noise is the inverse normal CDF of uniforms from an AES-256-CTR stream: a generator
whose state cannot be recovered from its output, at about the cost of numpy's own.
"""

from __future__ import annotations

import math
import os
from typing import Protocol

import numpy as np
import numpy.typing as npt
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

__all__ = ["Doubles", "NoiseSource", "SecureNoise", "insecure_seeded_noise", "length"]

Doubles = npt.NDArray[np.float64]


def length(vector: Doubles) -> float:
    """L2 norm.

    Not numpy's: that one asks BLAS, whose threads then spin beside torch's and halve its speed.
    """
    return math.sqrt(float(np.square(vector).sum()))


class NoiseSource(Protocol):
    """Draws uniforms and Gaussians."""

    def uniform(self, count: int) -> Doubles:
        """``count`` doubles in the open interval (0, 1)."""

    def gaussian(self, count: int) -> Doubles:
        """``count`` standard normal doubles."""


class SecureNoise:
    """Noise from AES-256-CTR under a fresh key of the operating system."""

    def __init__(self) -> None:
        self._stream = _stream(os.urandom(32), os.urandom(16))

    def uniform(self, count: int) -> Doubles:
        """``count`` doubles in (0, 1): the middles of 2^52 equal intervals, all exact."""
        raw = np.frombuffer(self._stream.update(bytes(8 * count)), np.uint64)
        return ((raw >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52

    def gaussian(self, count: int) -> Doubles:
        """``count`` standard normal doubles."""
        from scipy.special import ndtri

        drawn: Doubles = ndtri(self.uniform(count))
        return drawn


class _SeededNoise(SecureNoise):
    def __init__(self, seed: int, stream: int) -> None:
        key = np.array([seed, stream, 0, 0], np.uint64).tobytes()
        self._stream = _stream(key, bytes(16))


def insecure_seeded_noise(seed: int, stream: int = 0) -> NoiseSource:
    """Repeatable noise for tests and simulations on public data.

    Whoever knows ``seed`` can subtract the noise: never use it on a person's device.
    """
    return _SeededNoise(seed, stream)


def _stream(key: bytes, nonce: bytes):  # type: ignore[no-untyped-def]
    return Cipher(algorithms.AES(key), modes.CTR(nonce)).encryptor()
