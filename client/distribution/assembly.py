"""Puts a package together, chunk by chunk; what is there already from a broken attempt stays.

Rules:

1. A chunk is written only after its SHA-256 was checked, wherever it came from.
2. A chunk that is in its place already, from an attempt before, is kept when its SHA-256 fits.
3. At the end every file is read again and must have the length and SHA-256 of the signed index.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import BinaryIO

from ...shared.chunk_index import Index
from ...shared.errors import DownloadError, IntegrityError
from ...shared.files import sync_folder
from ...shared.packages import FileEntry
from .packs import PackReader
from .plan import Piece, reaches

__all__ = ["Progress", "Tally", "assemble", "finish", "require_room", "verify"]

Progress = Callable[[int, int], None]
"""Told the bytes that are in place, and how many there will be."""


@dataclass
class Tally:
    """Bytes of a package by where they came from: kept from a broken attempt, held, fetched."""

    kept: int = 0
    held: int = 0
    fetched: int = 0


def assemble(
    pieces: Sequence[Piece], into: Path, total: int, reader: PackReader, progress: Progress
) -> Tally:
    """Write the files of a package into a folder.

    Raises:
        IntegrityError: the server sent other bytes than were signed.
        DownloadError: it sent too few, or none.
    """
    tally = Tally()
    with_stops = zip(pieces, reaches(pieces), strict=True)
    for name, group in groupby(with_stops, lambda pair: pair[0].file):
        path = into / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("r+b" if path.exists() else "w+b") as stream:
            end = 0
            for piece, stop in group:
                _place(piece, stop, stream, reader, tally)
                end = piece.at + piece.chunk.length
                progress(tally.kept + tally.held + tally.fetched, total)
            stream.truncate(end)
            stream.flush()
            os.fsync(stream.fileno())
    return tally


def verify(index: Index, folder: Path) -> None:
    """Check every file against the signed index.

    Raises:
        IntegrityError: a file is missing, too short or long, or has another SHA-256.
    """
    for name, file in index.files.items():
        path = folder / name
        if path.is_symlink() or not path.is_file():
            raise IntegrityError(f"{path} is missing; fetch {index.name} again")
        found = FileEntry.of(path)
        if (found.length, found.sha256) != (file.length, file.sha256):
            raise IntegrityError(
                f"{path} does not match its SHA-256 in the signed index; fetch {index.name} again"
            )


def finish(index: Index, into: Path) -> None:
    """Make files without a byte, take away what is not listed, and put all names on disk."""
    for name, file in index.files.items():
        if not file.lengths:
            (into / name).parent.mkdir(parents=True, exist_ok=True)
            (into / name).write_bytes(b"")
    wanted = {into / name for name in index.files}
    for path in sorted(into.rglob("*"), reverse=True):
        if path.is_symlink() or (path.is_file() and path not in wanted):
            path.unlink()
    for folder in (*(path for path in into.rglob("*") if path.is_dir()), into):
        sync_folder(folder)


def require_room(folder: Path, wanted: int) -> None:
    """Refuse to begin what the disk has no room for.

    Raises:
        DownloadError: with both figures.
    """
    free = shutil.disk_usage(folder).free
    if free < wanted:
        raise DownloadError(
            f"{folder} has room for {free / 1e6:.0f} MB, {wanted / 1e6:.0f} MB are needed"
        )


def _place(piece: Piece, stop: int, stream: BinaryIO, reader: PackReader, tally: Tally) -> None:
    chunk = piece.chunk
    stream.seek(piece.at)
    if _fits(stream.read(chunk.length), chunk.digest):
        tally.kept += chunk.length
        return
    raw = _held(piece)
    if raw is not None:
        tally.held += chunk.length
    else:
        raw = reader.read(chunk.pack, chunk.offset, chunk.length, stop)
        if not _fits(raw, chunk.digest):
            raise IntegrityError(
                f"the server's bytes for {piece.file} at {piece.at} do not match their signed "
                "SHA-256; nothing was installed"
            )
        tally.fetched += chunk.length
    stream.seek(piece.at)
    stream.write(raw)
    stream.flush()  # a chunk that comes again is read from here


def _held(piece: Piece) -> bytes | None:
    """A chunk from the device, if it still is what it was."""
    if piece.local is None:
        return None
    path, offset = piece.local
    try:
        with path.open("rb") as stream:
            stream.seek(offset)
            raw = stream.read(piece.chunk.length)
    except OSError:
        return None
    return raw if _fits(raw, piece.chunk.digest) else None


def _fits(raw: bytes, digest: bytes) -> bool:
    return bool(raw) and hashlib.sha256(raw).digest() == digest
