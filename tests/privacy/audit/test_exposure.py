"""Exposure is what chance says for secrets that were never there, and more for those that were."""

from __future__ import annotations

import math

import numpy as np
import pytest

pytest.importorskip("scipy", reason="needs the extra 'train'")

from locavore.privacy.audit.exposure import (
    accuracy_interval,
    chance_finding,
    exposures,
    fitted_exposures,
    standings,
)
from locavore.shared.errors import BadInputError

RNG = np.random.default_rng(0)
NEVER = RNG.normal(20, 2, 4000)
REFERENCES = RNG.normal(20, 2, (4000, 255))


def test_what_was_never_there_has_the_exposure_of_chance() -> None:
    bits = exposures(NEVER, REFERENCES)
    assert bits.mean() == pytest.approx(1 / math.log(2), abs=0.1)
    assert fitted_exposures(NEVER, REFERENCES, space=10**4).mean() == pytest.approx(1.44, abs=0.1)
    assert standings(NEVER, REFERENCES).mean() == pytest.approx(0, abs=0.1)
    assert chance_finding(bits, audit="x").holds
    assert chance_finding(bits[:5], audit="x").holds


def test_the_likeliest_has_all_bits_and_the_unlikeliest_none() -> None:
    others = np.arange(1.0, 16.0)[None]
    assert exposures([0.0], others) == pytest.approx([4.0])
    assert exposures([99.0], others) == pytest.approx([0.0])
    assert exposures([1.0], others) == pytest.approx([3.0])  # equals count against the attacker


def test_a_fit_tells_more_than_its_references_and_no_more_than_there_are() -> None:
    (far,) = fitted_exposures([20 - 2 * 3.3], REFERENCES[:1], space=10**6)
    assert 8 < far < 13  # the 0.0005 quantile has 11 bits; 255 references show 8
    assert fitted_exposures([-100.0], REFERENCES[:1], space=10**4) == pytest.approx(
        [13.29], abs=0.01
    )


def test_a_fit_follows_a_skew() -> None:
    skewed = np.random.default_rng(1).gamma(16.0, size=(1, 4000))
    (bits,) = fitted_exposures([np.quantile(skewed, 0.01)], skewed, space=10**6)
    assert bits == pytest.approx(math.log2(100), abs=0.7)


@pytest.mark.parametrize(("canaries", "bits"), [(3, 13.0), (8, 6.0), (100, 2.5)])
def test_more_than_chance_is_refuted(canaries: int, bits: float) -> None:
    assert not chance_finding([bits] * canaries, audit="x").holds


def test_an_interval_of_an_accuracy_covers_it() -> None:
    assert accuracy_interval(0, 10)[0] == 0
    assert accuracy_interval(10, 10) == pytest.approx((0.6915, 1.0), abs=1e-4)
    low, high = accuracy_interval(50, 100)
    assert (low, high) == pytest.approx((0.3983, 0.6017), abs=1e-4)


def test_what_is_no_loss_is_refused() -> None:
    with pytest.raises(BadInputError, match="finite"):
        exposures([np.nan], [[1.0, 2.0]])
    with pytest.raises(BadInputError, match=r"got \(1,\) and \(2, 2\)"):
        exposures([1.0], np.ones((2, 2)))
    with pytest.raises(BadInputError, match="got 3, 2"):
        accuracy_interval(3, 2)
