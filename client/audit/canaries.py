"""Canaries in private training: records that an audit makes up and looks for afterwards.

A *gradient canary* (white box) is a record whose gradient is whatever the auditor wants; it goes
through the very sampling, clipping, summing and noising that other records go through. An *input
canary* is an ordinary record that no person would write.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
import torch

from ...privacy.noise import Doubles, NoiseSource, SecureNoise, insecure_seeded_noise
from ...shared.errors import BadInputError
from ..training.cohort import Batch, Cohort, Gradients

__all__ = [
    "Canary",
    "CanaryCohort",
    "CountedNoise",
    "PairedNoise",
    "QuietNoise",
    "directions",
    "random_tokens",
    "with_canaries",
]

Record = TypeVar("Record")
_MARK = "canary"


@dataclass(frozen=True)
class Canary:
    """Stands among the records for the gradient of that number."""

    place: int


class CanaryCohort(Cohort):
    """A cohort in whose batches canaries have the gradients that they were given.

    Args:
        cohort: the real one.
        gradients: ``(m, dim)`` float32 by the canary's place. They may be longer than any clipping
            norm, zero, or not finite.
    """

    def __init__(self, cohort: Cohort, gradients: torch.Tensor) -> None:
        if gradients.ndim != 2 or gradients.shape[1] != cohort.dim:
            raise BadInputError(f"canaries must be (m, {cohort.dim}), got {tuple(gradients.shape)}")
        vars(self).update(vars(cohort))
        self._canaries = gradients
        self._inner = cohort

    def gradients(
        self,
        theta: torch.Tensor | Mapping[str, torch.Tensor],
        batch: Batch,
        *,
        per: Literal["sample", "owner"] = "sample",
        weights: torch.Tensor | None = None,
        active: frozenset[str] | None = None,
    ) -> Gradients:
        """As of the real cohort; the model is not asked where there are canaries alone."""
        marks = batch[_MARK]
        rest = {name: value for name, value in batch.items() if name != _MARK}
        if per != "sample":
            raise BadInputError("canaries have gradients per sample, not per owner")
        given = self.unpack(self._canaries[marks.clamp(min=0)])
        if bool((marks >= 0).all()):
            return Gradients(dict(given), torch.zeros(len(marks)))
        found = self._inner.gradients(theta, rest, per=per, weights=weights, active=active)
        there = (marks >= 0)[:, None, None]
        parts = {
            name: torch.where(there.to(part.device), given[name].to(part), part)
            for name, part in found.parts.items()
        }
        return Gradients(parts, found.losses)


def with_canaries(
    collate: Callable[[Sequence[Record]], Batch], filler: Record
) -> Callable[[Sequence[Record | Canary]], dict[str, torch.Tensor]]:
    """A collate function for records among which there are canaries.

    Args:
        collate: that of the records.
        filler: a record that the model sees in the place of a canary.
    """

    def collated(rows: Sequence[Record | Canary]) -> dict[str, torch.Tensor]:
        marks = [row.place if isinstance(row, Canary) else -1 for row in rows]
        seen = [filler if isinstance(row, Canary) else row for row in rows]
        return {**collate(seen), _MARK: torch.tensor(marks)}

    return collated


def directions(
    count: int, dim: int, rng: np.random.Generator, *, orthogonal: bool = True
) -> Doubles:
    """``(count, dim)`` random unit vectors, orthogonal to each other where that is asked for."""
    if orthogonal and count > dim:
        raise BadInputError(f"{count} directions cannot be orthogonal in {dim} numbers")
    drawn = rng.normal(size=(count, dim))
    if orthogonal:
        made: Doubles = np.linalg.qr(drawn.T)[0].T
        return made
    unit: Doubles = drawn / np.linalg.norm(drawn, axis=1, keepdims=True)
    return unit


def random_tokens(
    count: int, length: int, vocabulary: int, rng: np.random.Generator
) -> list[list[int]]:
    """Input canaries for language models: tokens that follow each other by chance."""
    drawn: list[list[int]] = rng.integers(3, vocabulary, (count, length)).tolist()
    return drawn


class PairedNoise(SecureNoise):
    """Noise for neighbours: the same whether a record is there or not, and everybody is sampled.

    The difference of two releases is then what the record itself adds, without any noise.
    """

    def __init__(self, noise: NoiseSource, count: int) -> None:
        self._drawn, self._at = noise.gaussian(count), 0

    def uniform(self, count: int) -> Doubles:
        """Zeros, nearly: below every rate."""
        return np.full(count, 1e-12)

    def gaussian(self, count: int) -> Doubles:
        """The next of what was drawn once; from its start again when it is used up."""
        places = (self._at + np.arange(count)) % len(self._drawn)
        self._at += count
        return self._drawn[places]

    def again(self) -> PairedNoise:
        """The same noise, for the neighbour."""
        twin = PairedNoise.__new__(PairedNoise)
        twin._drawn, twin._at = self._drawn, 0
        return twin


class QuietNoise:
    """No noise, and repeatable coins: for neighbours in a federation, whose difference is exact.

    Args:
        seed: of the uniforms, which round to whole numbers.
    """

    def __init__(self, seed: int) -> None:
        self._coins = insecure_seeded_noise(seed)

    def uniform(self, count: int) -> Doubles:
        """Repeatable."""
        return self._coins.uniform(count)

    def gaussian(self, count: int) -> Doubles:
        """Zeros."""
        return np.zeros(count)

    def discrete_gaussian(self, count: int, deviation: float) -> Any:
        """Zeros."""
        return np.zeros(count, np.int64)


class CountedNoise:
    """Passes another source through and counts how often Gaussians are drawn from it.

    Args:
        noise: the source.
        everybody: whether all are sampled, instead of by the source's uniforms.
    """

    def __init__(self, noise: NoiseSource, *, everybody: bool = False) -> None:
        self._noise, self._everybody = noise, everybody
        self.draws = 0

    def uniform(self, count: int) -> Doubles:
        """The source's, or such that everybody is sampled."""
        return np.full(count, 1e-12) if self._everybody else self._noise.uniform(count)

    def gaussian(self, count: int) -> Doubles:
        """The source's."""
        self.draws += 1
        return self._noise.gaussian(count)

    def discrete_gaussian(self, count: int, deviation: float) -> Any:
        """The source's."""
        self.draws += 1
        return self._noise.discrete_gaussian(count, deviation)
