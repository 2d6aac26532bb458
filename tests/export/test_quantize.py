"""Block quantization: how far off it may be, and where it must be exact."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

pytest.importorskip("onnx_ir", reason="needs the extra 'export'")

from locavore.export.quantize import Bits, quantize_blocks, quantize_rows
from locavore.shared.adapters import Array
from locavore.shared.errors import BadInputError

WEIGHTS = arrays(np.float32, (64, 3), elements=st.floats(-100, 100, width=32))


def blocks_of(weight: Array) -> Array:
    return weight.reshape(2, 32, 3)


@given(WEIGHTS)
def test_eight_bits_are_off_by_half_a_step_at_most(weight: Array) -> None:
    quantized = quantize_blocks(weight, 8, 32)
    error = np.abs(blocks_of(quantized.dequantize() - weight)).max(axis=1)
    step = np.abs(blocks_of(weight)).max(axis=1) / 127
    assert (error <= 0.5001 * step + 1e-30).all()


@given(WEIGHTS)
def test_four_bits_are_off_by_the_plain_choice_of_scale_at_most(weight: Array) -> None:
    quantized = quantize_blocks(weight, 4, 32)
    assert quantized.levels.min() >= -8
    assert quantized.levels.max() <= 7
    step = np.abs(blocks_of(weight)).max(axis=1, keepdims=True) / 7
    plain = np.clip(np.rint(blocks_of(weight) / np.where(step == 0, 1, step)), -8, 7) * step
    found = np.square(blocks_of(quantized.dequantize() - weight)).sum(axis=1)
    bound = np.square(plain - blocks_of(weight)).sum(axis=1)
    assert (found <= bound * 1.001 + 1e-9).all()


@pytest.mark.parametrize("bits", [4, 8])
def test_a_block_of_zeros_stays_zero(bits: Bits) -> None:
    weight = np.ones((64, 2), np.float32)
    weight[:32, 1] = 0
    quantized = quantize_blocks(weight, bits, 32)
    assert quantized.scales[0, 1] == 0
    assert not quantized.dequantize()[:32, 1].any()
    np.testing.assert_allclose(quantized.dequantize()[32:], 1, rtol=1e-6)


@pytest.mark.parametrize("bits", [4, 8])
def test_blocks_do_not_share_a_scale(bits: Bits) -> None:
    weight = np.ones((64, 1), np.float32)
    weight[32:] = 1e4
    np.testing.assert_allclose(quantize_blocks(weight, bits, 32).dequantize(), weight, rtol=1e-6)


@pytest.mark.parametrize("rows", [1, 31, 33, 80])
def test_rows_that_make_no_whole_blocks_are_refused(rows: int) -> None:
    with pytest.raises(BadInputError, match=f"{rows} input rows cannot be cut into blocks of 32"):
        quantize_blocks(np.ones((rows, 2), np.float32), 8, 32)


def test_four_bits_keep_the_largest_value_of_a_block() -> None:
    weight = np.linspace(-1, 1, 32, dtype=np.float32)[:, None]
    found = quantize_blocks(weight, 4, 32).dequantize()
    assert np.abs(found - weight).max() < 1 / 8


def test_a_kernel_has_one_scale_for_each_output_channel() -> None:
    weight = np.random.default_rng(0).standard_normal((4, 3, 3, 3)).astype(np.float32)
    weight[1] *= 100
    weight[2] = 0
    stored = quantize_rows(weight)
    assert stored.scales.shape == (4,)
    error = np.abs(stored.dequantize() - weight).reshape(4, -1).max(axis=1)
    assert (error <= np.abs(weight).reshape(4, -1).max(axis=1) / 254 * 1.001).all()
