"""Distributed differential privacy: whole numbers whose sum carries the noise of a central server.

Every device turns its clipped contribution into whole numbers modulo ``2**bits`` and adds a share
of the noise; the sum, which secure aggregation alone shows, is as noisy as a trusted server would
have made it. In order:

1. Count in units of the noise, so that a contribution is at most ``1 / noise_multiplier`` long.
2. Rotate by random signs and Hadamard transforms: no number is then much larger than the others.
3. Multiply by :attr:`WholeNumbers.scale`, and round at random to a neighbouring whole number, again
   where the rounded vector is longer than :attr:`WholeNumbers.reach`.
4. Add a discrete Gaussian of :attr:`WholeNumbers.deviation`.

Source: Kairouz, Liu, Steinke, "The Distributed Discrete Gaussian Mechanism for Federated Learning
with Secure Aggregation", ICML 2021.

Why it costs what a Gaussian costs: discrete Gaussians of a deviation of 8 and more add up to a
discrete Gaussian (relative error below ``exp(-600)``), and a discrete Gaussian of variance ``v`` is
a continuous one of variance ``v - 4``, rounded at random (Peikert, CRYPTO 2010, Theorem 3.1;
relative error below 1e-33 a number). So a Gaussian's exact accounting holds; the 4 are added.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ..shared.errors import PrivacyError
from .noise import LEAST_DEVIATION, Doubles, NoiseSource, length
from .plan import UserPlan
from .secagg.masks import MASK_KEY_BYTES, Words, add_masks, derive

__all__ = ["WholeNumbers", "hadamard", "rotate", "unrotate"]

_TAILS = 4.5  # standard deviations of a sum that do not wrap round
_PATIENCE = math.exp(-0.5)  # of the roundings, the share that is at most let go
_ROUNDED = 4.0  # variance by which a discrete Gaussian must exceed a continuous one
_TRIES = 100

Integers = npt.NDArray[np.int64]


class WholeNumbers:
    """How contributions to one sum become whole numbers, and their sum an update again.

    Args:
        plan: with secure aggregation.
        width: numbers in a contribution.
        seed: public, of this sum: gives the rotation.
        entry: the shared vector's last, where the norm adapts.

    Raises:
        PrivacyError: the plan's bits are too few for so many devices and numbers.
    """

    def __init__(self, plan: UserPlan, width: int, seed: bytes, entry: float = 0.0) -> None:
        assert plan.makers is not None
        self.bits = plan.secure_sum.bits
        self._units = plan.units_of_noise(width, entry)
        self._longest = plan.reach_in_units
        self._signs = _signs(seed, width)
        noise = 1.0 if plan.private else 0.0
        apart = plan.cohort * self._longest / math.sqrt(width)  # all contributions alike
        spread = math.hypot(apart, noise * math.sqrt(plan.cohort / plan.makers))
        self.scale = 2.0 ** (self.bits - 1) / (_TAILS * spread)
        """Whole numbers a unit of noise."""
        self.reach = _reach(self.scale * self._longest, width)
        """Length of the longest rounded contribution."""
        wanted = (self.reach / self._longest) ** 2 + _ROUNDED if plan.private else 0.0
        self.deviation = math.sqrt(wanted / plan.makers)
        """Standard deviation of one device's noise; 0 where the plan has none."""
        if plan.private and self.deviation < LEAST_DEVIATION:
            raise PrivacyError(
                f"{self.bits} bits are too few for {plan.cohort} devices and {width} numbers: the "
                f"noise of a device would be {self.deviation:.2g} steps wide, at least "
                f"{LEAST_DEVIATION:g} are needed; raise bits"
            )

    def encode(self, contribution: Doubles, noise: NoiseSource) -> Words:
        """What a device puts into the sum.

        Args:
            contribution: sensitive: ``(width,)``, clipped.
            noise: this device's.
        """
        units = contribution / self._units
        units *= min(1.0, self._longest / max(length(units), 1e-300))
        whole = self._rounded(self.scale * rotate(units, self._signs), noise)
        if self.deviation:
            whole += noise.discrete_gaussian(len(whole), self.deviation)
        return (whole % (1 << self.bits)).astype(np.uint16 if self.bits <= 16 else np.uint32)

    def decode(self, total: Words) -> Doubles:
        """The sum of the contributions ``(width,)``, from the sum of what was put in."""
        half = 1 << (self.bits - 1)
        centred = (total.astype(np.int64) + half) % (2 * half) - half
        return unrotate(centred / self.scale, self._signs) * self._units

    def _rounded(self, exact: Doubles, noise: NoiseSource) -> Integers:
        """To a neighbouring whole number each, without bias, until the vector is short enough."""
        below = np.floor(exact)
        above = exact - below
        for _ in range(_TRIES):
            whole = below + (noise.uniform(len(exact)) < above)
            if length(whole) <= self.reach:
                return whole.astype(np.int64)
        return np.trunc(exact).astype(np.int64)  # never longer than what it is made of


def _reach(longest: float, width: int) -> float:
    """How long a vector may be when it is rounded: the paper's bound."""
    likely = (
        longest**2
        + width / 4
        + math.sqrt(2 * math.log(1 / _PATIENCE)) * (longest + math.sqrt(width) / 2)
    )
    return min(longest + math.sqrt(width), math.sqrt(likely))


def rotate(vector: Doubles, signs: Doubles) -> Doubles:
    """Random signs and a Hadamard transform, of the first and then of the last ``2**k`` numbers.

    Together they reach every number, without filling up to a power of two.

    Args:
        vector: ``(width,)``.
        signs: ``(2, 2**k)`` of 1 and -1, where ``2**k`` is the largest that fits in the width.
    """
    size = signs.shape[1]
    turned = vector.copy()
    turned[:size] = hadamard(turned[:size] * signs[0])
    if size < len(turned):
        turned[-size:] = hadamard(turned[-size:] * signs[1])
    return turned


def unrotate(vector: Doubles, signs: Doubles) -> Doubles:
    """The inverse of :func:`rotate`."""
    size = signs.shape[1]
    turned = vector.copy()
    if size < len(turned):
        turned[-size:] = hadamard(turned[-size:]) * signs[1]
    turned[:size] = hadamard(turned[:size]) * signs[0]
    return turned


def hadamard(vector: Doubles) -> Doubles:
    """The orthonormal Walsh-Hadamard transform of ``2**k`` numbers, its own inverse."""
    size, half = len(vector), 1
    turned = vector / math.sqrt(size)
    spare = np.empty_like(turned)
    while half < size:
        pairs, out = turned.reshape(-1, 2, half), spare.reshape(-1, 2, half)
        np.add(pairs[:, 0], pairs[:, 1], out=out[:, 0])
        np.subtract(pairs[:, 0], pairs[:, 1], out=out[:, 1])
        turned, spare = spare, turned
        half *= 2
    return turned


def _signs(seed: bytes, width: int) -> Doubles:
    size = 1 << (width.bit_length() - 1)
    words = np.zeros(-(-2 * size // 16), np.uint16)
    add_masks(words, [(derive(seed, b"rotation", MASK_KEY_BYTES), 1)])
    bits = np.unpackbits(words.view(np.uint8))[: 2 * size]
    signs: Doubles = (1.0 - 2.0 * bits.astype(np.float64)).reshape(2, size)
    return signs
