"""Distributed noise: whole numbers whose sum is as noisy as a trusted server's."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from locavore.privacy.clipping import AdaptiveClip
from locavore.privacy.distributed import WholeNumbers, hadamard, rotate, unrotate
from locavore.privacy.noise import Doubles, SecureNoise, insecure_seeded_noise, length
from locavore.privacy.plan import UserPlan
from locavore.privacy.secagg.session import SecureSum
from locavore.shared.errors import PrivacyError

pytest.importorskip("scipy", reason="noise needs the extra 'train'")

from scipy import stats

from ..plans import user_plan

SEED = b"public seed of the sum"


def plan(**changes: Any) -> UserPlan:
    settings: dict[str, Any] = {
        "trust": "secure-aggregation",
        "cohort": 20,
        "noise_multiplier": 1.0,
    }
    return user_plan(**(settings | changes))


def contributions(count: int, width: int, norm: float = 1.0) -> list[Doubles]:
    drawn = np.random.default_rng(0).normal(size=(count, width))
    return list(norm * drawn / np.linalg.norm(drawn, axis=1, keepdims=True))


def summed(numbers: WholeNumbers, given: list[Doubles]) -> Doubles:
    """What comes out when everybody encodes."""
    words = [numbers.encode(one, insecure_seeded_noise(3, i)) for i, one in enumerate(given)]
    kind = words[0].dtype
    total = np.sum([word.astype(np.uint64) for word in words], axis=0) % (1 << numbers.bits)
    return numbers.decode(total.astype(kind))


@pytest.mark.parametrize("size", [1, 2, 64, 1024])
def test_hadamard_is_orthonormal(size: int) -> None:
    vector = np.random.default_rng(0).normal(size=size)
    turned = hadamard(vector)
    assert length(turned) == pytest.approx(length(vector))
    assert hadamard(turned) == pytest.approx(vector)
    if size == 64:
        from scipy.linalg import hadamard as matrix

        assert turned == pytest.approx(matrix(64) @ vector / 8)


@pytest.mark.parametrize("width", [1, 2, 3, 5, 64, 100, 1000, 1023, 1024, 1025])
def test_rotation_undone(width: int) -> None:
    numbers = WholeNumbers(plan(secure_sum=SecureSum(bits=32)), width, SEED)
    vector = np.random.default_rng(0).normal(size=width)
    turned = rotate(vector, numbers._signs)
    assert length(turned) == pytest.approx(length(vector))
    assert unrotate(turned, numbers._signs) == pytest.approx(vector)


@pytest.mark.parametrize("width", [1024, 1500])
def test_rotation_spreads_what_is_in_one_place(width: int) -> None:
    signs = WholeNumbers(plan(secure_sum=SecureSum(bits=32)), width, SEED)._signs
    for place in (0, width // 2, width - 1):
        vector = np.zeros(width)
        vector[place] = 1
        assert np.abs(rotate(vector, signs)).max() < 6 / math.sqrt(width)


def test_everybody_rotates_alike_and_other_sums_otherwise() -> None:
    one, same = (WholeNumbers(plan(), 300, SEED)._signs for _ in range(2))
    other = WholeNumbers(plan(), 300, b"another")._signs
    assert (one == same).all()
    assert 0.4 < (one != other).mean() < 0.6


@pytest.mark.parametrize(("bits", "width"), [(16, 1000), (16, 4096), (20, 1000), (32, 777)])
def test_the_sum_without_noise(bits: int, width: int) -> None:
    numbers = WholeNumbers(plan(noise_multiplier=0.0, secure_sum=SecureSum(bits=bits)), width, SEED)
    given = contributions(20, width)
    step = 1 / numbers.scale
    assert numbers.deviation == 0
    error = summed(numbers, given) - np.sum(given, axis=0)
    assert np.sqrt(np.square(error).mean()) < step * math.sqrt(20 / 4) * 1.1


@pytest.mark.parametrize("cohort", [5, 40])
@pytest.mark.parametrize("clip", [0.3, 4.0])
def test_the_noise_is_a_central_servers(cohort: int, clip: float) -> None:
    width = 50_000
    numbers = WholeNumbers(plan(cohort=cohort, clip=clip, noise_multiplier=0.8), width, SEED)
    given = contributions(cohort, width, clip)
    error = summed(numbers, given) - np.sum(given, axis=0)
    ratio = np.square(error).mean() / (0.8 * clip) ** 2
    assert 0.97 < ratio < 1.10  # rounding costs little, and no noise is missing
    assert stats.kstest(error / error.std(), "norm").statistic < 0.01


def test_who_drops_out_is_provided_for() -> None:
    width = 20_000
    fewer = plan(cohort=20, fewest=12)
    numbers = WholeNumbers(fewer, width, SEED)
    given = contributions(12, width)
    error = summed(numbers, given) - np.sum(given, axis=0)
    assert 0.97 < np.square(error).mean() < 1.06
    error = summed(numbers, contributions(20, width)) - np.sum(contributions(20, width), axis=0)
    assert 20 / 12 * 0.97 < np.square(error).mean() < 20 / 12 * 1.06


@pytest.mark.parametrize("bits", [16, 24])
@pytest.mark.parametrize("width", [10, 1000, 30_000])
def test_the_claim(bits: int, width: int) -> None:
    """What accounting needs: noise of the devices that must be there, over the longest vector."""
    for chosen in (plan(secure_sum=SecureSum(bits=bits)), plan(fewest=7, noise_multiplier=2.0)):
        numbers = WholeNumbers(chosen, width, SEED)
        assert chosen.makers is not None
        variance = numbers.deviation**2 * chosen.makers - 4
        assert math.sqrt(variance) / numbers.reach == pytest.approx(chosen.noise_multiplier)


@pytest.mark.parametrize("shape", ["one place", "all alike", "random", "half steps"])
def test_no_rounded_vector_is_longer_than_its_reach(shape: str) -> None:
    width = 300
    numbers = WholeNumbers(plan(noise_multiplier=0.0), width, SEED)
    vector = {
        "one place": np.eye(width)[0],
        "all alike": np.full(width, 1 / math.sqrt(width)),
        "random": contributions(1, width)[0],
        "half steps": np.full(width, 0.5 / numbers.scale),
    }[shape]
    for stream in range(50):
        words = numbers.encode(vector, insecure_seeded_noise(1, stream)).astype(np.int64)
        centred = (words + (1 << 15)) % (1 << 16) - (1 << 15)
        assert length(centred.astype(np.float64)) <= numbers.reach


def test_rounding_has_no_bias() -> None:
    numbers = WholeNumbers(plan(noise_multiplier=0.0, cohort=3), 200, SEED)
    vector = contributions(1, 200)[0]
    found = [
        numbers.decode(numbers.encode(vector, insecure_seeded_noise(1, s))) for s in range(2000)
    ]
    error = np.mean(found, axis=0) - vector
    assert np.sqrt(np.square(error).mean()) < 0.6 / numbers.scale / math.sqrt(2000)


def test_what_is_too_long_is_cut() -> None:
    numbers = WholeNumbers(plan(noise_multiplier=0.0), 200, SEED)
    vector = contributions(1, 200)[0]
    found = numbers.decode(numbers.encode(50 * vector, insecure_seeded_noise(1)))
    assert found == pytest.approx(vector, abs=2 / numbers.scale)


@pytest.mark.parametrize("private", [True, False])
def test_the_adaptive_norms_vote_travels_along(private: bool) -> None:
    clip = AdaptiveClip(initial=0.5, count_noise=2.0)
    chosen = plan(clip=clip, noise_multiplier=0.9 if private else 0.0, cohort=30)
    width = 5001
    numbers = WholeNumbers(chosen, width, SEED, entry=math.log(2))
    sealed = [
        chosen.seal(one[:-1], math.log(2), SecureNoise()) for one in contributions(30, width, 0.9)
    ]
    error = summed(numbers, sealed) - np.sum(sealed, axis=0)
    if private:
        expected = chosen._scales(width, math.log(2))
        assert np.square(error[:-1] / expected[:-1]).mean() == pytest.approx(1, abs=0.08)
        assert abs(error[-1]) < 6 * clip.vote_noise
        assert expected[-1] == clip.vote_noise
    else:
        assert np.abs(error).max() < 0.1


def test_too_few_bits_are_refused() -> None:
    with pytest.raises(PrivacyError, match="16 bits are too few for 20000 devices and 100 numbers"):
        WholeNumbers(plan(cohort=20_000), 100, SEED)
    WholeNumbers(plan(cohort=20_000, secure_sum=SecureSum(bits=28)), 100, SEED)


class TestDiscreteGaussian:
    @pytest.mark.parametrize("deviation", [8.0, 9.3, 20.0])
    def test_probabilities(self, deviation: float) -> None:
        count = 400_000
        drawn = insecure_seeded_noise(5).discrete_gaussian(count, deviation)
        edge = int(4.5 * deviation)
        places = np.arange(-edge, edge + 1)
        weights = np.exp(-np.square(places) / (2 * deviation**2))
        expected = count * weights / weights.sum()
        found = np.bincount(np.clip(drawn, -edge, edge) + edge, minlength=2 * edge + 1)
        kept = expected > 20
        chi = (np.square(found - expected) / expected)[kept].sum()
        assert chi < stats.chi2.ppf(1 - 1e-4, kept.sum())

    def test_rounding_alone_would_be_seen(self) -> None:
        """The correction matters: its acceptance is exact against a sum of probabilities."""
        deviation = 8.0
        places = np.arange(-80, 81)
        rounded = stats.norm.cdf((places + 0.5) / deviation) - stats.norm.cdf(
            (places - 0.5) / deviation
        )
        exact = np.exp(-np.square(places) / (2 * deviation**2))
        nodes, weights = np.polynomial.legendre.leggauss(12)
        steps = nodes / 2
        apart = places[:, None] * steps + np.square(steps) / 2
        means = np.exp(-apart / deviation**2) @ (weights / 2)
        assert rounded / means == pytest.approx(exact / (deviation * math.sqrt(2 * math.pi)))
        assert (1 - means[80] / means <= np.square(places) / (6 * deviation**4) + 1e-15).all()

    def test_moments_of_wide_ones(self) -> None:
        drawn = SecureNoise().discrete_gaussian(300_000, 1234.5) / 1234.5
        assert drawn.mean() == pytest.approx(0, abs=0.01)
        assert drawn.var() == pytest.approx(1, abs=0.012)
        assert stats.kstest(drawn, "norm").statistic < 0.005

    def test_too_narrow(self) -> None:
        with pytest.raises(PrivacyError, match=r"deviation must be at least 8, got 1\.5"):
            SecureNoise().discrete_gaussian(3, 1.5)

    def test_sums_are_as_wide_as_they_should_be(self) -> None:
        source = insecure_seeded_noise(6)
        total = np.sum([source.discrete_gaussian(100_000, 10.0) for _ in range(9)], axis=0)
        assert total.std() == pytest.approx(30, rel=0.01)
