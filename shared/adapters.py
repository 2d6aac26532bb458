"""Low-rank adapters as plain arrays, in PEFT's file format.

An adapter adds ``x @ A @ B`` to the output of each of its sites (linear layers of the base).
``A`` is ``(in, r)`` and ``B`` is ``(r, out)``; the LoRA scale is folded into ``B``.
Source: Hu et al., "LoRA", arXiv:2106.09685, §4.1.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError, deserialize
from safetensors.numpy import load, save, save_file

from .errors import AdapterError

__all__ = ["Adapter", "Array", "compose", "load_adapter", "save_adapter", "to_diffusers"]

Array = npt.NDArray[np.float32]

_PREFIX = "base_model.model."
_WEIGHTS = "adapter_model.safetensors"
_CONFIG = "adapter_config.json"
_DENOISER = "denoiser."  # in front of every site of an image base
_DIFFUSERS = "pytorch_lora_weights.safetensors"
_MAX_RANK = 256
_DTYPES = {"F16": np.float16, "F32": np.float32, "F64": np.float64}
_BEYOND_LORA = (
    "alora_invocation_tokens",
    "fan_in_fan_out",
    "kasa_config",
    "layer_replication",
    "lora_bias",
    "modules_to_save",
    "monteclora_config",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
    "use_dora",
    "use_qalora",
)


@dataclass(frozen=True)
class Adapter:
    """LoRA factors of one base.

    Args:
        base_id: the base that it was trained against.
        factors: site name to ``(A, B)``, ``A`` ``(in, r)``, ``B`` ``(r, out)``, float32.
    """

    base_id: str
    factors: Mapping[str, tuple[Array, Array]]

    def __post_init__(self) -> None:
        for site, (a, b) in self.factors.items():
            if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[0]:
                raise AdapterError(
                    f"site {site!r}: A {a.shape} and B {b.shape} do not make a product"
                )
            if a.dtype != np.float32 or b.dtype != np.float32:
                raise AdapterError(f"site {site!r} must be float32, got {a.dtype} and {b.dtype}")
            if not (np.isfinite(a).all() and np.isfinite(b).all()):
                raise AdapterError(f"site {site!r} holds a value that is not finite")

    @property
    def nbytes(self) -> int:
        """Size of the factors in bytes."""
        return sum(a.nbytes + b.nbytes for a, b in self.factors.values())

    def to_bytes(self) -> bytes:
        """Base and factors in one piece of safetensors; equal adapters give equal bytes."""
        tensors = {}
        for site, (a, b) in self.factors.items():
            tensors[f"{site}.A"] = np.ascontiguousarray(a)
            tensors[f"{site}.B"] = np.ascontiguousarray(b)
        return save(tensors, metadata={"base_id": self.base_id})

    @classmethod
    def from_bytes(cls, raw: bytes) -> Adapter:
        """Read what :meth:`to_bytes` wrote."""
        length = int.from_bytes(raw[:8], "little")
        base_id = json.loads(raw[8 : 8 + length])["__metadata__"]["base_id"]
        tensors = load(raw)
        sites = sorted({name.rsplit(".", 1)[0] for name in tensors})
        return cls(base_id, {s: (tensors[f"{s}.A"], tensors[f"{s}.B"]) for s in sites})

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) of :meth:`to_bytes`: names these very weights."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    def require_base(self, base_id: str) -> None:
        """Refuse to be used with another base.

        Raises:
            AdapterError: the adapter was trained against another base.
        """
        if self.base_id != base_id:
            raise AdapterError(
                f"this adapter belongs to base {self.base_id!r}, not to {base_id!r}; "
                "use its own base or train it again"
            )


def compose(*adapters: Adapter) -> Adapter:
    """Sum adapters exactly, by concatenating their ranks.

    Raises:
        AdapterError: none given, or they belong to different bases.
    """
    if not adapters:
        raise AdapterError("compose needs at least one adapter")
    if len(adapters) == 1:
        return adapters[0]
    for other in adapters[1:]:
        other.require_base(adapters[0].base_id)
    sites = dict.fromkeys(site for adapter in adapters for site in adapter.factors)
    factors = {}
    for site in sites:
        pairs = [adapter.factors[site] for adapter in adapters if site in adapter.factors]
        factors[site] = (
            np.concatenate([a for a, _ in pairs], axis=1),
            np.concatenate([b for _, b in pairs], axis=0),
        )
    return Adapter(adapters[0].base_id, factors)


def save_adapter(adapter: Adapter, folder: Path) -> None:
    """Write PEFT's ``adapter_config.json`` and ``adapter_model.safetensors``.

    ``lora_alpha`` equals ``r`` at every site, so PEFT's own scale is 1.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for site, (a, b) in adapter.factors.items():
        tensors[f"{_PREFIX}{site}.lora_A.weight"] = np.ascontiguousarray(a.T)
        tensors[f"{_PREFIX}{site}.lora_B.weight"] = np.ascontiguousarray(b.T)
    ranks = {site: a.shape[1] for site, (a, _) in adapter.factors.items()}
    rank = max(ranks.values(), default=1)
    odd = {site: r for site, r in ranks.items() if r != rank}
    config = {
        "peft_type": "LORA",
        "task_type": None if _denoises(adapter) else "CAUSAL_LM",
        "base_model_name_or_path": adapter.base_id,
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": odd,
        "alpha_pattern": odd,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": list(adapter.factors),
    }
    save_file(tensors, folder / _WEIGHTS, metadata={"format": "pt"})
    (folder / _CONFIG).write_text(json.dumps(config, indent=1))


def to_diffusers(adapter: Adapter, folder: Path) -> None:
    """Write an image adapter as diffusers' ``load_lora_weights`` reads it, for a UNet.

    There all ranks must be equal: smaller ones are filled up with zeros.

    Raises:
        AdapterError: it is no adapter of an image base.
    """
    if not _denoises(adapter):
        raise AdapterError("only an image base's adapter can be written for diffusers")
    rank = max(a.shape[1] for a, _ in adapter.factors.values())
    tensors = {}
    for site, (a, b) in adapter.factors.items():
        missing = rank - a.shape[1]
        name = f"unet.{site.removeprefix(_DENOISER)}"
        tensors[f"{name}.lora_A.weight"] = np.ascontiguousarray(np.pad(a, [(0, 0), (0, missing)]).T)
        tensors[f"{name}.lora_B.weight"] = np.ascontiguousarray(np.pad(b, [(0, missing), (0, 0)]).T)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / _DIFFUSERS, metadata={"format": "pt"})


def _denoises(adapter: Adapter) -> bool:
    sites = list(adapter.factors)
    return bool(sites) and all(site.startswith(_DENOISER) for site in sites)


def load_adapter(folder: Path) -> Adapter:
    """Read an adapter that PEFT or :func:`save_adapter` wrote.

    Raises:
        AdapterError: files are missing or unreadable, the variant (DoRA, biases) is not a plain
            LoRA, or a rank is outside 1..256.
    """
    try:
        config = json.loads((folder / _CONFIG).read_text())
        tensors = _read_tensors(folder / _WEIGHTS)
    except (OSError, ValueError, SafetensorError) as error:
        raise AdapterError(f"{folder} holds no readable PEFT adapter: {error}") from None
    _require_plain_lora(config, tensors, folder)
    sites = dict.fromkeys(name.removeprefix(_PREFIX).rsplit(".lora_", 1)[0] for name in tensors)
    factors = {}
    for site in sites:
        try:
            a = tensors[f"{_PREFIX}{site}.lora_A.weight"].T
            b = tensors[f"{_PREFIX}{site}.lora_B.weight"].T
        except KeyError as missing:
            raise AdapterError(f"{folder / _WEIGHTS} lacks {missing}") from None
        rank = a.shape[-1] if a.ndim == 2 else 0
        if not 1 <= rank <= _MAX_RANK:
            raise AdapterError(f"rank must be 1..{_MAX_RANK}, got {rank} at site {site!r}")
        scale = _scale(config, site, rank)
        factors[site] = (np.ascontiguousarray(a), np.ascontiguousarray(b * np.float32(scale)))
    if not factors:
        raise AdapterError(f"{folder / _WEIGHTS} holds no LoRA factors")
    return Adapter(str(config.get("base_model_name_or_path")), factors)


def _read_tensors(path: Path) -> dict[str, Array]:
    entries = deserialize(path.read_bytes())  # type: ignore[no-untyped-call]
    return {name: _to_float32(entry) for name, entry in entries}


def _to_float32(entry: Mapping[str, Any]) -> Array:
    if entry["dtype"] == "BF16":  # PEFT's usual type, which numpy does not know
        halves = np.frombuffer(entry["data"], np.uint16).astype(np.uint32)
        return (halves << 16).view(np.float32).reshape(entry["shape"])
    if entry["dtype"] not in _DTYPES:
        raise ValueError(f"a tensor of type {entry['dtype']} is no float")
    value = np.frombuffer(entry["data"], _DTYPES[entry["dtype"]]).astype(np.float32)
    return value.reshape(entry["shape"])


def _require_plain_lora(config: object, tensors: Mapping[str, Array], folder: Path) -> None:
    if not isinstance(config, dict):
        raise AdapterError(f"{folder / _CONFIG} holds no settings, but {type(config).__name__}")
    if config.get("peft_type") != "LORA":
        raise AdapterError(f"{folder} holds a {config.get('peft_type')!r} adapter, expected LORA")
    for option in _BEYOND_LORA:
        if config.get(option):
            raise AdapterError(f"{folder} uses {option}, which a plain LoRA cannot carry")
    if config.get("bias", "none") != "none":
        raise AdapterError(f"{folder} trains biases, which a plain LoRA cannot carry")
    for name in tensors:
        if not name.endswith((".lora_A.weight", ".lora_B.weight")):
            raise AdapterError(f"{folder} trains {name!r}, which a plain LoRA cannot carry")


def _scale(config: Mapping[str, object], site: str, rank: int) -> float:
    alpha = _pattern(config.get("alpha_pattern"), site, config.get("lora_alpha", rank))
    return alpha / rank**0.5 if config.get("use_rslora") else alpha / rank


def _pattern(pattern: object, site: str, default: object) -> float:
    items: Sequence[tuple[str, float]] = list(pattern.items()) if isinstance(pattern, dict) else []
    try:
        for name, value in items:
            if re.match(rf"(.*\.)?({name})$", site):  # PEFT's own rule
                return float(value)
        return float(default)  # type: ignore[arg-type]
    except (TypeError, ValueError, re.error) as error:
        raise AdapterError(f"the adapter's alpha at {site!r} cannot be read: {error}") from None
