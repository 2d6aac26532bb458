"""Losses of language models, a record at a time.

A record's loss is the mean over its own tokens and never the mean over a batch: the batch mean
would let one record's length change another record's gradient, and void every privacy claim.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy
from transformers import PreTrainedModel

from ....shared.errors import BadInputError

__all__ = ["per_record_loss", "sequence_loss", "token_batch", "token_losses"]

_CHUNK = 256  # positions whose logits (each as wide as the vocabulary) exist at once


def token_batch(
    records: Sequence[Sequence[int]], start: Sequence[int] = (), given: Sequence[int] | None = None
) -> dict[str, torch.Tensor]:
    """Pad records on the right, with the tokens ``start`` in front of each.

    Args:
        records: token ids.
        start: such as the beginning-of-text token.
        given: how many tokens of each record are its prompt; only what follows is learned.

    Returns:
        ``ids``, ``mask`` and ``target``, each ``(B, T)``; ``target`` marks the tokens that the
        loss counts.
    """
    rows = [[*start, *record] for record in records]
    longest = max(map(len, rows))
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    mask = torch.zeros_like(ids)
    target = torch.zeros(len(rows), longest, dtype=torch.bool)
    for i, row in enumerate(rows):
        ids[i, : len(row)] = torch.tensor(row)
        mask[i, : len(row)] = 1
        target[i, len(start) + (given[i] if given else 0) : len(row)] = True
    return {"ids": ids, "mask": mask, "target": target}


def per_record_loss(model: PreTrainedModel, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Mean negative log-likelihood (nats) of each record's target tokens, ``(B,)``."""
    losses = token_losses(model, batch)
    return losses.sum(1) / batch["target"][:, 1:].sum(1).clamp(min=1)


def token_losses(model: PreTrainedModel, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Negative log-likelihood of every token after the first, ``(B, T - 1)``; 0 off target.

    Args:
        model: a causal language model with a frozen output head: a matrix, with or without a bias,
            whose logits may be scaled (Granite, Cohere) or softly capped (Gemma).
        batch: of :func:`token_batch`.

    Raises:
        BadInputError: a record is longer than the model's context.
    """
    _require_context(model, batch["ids"])
    hidden = model.base_model(
        input_ids=batch["ids"], attention_mask=batch["mask"], use_cache=False
    ).last_hidden_state
    losses: torch.Tensor = _HeadLoss.apply(  # type: ignore[no-untyped-call]
        hidden[:, :-1], _Head.of(model), batch["ids"][:, 1:], batch["target"][:, 1:]
    )
    return losses


def sequence_loss(model: PreTrainedModel, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Mean negative log-likelihood (nats) of each answer of an encoder-decoder, ``(B,)``.

    Args:
        model: such as T5.
        batch: ``ids`` and ``mask (B, T)`` of what is read, ``answer`` and ``target (B, S)`` of
            what is written and of which of its tokens count.
    """
    begin = int(getattr(model.config, "decoder_start_token_id", None) or 0)
    before = torch.nn.functional.pad(batch["answer"][:, :-1], (1, 0), value=begin)
    logits = model(
        input_ids=batch["ids"],
        attention_mask=batch["mask"],
        decoder_input_ids=before,
        use_cache=False,
    ).logits
    losses = cross_entropy(logits.float().mT, batch["answer"], reduction="none") * batch["target"]
    return losses.sum(1) / batch["target"].sum(1).clamp(min=1)


def _require_context(model: PreTrainedModel, ids: torch.Tensor) -> None:
    longest = getattr(model.config, "max_position_embeddings", None) or ids.shape[-1]
    if ids.shape[-1] > longest:
        raise BadInputError(
            f"a record of {ids.shape[-1]} tokens is longer than the context of "
            f"{type(model).__name__}, {longest}; cut it"
        )


@dataclass(frozen=True)
class _Head:
    """From hidden states to logits: ``cap tanh(scale (h W^T + bias) / cap)``."""

    weight: torch.Tensor
    bias: torch.Tensor | None = None
    scale: float = 1.0
    cap: float = 0.0

    @classmethod
    def of(cls, model: PreTrainedModel) -> _Head:
        layer, config = model.get_output_embeddings(), model.config
        scale = getattr(config, "logit_scale", None) or 1.0
        divisor = getattr(config, "logits_scaling", None) or 1.0
        cap = getattr(config, "final_logit_softcapping", None) or 0.0
        bias = getattr(layer, "bias", None)
        return cls(layer.weight, bias, float(scale) / float(divisor), float(cap))

    def logits(self, hidden: torch.Tensor) -> torch.Tensor:
        logits = (hidden @ self.weight.T).float()
        if self.bias is not None:
            logits = logits + self.bias.float()
        logits = logits * self.scale
        return torch.tanh(logits / self.cap) * self.cap if self.cap else logits

    def back(self, error: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """The gradient of the hidden states from that of the logits."""
        if self.cap:
            error = error * (1 - (logits / self.cap).square())
        return (error * self.scale).to(self.weight.dtype) @ self.weight


class _HeadLoss(torch.autograd.Function):
    """Token losses from hidden states, without ever holding all logits.

    The gradient with respect to the hidden states, ``(softmax - onehot) W``, is computed in the
    forward pass chunk by chunk. The head is frozen.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: torch.Tensor, head: _Head, ids: torch.Tensor, target: torch.Tensor
    ) -> torch.Tensor:
        flat, labels = hidden.flatten(0, 1), ids.flatten()
        grad = torch.zeros_like(flat)
        losses = torch.zeros(len(labels), device=flat.device)
        wanted = target.flatten().nonzero()[:, 0]
        for rows in wanted.split(_CHUNK):  # type: ignore[no-untyped-call]
            logits = head.logits(flat[rows])
            total = torch.logsumexp(logits, -1, keepdim=True)
            picked = torch.arange(len(rows), device=flat.device)
            losses[rows] = total[:, 0] - logits[picked, labels[rows]]
            if ctx.needs_input_grad[0]:
                error = (logits - total).exp_()
                error[picked, labels[rows]] -= 1
                grad[rows] = head.back(error, logits)
        ctx.save_for_backward(grad.view_as(hidden))
        return losses.view(ids.shape)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (grad,) = ctx.saved_tensors
        return grad * grads[0][..., None].to(grad.dtype), None, None, None
