"""What a package is put together from: chunks that the device holds, and ranges of packs.

Pure: nothing is read, written or fetched here.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from ...shared.chunk_index import Chunk, Index

__all__ = ["Piece", "plan", "reaches"]


@dataclass(frozen=True, slots=True)
class Piece:
    """A chunk and its place in the new package.

    Args:
        file: name inside the package.
        at: offset in that file, bytes.
        local: file and offset where the device holds these bytes; None if it does not. They are
            checked when they are read, and fetched if they are no longer what they were.
    """

    file: str
    at: int
    chunk: Chunk
    local: tuple[Path, int] | None


def plan(index: Index, into: Path, held: Iterable[tuple[Path, Index]]) -> list[Piece]:
    """The pieces of a package, in the order in which they are written.

    Args:
        into: folder of the new package; a chunk that occurs twice in it is fetched once.
        held: folders of packages on the device, with their indexes.
    """
    places: dict[bytes, tuple[Path, int]] = {}
    for folder, old in held:
        for piece in _pieces(old):
            places.setdefault(piece.chunk.digest, (folder / piece.file, piece.at))
    pieces = []
    for piece in _pieces(index):
        digest = piece.chunk.digest
        pieces.append(Piece(piece.file, piece.at, piece.chunk, places.get(digest)))
        places.setdefault(digest, (into / piece.file, piece.at))
    return pieces


def reaches(pieces: Sequence[Piece]) -> list[int]:
    """For each piece, where in its pack a request may end that begins with it.

    It goes on as long as the pieces to be fetched follow each other; local ones are passed over.
    """
    stops = [0] * len(pieces)
    ahead: tuple[str, int, int] = ("", 0, 0)  # pack and offset of the next one to fetch, its stop
    for place in range(len(pieces) - 1, -1, -1):
        chunk = pieces[place].chunk
        end = chunk.offset + chunk.length
        stops[place] = ahead[2] if ahead[:2] == (chunk.pack, end) else end
        if pieces[place].local is None:
            ahead = (chunk.pack, chunk.offset, stops[place])
    return stops


def _pieces(index: Index) -> Iterable[Piece]:
    for name, file in index.files.items():
        at = 0
        for chunk in file.chunks:
            yield Piece(name, at, chunk, None)
            at += chunk.length
