"""Exact figures about pairs of images: what their pixels alone say, as the literature defines it.

Images are ``uint8 (N, H, W, C)``; every figure is ``(N,)``, one a pair.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numpy.lib.stride_tricks import sliding_window_view

from ..errors import BadInputError

__all__ = ["Pixels", "ms_ssim", "psnr", "require_pixels", "ssim"]

Pixels = npt.NDArray[np.uint8]
_Images = npt.NDArray[np.float64]

_RANGE = 255.0
_WINDOW, _SIGMA = 11, 1.5  # Wang et al. 2004, Section III-B
_C1, _C2 = (0.01 * _RANGE) ** 2, (0.03 * _RANGE) ** 2
_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang et al. 2003, Section 3.2


def psnr(a: Pixels, b: Pixels) -> _Images:
    """Peak signal-to-noise ratio in decibel; infinite for equal images.

    Raises:
        BadInputError: the images are no ``uint8`` of equal shape.
    """
    _require_pair(a, b)
    error = np.square(a.astype(np.float64) - b).mean(axis=(1, 2, 3))
    with np.errstate(divide="ignore"):
        ratio: _Images = 10 * np.log10(_RANGE**2 / error)
    return ratio


def ssim(a: Pixels, b: Pixels) -> _Images:
    """Structural similarity, -1 to 1, and 1 for equal images; the mean over colour channels.

    Windows that would reach over the edge are left out, as in the authors' code; torchmetrics
    counts them too, with mirrored edges, and gives other numbers for small images. Source: Wang et
    al., "Image quality assessment: from error visibility to structural similarity", 2004, Equation
    13, with the paper's Gaussian window (11, sigma 1.5) and constants.

    Raises:
        BadInputError: the images are no ``uint8`` of equal shape, or smaller than the window.
    """
    _require_pair(a, b)
    similarity, _ = _similarity(a.astype(np.float64), b.astype(np.float64))
    return similarity


def ms_ssim(a: Pixels, b: Pixels) -> _Images:
    """Structural similarity over up to five scales, 0 to 1.

    Source: Wang et al., "Multi-scale structural similarity for image quality assessment", 2003,
    Equation 7 with its weights. An image smaller than 176 pixels has no room for five scales: it
    is compared at the first ``M`` that keep 11 pixels (two at 32 pixels, three at 64), with their
    weights divided by their sum. Then the figure is not the paper's, and compares only with others
    of images as large. A negative mean of contrast and structure counts as 0.

    Raises:
        BadInputError: the images are no ``uint8`` of equal shape, or smaller than the window.
    """
    _require_pair(a, b)
    scales = min(len(_WEIGHTS), int(np.log2(min(a.shape[1:3]) / _WINDOW)) + 1)
    weights = np.array(_WEIGHTS[:scales]) / sum(_WEIGHTS[:scales])
    x, y = a.astype(np.float64), b.astype(np.float64)
    product = np.ones(len(a))
    for scale, weight in enumerate(weights):
        whole, structure = _similarity(x, y)
        factor = whole if scale == scales - 1 else structure
        product *= np.maximum(factor, 0) ** weight
        x, y = _halved(x), _halved(y)
    return product


def _similarity(a: _Images, b: _Images) -> tuple[_Images, _Images]:
    """The mean of SSIM, and of its contrast and structure alone, ``(N,)`` each."""
    mean_a, mean_b = _blurred(a), _blurred(b)
    variances = _blurred(a * a) - mean_a**2 + _blurred(b * b) - mean_b**2
    covariance = _blurred(a * b) - mean_a * mean_b
    structure = (2 * covariance + _C2) / (variances + _C2)
    luminance = (2 * mean_a * mean_b + _C1) / (mean_a**2 + mean_b**2 + _C1)
    return (luminance * structure).mean(axis=(1, 2, 3)), structure.mean(axis=(1, 2, 3))


def _blurred(images: _Images) -> _Images:
    """Weighted means of all windows that fit, ``(N, H - 10, W - 10, C)``."""
    places = np.arange(_WINDOW) - _WINDOW // 2
    window = np.exp(-(places**2) / (2 * _SIGMA**2))
    window /= window.sum()
    rows = sliding_window_view(images, _WINDOW, axis=1) @ window
    blurred: _Images = sliding_window_view(rows, _WINDOW, axis=2) @ window
    return blurred


def _halved(images: _Images) -> _Images:
    """Means of 2 x 2 pixels; a last odd row or column is left out."""
    count, height, width, channels = images.shape
    even = images[:, : height // 2 * 2, : width // 2 * 2]
    cells = even.reshape(count, height // 2, 2, width // 2, 2, channels)
    halved: _Images = cells.mean(axis=(2, 4))
    return halved


def require_pixels(pixels: Pixels) -> None:
    """Refuse what is not ``uint8 (N, H, W, 3)`` with one image or more.

    Raises:
        BadInputError: it is something else.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[3] != 3 or not len(pixels):
        raise BadInputError(
            f"images must be uint8 (N, H, W, 3) with N at least 1, got {pixels.dtype} "
            f"{pixels.shape}"
        )


def _require_pair(a: Pixels, b: Pixels) -> None:
    require_pixels(a)
    require_pixels(b)
    if a.shape != b.shape:
        raise BadInputError(f"images must be compared in pairs, got {a.shape} and {b.shape}")
    if min(a.shape[1:3]) < _WINDOW:
        raise BadInputError(f"images must have {_WINDOW} pixels a side or more, got {a.shape[1:3]}")
