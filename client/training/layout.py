"""Which rows of a layer's input belong to which sample of the batch.

A text layer sees ``(B, T, d)``, but OPT flattens to ``(B T, d)``, a video model folds frames
into the first axis, and a time embedding has one row a sample. Taking the first axis for the
samples clips frames or tokens instead of people, without an error. So the layout is found by a
probe (:mod:`.probe`) and every site's rows are cut by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ...shared.errors import TrainingError

__all__ = ["BLOCKED", "Layout", "Rows"]


@dataclass(frozen=True)
class Layout:
    """Rows lie as ``(outer, samples, inner)``; ``outer`` is 1 where samples come first.

    ``inner`` follows from the number of rows. A layout with both above 1 holds for samples of
    the probed shape only, so ``per_sample`` keeps how many rows a sample had.
    """

    outer: int
    per_sample: int

    @property
    def blocked(self) -> bool:
        """Each sample's rows are contiguous."""
        return self.outer == 1

    def outer_of(self, per_sample: int) -> int:
        """``outer`` for samples of ``per_sample`` rows.

        Raises:
            TrainingError: the layout is not known for such samples.
        """
        if self.outer == 1 or self.outer == self.per_sample:  # samples first, or samples last
            return 1 if self.outer == 1 else per_sample
        if per_sample != self.per_sample:
            raise TrainingError(
                f"rows interleave with samples of {self.per_sample} rows; probe again for "
                f"samples of {per_sample}"
            )
        return self.outer


BLOCKED = Layout(1, 1)


@dataclass(frozen=True)
class Rows:
    """How the rows of a site in one batch are cut.

    Args:
        layout: of the site.
        samples: in the batch, owner-major.
        groups: how many gradients are kept: ``samples``, or the number of owners.
    """

    layout: Layout
    samples: int
    groups: int

    def split(self, x: torch.Tensor, parts: int) -> torch.Tensor:
        """``(..., d)`` to ``(parts, rows, d)``: consecutive samples in each part."""
        return self.split_first(x.reshape(-1, x.shape[-1]), parts)

    def join(self, x: torch.Tensor, leading: Sequence[int]) -> torch.Tensor:
        """Undo :meth:`split`: ``(parts, rows, d)`` to ``(*leading, d)``."""
        return self.join_first(x).reshape(*leading, x.shape[-1])

    def split_first(self, x: torch.Tensor, parts: int) -> torch.Tensor:
        """``(N, ...)`` to ``(parts, N / parts, ...)``."""
        if self.layout.blocked:
            return x.reshape(parts, -1, *x.shape[1:])
        outer = self._outer(len(x))
        cut = x.reshape(outer, self.samples, -1, *x.shape[1:]).transpose(0, 1)
        return cut.reshape(parts, -1, *x.shape[1:])

    def join_first(self, x: torch.Tensor) -> torch.Tensor:
        """Undo :meth:`split_first`."""
        if self.layout.blocked:
            return x.flatten(0, 1)
        outer = self._outer(x.shape[0] * x.shape[1])
        cut = x.reshape(self.samples, outer, -1, *x.shape[2:]).transpose(0, 1)
        return cut.flatten(0, 2)

    def require(self, count: int, site: str) -> None:
        """Refuse rows that do not divide among the samples.

        Raises:
            TrainingError: naming the site.
        """
        if count == 0 or count % self.samples:
            raise TrainingError(
                f"site {site!r} has {count} rows for {self.samples} samples; its rows do not "
                "belong to samples in equal parts"
            )

    def _outer(self, count: int) -> int:
        return self.layout.outer_of(count // self.samples)
