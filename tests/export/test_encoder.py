"""A tiny sentence encoder: built by the real export, run without torch, searched by."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

torch = pytest.importorskip("torch", reason="needs the extra 'export'")
transformers = pytest.importorskip("transformers", reason="needs the extra 'export'")

from locavore.client.device import Device
from locavore.client.encoder import SentenceEncoder
from locavore.export.encoder import build_text_encoder, load_encoder
from locavore.shared.adapters import Array
from locavore.shared.contexts import Consent, UserDocument
from locavore.shared.errors import (
    BadInputError,
    ExportMismatchError,
    IntegrityError,
    PackageNotFoundError,
)
from locavore.shared.packages import Package


@pytest.fixture(scope="module")
def folder(
    tmp_path_factory: pytest.TempPathFactory, write_tokenizer: Callable[[Path], None]
) -> Path:
    """In sentence-transformers' layout, with random weights."""
    place = tmp_path_factory.mktemp("hub") / "tiny-encoder"
    write_tokenizer(place)
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=512,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=64,
        pad_token_id=2,
    )
    transformers.BertModel(config).save_pretrained(place)
    (place / "modules.json").write_text("[]")
    (place / "1_Pooling").mkdir()
    (place / "1_Pooling" / "config.json").write_text('{"pooling_mode_mean_tokens": true}')
    (place / "sentence_bert_config.json").write_text('{"max_seq_length": 24}')
    return place


@pytest.fixture(scope="module")
def built(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, key: Ed25519PrivateKey
) -> Package:
    out = tmp_path_factory.mktemp("built") / "encoder"
    return build_text_encoder(load_encoder(str(folder)), out, key)


def test_vectors_are_torchs_whatever_they_are_batched_with(folder: Path, built: Package) -> None:
    source = load_encoder(str(folder))
    assert source.max_tokens == 24
    encoder = SentenceEncoder(built, threads=1)
    texts = ["Rain.", "A small boat is never late.", "word " * 200, "", "Two eggs, some flour."] * 5
    rows = encoder.embed(texts)
    assert rows.shape == (25, 32)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows[[0, 1, 2]], axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(rows[:5], encoder.embed(texts[:5]), atol=1e-5)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    for row, text in zip(rows[:3], texts, strict=False):
        ids = torch.tensor([tokenizer(text).input_ids[:24]])
        with torch.no_grad():
            mean = source.model(input_ids=ids).last_hidden_state[0].mean(0)
        np.testing.assert_allclose(row, (mean / mean.norm()).numpy(), atol=1e-4)


def test_a_device_finds_by_it_and_keeps_its_vectors(built: Package, tmp_path: Path) -> None:
    encoder = SentenceEncoder(built)
    device = Device.create(tmp_path / "v", key=b"k" * 32, embedder=encoder)
    for text in ("The kettle sings.", "The canoe leaks."):
        device.remember(UserDocument(body=text, consent=Consent(retrieve=True)))
    assert device.recall("The kettle sings.", 1)[0].why["meaning"] == 1
    device.close()

    class Counting(SentenceEncoder):
        asked = 0

        def embed(self, texts: Sequence[str]) -> Array:
            self.asked += len(texts)
            return super().embed(texts)

    counting = Counting(built)
    device = Device.open(tmp_path / "v", key=b"k" * 32, embedder=counting)
    assert device.recall("The kettle sings.", 1)[0].record.text == "The kettle sings."
    assert counting.asked == 1  # the request; the records' vectors were kept
    device.close()


def test_what_is_refused(
    folder: Path, built: Package, package: Package, tmp_path: Path, key: Ed25519PrivateKey
) -> None:
    with pytest.raises(BadInputError, match="no text encoder"):
        SentenceEncoder(package)
    with pytest.raises(PackageNotFoundError, match="all-minilm-l6-v2"):
        load_encoder(str(tmp_path / "none"))
    with pytest.raises(IntegrityError):
        SentenceEncoder.open(built.folder, trusted=[b"x" * 32])
    other = folder.with_name("other")
    other.mkdir()
    for file in folder.iterdir():
        if file.is_file():
            (other / file.name).write_bytes(file.read_bytes())
    (other / "1_Pooling").mkdir()
    (other / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    with pytest.raises(BadInputError, match="does not pool by the mean"):
        load_encoder(str(other))


def test_a_graph_that_differs_is_not_published(
    folder: Path, tmp_path: Path, key: Ed25519PrivateKey, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("locavore.export.encoder._difference", lambda *_: 0.1)
    with pytest.raises(ExportMismatchError, match=r"differ from torch's by 0\.1"):
        build_text_encoder(load_encoder(str(folder)), tmp_path / "bad", key)
    assert list(tmp_path.iterdir()) == []
