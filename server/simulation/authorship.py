"""Does a text read as if a given author had written it?

Character n-grams catch spelling, endings, function words and punctuation: style more than topic.
The scorer learns from public authors which directions of that space differ *within* one author
(topic, occasion) and shrinks them, so that it also tells apart authors it has never seen.

Sources: character n-grams: Stamatatos, "A survey of modern authorship attribution methods",
2009, §2.2. Within-class covariance normalization: Hatch et al., Interspeech 2006.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from ...shared.errors import BadInputError, MissingExtraError, TooLittleDataError
from ...shared.metrics import CalibratedScore

__all__ = ["AuthorshipScorer"]

Matrix = npt.NDArray[np.float64]

_NGRAMS = (2, 3)  # characters, within words; 2-4 measured no better and slower
_FEATURES = 4000  # most frequent n-grams
_DIMENSIONS = 150  # 80 and 300 identify fewer of the built-in corpus' authors
_RIDGE = 0.1  # share of a round covariance mixed into the estimated one
_SMALLEST_GAP = 0.15  # of ceiling over floor: twice the spread (0.07) over draws of 8 passages


@dataclass(frozen=True)
class AuthorshipScorer:
    """A style embedding of texts, learned from public authors. Made by :meth:`fit`."""

    _ngrams: Any
    _reduce: Any
    _centre: Matrix  # (D,)
    _whiten: Matrix  # (D, D)

    @classmethod
    def fit(cls, texts_by_author: Mapping[str, Sequence[str]], seed: int) -> AuthorshipScorer:
        """Learn the embedding from public authors: none of those that will be scored.

        Args:
            texts_by_author: two authors or more, two texts or more of each; better dozens.
            seed: of the randomized singular value decomposition.

        Raises:
            TooLittleDataError: there are too few authors or texts.
            MissingExtraError: scikit-learn is not installed.
        """
        try:
            from sklearn.decomposition import TruncatedSVD
            from sklearn.feature_extraction.text import TfidfVectorizer
            from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]
        except ImportError as error:
            raise MissingExtraError("simulate", "scoring authorship") from error
        _validate_authors(texts_by_author)
        texts = [text for author in texts_by_author.values() for text in author]
        owners = np.repeat(
            np.arange(len(texts_by_author)), [len(author) for author in texts_by_author.values()]
        )  # (N,)
        ngrams = TfidfVectorizer(
            analyzer="char_wb", ngram_range=_NGRAMS, sublinear_tf=True, max_features=_FEATURES
        )
        counts = ngrams.fit_transform(texts)  # (N, F) sparse
        dimensions = min(_DIMENSIONS, *(side - 1 for side in counts.shape))
        reduce = TruncatedSVD(dimensions, n_iter=1, random_state=seed)
        with threadpool_limits(1):  # small matrices: on a busy machine threads wait for each other
            points = reduce.fit_transform(counts)  # (N, D)
        return cls(ngrams, reduce, points.mean(axis=0), _whitening(points, owners))

    def embed(self, text: str) -> Matrix:
        """The style of ``text``: a unit vector ``(D,)``; zeros when it has no known n-gram."""
        vector: Matrix = self._embed_all([text])[0]
        return vector

    def _embed_all(self, texts: Sequence[str]) -> Matrix:
        counts = self._ngrams.transform(texts)
        styles = (self._reduce.transform(counts) - self._centre) @ self._whiten
        known = np.asarray(counts.getnnz(axis=1))[:, None] > 0
        return _normalized(np.where(known, styles, 0.0))

    def similarity(self, a_texts: Sequence[str], b_texts: Sequence[str]) -> float:
        """Cosine of the mean embeddings of two sets of texts: -1 to 1, about 0 for strangers.

        Raises:
            BadInputError: one of the sets is empty.
        """
        return float(self._style(a_texts) @ self._style(b_texts))

    def _style(self, texts: Sequence[str]) -> Matrix:
        """The mean embedding of ``texts``, of unit length ``(D,)``."""
        if not len(texts):
            raise BadInputError("authorship needs one text or more in each set, got an empty set")
        return _normalized(self._embed_all(texts).mean(axis=0))

    def calibrated(
        self,
        generated: Sequence[str],
        own_reference: Sequence[str],
        own_held_out: Sequence[str],
        others: Mapping[str, Sequence[str]],
    ) -> CalibratedScore:
        """Place generated texts between other authors' real texts and the author's own.

        Short or few texts are less alike than long or many, so real texts are first cut to the
        number of the generated ones, and each to the length of its counterpart.

        Args:
            generated: what a model wrote as the author.
            own_reference: the author's real texts to compare with.
            own_held_out: other real texts of the author.
            others: real texts of other authors, by author.

        Raises:
            BadInputError: one of the sets is empty.
        """
        if not others:
            raise BadInputError("calibrated needs the texts of at least one other author, got none")
        reference = self._style(own_reference)
        similarity = float(self._style(generated) @ reference)
        ceiling = float(self._style(_cut_like(generated, own_held_out)) @ reference)
        strangers = [
            self._style(_cut_like(generated, texts)) @ reference for texts in others.values()
        ]
        floor = float(np.mean(strangers))
        return CalibratedScore.between(
            similarity, floor, ceiling, least=_SMALLEST_GAP, advice="give more or longer texts"
        )


def _validate_authors(texts_by_author: Mapping[str, Sequence[str]]) -> None:
    if len(texts_by_author) < 2:
        raise TooLittleDataError(
            f"the authorship scorer needs 2 public authors or more, got {len(texts_by_author)}"
        )
    for author, texts in texts_by_author.items():
        if len(texts) < 2:
            raise TooLittleDataError(
                f"author {author!r} needs 2 texts or more, got {len(texts)}; leave the author out"
            )


def _whitening(points: Matrix, owners: npt.NDArray[np.int_]) -> Matrix:
    """The map ``(D, D)`` that makes the spread within an author the same in every direction."""
    means = np.array([points[owners == owner].mean(axis=0) for owner in np.unique(owners)])
    covariance = np.atleast_2d(np.cov(points - means[owners], rowvar=False))
    scale = np.trace(covariance) / len(covariance)
    variances, axes = np.linalg.eigh(
        (1 - _RIDGE) * covariance + _RIDGE * scale * np.eye(len(covariance))
    )
    whitening: Matrix = axes / np.sqrt(np.maximum(variances, np.finfo(np.float64).tiny))
    return whitening


def _normalized(vectors: Matrix) -> Matrix:
    lengths = np.linalg.norm(vectors, axis=-1, keepdims=True)
    normalized: Matrix = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return normalized


def _cut_like(model: Sequence[str], texts: Sequence[str]) -> list[str]:
    """As many of ``texts``, evenly spread, as ``model`` has, each cut to its match's length."""
    count = min(len(model), len(texts))
    spread = [texts[i * len(texts) // count] for i in range(count)]
    return [text[: len(match)] for text, match in zip(spread, model, strict=False)]
