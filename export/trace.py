"""Trace a causal language model to a float ONNX graph with a key-value cache.

The graph follows the contract of :mod:`locavore.shared.causal_graph`, still without ports.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import onnx_ir as ir
import torch
from transformers import PreTrainedModel
from transformers.cache_utils import DynamicCache

from ..shared.errors import BadInputError, PackageError
from .graph import strip_wrapper

__all__ = ["quiet_export", "trace_causal_lm", "trace_module"]

OPSETS = (23, 20)  # 23 has native Attention, RotaryEmbedding and RMSNormalization
_BATCH, _NEW, _PAST = 2, 5, 7  # example sizes; 0 and 1 would be specialised by the tracer


class _FlatCache(torch.nn.Module):
    """The model with its cache as a flat list of tensors in and out."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor,
        position_ids: torch.Tensor,
        logits_to_keep: torch.Tensor,
        past: list[torch.Tensor],
    ) -> tuple[torch.Tensor, ...]:
        pairs = [(past[i], past[i + 1]) for i in range(0, len(past), 2)]
        out = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            position_ids=position_ids,
            past_key_values=DynamicCache(pairs),
            use_cache=True,
            logits_to_keep=logits_to_keep,
        )
        layers = out.past_key_values.layers
        return (out.logits, *(t for layer in layers for t in (layer.keys, layer.values)))


def trace_causal_lm(model: PreTrainedModel) -> tuple[ir.Model, int]:
    """Trace ``model`` and return its graph and opset.

    Raises:
        BadInputError: the model is no decoder-only causal language model with a plain
            key-value cache.
        PackageError: no opset could express it.
    """
    config = model.config
    if getattr(config, "is_encoder_decoder", False) or not hasattr(config, "num_hidden_layers"):
        raise BadInputError(f"{type(model).__name__} is not a decoder-only causal language model")
    layers = config.num_hidden_layers
    batch, new, total, keep, cached = (
        torch.export.Dim(name) for name in ("batch", "new", "total", "keep", "cached")
    )
    cache_names = [f"{i}.{part}" for i in range(layers) for part in ("key", "value")]
    past = [f"past.{name}" for name in cache_names]
    traced, opset = trace_module(
        _FlatCache(model),
        _example(model),
        inputs=["input_ids", "attention_mask", "position_ids", "logits_to_keep", *past],
        outputs=["logits", *(f"present.{name}" for name in cache_names)],
        dynamic_shapes=(
            {0: batch, 1: new},
            {0: batch, 1: total},
            {0: batch, 1: new},
            {0: keep},
            [{0: batch, 2: cached}] * (2 * layers),
        ),
    )
    strip_wrapper(traced)
    return traced, opset


def trace_module(
    module: torch.nn.Module,
    example: tuple[Any, ...],
    *,
    inputs: Sequence[str],
    outputs: Sequence[str],
    dynamic_shapes: tuple[Any, ...],
) -> tuple[ir.Model, int]:
    """Trace a module to an unoptimized graph whose initializers have its parameters' names.

    Args:
        module: in float32.
        example: what it is called with once; no dynamic axis may be 0 or 1 long.
        inputs: their names.
        outputs: names of what it returns.
        dynamic_shapes: as ``torch.export`` takes them, one for each argument.

    Returns:
        The graph and its opset.

    Raises:
        PackageError: no opset could express it.
    """
    problems = []
    for opset in OPSETS:
        try:
            with torch.no_grad(), quiet_export():
                program = torch.onnx.export(
                    module.eval(),
                    example,
                    dynamo=True,
                    opset_version=opset,
                    verbose=False,
                    optimize=False,
                    input_names=list(inputs),
                    output_names=list(outputs),
                    dynamic_shapes=dynamic_shapes,
                )
        except torch.onnx.errors.OnnxExporterError as error:
            problems.append(f"opset {opset}: {str(error).splitlines()[0]}")
        else:
            assert program is not None
            return program.model, opset
    raise PackageError(f"{type(module).__name__} cannot be traced to ONNX: {'; '.join(problems)}")


def _example(model: PreTrainedModel) -> tuple[Any, ...]:
    config = model.config
    heads = config.num_attention_heads
    kv_heads = getattr(config, "num_key_value_heads", None) or heads
    width = getattr(config, "head_dim", None) or config.hidden_size // heads
    past = [
        torch.zeros(_BATCH, kv_heads, _PAST, width) for _ in range(2 * config.num_hidden_layers)
    ]
    ids = torch.arange(_BATCH * _NEW).reshape(_BATCH, _NEW) % config.vocab_size
    mask = torch.ones(_BATCH, _PAST + _NEW, dtype=torch.long)
    positions = torch.arange(_PAST, _PAST + _NEW).repeat(_BATCH, 1)
    return ids, mask, positions, torch.tensor([1, 2, 4]), past


@contextlib.contextmanager
def quiet_export() -> Iterator[None]:
    """Silence the exporter's progress chatter; errors still raise."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with (
            warnings.catch_warnings(),
            contextlib.redirect_stdout(io.StringIO()),
        ):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)
