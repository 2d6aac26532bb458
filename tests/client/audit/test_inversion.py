"""Vectors of texts give words away to a decoder, and none where they are drawn by chance."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from locavore.client.audit.inversion import Decoder, Recovery, inversion_figures, invert
from locavore.client.audit.people import notes
from locavore.client.embedding import ModelEmbedder
from locavore.client.retrieval import words
from locavore.client.runtime import TextModel
from locavore.privacy.noise import Doubles
from locavore.shared.adapters import Array
from locavore.shared.errors import BadInputError

PUBLIC = notes(300, np.random.default_rng(1))
TEXTS = notes(30, np.random.default_rng(2))


class Hashed:
    """Embeds words by hashing them: a space that holds every word and their order not."""

    name = "hashed"

    def embed(self, texts: Sequence[str]) -> Array:
        """A random direction a word, summed."""
        rows = np.stack([sum((self._of(w) for w in words(t)), np.zeros(96)) for t in texts])
        unit: Array = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        return unit

    def _of(self, word: str) -> Doubles:
        seed = int.from_bytes(word.encode()[:8].ljust(8), "little")
        drawn: Doubles = np.random.default_rng(seed).normal(size=96)
        return drawn


class Silent:
    """Embeds every text to a direction of its own that has nothing to do with it."""

    name = "silent"

    def __init__(self) -> None:
        self._rng = np.random.default_rng(0)

    def embed(self, texts: Sequence[str]) -> Array:
        """Random unit vectors."""
        rows = self._rng.normal(size=(len(texts), 96))
        unit: Array = (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)
        return unit


def test_a_space_that_holds_the_words_gives_them_away() -> None:
    found = invert(Hashed(), TEXTS, PUBLIC)
    assert found["decoder"].f1 > 0.85
    assert found["nearest text"].f1 > found["commonest words"].f1 + 0.1
    assert found["decoder"].f1 > found["nearest text"].f1


def test_a_space_that_holds_nothing_gives_nothing_away() -> None:
    found = invert(Silent(), TEXTS, PUBLIC)
    assert found["decoder"].f1 < found["commonest words"].f1 + 0.05
    assert found["nearest text"].f1 < found["commonest words"].f1 + 0.05


def test_the_devices_own_embedder_gives_words_away(model: TextModel) -> None:
    found = invert(ModelEmbedder(model), TEXTS, PUBLIC)
    assert found["decoder"].f1 > found["commonest words"].f1 + 0.1
    table, texts = inversion_figures(found, TEXTS)
    assert [row[0] for row in table.data["rows"]] == list(found)
    assert texts.data["pairs"][0][0] == TEXTS[0]


def test_words_are_counted_over_all_texts() -> None:
    found = Recovery.of([frozenset({"a", "b"}), frozenset()], ["a c", "d"])
    assert (found.precision, found.recall) == (1 / 2, 1 / 3)
    assert found.f1 == pytest.approx(0.4)
    assert Recovery.of([frozenset()], ["a"]).f1 == 0


def test_too_little_to_train_on_is_refused() -> None:
    with pytest.raises(BadInputError, match="at least 10 public texts, got 3"):
        Decoder.trained(Silent().embed(PUBLIC[:3]), PUBLIC[:3])
    with pytest.raises(BadInputError, match="no texts"):
        invert(Silent(), [], PUBLIC)
