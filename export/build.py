"""Build a text base-model package: trace, quantize, add ports, compute directions, check, sign."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from tokenizers import Tokenizer

from ..shared.causal_graph import DATA, GRAPH
from ..shared.errors import BadInputError
from ..shared.packages import Package, open_package
from ..shared.twin import CONFIG, WEIGHTS, cast_weights, fast_dtype
from .check import ExportReport, check_package
from .directions import language_loss, public_directions, tokens_of
from .part import save_part
from .quantize import PRECISIONS, Precision
from .sources import Source
from .staging import DIRECTIONS, TOKENIZER, public_key, sign_checked, staged
from .trace import trace_causal_lm

__all__ = ["BuildPlan", "build_text_base"]

_CHECK_TEXTS = 4


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
    with staged(folder) as work:
        report = _build(source, work, plan, key, say)
    return open_package(folder, trusted=[public_key(key)]), report


def _build(
    source: Source,
    work: Path,
    plan: BuildPlan,
    key: Ed25519PrivateKey,
    say: Callable[[str], None],
) -> ExportReport:
    say("tracing to ONNX")
    model, opset = trace_causal_lm(source.model)
    say(f"optimizing the graph and quantizing it to {plan.precision}")
    part = save_part(
        model,
        work / GRAPH,
        work / WEIGHTS,
        plan.precision,
        dict(source.model.named_parameters(remove_duplicate=False)),
        ports=True,
        hidden=True,
    )
    (work / TOKENIZER).write_text(source.tokenizer_json)
    (work / CONFIG).write_text(source.model.config.to_json_string(use_diff=False))
    say("computing public directions")
    texts = _tokens(source, plan.public_texts)
    model_to_learn = cast_weights(copy.deepcopy(source.model), fast_dtype())
    directions = public_directions(
        model_to_learn,
        part.sites,
        texts[_CHECK_TEXTS:] or texts,
        language_loss(model_to_learn),
        rank=min(plan.direction_rank, part.narrowest),
        progress=lambda done: say(f"computing public directions {done:.0%}"),
    )
    directions.save(work / DIRECTIONS)
    say("checking the graph against its twin")
    graph = {"opset": opset, "rewrites": part.rewrites, "ports": part.manifest}
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

    return sign_checked(
        work,
        key,
        name=source.name,
        modality="text",
        precision=plan.precision,
        details=details,
        check=lambda package: check_package(package, source.model, texts, plan.precision),
        card=lambda report: _card(source, plan, report),
    )


def _tokens(source: Source, texts: Sequence[str]) -> list[list[int]]:
    tokenizer = Tokenizer.from_str(source.tokenizer_json)
    return tokens_of(lambda text: tokenizer.encode(text).ids, texts)


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
