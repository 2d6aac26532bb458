"""What of a shared form's trained numbers comes with the vector, stays, or leaves in a round.

The training core trains all matrices of a form at once; this stands between it and the vector that
travels. What stays on the device is trained by the same steps, under the same clipping and noise of
a plan for records: a half that stays un-noised would move every record's gradient of the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from ...shared.adapters import Array
from ...shared.errors import BadInputError
from ...shared.forms import SharedForm
from .adapted import AdaptedTwin

__all__ = ["Exchange"]

Places = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Exchange:
    """Between the shared vector of a form and the trained numbers of a cohort.

    Args:
        form: of the shared vector.
        twin: of the base, beside which the form's carried adapter stands.
    """

    form: SharedForm
    twin: AdaptedTwin[Any]

    @cached_property
    def _comes(self) -> Places:
        return self.form.places(self.form.shared)

    @cached_property
    def _stays(self) -> Places:
        return self.form.places(self.form.stays)

    @cached_property
    def _start(self) -> torch.Tensor:
        return torch.from_numpy(self.form.start())

    def opened(self, theta: torch.Tensor, kept: Array | None) -> torch.Tensor:
        """Trained numbers ``(K, trained)`` of vectors ``(K, dim)``.

        Args:
            theta: the vectors.
            kept: what the devices keep, ``(K, kept)``; sensitive.

        Raises:
            BadInputError: the form keeps numbers on the device and they were not given.
        """
        values = self._start.repeat(len(theta), 1)
        values[:, self._comes] += theta[:, : self.form.main]
        if self.form.kept_dim and kept is None:
            raise BadInputError(
                f"the form {self.form.name!r} keeps {self.form.kept_dim} numbers on the device; "
                "say what they are"
            )
        if kept is not None:
            values[:, self._stays] += torch.from_numpy(kept)
        return values

    def closed(self, change: Array, round: int, kept: Array | None) -> Array:
        """What may leave of a change ``(K, trained)``, ``(K, leaves)``; ``kept`` moves in place."""
        if kept is not None:
            kept += change[:, self._stays]
        leaving: Array = change[:, self._comes][:, self.form.leaves(round)]
        return leaving

    @contextmanager
    def beside(self, theta: Array) -> Iterator[None]:
        """The form's carried adapter stands beside the base for the duration of the block."""
        row = np.array(theta, np.float32, ndmin=2)[0]
        carried = self.form.carry(row)
        if carried is None or not any(np.any(b) for _, b in carried.factors.values()):
            yield
            return
        with self.twin.adapted(carried):
            yield
