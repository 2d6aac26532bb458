"""Learning from what a person liked and disliked: DPO and KTO, a sample at a time.

Both compare the adapted model with the frozen one. What the frozen one says is computed once, by
:func:`likelihoods` with no adapter live, and lies in the batch as ``reference``. A probe of the
core needs made-up references: with the true ones every sample's loss is the same at the start.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn.functional import logsigmoid
from transformers import PreTrainedModel

from ....shared.errors import BadInputError
from ..cohort import Batch
from .language import token_batch, token_losses
from .pairs import in_pairs, side_by_side

__all__ = ["DPO", "KTO", "likelihoods", "preference_batch"]


def preference_batch(
    chosen: Sequence[Sequence[int]],
    rejected: Sequence[Sequence[int]],
    start: Sequence[int] = (),
    given: Sequence[int] | None = None,
) -> dict[str, torch.Tensor]:
    """What :class:`DPO` takes, but for ``reference``.

    Args:
        chosen, rejected: token ids, each with its prompt.
        start: see :func:`~.language.token_batch`.
        given: length of each sample's prompt.

    Returns:
        ``ids``, ``mask`` and ``target``, each ``(B, 2, T)``: the chosen text, then the rejected.

    Raises:
        BadInputError: not as many rejected texts as chosen ones.
    """
    if len(chosen) != len(rejected):
        raise BadInputError(
            f"every chosen text needs a rejected one, got {len(chosen)} and {len(rejected)}"
        )
    rows = [row for pair in zip(chosen, rejected, strict=True) for row in pair]
    prompts = None if given is None else [length for length in given for _ in range(2)]
    return in_pairs(token_batch(rows, start, prompts))


def likelihoods(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Log-likelihood (nats) of each text's target tokens: ``(B,)``, or ``(B, 2)`` for pairs."""
    paired = batch["ids"].ndim == 3
    texts = {name: batch[name] for name in ("ids", "mask", "target")}
    found = -token_losses(model, side_by_side(texts) if paired else texts).sum(1)
    return found.view(-1, 2) if paired else found


@dataclass(frozen=True, kw_only=True)
class DPO:
    """``-log sigmoid(beta ((c - c_ref) - (r - r_ref)))`` of log-likelihoods.

    Source: Rafailov et al., arXiv:2305.18290, Equation 7; with ``smoothing`` as if that share of
    the labels were the wrong way round (Mitchell, "cDPO", 2023).

    Args:
        beta: how strongly the model is held to the frozen one.
        smoothing: 0..0.5.
    """

    beta: float = 0.1
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        _require_above_0("beta", self.beta)
        if not 0 <= self.smoothing < 0.5:
            raise BadInputError(f"smoothing must be 0..0.5, got {self.smoothing}")

    def __call__(self, model: PreTrainedModel, batch: Batch) -> torch.Tensor:
        """Losses ``(B,)``; ``batch`` is of :func:`preference_batch`, with ``reference (B, 2)``."""
        chosen, rejected = (likelihoods(model, batch) - batch["reference"]).unbind(1)
        margin = self.beta * (chosen - rejected)
        wrong = self.smoothing
        return -(1 - wrong) * logsigmoid(margin) - wrong * logsigmoid(-margin)


@dataclass(frozen=True, kw_only=True)
class KTO:
    """``weight (1 - sigmoid(beta (r - z)))`` for what was liked, ``weight (1 - sigmoid(beta (z -
    r)))`` for what was disliked, with ``r = log p - log p_ref``.

    Source: Ethayarajh et al., arXiv:2402.01306, Section 4. There the reference point ``z`` is
    estimated from the other samples of the batch, which would couple them; here it is a public
    number, 0 unless the batch has a ``point (B,)``.

    Args:
        beta: how strongly the model is held to the frozen one.
        liked, disliked: weights, for when one kind is rarer.
    """

    beta: float = 0.1
    liked: float = 1.0
    disliked: float = 1.0

    def __post_init__(self) -> None:
        for name in ("beta", "liked", "disliked"):
            _require_above_0(name, getattr(self, name))

    def __call__(self, model: PreTrainedModel, batch: Batch) -> torch.Tensor:
        """Losses ``(B,)``.

        Args:
            model: a causal language model.
            batch: of :func:`~.language.token_batch`, with ``liked (B,)`` and ``reference (B,)``.
        """
        gain = likelihoods(model, batch) - batch["reference"] - batch.get("point", 0.0)
        liked = batch["liked"].bool()
        share = torch.sigmoid(self.beta * torch.where(liked, -gain, gain))
        return share * torch.where(liked, self.liked, self.disliked)


def _require_above_0(name: str, value: float) -> None:
    if not (math.isfinite(value) and value > 0):
        raise BadInputError(f"{name} must be above 0, got {value}")
