"""What the vectors of a search index would tell of their texts, if somebody could read them.

Two attackers with public texts of the same kind: one names the nearest public text, one has
trained a decoder from vectors to words. Both are held against naming the commonest words.
Source: Song and Raghunathan, "Information Leakage in Embedding Models", arXiv:2004.00053.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ...privacy.audit.sections import Figure
from ...shared.adapters import Array
from ...shared.errors import BadInputError
from ..retrieval import Embedder, words
from ..retrieval.segment import Vectors

__all__ = ["Decoder", "Recovery", "inversion_figures", "invert"]

_MOST_WORDS = 3000  # that a decoder knows
_STRENGTHS = (0.01, 0.1, 1.0, 10.0)  # of the decoder's ridge, in mean squared singular values
_SHOWN = 8

Bag = frozenset[str]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Recovery:
    """Words that were recovered of texts.

    Args:
        bags: of each text.
        precision: share of the recovered words that stand in the texts.
        recall: share of the texts' words that were recovered.
    """

    bags: tuple[Bag, ...]
    precision: float
    recall: float

    @classmethod
    def of(cls, bags: Sequence[Bag], texts: Sequence[str]) -> Recovery:
        """Count over all texts together."""
        true = [frozenset(words(text)) for text in texts]
        right = sum(len(bag & own) for bag, own in zip(bags, true, strict=True))
        said, all_words = sum(map(len, bags)), sum(map(len, true))
        return cls(tuple(bags), right / max(1, said), right / max(1, all_words))

    @property
    def f1(self) -> float:
        """Harmonic mean of precision and recall."""
        both = self.precision + self.recall
        return 2 * self.precision * self.recall / both if both else 0.0


@dataclass(frozen=True)
class Decoder:
    """A linear map from vectors to words, trained by ridge regression on public texts.

    Args:
        vocabulary: the v words that it knows.
        middle: ``(d,)`` mean of the public vectors.
        common: ``(v,)`` share of public texts that hold each word.
        weights: ``(d, v)``.
        count: words that it names of a text.
    """

    vocabulary: tuple[str, ...]
    middle: Doubles
    common: Doubles
    weights: Doubles
    count: int

    @classmethod
    def trained(cls, vectors: Array, texts: Sequence[str]) -> Decoder:
        """Train on public texts and their vectors ``(n, d)``; a fifth chooses the ridge.

        Raises:
            BadInputError: fewer than ten texts.
        """
        if len(texts) < 10:
            raise BadInputError(f"a decoder needs at least 10 public texts, got {len(texts)}")
        bags = [frozenset(words(text)) for text in texts]
        cut = len(texts) * 4 // 5
        tried = [cls._ridge(vectors[:cut], bags[:cut], strength) for strength in _STRENGTHS]
        rest = [Recovery.of(one.read(vectors[cut:]), texts[cut:]).f1 for one in tried]
        return cls._ridge(vectors, bags, _STRENGTHS[int(np.argmax(rest))])

    @classmethod
    def _ridge(cls, vectors: Array, bags: Sequence[Bag], strength: float) -> Decoder:
        counts = Counter(word for bag in bags for word in sorted(bag))
        vocabulary = tuple(word for word, _ in counts.most_common(_MOST_WORDS))
        holds = np.array([[word in bag for word in vocabulary] for bag in bags], np.float64)
        middle, common = vectors.mean(0, dtype=np.float64), holds.mean(0)
        x = vectors - middle
        gram = x.T @ x
        ridge = strength * np.trace(gram) / len(gram) + 1e-9
        weights = np.linalg.solve(gram + ridge * np.eye(len(gram)), x.T @ (holds - common))
        count = max(1, round(sum(map(len, bags)) / len(bags)))
        return cls(vocabulary, middle, common, weights, min(count, len(vocabulary)))

    def read(self, vectors: Array) -> list[Bag]:
        """The likeliest words of each text, from its vector."""
        scores = (vectors - self.middle) @ self.weights + self.common
        best = np.argsort(-scores, axis=1, kind="stable")[:, : self.count]
        return [frozenset(self.vocabulary[word] for word in row) for row in best]

    def commonest(self) -> Bag:
        """What is named without a vector."""
        best = np.argsort(-self.common, kind="stable")[: self.count]
        return frozenset(self.vocabulary[word] for word in best)


def invert(embedder: Embedder, texts: Sequence[str], public: Sequence[str]) -> dict[str, Recovery]:
    """Attack the vectors that an index keeps of texts, a byte a number.

    Args:
        embedder: which anybody can run.
        texts: of the index; the attackers see their vectors alone.
        public: what the attackers have, such as texts of other people.

    Returns:
        By attacker: ``commonest words``, ``nearest text`` and ``decoder``.

    Raises:
        BadInputError: there are no texts, or fewer than ten public ones.
    """
    if not texts:
        raise BadInputError("there are no texts whose vectors could be attacked")
    kept = Vectors.of(embedder.name, embedder.embed(texts))
    seen = kept.codes * kept.scales[:, None]
    known = embedder.embed(public)
    decoder = Decoder.trained(known, public)
    nearest = [frozenset(words(public[int(i)])) for i in np.argmax(seen @ known.T, axis=1)]
    bags = {
        "commonest words": [decoder.commonest()] * len(texts),
        "nearest text": nearest,
        "decoder": decoder.read(seen),
    }
    return {name: Recovery.of(found, texts) for name, found in bags.items()}


def inversion_figures(found: dict[str, Recovery], texts: Sequence[str]) -> list[Figure]:
    """How well each attacker did, and what the decoder read."""
    rows = [
        [name, round(one.precision, 3), round(one.recall, 3), round(one.f1, 3)]
        for name, one in found.items()
    ]
    pairs = [
        [text, " ".join(sorted(bag))]
        for text, bag in zip(texts, found["decoder"].bags, strict=True)
    ]
    return [
        Figure(
            title="Words recovered from the vectors of an index that is not encrypted",
            kind="table",
            data={"head": ["attacker", "precision", "recall", "F1"], "rows": rows},
        ),
        Figure(
            title="Texts, and the words that the decoder reads from their vectors",
            kind="texts",
            data={"pairs": pairs[:_SHOWN]},
        ),
    ]
