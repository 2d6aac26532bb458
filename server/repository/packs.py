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
    with _Pack(public) as pack:
        files = {}
        for file in sorted(names):
            path = source / file
            if not path.resolve().is_relative_to(source.resolve()) or not path.is_file():
                raise BadInputError(f"{path} is no file of the package {source}")
            with path.open("rb") as stream:
                files[file] = _index_file(stream, pack, places)
        finished = pack.finish()
    files = {file: _settled(entry, finished) for file, entry in files.items()}
    lengths[finished] = pack.length
    used = dict.fromkeys(chunk.pack for entry in files.values() for chunk in entry.chunks)
    return Index(
        kind=kind,
        name=name,
        version=version,
        files=files,
        packs={used_pack: lengths[used_pack] for used_pack in used},
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


def _index_file(stream: BinaryIO, pack: _Pack, places: dict[bytes, Chunk]) -> IndexedFile:
    whole, length = hashlib.sha256(), 0
    chunks = []
    for raw in cut(stream):
        whole.update(raw)
        length += len(raw)
        digest = hashlib.sha256(raw).digest()
        if digest not in places:
            places[digest] = pack.append(digest, raw)
        chunks.append(places[digest])
    return IndexedFile(length=length, sha256=whole.hexdigest(), chunks=tuple(chunks))


def _settled(entry: IndexedFile, pack: str) -> IndexedFile:
    chunks = tuple(
        chunk
        if chunk.pack != _Pack.UNNAMED
        else Chunk(chunk.digest, chunk.length, pack, chunk.offset)
        for chunk in entry.chunks
    )
    return IndexedFile(length=entry.length, sha256=entry.sha256, chunks=chunks)
