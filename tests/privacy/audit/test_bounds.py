"""Auditors: bounds grow with evidence, hold as often as they say, and refuse what says nothing."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, norm

from locavore.privacy.accounting import epsilon_of_gaussian
from locavore.privacy.audit import (
    Estimate,
    LowerBound,
    Scores,
    cosine_bound,
    cosine_estimate,
    epsilon_of_mu,
    epsilon_of_two_gaussians,
    gaussian_bound,
    gaussian_estimate,
    guesses_for,
    guesses_for_gaussian,
    mu_of_epsilon,
    one_run_bound,
    one_run_gaussian_bound,
    rates_bound,
    reference_bound,
    threshold_bound,
)
from locavore.privacy.audit.one_run import (
    one_run_epsilon,
    one_run_gaussian_epsilon,
    one_run_reach,
    right_guesses,
)
from locavore.shared.errors import BadInputError

DELTA = 1e-5


def drawn(rng: np.random.Generator, canaries: int, mu: float) -> Scores:
    there = rng.random(canaries) < 0.5
    there[:2] = True, False
    return Scores.of(mu * there + rng.normal(size=canaries), there)


def by_guesses(scores: Scores, rng: np.random.Generator, confidence: float) -> LowerBound:
    guesses = guesses_for(4.0, len(scores), delta=DELTA)
    return one_run_bound(scores, guesses=guesses, delta=DELTA, confidence=confidence)


def by_trade_off(scores: Scores, rng: np.random.Generator, confidence: float) -> LowerBound:
    guesses = guesses_for_gaussian(4.0, len(scores), delta=DELTA)
    return one_run_gaussian_bound(scores, guesses=guesses, delta=DELTA, confidence=confidence)


def by_rates(scores: Scores, rng: np.random.Generator, confidence: float) -> LowerBound:
    return threshold_bound(scores, delta=DELTA, rng=rng, confidence=confidence)


def by_gaussian_rates(scores: Scores, rng: np.random.Generator, confidence: float) -> LowerBound:
    return threshold_bound(scores, delta=DELTA, rng=rng, confidence=confidence, family="gaussian")


def by_groups(scores: Scores, rng: np.random.Generator, confidence: float) -> LowerBound:
    return gaussian_bound(scores, delta=DELTA, confidence=confidence)


def by_reference(scores: Scores, rng: np.random.Generator, confidence: float) -> LowerBound:
    return reference_bound(scores.included, scores.excluded, delta=DELTA, confidence=confidence)


Auditor = Callable[[Scores, np.random.Generator, float], LowerBound]
AUDITORS: list[Auditor] = [
    by_guesses,
    by_trade_off,
    by_rates,
    by_gaussian_rates,
    by_groups,
    by_reference,
]


@pytest.mark.parametrize("auditor", AUDITORS)
@pytest.mark.parametrize("epsilon", [0.5, 4.0])
@pytest.mark.parametrize("confidence", [0.8, 0.95])
def test_a_bound_is_right_as_often_as_it_says(
    auditor: Auditor, epsilon: float, confidence: float
) -> None:
    """150 audits; a true bound fails this test once in a million machines."""
    mu, rng = mu_of_epsilon(epsilon, DELTA), np.random.default_rng(5)
    wrong = sum(auditor(drawn(rng, 200, mu), rng, confidence).refutes(epsilon) for _ in range(150))
    assert wrong <= binom.isf(1e-6, 150, 1 - confidence)


@pytest.mark.parametrize("auditor", AUDITORS)
def test_more_confidence_says_less_and_clearer_scores_say_more(auditor: Auditor) -> None:
    scores = drawn(np.random.default_rng(1), 2000, 2.0)
    clearer = Scores(scores.included + 2, scores.excluded)

    def bound(of: Scores, confidence: float) -> float:
        return auditor(of, np.random.default_rng(2), confidence).epsilon

    assert 0 < bound(scores, 0.99) < bound(scores, 0.9)
    assert bound(clearer, 0.9) > bound(scores, 0.9)


@pytest.mark.parametrize("auditor", AUDITORS)
def test_scores_that_say_nothing_bound_nothing(auditor: Auditor) -> None:
    scores = drawn(np.random.default_rng(3), 500, 0.0)
    wrong_way = Scores(scores.included - 1, scores.excluded)
    assert auditor(wrong_way, np.random.default_rng(4), 0.95).epsilon == 0.0


@given(st.integers(2, 400), st.data())
def test_one_more_right_guess_never_lowers_a_bound(guesses: int, data: st.DataObject) -> None:
    canaries = guesses + data.draw(st.integers(0, 600))
    right = data.draw(st.integers(0, guesses - 1))
    for epsilon in (one_run_epsilon, one_run_gaussian_epsilon):
        less = epsilon(canaries, guesses, right, DELTA, 0.95)
        assert 0 <= less <= epsilon(canaries, guesses, right + 1, DELTA, 0.95) + 1e-6


@given(st.integers(1, 300), st.integers(1, 300), st.data())
@settings(max_examples=50)
def test_rates_are_monotone(included: int, excluded: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, included - 1))
    alarms = data.draw(st.integers(1, excluded))

    def bound(hit: int, alarm: int) -> float:
        return rates_bound(hit, included, alarm, excluded, delta=DELTA, family="gaussian").epsilon

    assert bound(hits + 1, alarms) >= bound(hits, alarms) - 1e-9
    assert bound(hits, alarms - 1) >= bound(hits, alarms) - 1e-9


def test_one_run_without_delta_is_a_binomial() -> None:
    """Theorem 5.1: the ε at which so many right guesses are as likely as 5 %."""
    found = one_run_epsilon(1000, 100, 90, 0.0, 0.95)
    assert binom.sf(89, 100, 1 / (1 + math.exp(-found))) == pytest.approx(0.05, abs=1e-5)
    assert one_run_epsilon(1000, 100, 90, 1e-3, 0.95) < found


def test_what_guesses_could_show_at_most_is_said_against_the_claim() -> None:
    # ten right ones of ten at 95 %: e^ε / (1 + e^ε) = 0.05 ** 0.1, so ε = 1.0516
    said = one_run_reach(1.0, 20, guesses=10, delta=0.0)
    assert "at least 1.05; the claim that was tested is 1.00." in said
    assert said.startswith("Had all 10 guesses at 20 coins been right")
    assert one_run_reach(1.1, 20, guesses=10, delta=0.0).endswith("could not have refuted it.")


@pytest.mark.parametrize(("guesses", "right"), [(60, 58), (300, 220), (1000, 700)])
def test_the_trade_offs_recursion_written_out(guesses: int, right: int) -> None:
    """Algorithm 1 of Mahloujifar et al. as it stands, with all of its sequence."""
    canaries, wrong = 1000, 0.05

    def refuted(mu: float) -> bool:
        r, h = np.zeros(right + 1), np.zeros(right + 1)
        r[right], h[right] = wrong * right / canaries, wrong * (guesses - right) / canaries
        for i in range(right - 1, -1, -1):
            h[i] = max(h[i + 1], norm.cdf(norm.ppf(min(r[i + 1], 1.0)) - mu))
            r[i] = r[i + 1] + i / (guesses - i) * (h[i] - h[i + 1])
        return bool(r[0] + h[0] >= guesses / canaries)

    found = one_run_gaussian_epsilon(canaries, guesses, right, DELTA, 1 - wrong)
    assert refuted(mu_of_epsilon(found - 1e-3, DELTA))
    assert not refuted(mu_of_epsilon(found + 1e-3, DELTA))


def test_rates_equal_clopper_and_pearsons() -> None:
    """90 of 100 and 5 of 100 at 95 %: SciPy's exact intervals at 2.5 % on either side."""
    least = binom.sf(89, 100, np.linspace(0, 1, 100_001)) > 0.025
    most = binom.cdf(5, 100, np.linspace(0, 1, 100_001)) > 0.025
    tpr, fpr = np.argmax(least) / 1e5, 1 - np.argmax(most[::-1]) / 1e5
    found = rates_bound(90, 100, 5, 100, delta=DELTA).epsilon
    assert found == pytest.approx(math.log((tpr - DELTA) / fpr), abs=1e-3)
    gaussian = rates_bound(90, 100, 5, 100, delta=DELTA, family="gaussian").epsilon
    assert gaussian == pytest.approx(epsilon_of_mu(norm.ppf(tpr) - norm.ppf(fpr), DELTA), abs=1e-2)


def test_ties_count_against_the_auditor() -> None:
    same = Scores(np.ones(50), np.ones(50))
    assert right_guesses(same, 20) == 0
    assert one_run_bound(same, guesses=20, delta=DELTA).epsilon == 0.0


@given(st.floats(0.05, 10), st.sampled_from([1e-7, 1e-5, 1e-2]))
def test_mu_and_epsilon_are_inverse(epsilon: float, delta: float) -> None:
    assert epsilon_of_mu(mu_of_epsilon(epsilon, delta), delta) == pytest.approx(epsilon, abs=1e-6)


@given(st.floats(0.05, 6))
def test_two_gaussians_of_one_deviation_are_a_gaussian_mechanism(mu: float) -> None:
    found = epsilon_of_two_gaussians((0.0, 2.0), (2.0 * mu, 2.0), delta=DELTA)
    exact = epsilon_of_gaussian(noise_multiplier=1 / mu, steps=1, delta=DELTA)
    assert found == pytest.approx(exact, abs=1e-6)


@given(st.floats(-2, 2), st.floats(0.5, 2), st.floats(0.0, 3.0))
@settings(max_examples=40)
def test_two_gaussians_against_an_integral(mean: float, deviation: float, epsilon: float) -> None:
    from locavore.privacy.audit.gaussian import _apart

    grid = np.linspace(-30, 30, 60_001)
    p, q = norm.pdf(grid), norm.pdf(grid, mean, deviation)
    for (a, b), (one, two) in {
        (p.tobytes(), q.tobytes()): ((0.0, 1.0), (mean, deviation)),
        (q.tobytes(), p.tobytes()): ((mean, deviation), (0.0, 1.0)),
    }.items():
        first, second = np.frombuffer(a), np.frombuffer(b)
        exact = np.maximum(first - math.exp(epsilon) * second, 0).sum() * (grid[1] - grid[0])
        assert _apart(one, two, epsilon) == pytest.approx(exact, abs=1e-5)


def test_canary_devices_find_the_exact_epsilon() -> None:
    """Andrew et al.: unit directions in a million numbers, summed with noise."""
    rng, dim, sigma, count = np.random.default_rng(0), 20_000, 0.5, 300
    canaries = rng.normal(size=(count, dim))
    canaries /= np.linalg.norm(canaries, axis=1, keepdims=True)
    change = canaries.sum(0) + sigma * math.sqrt(count) / math.sqrt(count) * rng.normal(size=dim)
    cosines = canaries @ change / np.linalg.norm(change)
    exact = epsilon_of_gaussian(noise_multiplier=sigma, steps=1, delta=DELTA)
    estimate = cosine_estimate(cosines, dim, delta=DELTA)
    bound = cosine_bound(cosines, dim, delta=DELTA)
    assert estimate.value == pytest.approx(exact, rel=0.25)
    assert 0.6 * exact < bound.epsilon <= exact


def test_canary_devices_are_right_as_often_as_they_say() -> None:
    """Directions are orthogonal: what the null's closed form holds less well for."""
    rng, dim, count = np.random.default_rng(8), 400, 40
    mu, wrong = mu_of_epsilon(2.0, DELTA), 0
    for _ in range(150):
        noise = rng.normal(size=dim)
        change = noise + mu * (np.arange(dim) < count)  # the canaries are the first axes
        cosines = change[:count] / np.linalg.norm(change)
        wrong += cosine_bound(cosines, dim, delta=DELTA).refutes(2.0)
    assert wrong <= binom.isf(1e-6, 150, 0.05)


def test_an_estimate_can_never_be_shown_as_a_bound() -> None:
    scores = drawn(np.random.default_rng(0), 500, 1.0)
    bound = gaussian_bound(scores, delta=DELTA)
    estimate = gaussian_estimate(scores, delta=DELTA)
    assert str(bound).startswith("ε ≥ ")
    assert "95 % confidence" in str(bound)
    assert "≥" not in str(estimate)
    assert "no bound" in str(estimate)
    assert not isinstance(estimate, LowerBound)
    assert not isinstance(bound, Estimate)
    assert not hasattr(estimate, "epsilon")
    assert not hasattr(estimate, "__float__")
    with pytest.raises(TypeError):
        f"{estimate:.2f}"


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda: Scores(np.ones(0), np.ones(3)), "included scores must be"),
        (lambda: Scores(np.ones(3), np.array([np.nan])), "excluded scores must be finite"),
        (lambda: Scores.of(np.ones(3), np.ones(2, bool)), "as many scores as canaries"),
        (lambda: Scores(np.ones(1), np.ones(4)).split(np.random.default_rng()), "at least two"),
        (lambda: gaussian_bound(Scores(np.ones(1), np.zeros(1)), delta=DELTA), "three canaries"),
        (lambda: gaussian_bound(Scores(np.ones(5), np.zeros(5)), delta=DELTA), "no noise"),
        (lambda: one_run_bound(Scores(np.ones(5), np.zeros(5)), guesses=11, delta=0), "1..10"),
        (lambda: rates_bound(3, 2, 0, 1, delta=DELTA), "at most the canaries"),
        (lambda: rates_bound(1, 2, 0, 1, delta=2.0), "delta must be"),
        (lambda: rates_bound(1, 2, 0, 1, delta=DELTA, confidence=1.0), "confidence must be"),
        (lambda: guesses_for(4.0, 1, delta=DELTA), "at least two canaries"),
        (lambda: guesses_for(math.inf, 10, delta=DELTA), "epsilon must be above 0"),
        (lambda: cosine_bound(np.ones(5), 10, delta=DELTA), "at least 100 numbers"),
        (lambda: cosine_bound(np.full(5, 2.0), 1000, delta=DELTA), "cosines must be"),
    ],
)
def test_what_says_nothing_is_refused_in_a_sentence(make: Callable[[], object], why: str) -> None:
    with pytest.raises(BadInputError, match=why):
        make()
