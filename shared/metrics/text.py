"""Figures about generated text."""

from __future__ import annotations

import math

from ..errors import BadInputError, MissingExtraError

__all__ = ["perplexity", "rouge_l"]


def rouge_l(prediction: str, reference: str) -> float:
    """ROUGE-L: F1 of the longest common subsequence of words, 0 to 1; no stemming.

    Words are runs of the letters a-z and digits: text in other scripts scores 0.
    Source: Lin, "ROUGE: A Package for Automatic Evaluation of Summaries", 2004, §3.

    Raises:
        MissingExtraError: the package rouge-score is not installed.
    """
    try:
        from rouge_score.rouge_scorer import RougeScorer
    except ImportError as error:
        raise MissingExtraError("simulate", "ROUGE") from error
    scores = RougeScorer(["rougeL"], use_stemmer=False).score(reference, prediction)
    return float(scores["rougeL"].fmeasure)


def perplexity(nll: float) -> float:
    """exp of a mean negative log-likelihood in nats per token; infinite when that overflows.

    Raises:
        BadInputError: ``nll`` is not a number.
    """
    if math.isnan(nll):
        raise BadInputError(f"nll must be a number, got {nll}")
    try:
        return math.exp(nll)
    except OverflowError:
        return math.inf
