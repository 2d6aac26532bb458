"""Noise: its distribution, and that it is fresh where it must be."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from locavore.privacy.noise import NoiseSource, SecureNoise, insecure_seeded_noise

pytest.importorskip("scipy", reason="noise needs the extra 'train'")

from scipy import stats

COUNT = 200_000
SOURCES = [SecureNoise, lambda: insecure_seeded_noise(3), lambda: insecure_seeded_noise(3, 8)]


@pytest.mark.parametrize("make", SOURCES)
def test_uniforms(make: type[SecureNoise]) -> None:
    drawn = make().uniform(COUNT)
    assert drawn.shape == (COUNT,)
    assert drawn.dtype == np.float64
    assert 0 < drawn.min() < 1e-3
    assert 1 - 1e-3 < drawn.max() < 1
    assert drawn.mean() == pytest.approx(0.5, abs=5e-3)
    assert drawn.var() == pytest.approx(1 / 12, abs=2e-3)
    assert stats.kstest(drawn, "uniform").statistic < 0.006  # p < 1e-6


@pytest.mark.parametrize("make", SOURCES)
def test_gaussians(make: type[SecureNoise]) -> None:
    drawn = make().gaussian(COUNT)
    assert drawn.shape == (COUNT,)
    assert np.isfinite(drawn).all()
    assert drawn.mean() == pytest.approx(0, abs=0.015)
    assert drawn.var() == pytest.approx(1, abs=0.02)
    assert (drawn**3).mean() == pytest.approx(0, abs=0.06)
    assert (drawn**4).mean() == pytest.approx(3, abs=0.2)
    assert stats.kstest(drawn, "norm").statistic < 0.006
    assert abs(np.corrcoef(drawn[:-1], drawn[1:])[0, 1]) < 0.015


class _Stuck(SecureNoise):
    """A stream that gives one byte for ever: the ends of the interval."""

    def __init__(self, byte: int) -> None:
        self._stream = self
        self._byte = byte

    def update(self, data: bytes) -> bytes:
        return bytes([self._byte]) * len(data)


@pytest.mark.parametrize("byte", [0x00, 0xFF])
def test_the_interval_is_open_at_both_ends(byte: int) -> None:
    source = _Stuck(byte)
    assert 0 < source.uniform(1)[0] < 1
    assert np.isfinite(source.gaussian(1)).all()


def test_two_secure_sources_differ_and_go_on() -> None:
    one, two = SecureNoise(), SecureNoise()
    draws = [one.uniform(8), one.uniform(8), two.uniform(8)]
    assert len({tuple(draw) for draw in draws}) == 3


def test_seeded_noise_repeats() -> None:
    one, two = insecure_seeded_noise(5, 2), insecure_seeded_noise(5, 2)
    np.testing.assert_array_equal(one.gaussian(9), two.gaussian(9))
    np.testing.assert_array_equal(one.uniform(9), two.uniform(9))


def test_seeded_noise_differs_by_seed_and_by_stream() -> None:
    sources: list[NoiseSource] = [insecure_seeded_noise(*pair) for pair in ((5, 2), (5, 3), (6, 2))]
    for one, two in pairwise([source.uniform(4) for source in sources]):
        assert not np.any(one == two)


def test_nothing_is_drawn_when_nothing_is_asked() -> None:
    assert SecureNoise().gaussian(0).shape == (0,)
