"""Exact image metrics: known values, and an independent implementation."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from locavore.shared.errors import BadInputError
from locavore.shared.metrics.images import Pixels, ms_ssim, psnr, ssim


def random_images(count: int, side: int, seed: int = 0) -> Pixels:
    """Smooth random images."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, side // 8, side // 8, 3), dtype=np.uint8)
    return coarse.repeat(8, axis=1).repeat(8, axis=2)


def noisy(images: Pixels, spread: float, seed: int = 1) -> Pixels:
    noise = np.random.default_rng(seed).normal(0, spread, images.shape)
    return np.clip(images + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("figure", [ssim, ms_ssim])
def test_equal_images_are_fully_similar(figure: Any) -> None:
    images = random_images(3, 32)
    np.testing.assert_allclose(figure(images, images), 1.0)


def test_psnr_of_a_constant_shift_is_exact() -> None:
    images = np.full((2, 16, 16, 3), 100, np.uint8)
    shifted = images + np.array([5, 51], np.uint8)[:, None, None, None]
    np.testing.assert_allclose(psnr(images, shifted), [20 * np.log10(51), 20 * np.log10(5)])
    assert np.isinf(psnr(images, images)).all()


def test_ssim_of_flat_images_is_their_luminance_term() -> None:
    a, b = np.full((1, 16, 16, 3), 100, np.uint8), np.full((1, 16, 16, 3), 150, np.uint8)
    constant = (0.01 * 255) ** 2
    wanted = (2 * 100 * 150 + constant) / (100**2 + 150**2 + constant)
    np.testing.assert_allclose(ssim(a, b), wanted)


def test_ssim_agrees_with_gaussian_filters_of_scipy() -> None:
    ndimage = pytest.importorskip("scipy.ndimage")
    a = random_images(1, 32)
    b = noisy(a, 40)

    def blurred(x: Any) -> Any:
        return ndimage.gaussian_filter(x, 1.5, truncate=3.4)[5:-5, 5:-5]

    found = []
    for x, y in zip(*(np.moveaxis(i[0].astype(float), -1, 0) for i in (a, b)), strict=True):
        mx, my = blurred(x), blurred(y)
        vx, vy, both = blurred(x * x) - mx**2, blurred(y * y) - my**2, blurred(x * y) - mx * my
        c1, c2 = 6.5025, 58.5225
        upper = (2 * mx * my + c1) * (2 * both + c2)
        found.append((upper / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean())
    np.testing.assert_allclose(ssim(a, b), np.mean(found), rtol=1e-9)


def test_more_noise_is_less_similar() -> None:
    images = random_images(4, 64)
    for figure in (psnr, ssim, ms_ssim):
        little, much = figure(images, noisy(images, 10)), figure(images, noisy(images, 60))
        assert (little > much).all()


@pytest.mark.parametrize(("side", "scales"), [(16, 1), (32, 2), (64, 3), (88, 4), (176, 5)])
def test_small_images_are_compared_at_fewer_scales(side: int, scales: int) -> None:
    """Where only luminance differs, only the last scale sees it, with its share of the weights."""
    a, b = np.full((1, side, side, 3), 100, np.uint8), np.full((1, side, side, 3), 150, np.uint8)
    weights = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)[:scales]
    np.testing.assert_allclose(ms_ssim(a, b), ssim(a, b) ** (weights[-1] / sum(weights)))


@pytest.mark.parametrize("figure", [psnr, ssim, ms_ssim])
@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.zeros((1, 16, 16, 3)), np.zeros((1, 16, 16, 3)), r"must be uint8.*got float64"),
        (np.zeros((1, 16, 16, 3), np.uint8), np.zeros((2, 16, 16, 3), np.uint8), "in pairs"),
        (np.zeros((1, 8, 8, 3), np.uint8), np.zeros((1, 8, 8, 3), np.uint8), "11 pixels a side"),
        (np.zeros((0, 16, 16, 3), np.uint8), np.zeros((0, 16, 16, 3), np.uint8), "at least 1"),
    ],
)
def test_what_cannot_be_compared_is_refused(figure: Any, a: Any, b: Any, message: str) -> None:
    with pytest.raises(BadInputError, match=message):
        figure(a, b)
