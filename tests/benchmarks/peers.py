"""Other runtimes with the same weights, in an environment of their own.

``make bench-env`` creates ``.venv-bench`` (onnxruntime-genai) and ``.venv-bench/node``
(llama.cpp). Model files are made once, beside the bases in the user's cache: the float weights
as a Hugging Face folder, from them the builder's int4 graph and a Q4_0 GGUF.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from locavore.home import bases_folder
from locavore.shared.errors import LocavoreError

from .workers import ROOT

if TYPE_CHECKING:
    from gguf import GGUFWriter

__all__ = ["PeerError", "float_folder", "genai_command", "llama_command"]

ENVIRONMENT = ROOT / ".venv-bench"


# Hugging Face's names of a Llama's layers, and llama.cpp's.
_LAYER_NAMES = {
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}
_NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
_MOSTLY_Q4_0 = 2  # llama.cpp's LLAMA_FTYPE


class PeerError(LocavoreError):
    """A peer's model could not be made."""


def float_folder(base: str) -> Path:
    """The float weights of a known base, as a Hugging Face folder."""
    folder = bases_folder().parent / "benchmarks" / f"{base}-float32"
    return _made(folder, lambda work: _save_float(base, work))


def genai_command(source: Path, threads: int) -> list[str] | None:
    """The command of onnxruntime-genai's worker; none where it is not installed."""
    found = list(ENVIRONMENT.glob("lib/*/site-packages/onnxruntime_genai/models/builder.py"))
    if not found:
        return None
    folder = source.with_name(source.name.replace("-float32", "-genai-int4"))
    _made(folder, lambda work: _build_genai(found[0], source, work))
    return [
        str(ENVIRONMENT / "bin" / "python"),
        "-m",
        "tests.benchmarks.work.genai",
        str(folder),
        str(threads),
    ]


def llama_command(source: Path, threads: int) -> list[str] | None:
    """The command of llama.cpp's worker; none where it, or node, is not installed."""
    node, modules = shutil.which("node"), ENVIRONMENT / "node" / "node_modules"
    if node is None or not (modules / "node-llama-cpp").is_dir():
        return None
    folder = source.with_name(source.name.replace("-float32", "-q4_0"))
    _made(folder, lambda work: _write_gguf(source, work / "model.gguf"))
    worker = Path(__file__).parent / "work" / "llama.mjs"
    return [node, str(worker), str(modules), str(folder / "model.gguf"), str(threads)]


def _made(folder: Path, make: Callable[[Path], None]) -> Path:
    """``folder``, made by ``make`` under another name first, so that half of it is never used."""
    if not folder.is_dir():
        work = folder.with_name(folder.name + ".building")
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        make(work)
        work.rename(folder)
    return folder


def _save_float(base: str, folder: Path) -> None:
    from tokenizers import Tokenizer

    from locavore.export.sources import load_source

    source = load_source(base)
    source.model.save_pretrained(folder)
    (folder / "tokenizer.json").write_text(source.tokenizer_json)
    tokenizer = Tokenizer.from_str(source.tokenizer_json)
    settings: dict[str, str | None] = {"tokenizer_class": "PreTrainedTokenizerFast"}
    for role, token in source.special.items():
        if token is not None:
            settings[f"{role}_token"] = tokenizer.id_to_token(token)
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def _build_genai(builder: Path, source: Path, folder: Path) -> None:
    """The builder is a script over torch and transformers, which this environment has."""
    command = [sys.executable, str(builder), "-m", str(source), "-i", str(source)]
    command += ["-o", str(folder), "-c", str(folder / "cache"), "-p", "int4", "-e", "cpu"]
    command += ["--extra_options", "int4_accuracy_level=4"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        words = done.stderr.strip().splitlines() or ["it said nothing"]
        raise PeerError(f"onnxruntime-genai's builder failed: {words[-1]}")
    shutil.rmtree(folder / "cache", ignore_errors=True)


def _write_gguf(source: Path, path: Path) -> None:
    """A Llama as llama.cpp's own ``llama-quantize`` would make it: Q4_0, a tied table in Q8_0.

    (Its choice for a tied table is Q6_K, and Q8_0 where the width is no multiple of 256.)
    """
    from gguf import GGMLQuantizationType as Kind
    from gguf import GGUFWriter, quantize
    from safetensors.numpy import load_file

    config = json.loads((source / "config.json").read_text())
    if config["model_type"] != "llama":
        raise PeerError(f"only a llama can be written as GGUF here, not {config['model_type']!r}")
    writer = GGUFWriter(path, "llama")
    _write_settings(writer, config)
    _write_tokenizer(writer, json.loads((source / "tokenizer.json").read_text()))
    for name, value in load_file(source / "model.safetensors").items():
        theirs = _their_name(name)
        if value.ndim == 1:
            writer.add_tensor(theirs, value)
            continue
        kind = Kind.Q8_0 if theirs in ("token_embd.weight", "output.weight") else Kind.Q4_0
        packed = quantize(_their_order(theirs, value, config), kind)
        writer.add_tensor(theirs, packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def _write_settings(writer: GGUFWriter, config: dict[str, Any]) -> None:
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_file_type(_MOSTLY_Q4_0)
    writer.add_bos_token_id(config["bos_token_id"])
    writer.add_eos_token_id(config["eos_token_id"])


def _write_tokenizer(writer: GGUFWriter, tokenizer: dict[str, Any]) -> None:
    """Enough for llama.cpp to load; the benchmark feeds token ids."""
    vocabulary: dict[str, int] = tokenizer["model"]["vocab"]
    special = {token["id"] for token in tokenizer["added_tokens"]}
    names = sorted(vocabulary, key=vocabulary.__getitem__)
    merges = tokenizer["model"]["merges"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(names)
    writer.add_token_types([3 if vocabulary[name] in special else 1 for name in names])
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])


def _their_name(name: str) -> str:
    stem = name.removesuffix(".weight")
    if stem in _NAMES:
        return f"{_NAMES[stem]}.weight"
    _, _, layer, ours = stem.split(".", 3)
    return f"blk.{layer}.{_LAYER_NAMES[ours]}.weight"


def _their_order(
    theirs: str, value: np.ndarray[Any, np.dtype[np.float32]], config: dict[str, Any]
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """llama.cpp rotates neighbours, Hugging Face halves: queries and keys change their order."""
    counts = {"attn_q": "num_attention_heads", "attn_k": "num_key_value_heads"}
    count = counts.get(theirs.split(".")[-2])
    if count is None:
        return value
    rows, columns = value.shape
    heads = config[count]
    halves = value.reshape(heads, 2, rows // heads // 2, columns)
    return np.ascontiguousarray(halves.swapaxes(1, 2).reshape(rows, columns))
