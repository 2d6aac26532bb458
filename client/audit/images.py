"""An audit of a denoiser's private training, with random images for records.

A record is a sample with the time and the noise at which it is denoised, drawn once: a loss that
draws them anew would give the same record another gradient in every step, and what one record adds
could not be told from that. Training that draws anew is no less private for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch

from ...privacy.plan import RecordPlan
from ...shared.errors import BadInputError
from ..training.cohort import Batch, Cohort
from ..training.objectives.diffusion import drawn
from .records import RecordAudit

__all__ = ["audit_images", "image_batch", "image_records", "random_images"]


def random_images(
    count: int, shape: Sequence[int], generator: torch.Generator, *, coarse: int = 4
) -> torch.Tensor:
    """Input canaries for image models: patches of random colours, ``(count, *shape)`` in -1..1.

    Args:
        count: of images.
        shape: of one, such as ``(channels, height, width)``; the last two are the plane.
        generator: where they come from.
        coarse: patches along either side.
    """
    small = torch.rand(count, *shape[:-2], coarse, coarse, generator=generator) * 2 - 1
    rows, columns = (torch.arange(side) * coarse // side for side in shape[-2:])
    return small[..., rows[:, None], columns[None, :]]


def image_records(
    clean: torch.Tensor, given: Mapping[str, torch.Tensor], generator: torch.Generator
) -> list[Batch]:
    """Records of samples, each a batch of one.

    Args:
        clean: ``(N, ...)`` images or latents.
        given: what the model takes beside them, such as ``encoder_hidden_states (N, T, D)``.
        generator: of times and noise.

    Raises:
        BadInputError: there is not one condition a sample.
    """
    if wrong := [name for name, value in given.items() if len(value) != len(clean)]:
        raise BadInputError(
            f"{wrong[0]} must be of {len(clean)} samples, got {len(given[wrong[0]])}"
        )
    whole = {**drawn(clean, generator), **given}
    return [{name: value[i : i + 1] for name, value in whole.items()} for i in range(len(clean))]


def image_batch(records: Sequence[Batch]) -> Batch:
    """A batch of records."""
    return {name: torch.cat([record[name] for record in records]) for name in records[0]}


def audit_images(
    cohort: Cohort,
    plan: RecordPlan,
    shape: Sequence[int],
    given: Mapping[str, torch.Tensor],
    *,
    records: int = 60,
    canaries: int = 50,
    seed: int = 0,
) -> RecordAudit:
    """The audit of a plan on a denoiser's adapters, with random images for records.

    Args:
        cohort: adapters with a denoising loss, such as
            :class:`~locavore.client.training.objectives.diffusion.Diffusion`.
        plan: with noise.
        shape: of a sample.
        given: conditions of one sample, each ``(1, ...)``; all have the same.
        records: how many.
        canaries: in a round; no more than half the shared numbers are taken.
        seed: of images, times and noise, and of the audit.
    """
    generator = torch.Generator().manual_seed(seed)
    hardest = torch.stack([torch.full(tuple(shape), level) for level in (-1.0, 1.0, 0.0)])
    hardest = torch.cat([hardest, torch.randn(1, *shape, generator=generator)])

    def made(clean: torch.Tensor) -> list[Batch]:
        alike = {name: value.expand(len(clean), *value.shape[1:]) for name, value in given.items()}
        return image_records(clean, alike, generator)

    return RecordAudit(
        cohort=cohort,
        plan=plan,
        collate=image_batch,
        records=made(random_images(records, shape, generator)),
        extremes=made(hardest),
        canaries=min(canaries, cohort.dim // 2),
        rng=np.random.default_rng(seed),
    )
