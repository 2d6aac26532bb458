"""One round's aggregation: from the devices' updates to the next shared vector.

Rules:

1. Every device weighs the same: sample counts would tell about it and break the sensitivity.
2. The result is the same, bit for bit, in any order of the updates.
3. A device with fewer directions is sent a prefix of every matrix and answers with that; the rest
   of its update counts as zero, and the divisor stays.
4. What is not averaged in a round does not move.
5. Where the clipping norm adapts, the vector's last entry stands for it and takes the plain mean:
   neither a robust mean nor a server optimizer touches it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ...privacy.noise import Doubles
from ...shared.adapters import Array
from ...shared.forms import SharedForm
from .optimizers import ServerOptimizer, State
from .policies import POLICIES, Policy
from .products import Upload
from .robust import RobustMean

__all__ = ["Aggregation", "Upload"]

Places = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Aggregation:
    """How a federation's updates become its next vector.

    Args:
        policy: what is shared and how it is combined.
        form: of the vector, see :meth:`Policy.over`. None: a bare vector, all of whose numbers
            travel up and are averaged, whatever they mean.
        optimizer: how the server steps along an average.
        robust: what takes the place of the mean; None: nothing does.
        ranks: directions of the devices that have fewer than the form, by node, as they were
            declared when a device was enrolled.
    """

    policy: Policy = POLICIES["core"]
    form: SharedForm | None = None
    optimizer: ServerOptimizer = field(default_factory=ServerOptimizer)
    robust: RobustMean | None = None
    ranks: Mapping[int, int] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What beyond the form decides a federation's path; empty for a plain mean."""
        parts = [] if self.optimizer.plain else [str(self.optimizer)]
        parts += [] if self.robust is None else [str(self.robust)]
        return "".join(f" {part}" for part in parts)

    @property
    def sums(self) -> bool:
        """Whether it needs the sum of the updates and nothing else."""
        return self.policy.linear and self.robust is None

    # --- what travels -------------------------------------------------------------------------

    def rank(self, node: int) -> int:
        """Directions of a node's device; 0 where there is no form."""
        return 0 if self.form is None else self.ranks.get(node, self.form.rank)

    def sent(self, theta: Array, node: int) -> Array:
        """What of the vector ``(width,)`` a node is sent."""
        if self.form is None or self.rank(node) == self.form.rank:
            return theta
        entry = np.arange(self.form.dim, theta.size)
        sent: Array = theta[np.concatenate([self.form.prefix(self.rank(node)), entry])]
        return sent

    def up(self, round: int, width: int, node: int | None = None) -> int:
        """Length of a node's answer; of the whole one where no node is named."""
        if self.form is None:
            return width
        form = self.form if node is None else _limited(self.form, self.rank(node))
        return len(form.leaves(round)) + width - self.form.dim

    # --- what becomes of it -------------------------------------------------------------------

    def total(self, theta: Array, uploads: Sequence[Upload], round: int) -> Doubles:
        """Sum of the updates, as long as a whole answer."""
        total = np.zeros(self.up(round, theta.size), np.float64)
        for row in self._rows(theta, uploads, round):
            total += row
        return total

    def average(self, theta: Array, uploads: Sequence[Upload], round: int) -> Doubles:
        """Average of the updates, as long as a whole answer; a robust one where it is asked."""
        mean = self.total(theta, uploads, round) / len(uploads)
        if self.robust is not None:
            trained = self._trained(theta, round)
            rows = np.asarray(self._rows(theta, uploads, round), np.float64)
            mean[:trained] = self.robust.of(rows[:, :trained])
        return mean

    def stepped(
        self, theta: Array, change: Doubles, round: int, state: State
    ) -> tuple[Array, State]:
        """The next vector from an averaged change, and the optimizer's state after it."""
        if self.form is None:
            places = np.arange(theta.size)
            step, after = self.optimizer.step(change, state or self.begin(theta.size), places)
            return _moved(theta, step), after
        trained = self._trained(theta, round)
        places = self.form.leaves(round)
        step, after = self.optimizer.step(change[:trained], state or self.begin(theta.size), places)
        moved = np.zeros(theta.size)
        moved[places] = step
        moved[self.form.dim :] = change[trained:]
        return _moved(theta, moved), after

    def combined(self, theta: Array, uploads: Sequence[Upload], round: int) -> Array:
        """The next vector of a policy that is no mean of vectors."""
        assert self.form is not None
        assert self.policy.combine is not None
        entries = theta.size - self.form.dim
        change = self.total(theta, uploads, round) / len(uploads)
        cut = [Upload(u.change[: u.change.size - entries], u.rank) for u in uploads]
        trained = self.policy.combine(self.form, theta[: self.form.dim], cut)
        tail = _moved(theta[self.form.dim :], change[change.size - entries :])
        return np.concatenate([trained, tail])

    def begin(self, width: int) -> State:
        """The optimizer's state before the first round."""
        return self.optimizer.begin(width if self.form is None else self.form.dim)

    def _trained(self, theta: Array, round: int) -> int:
        """Numbers of a whole answer that are trained."""
        entries = 0 if self.form is None else theta.size - self.form.dim
        return self.up(round, theta.size) - entries

    def _rows(self, theta: Array, uploads: Sequence[Upload], round: int) -> list[Array]:
        """Every update as long as a whole answer, in an order that their own bytes give."""
        rows = [upload.change for upload in uploads]
        if self.form is not None:
            leaves, entries = self.form.leaves(round), theta.size - self.form.dim
            smaller = {upload.rank for upload in uploads} - {self.form.rank}
            held = {rank: np.isin(leaves, self.form.prefix(rank)) for rank in smaller}
            rows = [_padded(u.change, held.get(u.rank), entries) for u in uploads]
        return sorted(rows, key=lambda row: row.tobytes())


def _padded(change: Array, held: npt.NDArray[np.bool_] | None, entries: int) -> Array:
    """A smaller device's update, with zeros where it holds nothing."""
    if held is None:
        return change
    row = np.zeros(len(held) + entries, np.float32)
    row[: len(held)][held] = change[: change.size - entries]
    row[len(held) :] = change[change.size - entries :]
    return row


def _moved(theta: Array, change: Doubles) -> Array:
    with np.errstate(over="ignore"):  # the caller refuses what is not finite
        return (theta + change).astype(np.float32)


def _limited(form: SharedForm, rank: int) -> SharedForm:
    return form if rank == form.rank else form.limited(rank)
