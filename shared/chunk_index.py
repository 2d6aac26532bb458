"""The index of a package: its files, the chunks they are made of, and where those lie in packs.

An index is what a repository signs for one version of a package. Rules of :meth:`Index.from_json`,
applied to bytes whose hash was verified and whose author may still be careless:

1. The format, kind, name and version are well-formed.
2. File names stay inside the package, differ also without regard to case, and none is a folder of
   another.
3. Every chunk has 1 to :data:`MAX_CHUNK_BYTES` bytes and lies within a pack of the list.
4. A file's chunks add up to its length.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from .errors import BadInputError, PackageError

__all__ = [
    "KINDS",
    "MAX_CHUNK_BYTES",
    "Chunk",
    "Index",
    "IndexedFile",
    "pack_path",
    "require_name",
    "target_path",
    "version_order",
]

KINDS = ("adapters", "bases")
MAX_CHUNK_BYTES = 131_072

_FORMAT = 1
_HASH_BYTES = 32
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
_VERSION = re.compile(r"\d{1,9}(\.\d{1,9}){0,3}")
_HEX = re.compile(r"[0-9a-f]{64}")


class Chunk(NamedTuple):
    """A piece of a file.

    Args:
        digest: SHA-256 of its bytes (32 bytes).
        length: bytes.
        pack: SHA-256 (hex) of the pack that holds it.
        offset: bytes from the pack's beginning.
    """

    digest: bytes
    length: int
    pack: str
    offset: int


@dataclass(frozen=True, kw_only=True)
class IndexedFile:
    """A file and what it is made of; chunks are kept in columns, and made when they are asked for.

    Args:
        length: bytes.
        sha256: of the whole file (hex).
        hashes: of its chunks in order, 32 bytes each.
        lengths: of its chunks, bytes.
        runs: pack, offset in it, and how many chunks follow each other from there.
    """

    length: int
    sha256: str
    hashes: bytes
    lengths: tuple[int, ...]
    runs: tuple[tuple[str, int, int], ...]

    @classmethod
    def of(cls, sha256: str, chunks: Sequence[Chunk]) -> IndexedFile:
        """A file of these chunks."""
        return cls(
            length=sum(chunk.length for chunk in chunks),
            sha256=sha256,
            hashes=b"".join(chunk.digest for chunk in chunks),
            lengths=tuple(chunk.length for chunk in chunks),
            runs=_runs(chunks),
        )

    @property
    def chunks(self) -> Iterator[Chunk]:
        """Its chunks in order."""
        place = 0
        for pack, offset, count in self.runs:
            for length in self.lengths[place : place + count]:
                begin = _HASH_BYTES * place
                yield Chunk(self.hashes[begin : begin + _HASH_BYTES], length, pack, offset)
                offset += length
                place += 1


@dataclass(frozen=True, kw_only=True)
class Index:
    """One version of a package.

    Args:
        kind: ``bases`` or ``adapters``.
        name: lower-case letters, digits, ``.``, ``_`` and ``-``.
        version: up to four numbers with dots between; the highest is the latest.
        files: name inside the package to file.
        packs: SHA-256 (hex) of each pack to its length in bytes.
        base_id: the weights that this is, or that the adapter belongs to.
        publisher: raw Ed25519 key (hex) that signed a base's manifest; empty for adapters.
    """

    kind: str
    name: str
    version: str
    files: Mapping[str, IndexedFile]
    packs: Mapping[str, int]
    base_id: str = ""
    publisher: str = ""

    @property
    def nbytes(self) -> int:
        """Total size of the files in bytes."""
        return sum(file.length for file in self.files.values())

    def chunks(self) -> Iterator[Chunk]:
        """Every chunk, file by file."""
        for file in self.files.values():
            yield from file.chunks

    def to_json(self) -> bytes:
        """The bytes that are signed: hashes of a file in one string, places as runs."""
        packs = list(self.packs)
        number = {pack: place for place, pack in enumerate(packs)}
        files = {
            name: {
                "length": file.length,
                "sha256": file.sha256,
                "hashes": b64encode(file.hashes).decode(),
                "lengths": file.lengths,
                "runs": [[number[pack], offset, count] for pack, offset, count in file.runs],
            }
            for name, file in self.files.items()
        }
        told = {
            "format": _FORMAT,
            "kind": self.kind,
            "name": self.name,
            "version": self.version,
            "base_id": self.base_id,
            "publisher": self.publisher,
            "packs": [[pack, self.packs[pack]] for pack in packs],
            "files": files,
        }
        return json.dumps(told, separators=(",", ":")).encode()

    @classmethod
    def from_json(cls, raw: bytes) -> Index:
        """Parse and check against the rules above.

        Raises:
            PackageError: the first rule that is broken.
        """
        try:
            told = json.loads(raw)
            _require(told["format"] == _FORMAT, f"format {told['format']!r}, expected {_FORMAT}")
            require_name(told["kind"], told["name"], told["version"])
            packs = {str(name): int(length) for name, length in told["packs"]}
            for pack in packs:
                _require(bool(_HEX.fullmatch(pack)), f"pack {pack!r} is no SHA-256")
            _require_file_names(told["files"])
            publisher = told["publisher"]
            _require(
                publisher == "" or bool(_HEX.fullmatch(publisher)),
                f"publisher {publisher!r} is no Ed25519 key in hex",
            )
            order = list(packs.items())
            return cls(
                kind=told["kind"],
                name=told["name"],
                version=told["version"],
                files={name: _file(name, entry, order) for name, entry in told["files"].items()},
                packs=packs,
                base_id=str(told["base_id"]),
                publisher=publisher,
            )
        except BadInputError as error:
            raise PackageError(f"the index cannot be used: {error}") from None
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise PackageError(f"the index cannot be read: {error!r}; publish it again") from None


def require_name(kind: str, name: str, version: str) -> None:
    """Refuse what could not be a path, a URL and a folder alike.

    Raises:
        BadInputError: unknown kind, or a name or version of another form.
    """
    if kind not in KINDS:
        raise BadInputError(f"kind must be one of {', '.join(KINDS)}, got {kind!r}")
    if not (isinstance(name, str) and _NAME.fullmatch(name)):
        raise BadInputError(
            f"a name is 1..100 of a-z 0-9 . _ - and begins with a letter or digit, got {name!r}"
        )
    if not (isinstance(version, str) and _VERSION.fullmatch(version)):
        raise BadInputError(f"a version is up to four numbers such as 1.2.0, got {version!r}")


def version_order(version: str) -> tuple[int, ...]:
    """What versions are sorted by: 1.10 is later than 1.9, and 1.0 is 1."""
    numbers = [int(part) for part in version.split(".")]
    while len(numbers) > 1 and not numbers[-1]:
        numbers.pop()
    return tuple(numbers)


def target_path(kind: str, name: str, version: str) -> str:
    """Name of an index among a repository's signed targets."""
    return f"{kind}/{name}/{version}.json"


def pack_path(pack: str) -> str:
    """Where a pack lies below the repository's address."""
    return f"packs/{pack}.pack"


def _runs(chunks: Iterable[Chunk]) -> tuple[tuple[str, int, int], ...]:
    runs: list[tuple[str, int, int]] = []
    pack, end = "", -1
    for chunk in chunks:
        if (chunk.pack, chunk.offset) == (pack, end):
            runs[-1] = (pack, runs[-1][1], runs[-1][2] + 1)
        else:
            runs.append((chunk.pack, chunk.offset, 1))
        pack, end = chunk.pack, chunk.offset + chunk.length
    return tuple(runs)


def _file(name: str, entry: Mapping[str, Any], packs: list[tuple[str, int]]) -> IndexedFile:
    hashes, lengths = b64decode(entry["hashes"], validate=True), tuple(entry["lengths"])
    _require(len(hashes) == _HASH_BYTES * len(lengths), f"{name!r} has not one hash a chunk")
    _require(bool(_HEX.fullmatch(entry["sha256"])), f"{name!r} has no SHA-256")
    _require(set(map(type, lengths)) <= {int}, f"{name!r} has a chunk of no whole number of bytes")
    if lengths and not (min(lengths) >= 1 and max(lengths) <= MAX_CHUNK_BYTES):
        raise BadInputError(
            f"{name!r} has a chunk of {min(lengths)} or {max(lengths)} bytes, allowed are "
            f"1..{MAX_CHUNK_BYTES}"
        )
    runs, place = [], 0
    for number, start, count in entry["runs"]:
        _require(0 <= number < len(packs) and count >= 1, f"{name!r} has a run of no pack")
        _require(place + count <= len(lengths), f"{name!r} has a run of chunks that it has not")
        pack, size = packs[number]
        end = start + sum(lengths[place : place + count])
        _require(start >= 0 and end <= size, f"{name!r} reaches out of its pack")
        runs.append((pack, start, count))
        place += count
    _require(place == len(lengths), f"{name!r} has chunks without a place")
    _require(sum(lengths) == entry["length"], f"{name!r} is not as long as its chunks")
    return IndexedFile(
        length=entry["length"],
        sha256=entry["sha256"],
        hashes=hashes,
        lengths=lengths,
        runs=tuple(runs),
    )


def _require_file_names(names: Iterable[str]) -> None:
    folded = [name.casefold() for name in names]
    _require(bool(folded), "it lists no files")
    _require(len(set(folded)) == len(folded), "two files differ only in case")
    folders = {str(parent) for name in folded for parent in PurePosixPath(name).parents}
    for name in names:
        parts = name.split("/")
        inside = all(part not in ("", ".", "..") for part in parts)
        plain = name.isprintable() and not set(name) & set('\\:*?"<>|')
        _require(inside and plain, f"it names a file outside of the package: {name!r}")
        _require(name.casefold() not in folders, f"{name!r} is a file and a folder")


def _require(holds: bool, what: str) -> None:
    if not holds:
        raise BadInputError(what)
