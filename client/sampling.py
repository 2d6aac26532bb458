"""Choosing the next token from logits, in numpy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..shared.adapters import Array
from ..shared.errors import BadInputError

__all__ = ["Sampling", "choose"]


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How the next token is chosen.

    Args:
        temperature: 0 is greedy; above 0 the logits are divided by it.
        top_p: keep the smallest set of tokens whose probability reaches it (nucleus sampling,
            arXiv:1904.09751).
        repetition_penalty: logits of tokens seen in the last ``repetition_window`` tokens are
            divided (when positive) or multiplied by it (CTRL, arXiv:1909.05858, §4.1).
        repetition_window: how many tokens back the penalty looks.
        seed: of the generator that draws when ``temperature`` is above 0.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    repetition_penalty: float = 1.1
    repetition_window: int = 64
    seed: int = 0

    def __post_init__(self) -> None:
        problems = []
        if not 0 <= self.temperature <= 10:
            problems.append(f"temperature must be 0..10, got {self.temperature}")
        if not 0 < self.top_p <= 1:
            problems.append(f"top_p must be above 0 and at most 1, got {self.top_p}")
        if not 1 <= self.repetition_penalty <= 10:
            problems.append(f"repetition_penalty must be 1..10, got {self.repetition_penalty}")
        if self.repetition_window < 0:
            problems.append(f"repetition_window must not be negative, got {self.repetition_window}")
        if self.seed < 0:
            problems.append(f"seed must not be negative, got {self.seed}")
        if problems:
            raise BadInputError("; ".join(problems))


def choose(logits: Array, history: Sequence[int], how: Sampling, rng: np.random.Generator) -> int:
    """Choose one token.

    Args:
        logits: ``(V,)``.
        history: the tokens before.
    """
    scores = logits.astype(np.float64)
    seen = np.unique(np.array(history[-how.repetition_window :], np.int64))
    if how.repetition_penalty > 1 and how.repetition_window and seen.size:
        old = scores[seen]
        scores[seen] = np.where(old > 0, old / how.repetition_penalty, old * how.repetition_penalty)
    if how.temperature == 0:
        return int(scores.argmax())
    return _draw(scores / how.temperature, how.top_p, rng)


def _draw(
    scores: np.ndarray[tuple[int], np.dtype[np.float64]], top_p: float, rng: np.random.Generator
) -> int:
    order = np.argsort(-scores)
    probabilities = np.exp(scores[order] - scores[order[0]])
    probabilities /= probabilities.sum()
    # The cumulative sum may end just below 1, and then top_p = 1 lies behind the last token.
    kept = min(int(np.searchsorted(np.cumsum(probabilities), top_p)) + 1, len(order))
    nucleus = probabilities[:kept] / probabilities[:kept].sum()
    return int(order[rng.choice(kept, p=nucleus)])
