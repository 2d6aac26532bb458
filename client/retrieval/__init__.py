"""Exact retrieval over a person's own records. Nothing that was forgotten lingers in an index."""

from .search import Embedder, Hit, Retriever, Where, reweighted
from .segment import Segment
from .words import words

__all__ = ["Embedder", "Hit", "Retriever", "Segment", "Where", "reweighted", "words"]
