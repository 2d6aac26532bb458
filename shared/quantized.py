"""Weights as they lie in a package: quantized in blocks, readable without any ML library.

Beside every graph lies a table (``weights.json``) that maps every parameter to byte ranges of the
graph's external data file, so that the device can rebuild the float weights that the graph
computes with ("the twin") from the one file that it downloaded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from .adapters import Array
from .errors import PackageError

__all__ = ["Span", "StoredWeight", "WeightTable", "pack_int4", "unpack_int4"]

Kind = Literal["float32", "int8", "int4", "int8-rows"]


@dataclass(frozen=True, kw_only=True)
class Span:
    """A byte range of the data file."""

    offset: int
    length: int


@dataclass(frozen=True, kw_only=True)
class StoredWeight:
    """Where one parameter lies and how it is stored.

    Args:
        kind: element type of ``values``; ``int8-rows`` has one scale for all of a row, which is
            what the first axis counts: a kernel's output channels.
        shape: shape as stored; ``(in, out)`` for a transposed linear weight.
        transposed: the parameter is the transpose of what is stored.
        values: bytes of the elements; two per byte, low nibble first, for ``int4``.
        scales: bytes of the float32 scales, ``(in / block, out)``, or one a row; none for
            ``float32``.
        block: how many elements along the first axis share a scale.
        columns: the parameter is these columns (from, to) of what is stored; all when none.
    """

    kind: Kind
    shape: tuple[int, ...]
    transposed: bool
    values: Span
    scales: Span | None = None
    block: int = 1
    columns: tuple[int, int] | None = None


class WeightTable:
    """The parameters of a base, read on demand from the external data file."""

    def __init__(self, entries: Mapping[str, StoredWeight], data: Path) -> None:
        self.entries = entries
        self._data = data

    @classmethod
    def load(cls, table: Path, data: Path) -> WeightTable:
        """Read ``weights.json``.

        Raises:
            PackageError: the table cannot be read.
        """
        try:
            raw: dict[str, dict[str, Any]] = json.loads(table.read_bytes())
            return cls({name: _entry(fields) for name, fields in raw.items()}, data)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise PackageError(f"{table} cannot be read: {error}; rebuild the package") from None

    def save(self, table: Path) -> None:
        """Write ``weights.json``."""
        table.write_text(json.dumps({k: asdict(v) for k, v in self.entries.items()}, indent=0))

    def __iter__(self) -> Iterator[tuple[str, Array]]:
        """Every parameter's name and float32 value, in the model's own orientation."""
        mapped = np.memmap(self._data, dtype=np.uint8, mode="r")
        for name, entry in self.entries.items():
            yield name, _dequantize(entry, mapped)


def pack_int4(values: np.ndarray[Any, np.dtype[np.int8]]) -> bytes:
    """Pack int4 values (held in int8) two per byte, low nibble first, as ONNX does."""
    flat = values.reshape(-1).astype(np.uint8) & 0x0F
    if flat.size % 2:
        flat = np.append(flat, np.uint8(0))
    return (flat[0::2] | (flat[1::2] << 4)).tobytes()


def unpack_int4(raw: np.ndarray[Any, np.dtype[np.uint8]], count: int) -> Array:
    """Undo :func:`pack_int4` into ``count`` float32 values in -8..7."""
    nibbles = np.empty(raw.size * 2, np.int8)
    nibbles[0::2] = raw & 0x0F
    nibbles[1::2] = raw >> 4
    return ((nibbles[:count] ^ 8) - 8).astype(np.float32)


def _entry(fields: dict[str, Any]) -> StoredWeight:
    scales, columns = fields.pop("scales"), fields.pop("columns")
    return StoredWeight(
        **{
            **fields,
            "shape": tuple(fields["shape"]),
            "values": Span(**fields["values"]),
            "scales": Span(**scales) if scales else None,
            "columns": tuple(columns) if columns else None,
        }
    )


def _bytes(mapped: np.ndarray[Any, Any], span: Span) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.asarray(mapped[span.offset : span.offset + span.length])


def _dequantize(entry: StoredWeight, mapped: np.ndarray[Any, Any]) -> Array:
    raw = _bytes(mapped, entry.values)
    value: Array
    if entry.kind == "float32":
        value = raw.view(np.float32).reshape(entry.shape)
    elif entry.scales is None:
        raise PackageError(f"a weight of kind {entry.kind!r} has no scales")
    else:
        scales = _bytes(mapped, entry.scales).view(np.float32)
        value = _scaled(entry, raw, scales).reshape(entry.shape)
    if entry.columns is not None:
        value = value[:, slice(*entry.columns)]
    return np.ascontiguousarray(value.T if entry.transposed else value)


def _scaled(entry: StoredWeight, raw: np.ndarray[Any, np.dtype[np.uint8]], scales: Array) -> Array:
    if entry.kind == "int4":
        levels = unpack_int4(raw, int(np.prod(entry.shape)))
    else:
        levels = raw.view(np.int8).astype(np.float32)
    if entry.kind == "int8-rows":
        return levels.reshape(len(scales), -1) * scales[:, None]
    rows, columns = entry.shape
    blocks = levels.reshape(rows // entry.block, entry.block, columns)
    scaled: Array = blocks * scales.reshape(-1, 1, columns)
    return scaled
