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


def path(start: float, rule: AdaptiveClip = RULE, rounds: int = 60) -> list[float]:
    noise = insecure_seeded_noise(5)
    clips = [start]
    for round in range(rounds):
        clips.append(rule.after(clips[-1], norms(round), CLIENTS, noise))
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
    clip, noise = start, insecure_seeded_noise(5)
    for round in range(60):
        clip = clip**2 / RULE.after(clip, norms(round), CLIENTS, noise)
    assert not 0.1 < clip / 3.0 < 10


def test_the_bits_noise_is_there() -> None:
    one, two = (RULE.after(3.0, norms(0), CLIENTS, insecure_seeded_noise(s)) for s in (1, 2))
    assert one != two
    drawn = [
        math.log(RULE.after(3.0, norms(0), CLIENTS, insecure_seeded_noise(s))) for s in range(400)
    ]
    assert np.std(drawn) == pytest.approx(RULE.rate * RULE.count_noise / CLIENTS, rel=0.1)


def test_what_is_not_finite_counts_as_clipped() -> None:
    bad = np.full(CLIENTS, np.nan)
    large = np.full(CLIENTS, 1e9)
    assert RULE.after(3.0, bad, CLIENTS, insecure_seeded_noise(1)) == RULE.after(
        3.0, large, CLIENTS, insecure_seeded_noise(1)
    )


def test_nobody_came_and_the_norm_stays_but_for_the_noise() -> None:
    found = RULE.after(3.0, [], CLIENTS, insecure_seeded_noise(1))
    assert found == pytest.approx(3.0, rel=0.05)


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
