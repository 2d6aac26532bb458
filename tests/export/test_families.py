"""Other model families export, run and match their twins."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

pytest.importorskip("transformers", reason="needs the extra 'export'")
pytest.importorskip("onnx_ir", reason="needs the extra 'export'")

import torch
import transformers

from locavore.client.runtime import Generation, TextModel
from locavore.client.training.objectives.language import per_record_loss, token_batch
from locavore.export.build import BuildPlan, build_text_base
from locavore.export.quantize import Precision
from locavore.export.sources import Source, load_source
from locavore.export.trace import trace_causal_lm
from locavore.shared.errors import BadInputError
from locavore.shared.twin import open_twin

COMMON = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.1,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
GEMMA = {"head_dim": 16, "sliding_window": 16, "query_pre_attn_scalar": 16}
LAYERS = {"layer_types": ["sliding_attention", "full_attention"]}
FAMILIES: dict[str, tuple[str, dict[str, Any], Precision]] = {
    "qwen2": ("Qwen2Config", {"tie_word_embeddings": False}, "int8-dynamic"),
    "qwen3": ("Qwen3Config", {"head_dim": 16}, "int4"),
    "mistral": ("MistralConfig", {"head_dim": 16, "sliding_window": 16}, "float32"),
    "gemma2": ("Gemma2Config", GEMMA | LAYERS | {"final_logit_softcapping": 5.0}, "float32"),
    "gemma3": ("Gemma3TextConfig", GEMMA | LAYERS, "int8"),
}


def load(name: str, folder: Path, write_tokenizer: Callable[[Path], None]) -> Source:
    """A tiny model of a family, with norms and biases as uneven as after training."""
    config_name, extra, _ = FAMILIES[name]
    torch.manual_seed(1)
    config = getattr(transformers, config_name)(**COMMON | extra)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.1 * torch.randn_like(parameter))
    write_tokenizer(folder)
    model.save_pretrained(folder)
    return load_source(str(folder))


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_exports_runs_and_matches(
    name: str,
    tmp_path: Path,
    write_tokenizer: Callable[[Path], None],
    public_texts: tuple[str, ...],
    key: Ed25519PrivateKey,
) -> None:
    source = load(name, tmp_path / name, write_tokenizer)
    plan = BuildPlan(precision=FAMILIES[name][2], public_texts=public_texts)
    package, report = build_text_base(source, tmp_path / "package", plan, key)
    assert report.rel_adapter <= report.tolerance
    model, twin = TextModel(package, threads=1), open_twin(package)
    assert len(model.sites) == 14
    # Longer than the sliding window of 16, through the cache, and the trainer's loss.
    prompts = [public_texts[0], "A"]
    how = Generation(max_tokens=24)
    if plan.precision != "int8-dynamic":  # one activation scale for the whole batch
        assert model.generate(prompts, how)[1] == model.generate(prompts[1:], how)[0]
    ids = model.encode(public_texts[1])
    with torch.no_grad():
        found = per_record_loss(twin, token_batch([ids], model.start))[0]
    row = torch.tensor([[*model.start, *ids]])
    expected = twin(input_ids=row, labels=row).loss
    assert found.item() == pytest.approx(expected.item(), abs=1e-4)
    scored = float(np.mean(model.score([""], [public_texts[1]])[0]))
    assert scored == pytest.approx(expected.item(), rel=2 * report.tolerance, abs=1e-3)


def test_an_encoder_decoder_is_refused() -> None:
    config = transformers.T5Config(
        vocab_size=64, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2
    )
    with pytest.raises(BadInputError, match="is not a decoder-only causal language model"):
        trace_causal_lm(transformers.T5ForConditionalGeneration(config))


def test_a_model_without_linear_layers_is_refused(
    tmp_path: Path,
    write_tokenizer: Callable[[Path], None],
    public_texts: tuple[str, ...],
    key: Ed25519PrivateKey,
) -> None:
    """GPT-2 keeps its weights in another kind of layer."""
    config = transformers.GPT2Config(
        vocab_size=512, n_positions=64, n_embd=32, n_layer=1, n_head=2, bos_token_id=0
    )
    write_tokenizer(tmp_path / "gpt2")
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    plan = BuildPlan(precision="int8", public_texts=public_texts)
    with pytest.raises(BadInputError, match="no linear layers"):
        build_text_base(load_source(str(tmp_path / "gpt2")), tmp_path / "package", plan, key)
    assert not (tmp_path / "package").exists()
