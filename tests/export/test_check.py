"""The export check refuses a package whose graph and twin disagree."""

from __future__ import annotations

import copy
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tokenizers import Tokenizer

pytest.importorskip("onnx_ir", reason="needs the extra 'export'")

from locavore.export.check import check_package
from locavore.export.quantize import Precision
from locavore.export.sources import Source
from locavore.shared.errors import ExportMismatchError
from locavore.shared.packages import Package, open_package, sign_package

Tamper = Callable[[Path, dict[str, Any]], None]


@pytest.fixture
def texts(tiny_source: Source, public_texts: tuple[str, ...]) -> list[list[int]]:
    tokenizer = Tokenizer.from_str(tiny_source.tokenizer_json)
    return [tokenizer.encode(text).ids for text in public_texts[:2]]


def tampered(
    package: Package,
    folder: Path,
    key: Ed25519PrivateKey,
    trusted: list[bytes],
    tamper: Tamper,
) -> Package:
    """A copy that was changed and then signed by the publisher, as by a bug in the export."""
    shutil.copytree(package.folder, folder)
    manifest = package.manifest
    details = dict(copy.deepcopy(manifest.details))
    tamper(folder, details)
    sign_package(
        folder,
        key=key,
        name=manifest.name,
        modality="text",
        precision=manifest.precision,
        details=details,
    )
    return open_package(folder, trusted=trusted)


def swap(first: str, second: str, *fields: str) -> Tamper:
    def tamper(folder: Path, details: dict[str, Any]) -> None:
        table = json.loads((folder / "weights.json").read_text())
        for field in fields:
            table[first][field], table[second][field] = table[second][field], table[first][field]
        (folder / "weights.json").write_text(json.dumps(table))

    return tamper


def turn_ports(folder: Path, details: dict[str, Any]) -> None:
    """An adapter that reaches the wrong layers."""
    details["ports"] = {name: sites[::-1] for name, sites in details["ports"].items()}


def spoil_norm(folder: Path, details: dict[str, Any]) -> None:
    """NaN in a weight that graph and twin read."""
    table = json.loads((folder / "weights.json").read_text())
    raw = bytearray((folder / "model.onnx.data").read_bytes())
    span = table["model.norm.weight"]["values"]
    raw[span["offset"] : span["offset"] + 4] = np.float32(np.nan).tobytes()
    (folder / "model.onnx.data").write_bytes(raw)


Q0, Q1 = (f"model.layers.{i}.self_attn.q_proj.weight" for i in range(2))
GATE, UP = (f"model.layers.0.mlp.{name}_proj.weight" for name in ("gate", "up"))


def test_an_honest_copy_passes(
    packages: Callable[[Precision], Package], tiny_source: Source, texts: list[list[int]]
) -> None:
    report = check_package(packages("int8"), tiny_source.model, texts, "int8")
    assert report.rel_base <= report.tolerance
    assert "tolerance" in report.sentence()


@pytest.mark.parametrize(
    ("precision", "tamper"),
    [
        ("int8", swap(Q0, Q1, "scales")),
        ("int8", swap(GATE, UP, "columns")),
        ("int8", turn_ports),
        ("int4", swap(Q0, Q1, "values", "scales")),
        ("float32", swap(Q0, Q1, "values")),
        ("float32", spoil_norm),
    ],
)
def test_a_graph_and_a_twin_that_disagree_are_refused(
    precision: Precision,
    tamper: Tamper,
    packages: Callable[[Precision], Package],
    tiny_source: Source,
    texts: list[list[int]],
    key: Ed25519PrivateKey,
    trusted: list[bytes],
    tmp_path: Path,
) -> None:
    package = tampered(packages(precision), tmp_path / "copy", key, trusted, tamper)
    with pytest.raises(ExportMismatchError, match="is refused: graph vs twin"):
        check_package(package, tiny_source.model, texts, precision)
