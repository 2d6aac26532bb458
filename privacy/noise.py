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

from ..shared.errors import PrivacyError

__all__ = [
    "LEAST_DEVIATION",
    "Doubles",
    "NoiseSource",
    "SecureNoise",
    "insecure_seeded_noise",
    "length",
]

Doubles = npt.NDArray[np.float64]
LEAST_DEVIATION = 8.0
"""Smallest standard deviation of discrete Gaussians here."""


def length(vector: Doubles) -> float:
    """L2 norm.

    Not numpy's: that one asks BLAS, whose threads then spin beside torch's and halve its speed.
    """
    return math.sqrt(float(np.square(vector).sum()))


class NoiseSource(Protocol):
    """Draws uniforms, Gaussians and discrete Gaussians."""

    def uniform(self, count: int) -> Doubles:
        """``count`` doubles in the open interval (0, 1)."""

    def gaussian(self, count: int) -> Doubles:
        """``count`` standard normal doubles."""

    def discrete_gaussian(self, count: int, deviation: float) -> npt.NDArray[np.int64]:
        """``count`` whole numbers ``y`` with probabilities in proportion to
        ``exp(-y**2 / (2 deviation**2))``; the deviation is at least :data:`LEAST_DEVIATION`.
        """


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

    def discrete_gaussian(self, count: int, deviation: float) -> npt.NDArray[np.int64]:
        """``count`` whole numbers from a discrete Gaussian, to the accuracy of doubles.

        Rounded Gaussians, of which the few too many are thrown back (rejection sampling). What is
        beyond 8.4 deviations is coarse: about 3e-17 of the probability.

        Raises:
            PrivacyError: the deviation is too small.
        """
        if not deviation >= LEAST_DEVIATION:
            raise PrivacyError(f"deviation must be at least {LEAST_DEVIATION:g}, got {deviation}")
        drawn = self._rounded(count, deviation)
        again = np.flatnonzero(self._too_many(drawn, deviation))
        while len(again):
            drawn[again] = self._rounded(len(again), deviation)
            again = again[self._too_many(drawn[again], deviation)]
        return drawn

    def _rounded(self, count: int, deviation: float) -> npt.NDArray[np.int64]:
        """Rounded Gaussians, whose tails have 64 bits."""
        from scipy.special import ndtri

        raw = np.frombuffer(self._stream.update(bytes(8 * count)), np.uint64)
        tail = ndtri(((raw >> np.uint64(1)).astype(np.float64) + 0.5) * 2.0**-64)
        signs = 1.0 - 2.0 * (raw & np.uint64(1)).astype(np.float64)
        rounded: npt.NDArray[np.int64] = np.rint(tail * signs * deviation).astype(np.int64)
        return rounded

    def _too_many(self, drawn: npt.NDArray[np.int64], deviation: float) -> npt.NDArray[np.bool_]:
        """Which rounded Gaussians to throw back.

        A rounded Gaussian is ``y`` in proportion to ``R(y) exp(-y**2 / (2 deviation**2))``, where
        ``R(y)`` is the mean of ``exp(-(2 y u + u**2) / (2 deviation**2))`` over ``u`` in
        [-1/2, 1/2], least at 0; ``y`` is kept with probability ``R(0) / R(y)``, which is at least
        ``1 - y**2 / (6 deviation**4)``.
        """
        missed = 1.0 - self.uniform(len(drawn))
        thrown = missed < np.square(drawn / (math.sqrt(6) * deviation**2))
        rare = np.flatnonzero(thrown)
        nodes, weights = np.polynomial.legendre.leggauss(12)
        steps = nodes / 2
        apart = np.append(drawn[rare], 0)[:, None] * steps + np.square(steps) / 2
        means = np.exp(-apart / deviation**2) @ (weights / 2)
        thrown[rare] = (1 - missed[rare]) * means[:-1] > means[-1]
        return thrown


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
