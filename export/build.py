"""Build a text base-model package: trace, quantize, add ports, compute directions, check, sign."""

from __future__ import annotations

import copy
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import torch
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tokenizers import Tokenizer
from transformers import PreTrainedModel

from ..shared.causal_graph import DATA, GRAPH
from ..shared.errors import BadInputError
from ..shared.packages import MANIFEST, Package, open_package, sign_package
from ..shared.quantized import Span, StoredWeight, WeightTable
from ..shared.twin import CONFIG, WEIGHTS, cast_weights, fast_dtype
from . import graph as passes
from .check import ExportReport, check_package
from .directions import public_directions, tokens_of
from .ports import Port, find_ports, inject_ports
from .quantize import PRECISIONS, Precision, Quantized, quantize_graph
from .sources import Source
from .trace import trace_causal_lm

__all__ = ["BuildPlan", "build_text_base", "public_key", "require_replaceable"]

TOKENIZER = "tokenizer.json"
DIRECTIONS = "directions.safetensors"
CARD = "CARD.md"
_CHECK_TEXTS = 4
_INLINE_BYTES = 100  # shape constants stay in the graph file, every weight leaves it


@dataclass(frozen=True, kw_only=True)
class BuildPlan:
    """How a base is built.

    Args:
        precision: see :mod:`locavore.export.quantize`.
        direction_rank: public directions per site, 1..64.
        public_texts: public writing for directions and the export check; none of it may come
            from a device.
    """

    precision: Precision
    direction_rank: int = 4
    public_texts: tuple[str, ...]

    def __post_init__(self) -> None:
        problems = []
        if self.precision not in PRECISIONS:
            problems.append(f"precision must be one of {PRECISIONS}, got {self.precision!r}")
        if not 1 <= self.direction_rank <= 64:
            problems.append(f"direction_rank must be 1..64, got {self.direction_rank}")
        if len(self.public_texts) < _CHECK_TEXTS:
            problems.append(
                f"public_texts must hold at least {_CHECK_TEXTS}, got {len(self.public_texts)}"
            )
        if problems:
            raise BadInputError("; ".join(problems))


def build_text_base(
    source: Source,
    folder: Path,
    plan: BuildPlan,
    key: Ed25519PrivateKey,
    say: Callable[[str], None] = lambda _: None,
) -> tuple[Package, ExportReport]:
    """Build, check and sign a package in ``folder``.

    The package appears under its name only when it passed the check: it is built beside it.

    Raises:
        BadInputError: the model cannot be exported, or ``folder`` holds something else.
        ExportMismatchError: graph and twin disagree.
    """
    require_replaceable(folder)
    work = folder.with_name(folder.name + ".building")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        report = _build(source, work, plan, key, say)
        shutil.rmtree(folder, ignore_errors=True)
        work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    return open_package(folder, trusted=[public_key(key)]), report


def require_replaceable(folder: Path) -> None:
    """Replace an older package, and never anything else that a person keeps."""
    holds_else = folder.exists() and not (folder / MANIFEST).is_file()
    if holds_else and not (folder.is_dir() and not any(folder.iterdir())):
        raise BadInputError(f"{folder} exists and is no base-model package; choose another folder")


def _build(
    source: Source,
    work: Path,
    plan: BuildPlan,
    key: Ed25519PrivateKey,
    say: Callable[[str], None],
) -> ExportReport:
    say("tracing to ONNX")
    model, opset = trace_causal_lm(source.model)
    say("optimizing the graph")
    rewrites = passes.prepare(model)
    ports = find_ports(model)
    sites = [site for port in ports.values() for site in port.sites]
    say(f"quantizing {len(sites)} layers to {plan.precision}")
    stored = quantize_graph(model, plan.precision)
    inject_ports(model, ports)
    ir.save(model, work / GRAPH, external_data=DATA, size_threshold_bytes=_INLINE_BYTES)
    _weight_table(work, stored, source.model, ports).save(work / WEIGHTS)
    (work / TOKENIZER).write_text(source.tokenizer_json)
    (work / CONFIG).write_text(source.model.config.to_json_string(use_diff=False))
    say("computing public directions")
    texts = _tokens(source, plan.public_texts)
    directions = public_directions(
        cast_weights(copy.deepcopy(source.model), fast_dtype()),
        sites,
        texts[_CHECK_TEXTS:] or texts,
        rank=min(plan.direction_rank, _narrowest(ports)),
        progress=lambda done: say(f"computing public directions {done:.0%}"),
    )
    directions.save(work / DIRECTIONS)
    say("checking the graph against its twin")
    graph = {
        "opset": opset,
        "rewrites": rewrites,
        "ports": {name: list(port.sites.items()) for name, port in ports.items()},
    }
    return _check_and_sign(source, work, plan, key, texts[:_CHECK_TEXTS], graph)


def _check_and_sign(
    source: Source,
    work: Path,
    plan: BuildPlan,
    key: Ed25519PrivateKey,
    texts: Sequence[Sequence[int]],
    graph: dict[str, object],
) -> ExportReport:
    details: dict[str, object] = {
        **graph,
        "special": source.special,
        "chat": list(source.chat) if source.chat else None,
        "max_tokens": source.max_tokens,
        "licence": source.licence,
        "origin": source.origin,
    }

    def sign() -> None:
        sign_package(
            work,
            key=key,
            name=source.name,
            modality="text",
            precision=plan.precision,
            details=details,
        )

    sign()
    package = open_package(work, trusted=[public_key(key)])
    report = check_package(package, source.model, texts, plan.precision)
    details["check"] = asdict(report)
    (work / CARD).write_text(_card(source, plan, report))
    sign()
    return report


def _weight_table(
    work: Path,
    stored: dict[str, Quantized],
    model: PreTrainedModel,
    ports: Mapping[str, Port],
) -> WeightTable:
    """Map parameters to the byte ranges that saving gave them."""
    saved = {
        name: value.const_value
        for name, value in ir.load(work / GRAPH).graph.initializers.items()
        if isinstance(value.const_value, ir.ExternalTensor)
    }

    def span(name: str) -> Span:
        tensor = saved[name]
        assert tensor.offset is not None
        assert tensor.length is not None
        return Span(offset=tensor.offset, length=tensor.length)

    merged = _merged_columns(ports)
    parameters = dict(model.named_parameters(remove_duplicate=False))
    entries = {}
    for parameter in parameters:
        name, columns = merged.get(parameter, (parameter, None))
        linear = f"{name}{passes.LINEAR_SUFFIX}"
        if name in stored:
            q = stored[name]
            prefix = name if f"{name}.levels" in saved else f"{name}.rows"
            entries[parameter] = StoredWeight(
                kind="int4" if q.bits == 4 else "int8",
                shape=tuple(q.levels.shape),
                transposed=True,
                values=span(f"{prefix}.levels"),
                scales=span(f"{prefix}.scales"),
                block=q.block,
                columns=columns,
            )
        elif name in saved or linear in saved:
            found = name if name in saved else linear
            entries[parameter] = StoredWeight(
                kind="float32",
                shape=tuple(int(n) for n in saved[found].shape),
                transposed=found == linear,
                values=span(found),
                columns=columns,
            )
    _append_lost(work / DATA, parameters, entries)
    return WeightTable(entries, work / DATA)


def _merged_columns(ports: Mapping[str, Port]) -> dict[str, tuple[str, tuple[int, int]]]:
    """Parameters of merged layers: the weight that holds them, and which of its columns."""
    places = {}
    for name, port in ports.items():
        if len(port.sites) > 1:
            stops = np.cumsum(list(port.sites.values())).tolist()
            for site, start, stop in zip(port.sites, [0, *stops], stops, strict=False):
                places[f"{site}.weight"] = (f"{name}.weight", (start, stop))
    return places


def _append_lost(
    data: Path, parameters: Mapping[str, torch.Tensor], entries: dict[str, StoredWeight]
) -> None:
    """Append the small parameters that optimizing folded, merged or left in the graph file."""
    held = {id(parameters[name]) for name in entries}
    with data.open("ab") as stream:
        for name, value in parameters.items():
            if id(value) in held:  # tied to one that the graph holds
                continue
            raw = value.detach().float().numpy().tobytes()
            entries[name] = StoredWeight(
                kind="float32",
                shape=tuple(value.shape),
                transposed=False,
                values=Span(offset=stream.tell(), length=len(raw)),
            )
            stream.write(raw)
            held.add(id(value))


def _tokens(source: Source, texts: Sequence[str]) -> list[list[int]]:
    tokenizer = Tokenizer.from_str(source.tokenizer_json)
    return tokens_of(lambda text: tokenizer.encode(text).ids, texts)


def _narrowest(ports: Mapping[str, Port]) -> int:
    return min(min(port.width_in, *port.sites.values()) for port in ports.values())


def public_key(key: Ed25519PrivateKey) -> bytes:
    """The raw public key of a signing key."""
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def _card(source: Source, plan: BuildPlan, report: ExportReport) -> str:
    parameters = sum(p.numel() for p in source.model.parameters())
    return f"""# {source.name} ({plan.precision})

- Origin: {source.origin}
- Licence of the weights: {source.licence}
- Parameters: {parameters / 1e6:.1f} million; longest context {source.max_tokens} tokens
- Check: {report.sentence()}
- Public directions: rank {plan.direction_rank}, from the gradients of
  {len(plan.public_texts) - _CHECK_TEXTS} public texts

Every linear layer of the decoder takes a LoRA adapter as plain inputs of the graph.
The float weights that the graph computes with can be rebuilt from `{WEIGHTS}` and `{DATA}`.
"""
