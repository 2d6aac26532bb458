"""The twin has the weights that the graph runs."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

pytest.importorskip("torch", reason="the twin needs the extra 'train'")

import torch

from locavore.client.runtime import TextModel
from locavore.shared.errors import PackageError
from locavore.shared.packages import Package, open_package, sign_package
from locavore.shared.twin import cast_weights, fast_dtype, fast_twin, open_twin

if TYPE_CHECKING:
    from locavore.export.quantize import Precision

IDS = [0, 70, 71, 300, 12, 5]


def test_float32_logits_equal_the_graph(package: Package, model: TextModel) -> None:
    twin = open_twin(package)
    with torch.no_grad():
        expected = twin(input_ids=torch.tensor([IDS])).logits[0].numpy()
    np.testing.assert_allclose(model.logits(IDS), expected, atol=1e-4)


def test_the_float32_twin_is_the_original(package: Package, tiny_folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    original = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    twin = open_twin(package)
    for name, value in original.named_parameters():
        assert torch.equal(value, twin.get_parameter(name)), name


def test_the_twin_is_frozen_and_in_evaluation_mode(package: Package) -> None:
    twin = open_twin(package)
    assert not twin.training
    assert not any(p.requires_grad for p in twin.parameters())


def test_casting_leaves_buffers_alone(package: Package) -> None:
    twin = cast_weights(open_twin(package), torch.bfloat16)
    assert {p.dtype for p in twin.parameters()} == {torch.bfloat16}
    assert {b.dtype for b in twin.buffers()} == {torch.float32}
    assert open_twin(package, torch.bfloat16).dtype == torch.bfloat16
    assert fast_dtype() in (torch.bfloat16, torch.float32)


def test_the_fast_twin_is_on_the_gpu_where_there_is_one(package: Package) -> None:
    twin = fast_twin(package)
    gpu = torch.cuda.is_available()
    assert twin.device.type == ("cuda" if gpu else "cpu")
    assert twin.dtype == (torch.bfloat16 if gpu else fast_dtype())


@pytest.mark.parametrize("change", ["lacks", "unknown"])
def test_a_table_that_does_not_fit_the_model_is_refused(
    change: str,
    packages: Callable[[Precision], Package],
    tmp_path: Path,
    key: Ed25519PrivateKey,
    trusted: list[bytes],
) -> None:
    source = packages("float32")
    folder = tmp_path / "copy"
    shutil.copytree(source.folder, folder)
    table = json.loads((folder / "weights.json").read_text())
    entry = table.pop("model.norm.weight")
    if change == "unknown":
        table["model.norm.weight"], table["model.ghost.weight"] = entry, entry
    (folder / "weights.json").write_text(json.dumps(table))
    sign_package(folder, key=key, name="x", modality="text", precision="float32", details={})
    with pytest.raises(PackageError, match=change):
        open_twin(open_package(folder, trusted=trusted))
