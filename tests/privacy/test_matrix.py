"""Correlated noise: streamed as the matrix says, as sensitive as claimed, and worth it."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from scipy.linalg import toeplitz

from locavore.privacy.matrix import Correlation, Participation
from locavore.shared.errors import BadInputError, PrivacyError

FAMILIES = [Correlation("banded", 4), Correlation("buffered", 1), Correlation("buffered", 3)]
WHO = Participation(rounds=13, separation=5)


def matrix(how: Correlation, who: Participation = WHO) -> np.ndarray[Any, np.dtype[np.float64]]:
    return np.asarray(np.tril(toeplitz(how.coefficients(who))))


@pytest.mark.parametrize("how", FAMILIES)
def test_the_stream_is_the_inverse_matrix_times_the_gaussians(how: Correlation) -> None:
    fresh = np.random.default_rng(0).normal(size=(WHO.rounds, 3))
    state, streamed = how.state(3), []
    for row in fresh:
        noise, state = how.next(WHO, row, state)
        streamed.append(noise)
    np.testing.assert_allclose(streamed, np.linalg.solve(matrix(how), fresh), atol=1e-12)


@pytest.mark.parametrize("how", FAMILIES)
@pytest.mark.parametrize("times", [None, 1, 2])
def test_the_sensitivity_is_the_worst_users(how: Correlation, times: int | None) -> None:
    """Against every schedule that one user may have, and every pattern of signs."""
    who = Participation(rounds=13, separation=5, times=times)
    c = matrix(how, who)
    worst = 0.0
    for count in range(1, who.most + 1):
        for rounds in itertools.combinations(range(13), count):
            if all(b - a >= 5 for a, b in itertools.pairwise(rounds)):
                for signs in itertools.product((-1, 1), repeat=count):
                    worst = max(worst, float(np.linalg.norm(c[:, rounds] @ signs)))
    assert how.sensitivity(who) == pytest.approx(worst)


@pytest.mark.parametrize("how", FAMILIES)
def test_the_error_is_that_of_the_sums(how: Correlation) -> None:
    sums = np.tril(np.ones((13, 13))) @ np.linalg.inv(matrix(how))
    expected = how.sensitivity(WHO) * math.sqrt(np.square(sums).sum() / 13)
    assert how.error(WHO) == pytest.approx(expected)


def test_no_small_change_of_a_band_is_better() -> None:
    who = Participation(rounds=15, separation=5)  # no participation is cut off at the end
    how = Correlation("banded", 4)
    column, best = how.coefficients(who), how.error(who)
    rng = np.random.default_rng(0)
    for _ in range(50):
        other = column.copy()
        other[1:4] += 0.02 * rng.normal(size=3)
        sums = np.tril(np.ones((15, 15))) @ np.linalg.inv(np.tril(toeplitz(other)))
        scale = math.sqrt(3) * float(np.linalg.norm(other))
        assert scale * math.sqrt(np.square(sums).sum() / 15) > best - 1e-6


@pytest.mark.parametrize("how", [Correlation("banded", 32), Correlation("buffered", 4)])
def test_a_long_federation_needs_under_a_third_of_the_noise(how: Correlation) -> None:
    who = Participation(rounds=256, separation=64)
    independent = math.sqrt(4 * 257 / 2)
    assert how.error(who) <= 0.30 * independent


def test_a_band_of_one_is_independent_noise() -> None:
    who = Participation(rounds=50, separation=10)
    assert Correlation("banded", 1).error(who) == pytest.approx(math.sqrt(5 * 51 / 2))
    assert Correlation("banded", 1).state(7).shape == (0, 7)


def test_two_thousand_rounds_are_remembered_in_a_few_vectors() -> None:
    assert Correlation("buffered", 4).state(10).shape == (4, 10)
    who = Participation(rounds=2000, separation=100)
    assert Correlation("buffered", 4).error(who) < 0.2 * math.sqrt(20 * 2001 / 2)


def test_one_round_is_plain_noise() -> None:
    who = Participation(rounds=1, separation=1)
    for how in FAMILIES:
        assert how.error(who) == pytest.approx(1.0)


def test_rounds_of_one_user() -> None:
    assert [Participation(rounds=9, separation=s).most for s in (1, 2, 3, 4, 9, 20)] == [
        9,
        5,
        3,
        3,
        1,
        1,
    ]
    who = Participation(rounds=9, separation=3, times=2)
    who.require(7, [1])
    with pytest.raises(PrivacyError, match="round 3 is within 3 rounds of round 1"):
        who.require(3, [1])
    with pytest.raises(PrivacyError, match="took part in 2 rounds, the noise was made for 2"):
        who.require(9, [1, 5])


def test_a_band_wider_than_the_separation_is_refused() -> None:
    with pytest.raises(BadInputError, match="a band of 6 is wider than the separation of 5"):
        Correlation("banded", 6).coefficients(WHO)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: Correlation("dense", 3), "kind must be 'banded' or 'buffered', got 'dense'"),  # type: ignore[arg-type]
        (lambda: Correlation("banded", 0), "size must be at least 1, got 0"),
        (lambda: Participation(rounds=0, separation=1), "rounds must be at least 1, got 0"),
        (lambda: Participation(rounds=1, separation=0), "separation must be at least 1, got 0"),
        (lambda: Participation(rounds=1, separation=1, times=0), "times must be at least 1, got 0"),
    ],
)
def test_a_bad_schedule_is_refused(make: Any, reason: str) -> None:
    with pytest.raises(BadInputError, match=reason):
        make()
