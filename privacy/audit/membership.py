"""Who was trained on: attacks on losses, and what their scores say. No models.

An attack gives each record a score, higher where it looks more like a member. It may use the losses
of *shadows*: models that the attacker trained alike, on records whose membership it knows.

- :func:`lira_online`, :func:`lira_offline`: Carlini et al., "Membership Inference Attacks From
  First Principles", arXiv:2112.03570, Sections 4 and 5.
- :func:`rmia`: Zarifzadeh, Liu, Shokri, "Low-Cost High-Power Membership Inference Attacks",
  arXiv:2312.03262, Section 3.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...shared.errors import BadInputError
from ..noise import Doubles
from .evidence import Scores, require_levels
from .findings import Finding
from .many_runs import rates_interval

__all__ = [
    "Losses",
    "RateAt",
    "area",
    "chance_finding",
    "lira_offline",
    "lira_online",
    "rate_at",
    "rmia",
    "roc",
]

Bools = npt.NDArray[np.bool_]

_OWN_SPREAD = 32  # shadows on a side from which a record's own deviation is taken (Section 5.3)
_CLOSE = 1e-6  # losses below are as good as nothing


@dataclass(frozen=True, eq=False, kw_only=True)
class Losses:
    """What an attacker sees of one model, and of the shadows.

    Args:
        seen: ``(n,)`` mean losses in nats of the candidates under the attacked model.
        shadows: ``(S, n)`` under each shadow.
        there: ``(S, n)`` whether the shadow was trained on the candidate.
        seen_public: ``(p,)`` of public records, which nobody was trained on.
        shadows_public: ``(S, p)`` of these.

    Raises:
        BadInputError: shapes that do not fit, or a candidate without two shadows on either side.
    """

    seen: Doubles
    shadows: Doubles
    there: Bools
    seen_public: Doubles
    shadows_public: Doubles

    def __post_init__(self) -> None:
        shape = (len(self.shadows), len(self.seen))
        public = (len(self.shadows), len(self.seen_public))
        if self.shadows.shape != shape or self.there.shape != shape:
            raise BadInputError(
                f"losses and membership of shadows must be {shape}, got {self.shadows.shape} and "
                f"{self.there.shape}"
            )
        if self.shadows_public.shape != public or not public[1]:
            raise BadInputError(f"public losses must be {public}, got {self.shadows_public.shape}")
        fewest = min(int(self.there.sum(0).min()), int((~self.there).sum(0).min()))
        if fewest < 2:
            raise BadInputError(
                f"a candidate is in, or out of, only {fewest} of {shape[0]} shadows; it must be 2 "
                "at least"
            )


def lira_online(losses: Losses) -> Doubles:
    """Likelihood ratio of the logit-scaled confidence, in against out, ``(n,)``; Equation 3."""
    seen, shadows = _logits(losses.seen), _logits(losses.shadows)
    inside = _log_density(seen, *_normal(shadows, losses.there))
    outside = _log_density(seen, *_normal(shadows, ~losses.there))
    ratio: Doubles = inside - outside
    return ratio


def lira_offline(losses: Losses) -> Doubles:
    """Deviations above what shadows without the candidate give, ``(n,)``; Equation 4.

    The paper's score is the normal distribution's function of this, which has the same order.
    """
    mean, spread = _normal(_logits(losses.shadows), ~losses.there)
    above: Doubles = (_logits(losses.seen) - mean) / spread
    return above


def rmia(losses: Losses, *, gamma: float = 1.0) -> Doubles:
    """Share of public records that the candidate beats by ``gamma``, ``(n,)``; Equation 2.

    A record's own probability is the mean over shadows with and without it (online). Probabilities
    are per token, ``exp(-loss)``. Where all are beaten, ties are broken by the candidate's ratio.
    """
    probabilities = np.exp(-losses.shadows)
    alone = [_mean_where(probabilities, side) for side in (losses.there, ~losses.there)]
    ratio = np.exp(-losses.seen) / ((alone[0] + alone[1]) / 2)
    public = np.exp(-losses.seen_public) / np.exp(-losses.shadows_public).mean(0)
    beaten = (ratio[:, None] >= gamma * public[None]).mean(1)
    order: Doubles = beaten + 1e-9 * np.tanh(ratio)
    return order


def roc(scores: Scores, points: int = 200) -> tuple[list[float], list[float]]:
    """False and true positive rates from (0, 0) to (1, 1), at ``points`` thresholds at most."""
    cuts = np.unique(np.concatenate([scores.included, scores.excluded]))[::-1]
    if len(cuts) > points:
        cuts = cuts[np.linspace(0, len(cuts) - 1, points).astype(int)]
    rates = [
        [0.0, *(float((side >= cut).mean()) for cut in cuts)]
        for side in (scores.excluded, scores.included)
    ]
    return rates[0], rates[1]


def area(scores: Scores) -> float:
    """Area under the ROC: a member's chance to score above another; ties count half."""
    away = np.sort(scores.excluded)
    below = np.searchsorted(away, scores.included, "left")
    up_to = np.searchsorted(away, scores.included, "right")
    return float((below + up_to).mean() / 2 / len(away))


@dataclass(frozen=True, kw_only=True)
class RateAt:
    """True positives at a false positive rate.

    Args:
        false_positives: at most this rate.
        rate: of members found.
        low, high: Clopper and Pearson's interval of it, for the threshold as it is.
        members, others: that it was counted from.
    """

    false_positives: float
    rate: float
    low: float
    high: float
    members: int
    others: int

    def __str__(self) -> str:
        return (
            f"{100 * self.rate:.1f} % ({100 * self.low:.1f} to {100 * self.high:.1f}) of "
            f"{self.members} members"
        )


def rate_at(scores: Scores, false_positives: float, *, confidence: float = 0.95) -> RateAt | None:
    """True positives at a false positive rate; None where too few others can show that rate.

    The threshold is taken from these very scores, as is the custom for such rates: they describe
    the scores. What is held against a claim is :func:`chance_finding`.
    """
    require_levels(0.0, confidence)
    others, members = len(scores.excluded), len(scores.included)
    if others * false_positives < 1:
        return None
    hits = int((scores.included > _threshold(scores, false_positives)).sum())
    low, _ = rates_interval(hits, members, 0, 1, confidence)
    _, high = rates_interval(0, 1, hits, members, confidence)
    return RateAt(
        false_positives=false_positives,
        rate=hits / members,
        low=float(low),
        high=float(high),
        members=members,
        others=others,
    )


def chance_finding(
    scores: Scores,
    *,
    audit: str,
    observer: str,
    rng: np.random.Generator,
    false_positives: float = 0.01,
    confidence: float = 0.95,
) -> Finding:
    """Can members be told from others better than by chance? One half chooses the threshold.

    Chance finds as many members as it raises false alarms. The claim is refuted where, on the other
    half, the least rate of members found is above the greatest rate of false alarms.

    Args:
        scores: whose membership was decided by coins.
        observer: who would tell them apart, such as ``an observer of the adapter``.
        rng: cuts the halves.
        false_positives: that the threshold aims at.
        confidence: that a true claim is not refuted.
    """
    require_levels(0.0, confidence)
    trial, counted = scores.split(rng)
    at = _threshold(trial, false_positives)
    hits, alarms = int((counted.included > at).sum()), int((counted.excluded > at).sum())
    members, others = len(counted.included), len(counted.excluded)
    least, most = rates_interval(hits, members, alarms, others, confidence)
    return Finding(
        audit=audit,
        claim=f"{observer} finds members no better than by chance at {100 * false_positives:g} % "
        "false alarms",
        found=f"{hits} of {members} members and {alarms} of {others} others "
        f"(at least {100 * float(least):.1f} % against at most {100 * float(most):.1f} %; "
        f"AUC {area(scores):.3f})",
        holds=bool(least <= most),
    )


def _threshold(scores: Scores, false_positives: float) -> float:
    """Above it lie at most that share of the others."""
    away = np.sort(scores.excluded)[::-1]
    return float(away[int(false_positives * len(away) + 1e-9)])


def _logits(losses: Doubles) -> Doubles:
    """``log(p / (1 - p))`` of ``p = exp(-loss)``; nearly normal (Section 4.2)."""
    kept = np.maximum(losses, _CLOSE)
    scaled: Doubles = -kept - np.log(-np.expm1(-kept))
    return scaled


def _normal(values: Doubles, where: Bools) -> tuple[Doubles, Doubles]:
    """Mean and deviation over shadows, ``(n,)`` each; a common deviation where shadows are few."""
    count = where.sum(0)
    mean = _mean_where(values, where)
    squares = (np.square(values - mean) * where).sum(0)
    own = squares / (count - 1)
    if count.min() < _OWN_SPREAD:
        own = np.full_like(mean, squares.sum() / (count - 1).sum())
    return mean, np.sqrt(own) + 1e-12


def _mean_where(values: Doubles, where: Bools) -> Doubles:
    found: Doubles = (values * where).sum(0) / where.sum(0)
    return found


def _log_density(x: Doubles, mean: Doubles, spread: Doubles) -> Doubles:
    found: Doubles = -np.square((x - mean) / spread) / 2 - np.log(spread)
    return found
