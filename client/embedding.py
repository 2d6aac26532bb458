"""A dense embedder from the base that the device runs anyway: mean hidden states."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..shared.adapters import Array
from .runtime import TextModel

__all__ = ["ModelEmbedder"]

_MAX_TOKENS = 256


class ModelEmbedder:
    """Embeds texts as the centred mean of the base's last hidden states, without an adapter.

    A language model's hidden states share a large common direction; the mean over the first
    batch of texts is taken off, so that cosines spread. A trained sentence encoder ranks
    better; this one costs no download.
    """

    def __init__(self, model: TextModel) -> None:
        self._model = model
        self._centre: Array | None = None

    def embed(self, texts: Sequence[str]) -> Array:
        """``(n, d)`` float32 rows of norm one."""
        with self._model.bare():  # vectors of different adapters cannot be compared
            rows = np.stack([self._mean_state(text) for text in texts])
        if self._centre is None:
            self._centre = rows.mean(axis=0) if len(rows) > 1 else np.zeros_like(rows[0])
        centred = rows - self._centre
        norms = np.linalg.norm(centred, axis=1, keepdims=True)
        unit: Array = (centred / np.maximum(norms, 1e-9)).astype(np.float32)
        return unit

    def _mean_state(self, text: str) -> Array:
        ids = self._model.encode(text)[:_MAX_TOKENS] or self._model.encode(" ")
        mean: Array = self._model.hidden_states(ids).mean(axis=0)
        return mean
