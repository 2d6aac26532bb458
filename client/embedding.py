"""A dense embedder from the base that the device runs anyway: mean hidden states."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np

from ..shared.adapters import Array
from .runtime import TextModel

__all__ = ["ModelEmbedder"]

_MAX_TOKENS = 256
_ORDINARY = (
    "The train to the coast leaves at nine in the morning.",
    "Please send me the figures before the meeting on Friday.",
    "She planted two rows of beans behind the house.",
    "Add the flour slowly and stir until it is smooth.",
    "The court decided the case in favour of the tenant.",
    "He scored twice in the second half and was named best player.",
    "Install the package, then restart the service.",
    "We had a wonderful time and hope to see you again soon.",
)


class ModelEmbedder:
    """Embeds texts as the centred mean of the base's last hidden states, without an adapter.

    A language model's hidden states share a large common direction; the mean over a few ordinary
    sentences is taken off, so that cosines spread. A trained sentence encoder ranks better; this
    one costs no download.
    """

    def __init__(self, model: TextModel) -> None:
        self._model = model

    @property
    def name(self) -> str:
        """Names the space by the base."""
        return f"hidden states of {self._model.base_id}"

    def embed(self, texts: Sequence[str]) -> Array:
        """``(n, d)`` float32 rows of norm one."""
        centred = self._states(texts) - self._centre
        norms = np.linalg.norm(centred, axis=1, keepdims=True)
        unit: Array = (centred / np.maximum(norms, 1e-9)).astype(np.float32)
        return unit

    @cached_property
    def _centre(self) -> Array:
        centre: Array = self._states(_ORDINARY).mean(axis=0)
        return centre

    def _states(self, texts: Sequence[str]) -> Array:
        with self._model.bare():  # vectors of different adapters cannot be compared
            return np.stack([self._mean_state(text) for text in texts])

    def _mean_state(self, text: str) -> Array:
        ids = self._model.encode(text)[:_MAX_TOKENS] or self._model.encode(" ")
        mean: Array = self._model.hidden_states(ids).mean(axis=0)
        return mean
