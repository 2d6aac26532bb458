"""Optimizers of an adapter: torch's own, with a learning rate for each of its matrices.

``B`` may learn faster than ``A`` (LoRA+, arXiv:2402.12354), only one of the two at a time
(RoLoRA alternates by round, arXiv:2409.02346; LA-LoRA by step), or never (FFA-LoRA freezes ``A``:
leave it out of the chain). What is not learning gets no gradient and, in private steps, no noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch

from ...shared.errors import BadInputError
from .cohort import Cohort

__all__ = ["Optimizer", "Stepper"]


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """How parameters move by a gradient.

    Args:
        kind: ``sgd``, ``adam`` or ``adamw``.
        learning_rate: of every matrix but those called ``SITE.B``.
        up_ratio: learning rate of the matrices called ``SITE.B`` over the others'.
        betas: of Adam.
        weight_decay: decoupled for ``adamw``, added to the gradient otherwise.
        alternate: whether ``A`` and ``B`` learn in turns, ``B`` first; ``step`` or ``round``.
        proximal: strength of the pull back to where training began: half of it times the
            squared distance is added to the loss (FedProx, arXiv:1812.06127).
    """

    kind: Literal["sgd", "adam", "adamw"] = "sgd"
    learning_rate: float = 0.05
    up_ratio: float = 1.0
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 0.0
    alternate: Literal["never", "step", "round"] = "never"
    proximal: float = 0.0

    def __post_init__(self) -> None:
        problems = []
        if self.kind not in ("sgd", "adam", "adamw"):
            problems.append(f"kind must be sgd, adam or adamw, got {self.kind!r}")
        if self.alternate not in ("never", "step", "round"):
            problems.append(f"alternate must be never, step or round, got {self.alternate!r}")
        for name in ("learning_rate", "up_ratio"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) > 0):
                problems.append(f"{name} must be above 0, got {getattr(self, name)}")
        if not all(0 <= beta < 1 for beta in self.betas):
            problems.append(f"betas must be 0..1, got {self.betas}")
        for name in ("weight_decay", "proximal"):
            if not (math.isfinite(getattr(self, name)) and getattr(self, name) >= 0):
                problems.append(f"{name} must be at least 0, got {getattr(self, name)}")
        if problems:
            raise BadInputError("; ".join(problems))

    def active(self, cohort: Cohort, *, step: int, round: int) -> frozenset[str]:
        """The slots that learn in step ``step`` (from 0) of round ``round`` (from 1)."""
        ups = frozenset(name for name in cohort.slots if name.endswith(".B"))
        if self.alternate == "never" or not ups or len(ups) == len(cohort.slots):
            return frozenset(cohort.slots)
        turn = step if self.alternate == "step" else round - 1
        return ups if turn % 2 == 0 else frozenset(cohort.slots) - ups


class Stepper:
    """Moves the parameters ``theta (K, dim)`` of a cohort; owners never touch each other."""

    def __init__(self, cohort: Cohort, theta: torch.Tensor, how: Optimizer) -> None:
        self._cohort = cohort
        self._parts = {n: v.detach().clone() for n, v in cohort.unpack(theta).items()}
        self._begin = {n: v.clone() for n, v in self._parts.items()} if how.proximal else {}
        self._proximal = how.proximal
        self._torch = _torch_optimizer(self._parts, how)

    @property
    def values(self) -> Mapping[str, torch.Tensor]:
        """The parameters now, slot name to ``(K, m, n)``; they move with the next step."""
        return self._parts

    @property
    def theta(self) -> torch.Tensor:
        """The parameters now, ``(K, dim)``."""
        return torch.cat([part.flatten(1) for part in self._parts.values()], 1)

    def step(
        self,
        gradient: torch.Tensor | Mapping[str, torch.Tensor],
        *,
        active: frozenset[str],
        pace: torch.Tensor | None = None,
    ) -> None:
        """Take one step.

        Args:
            gradient: ``(K, dim)``, or slot name to ``(K, m, n)``.
            active: slots that move; the others keep their state as well.
            pace: ``(K,)``, what each owner's learning rate is multiplied by; 0 stays.
        """
        before = {n: part.clone() for n, part in self._parts.items()} if pace is not None else {}
        if isinstance(gradient, torch.Tensor):
            gradient = self._cohort.unpack(gradient)
        for name, grad in gradient.items():
            part = self._parts[name]
            if self._proximal:
                grad = grad.to(part) + self._proximal * (part - self._begin[name])
            part.grad = grad.to(part) if name in active else None
        self._torch.step()
        if pace is not None:  # every one of these optimizers moves in proportion to its rate
            for name, part in self._parts.items():
                part.copy_(torch.lerp(before[name], part, pace[:, None, None].to(part)))


def _torch_optimizer(parts: dict[str, torch.Tensor], how: Optimizer) -> torch.optim.Optimizer:
    ups = [part for name, part in parts.items() if name.endswith(".B")]
    others = [part for name, part in parts.items() if not name.endswith(".B")]
    groups = [
        {"params": params, "lr": rate}
        for params, rate in ((others, how.learning_rate), (ups, how.learning_rate * how.up_ratio))
        if params
    ]
    if how.kind == "sgd":
        return torch.optim.SGD(groups, weight_decay=how.weight_decay)
    kind = torch.optim.Adam if how.kind == "adam" else torch.optim.AdamW
    return kind(groups, betas=how.betas, weight_decay=how.weight_decay)
