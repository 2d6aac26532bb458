"""A gallery of hands: the alphabets of real handwriting fonts, a writer each."""

from __future__ import annotations

import hashlib
from collections import defaultdict

import numpy as np

from .drawings import read_packed
from .pictures import Artist, Gallery, Picture

__all__ = ["load_glyphs"]

_HELD_OUT = 5  # letters of a writer


def load_glyphs() -> Gallery:
    """The letters a to z at 32 pixels by 84 writers. Source: ``data/SOURCE.md``.

    Five letters of a writer are held out, other ones for each writer: everybody's training together
    has all letters, and the writer's hand must be carried over to letters that it never wrote.
    """
    pixels, lines = read_packed("glyphs")
    written: dict[str, dict[str, Picture]] = defaultdict(dict)
    for grey, line in zip(pixels, lines, strict=True):
        writer, letter = line["writer"], line["letter"]
        written[writer][letter] = Picture(
            pixels=np.broadcast_to(grey, (*grey.shape[:2], 3)),
            caption=f"letter {letter}",
            attributes={"letter": letter},
            held_out=letter in _held_out(writer),
        )
    artists = (Artist(name=name, pictures=tuple(by.values())) for name, by in written.items())
    return Gallery(name="glyphs", kind="real", artists=tuple(artists))


def _held_out(writer: str) -> list[str]:
    def rank(letter: str) -> bytes:
        return hashlib.sha256(f"{writer}/{letter}".encode()).digest()

    return sorted("abcdefghijklmnopqrstuvwxyz", key=rank)[:_HELD_OUT]
