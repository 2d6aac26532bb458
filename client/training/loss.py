"""The per-record loss of a causal language model.

A record's loss is the mean over its own tokens and never the mean over a batch: the batch mean
would let one record's length change another record's gradient, and void every privacy claim.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from transformers import PreTrainedModel

from ...shared.errors import BadInputError

__all__ = ["per_record_loss", "token_batch"]

_CHUNK = 256  # positions whose logits (each as wide as the vocabulary) exist at once


def token_batch(
    records: Sequence[Sequence[int]], start: Sequence[int] = ()
) -> dict[str, torch.Tensor]:
    """Pad records on the right, with the tokens ``start`` in front of each.

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
        target[i, len(start) : len(row)] = True
    return {"ids": ids, "mask": mask, "target": target}


def per_record_loss(model: PreTrainedModel, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Mean negative log-likelihood (nats) of each record's target tokens, ``(B,)``.

    Raises:
        BadInputError: the model does more to its logits than a matrix and a soft cap.
    """
    _require_plain_head(model)
    hidden = model.base_model(
        input_ids=batch["ids"], attention_mask=batch["mask"], use_cache=False
    ).last_hidden_state
    head = model.get_output_embeddings().weight
    cap = float(getattr(model.config, "final_logit_softcapping", None) or 0.0)
    target = batch["target"][:, 1:]
    losses: torch.Tensor = _HeadLoss.apply(  # type: ignore[no-untyped-call]
        hidden[:, :-1], head, batch["ids"][:, 1:], target, cap
    )
    return losses.sum(1) / target.sum(1).clamp(min=1)


def _require_plain_head(model: PreTrainedModel) -> None:
    for option in ("logits_scaling", "logit_scale"):
        if getattr(model.config, option, None) not in (None, 1, 1.0):
            raise BadInputError(f"training does not support {type(model).__name__}: {option}")
    if getattr(model.get_output_embeddings(), "bias", None) is not None:
        raise BadInputError(
            f"training does not support {type(model).__name__}: an output head with a bias"
        )


class _HeadLoss(torch.autograd.Function):
    """Token losses from hidden states, without ever holding all logits.

    The gradient with respect to the hidden states, ``(softmax - onehot) W``, is computed in the
    forward pass chunk by chunk. The head is frozen. ``cap`` is Gemma's logit soft-capping.
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: torch.Tensor,
        head: torch.Tensor,
        ids: torch.Tensor,
        target: torch.Tensor,
        cap: float,
    ) -> torch.Tensor:
        flat, labels = hidden.flatten(0, 1), ids.flatten()
        grad = torch.zeros_like(flat)
        losses = torch.zeros(len(labels))
        wanted = target.flatten().nonzero()[:, 0]
        for rows in wanted.split(_CHUNK):  # type: ignore[no-untyped-call]
            logits = (flat[rows] @ head.T).float()
            if cap:
                logits = torch.tanh(logits / cap) * cap
            total = torch.logsumexp(logits, -1, keepdim=True)
            picked = torch.arange(len(rows))
            losses[rows] = total[:, 0] - logits[picked, labels[rows]]
            if ctx.needs_input_grad[0]:
                slope = 1 - (logits / cap).square() if cap else None
                error = logits.sub_(total).exp_()
                error[picked, labels[rows]] -= 1
                if slope is not None:
                    error *= slope
                grad[rows] = error.to(head.dtype) @ head
        ctx.save_for_backward(grad.view_as(hidden))
        return losses.view(ids.shape)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor, None, None, None, None]:
        (grad,) = ctx.saved_tensors
        return grad * grads[0][..., None].to(grad.dtype), None, None, None, None
