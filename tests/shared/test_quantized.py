"""Weights as they lie in a package."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from locavore.export.quantize import Bits, quantize_blocks
from locavore.shared.errors import PackageError
from locavore.shared.quantized import Span, StoredWeight, WeightTable, pack_int4, unpack_int4


@given(st.lists(st.integers(-8, 7), max_size=65))
def test_packing_four_bits_is_undone(values: list[int]) -> None:
    raw = pack_int4(np.array(values, np.int8))
    assert len(raw) == (len(values) + 1) // 2
    found = unpack_int4(np.frombuffer(raw, np.uint8), len(values))
    np.testing.assert_array_equal(found, np.array(values, np.float32))


def test_the_low_nibble_comes_first() -> None:
    assert pack_int4(np.array([1, -1, 7], np.int8)) == bytes([0xF1, 0x07])


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(("bits", "block"), [(4, 32), (8, 32), (8, 96)])
@given(seed=st.integers(0, 2**32 - 1), columns=st.integers(1, 9))
def test_stored_weights_are_what_the_quantizer_made(
    bits: Bits,
    block: int,
    transposed: bool,
    seed: int,
    columns: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    weight = np.random.default_rng(seed).standard_normal((96, columns)).astype(np.float32)
    quantized = quantize_blocks(weight, bits, block)
    levels = pack_int4(quantized.levels) if bits == 4 else quantized.levels.tobytes()
    scales = quantized.scales.tobytes()
    data = tmp_path_factory.mktemp("weights") / "data"
    data.write_bytes(b"pad" + levels + scales)  # an odd offset: nothing may rely on alignment
    entry = StoredWeight(
        kind="int4" if bits == 4 else "int8",
        shape=weight.shape,
        transposed=transposed,
        values=Span(offset=3, length=len(levels)),
        scales=Span(offset=3 + len(levels), length=len(scales)),
        block=block,
    )
    ((name, found),) = WeightTable({"w": entry}, data)
    expected = quantized.dequantize()
    assert name == "w"
    np.testing.assert_array_equal(found, expected.T if transposed else expected)


def test_a_table_reads_back(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.write_bytes(np.arange(6, dtype=np.float32).tobytes())
    span = Span(offset=0, length=24)
    entries = {
        "plain": StoredWeight(kind="float32", shape=(2, 3), transposed=False, values=span),
        "turned": StoredWeight(kind="float32", shape=(2, 3), transposed=True, values=span),
        "part": StoredWeight(
            kind="float32", shape=(2, 3), transposed=True, values=span, columns=(1, 3)
        ),
    }
    WeightTable(entries, data).save(tmp_path / "weights.json")
    table = WeightTable.load(tmp_path / "weights.json", data)
    assert table.entries == entries
    found = dict(table)
    np.testing.assert_array_equal(found["plain"], [[0, 1, 2], [3, 4, 5]])
    np.testing.assert_array_equal(found["turned"], [[0, 3], [1, 4], [2, 5]])
    np.testing.assert_array_equal(found["part"], [[1, 4], [2, 5]])


def test_quantized_without_scales_is_refused(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(bytes(32))
    span = Span(offset=0, length=32)
    entry = StoredWeight(kind="int8", shape=(32, 1), transposed=False, values=span, block=32)
    with pytest.raises(PackageError, match="has no scales"):
        list(WeightTable({"w": entry}, tmp_path / "data"))


@pytest.mark.parametrize("raw", ["{", "[]", '{"w": {}}', '{"w": {"scales": 3}}', '{"w": 3}'])
def test_an_unreadable_table_is_refused(raw: str, tmp_path: Path) -> None:
    (tmp_path / "weights.json").write_text(raw)
    with pytest.raises(PackageError, match="rebuild the package"):
        WeightTable.load(tmp_path / "weights.json", tmp_path / "data")
