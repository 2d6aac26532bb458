"""Adaptive clipping: it finds the quantile from afar, and pays for its bits."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from locavore.privacy.accounting import epsilon_of_gaussian
from locavore.privacy.clipping import AdaptiveClip
from locavore.privacy.noise import insecure_seeded_noise
from locavore.shared.errors import BadInputError, PrivacyError

CLIENTS = 200
RULE = AdaptiveClip(initial=1.0, count_noise=CLIENTS / 20)


def norms(round: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Fresh norms whose median is 3."""
    return 3.0 * np.random.default_rng(round).lognormal(0.0, 0.6, CLIENTS)


def path(start: float, rule: AdaptiveClip = RULE, rounds: int = 60, sign: int = 1) -> list[float]:
    """The norm over the rounds, as a sum of noised votes moves the shared entry."""
    noise = insecure_seeded_noise(5)
    entry, clips = math.log(start / rule.initial), [start]
    for round in range(rounds):
        votes = rule.votes(norms(round), clips[-1])
        entry += sign * (votes + rule.vote_noise * float(noise.gaussian(1)[0])) / CLIENTS
        clips.append(rule.norm(entry))
    return clips


@pytest.mark.parametrize("start", [0.3, 3.0, 30.0])
def test_it_finds_the_median_from_ten_times_off_on_either_side(start: float) -> None:
    clips = path(start)
    assert clips[-1] == pytest.approx(3.0, rel=0.05)
    assert np.mean(clips[-10:]) == pytest.approx(3.0, rel=0.05)


@pytest.mark.parametrize("quantile", [0.3, 0.8])
def test_it_finds_other_quantiles(quantile: float) -> None:
    rule = AdaptiveClip(initial=1.0, quantile=quantile, count_noise=CLIENTS / 20)
    true = np.quantile(np.concatenate([norms(round) for round in range(200)]), quantile)
    assert np.mean(path(3.0, rule, 120)[-40:]) == pytest.approx(true, rel=0.05)


@pytest.mark.parametrize("start", [0.3, 30.0])
def test_the_other_sign_runs_away(start: float) -> None:
    """What moves up where too many are below the norm never comes back."""
    assert not 0.1 < path(start, sign=-1)[-1] / 3.0 < 10


def test_what_is_not_finite_counts_as_clipped() -> None:
    assert RULE.votes([math.nan, math.inf], 3.0) == RULE.votes([1e9, 1e9], 3.0) > 0


def test_nobody_came_and_nobody_votes() -> None:
    assert RULE.votes([], 3.0) == 0.0


def test_the_norm_starts_where_it_is_said_and_stays_in_bounds() -> None:
    assert AdaptiveClip(initial=2.5, count_noise=1).norm(0.0) == 2.5
    assert math.isfinite(RULE.norm(1e9))
    assert RULE.norm(-1e9) > 0


@pytest.mark.parametrize("quantile", [0.2, 0.5, 0.9])
def test_one_more_contribution_moves_the_votes_by_no_more_than_is_paid(quantile: float) -> None:
    rule = AdaptiveClip(initial=1.0, quantile=quantile, count_noise=3.0)
    moves = [abs(rule.votes([norm], 1.0)) / rule.rate for norm in (0.5, 2.0)]
    paid = rule.count_noise * math.sqrt(1 - rule.noise_multiplier(1.0) ** -2)
    assert max(moves) == pytest.approx(paid)


@pytest.mark.parametrize("stated", [0.5, 1.0, 2.0])
def test_sum_and_bits_together_cost_what_is_stated(stated: float) -> None:
    """Two Gaussians on one contribution are one in the direction of both shifts."""
    rule = AdaptiveClip(initial=1.0, count_noise=3.0)
    raised = rule.noise_multiplier(stated)
    assert raised > stated
    shifts = np.array([1 / raised, 0.5 / rule.count_noise])
    assert np.linalg.norm(shifts) == pytest.approx(1 / stated)
    together = epsilon_of_gaussian(
        noise_multiplier=1 / float(np.linalg.norm(shifts)), steps=1, delta=1e-5
    )
    alone = epsilon_of_gaussian(noise_multiplier=stated, steps=1, delta=1e-5)
    assert together == pytest.approx(alone)


def test_bits_that_cost_everything_are_refused() -> None:
    with pytest.raises(PrivacyError, match=r"count_noise 0.5 costs more .* must be above 0.5"):
        AdaptiveClip(initial=1.0, count_noise=0.5).noise_multiplier(1.0)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("initial", 0.0),
        ("initial", math.inf),
        ("rate", -1.0),
        ("count_noise", 0.0),
        ("quantile", 0.0),
        ("quantile", 1.0),
        ("quantile", math.nan),
    ],
)
def test_a_bad_rule_is_refused_by_name(name: str, value: float) -> None:
    settings = {"initial": 1.0, "count_noise": 1.0, name: value}
    with pytest.raises(BadInputError, match=f"{name} must be .*got {value}"):
        AdaptiveClip(**settings)
