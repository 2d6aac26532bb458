"""Packs: one file a published version, with the chunks that no pack before it holds."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import BinaryIO

from ...shared.chunk_index import Chunk, Index, IndexedFile, pack_path
from ...shared.errors import BadInputError
from ...shared.files import sync_folder
from .cutting import cut

__all__ = ["index_folder"]


def index_folder(
    source: Path,
    public: Path,
    known: Iterable[Index],
    *,
    names: Iterable[str],
    kind: str,
    name: str,
    version: str,
    base_id: str,
    publisher: str = "",
) -> Index:
    """Cut a package's files, write the chunks that are new into a pack, and index all of them.

    Args:
        source: the package.
        public: the repository's public folder.
        known: indexes whose packs are there already.
        names: the files to take, as paths below ``source``.
        kind, name, version, base_id, publisher: see :class:`Index`.

    Raises:
        BadInputError: one of the files is not below ``source``, or is a link out of it.
    """
    places: dict[bytes, Chunk] = {}
    lengths: dict[str, int] = {}
    for index in known:
        lengths |= index.packs
        for chunk in index.chunks():
            places.setdefault(chunk.digest, chunk)
    (public / "packs").mkdir(parents=True, exist_ok=True)
    digests: dict[str, str] = {}
    pieces: dict[str, list[Chunk]] = {}
    with _Pack(public) as pack:
        for file in sorted(names):
            path = source / file
            if not path.resolve().is_relative_to(source.resolve()) or not path.is_file():
                raise BadInputError(f"{path} is no file of the package {source}")
            with path.open("rb") as stream:
                digests[file], pieces[file] = _store(stream, pack, places)
        finished = pack.finish()
    lengths[finished] = pack.length
    files = {
        file: IndexedFile.of(digests[file], [_settled(chunk, finished) for chunk in chunks])
        for file, chunks in pieces.items()
    }
    used = dict.fromkeys(pack for entry in files.values() for pack, _, _ in entry.runs)
    return Index(
        kind=kind,
        name=name,
        version=version,
        files=files,
        packs={each: lengths[each] for each in used},
        base_id=base_id,
        publisher=publisher,
    )


class _Pack:
    """A pack that is being written; its name is known when it is finished."""

    UNNAMED = ""

    def __init__(self, public: Path) -> None:
        self._public, self._hash = public, hashlib.sha256()
        self._path = public / "packs" / ".new.tmp"
        self.length = 0

    def __enter__(self) -> _Pack:
        self._stream = self._path.open("wb")
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._path.unlink(missing_ok=True)

    def append(self, digest: bytes, raw: bytes) -> Chunk:
        chunk = Chunk(digest, len(raw), self.UNNAMED, self.length)
        self._stream.write(raw)
        self._hash.update(raw)
        self.length += len(raw)
        return chunk

    def finish(self) -> str:
        """Give it its name and its place, unless there is nothing in it."""
        self._stream.flush()
        os.fsync(self._stream.fileno())
        name = self._hash.hexdigest()
        if self.length:
            self._path.replace(self._public / pack_path(name))
            sync_folder(self._public / "packs")
        return name


def _store(stream: BinaryIO, pack: _Pack, places: dict[bytes, Chunk]) -> tuple[str, list[Chunk]]:
    """SHA-256 (hex) and chunks of a file; chunks that are new go into the pack."""
    whole, chunks = hashlib.sha256(), []
    for raw in cut(stream):
        whole.update(raw)
        digest = hashlib.sha256(raw).digest()
        if digest not in places:
            places[digest] = pack.append(digest, raw)
        chunks.append(places[digest])
    return whole.hexdigest(), chunks


def _settled(chunk: Chunk, pack: str) -> Chunk:
    return chunk if chunk.pack != _Pack.UNNAMED else chunk._replace(pack=pack)
