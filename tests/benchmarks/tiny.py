"""A tiny base in several precisions, built in seconds without the network: for ``--quick``."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from locavore.home import signing_key

if TYPE_CHECKING:
    from locavore.export.quantize import Precision
    from locavore.export.sources import Source

__all__ = ["build_tiny_bases"]

_SPECIAL = ("<|start|>", "<|end|>")


def build_tiny_bases(folder: Path, precisions: Sequence[Precision]) -> dict[str, str]:
    """Build a two-layer Llama with random weights; return precision to path."""
    from locavore.export.build import BuildPlan, build_text_base

    source, texts = _source(), tuple(f"The {word} of the day." for word in "abcdef")
    paths: dict[str, str] = {}
    for precision in precisions:
        plan = BuildPlan(precision=precision, direction_rank=1, public_texts=texts)
        build_text_base(source, folder / precision, plan, signing_key())
        paths[precision] = str(folder / precision)
    return paths


def _source() -> Source:
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM

    from locavore.export.sources import Source

    names = [*_SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE({name: i for i, name in enumerate(names)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    config = LlamaConfig(
        vocab_size=288,  # the byte alphabet and two special tokens, in whole blocks of 32
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        tie_word_embeddings=True,
        initializer_range=0.3,  # large, so that most next tokens have a clear winner
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(config).requires_grad_(False).eval()
    return Source(
        name="tiny",
        model=model,
        tokenizer_json=tokenizer.to_str(),
        special={"bos": 0, "eos": 1, "pad": 1},
        chat=None,
        max_tokens=256,
        licence="none",
        origin="random weights",
    )
