"""Server optimizers: how the shared vector moves along the averaged update.

They see the average after it was noised, so whatever they do costs no privacy. Their state is part
of a checkpoint, and a resumed federation goes on bit for bit. There is no bias correction, as in
the source. Source: Reddi et al., arXiv:2003.00295, Algorithm 2; momentum as in Hsu et al.,
arXiv:1909.06335.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from ...privacy.noise import Doubles
from ...shared.errors import BadInputError

__all__ = ["OPTIMIZERS", "OptimizerName", "ServerOptimizer"]

OptimizerName = Literal["fedavg", "fedavgm", "fedadam", "fedyogi"]
OPTIMIZERS: tuple[OptimizerName, ...] = get_args(OptimizerName)
State = Mapping[str, Doubles]


@dataclass(frozen=True, kw_only=True)
class ServerOptimizer:
    """How the server steps.

    Args:
        kind: ``fedavg`` adds the average, ``fedavgm`` its running sum, ``fedadam`` and ``fedyogi``
            scale every number by its own history.
        learning_rate: of the step. For the two that scale, about the change of a number per round.
        momentum: share of the step before, β1 of the two that scale.
        second: β2 of the two that scale.
        floor: τ of the two that scale: smaller averages are not blown up. Of the order of a
            number's update; noise below it is damped, too.
    """

    kind: OptimizerName = "fedavg"
    learning_rate: float = 1.0
    momentum: float = 0.9
    second: float = 0.99
    floor: float = 1e-3

    def __post_init__(self) -> None:
        problems = []
        if self.kind not in OPTIMIZERS:
            names = ", ".join(map(repr, OPTIMIZERS))
            problems.append(f"the server optimizer must be one of {names}, got {self.kind!r}")
        for name in ("learning_rate", "floor"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                problems.append(f"{name} must be above 0, got {getattr(self, name)}")
        for name in ("momentum", "second"):
            if not 0 <= getattr(self, name) < 1:
                problems.append(f"{name} must be 0 or more and below 1, got {getattr(self, name)}")
        if problems:
            raise BadInputError("; ".join(problems))

    def __str__(self) -> str:
        told = (self.learning_rate, self.momentum, self.second, self.floor)
        used = {"fedavg": 1, "fedavgm": 2}.get(self.kind, 4)
        return f"{self.kind}({', '.join(f'{value:g}' for value in told[:used])})"

    @property
    def adaptive(self) -> bool:
        """Whether every number has a step length of its own."""
        return self.kind in ("fedadam", "fedyogi")

    @property
    def plain(self) -> bool:
        """Whether the step is the average itself."""
        return self.kind == "fedavg" and self.learning_rate == 1.0

    def begin(self, dim: int) -> State:
        """The state before the first round."""
        state = {}
        if self.kind != "fedavg":
            state["momentum"] = np.zeros(dim)
        if self.adaptive:
            state["second"] = np.full(dim, self.floor**2)
        return state

    def step(
        self, change: Doubles, state: State, places: npt.NDArray[np.int64]
    ) -> tuple[Doubles, State]:
        """The step ``(n,)`` for an averaged change ``(n,)``, and the state after it.

        Args:
            change: of the numbers at ``places``; the others' state stays as it is.
            state: of all numbers, ``(dim,)`` each.
            places: where the changed numbers lie.
        """
        if self.kind == "fedavg":
            return self.learning_rate * change, state
        after = {name: values.copy() for name, values in state.items()}
        own = 1 - self.momentum if self.adaptive else 1.0
        momentum = self.momentum * after["momentum"][places] + own * change
        after["momentum"][places] = momentum
        if not self.adaptive:
            return self.learning_rate * momentum, after
        before, square = after["second"][places], np.square(change)
        if self.kind == "fedadam":
            second = self.second * before + (1 - self.second) * square
        else:
            second = before - (1 - self.second) * square * np.sign(before - square)
        after["second"][places] = second
        return self.learning_rate * momentum / (np.sqrt(second) + self.floor), after
