"""Texts that share beginnings: each beginning goes through the base once, however it goes on.

The cache of keys and values of a beginning is copied for every way in which it goes on, so that
scoring many continuations costs one token for each *different* beginning, not for each text.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnxruntime import OrtValue

from ..shared.adapters import Array
from ..shared.causal_graph import CausalGraph, Past
from ..shared.errors import BadInputError

__all__ = ["Continued", "continuation_losses"]

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Continued:
    """Texts of one length, under the adapter that was live when they were begun.

    Args:
        graph: the base's.
        past: the cache of all texts.
        length: tokens of each.
        log_probs: ``(B, V)`` of the token after each text, nats.
    """

    graph: CausalGraph
    past: Past
    length: int
    log_probs: Array

    @classmethod
    def begun(cls, graph: CausalGraph, ids: Ints) -> Continued:
        """Texts of token ids ``(B, T)``.

        Raises:
            BadInputError: no text, or no token.
        """
        if ids.ndim != 2 or not ids.size:
            raise BadInputError(f"texts to go on from must be (B, T), got {ids.shape}")
        return _fed(graph, graph.empty_past(len(ids)), 0, ids)

    def then(self, texts: Ints, tokens: Ints) -> Continued:
        """Longer texts: each of ``texts (N,)``, named by its row, with one of ``tokens (N,)`` on.

        A text may be named several times, or not at all.
        """
        past = {
            name: OrtValue.ortvalue_from_numpy(np.take(held.numpy(), texts, axis=0))
            for name, held in self.past.items()
        }
        return _fed(self.graph, past, self.length, tokens[:, None])


def continuation_losses(begun: Continued, rows: Sequence[Sequence[Sequence[int]]]) -> Array:
    """Negative log-likelihood (nats) of whole continuations, ``(B, m)``.

    Args:
        begun: B texts.
        rows: of each text m continuations; all of one number of tokens, at least one.

    Raises:
        BadInputError: other shapes.
    """
    lengths = {len(ids) for own in rows for ids in own}
    if len(rows) != len(begun.log_probs) or len(lengths) != 1 or 0 in lengths:
        raise BadInputError(
            f"continuations must be of one length and for {len(begun.log_probs)} texts, got "
            f"{len(rows)} rows of lengths {sorted(lengths)}"
        )
    tokens = np.array(rows, np.int64)  # (B, m, L)
    at = np.repeat(np.arange(len(tokens)), tokens.shape[1])  # each continuation's text
    columns = tokens.reshape(len(at), -1).T
    total = np.zeros(len(at), np.float32)
    for place, column in enumerate(columns):
        total -= begun.log_probs[at, column]
        if place + 1 < len(columns):
            different, at = np.unique(np.stack([at, column]), axis=1, return_inverse=True)
            begun = begun.then(*different)
    return total.reshape(tokens.shape[:2])


def _fed(graph: CausalGraph, past: Past, length: int, ids: Ints) -> Continued:
    count, new = ids.shape
    mask = np.ones((count, length + new), np.int64)
    positions = np.tile(np.arange(length, length + new), (count, 1))
    step = graph.run(ids, mask, positions, np.array([new - 1]), past)
    return Continued(graph, step.past, length + new, _log_softmax(step.logits[:, 0]))


def _log_softmax(logits: Array) -> Array:
    found: Array = logits - logits.max(axis=-1, keepdims=True)
    found -= np.log(np.exp(found).sum(axis=-1, keepdims=True))
    return found
