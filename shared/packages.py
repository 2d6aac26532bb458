"""Base-model packages: a folder of files under one signed manifest.

Rules, in the order in which :func:`open_package` applies them:

1. ``manifest.sig`` must hold a valid Ed25519 signature of ``manifest.json`` by a trusted key.
2. Only then is the manifest parsed; its format number must be known.
3. Every file that it lists must exist with the listed length and SHA-256.
4. Only listed files can be opened through the package; others are ignored.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import (
    Ed25519PrivateKey,
    Ed25519PublicKey,
)

from .errors import BadInputError, IntegrityError, PackageError, PackageNotFoundError

__all__ = ["FileEntry", "Manifest", "Package", "open_package", "sign_package"]

MANIFEST = "manifest.json"
SIGNATURE = "manifest.sig"
FORMAT = 1
MAX_MANIFEST_BYTES = 4_000_000  # a manifest is read before anything is trusted

_DOMAIN = b"locavore base-model package\x00"
_SIGNATURE_VERSION = b"\x01"


@dataclass(frozen=True, kw_only=True)
class FileEntry:
    """Length in bytes and SHA-256 (hex) of one file."""

    length: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> FileEntry:
        """Measure a file on disk."""
        digest = hashlib.sha256()
        with path.open("rb") as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
        return cls(length=path.stat().st_size, sha256=digest.hexdigest())


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What a package holds.

    Args:
        name: name of the base, such as ``smollm2-135m-instruct``.
        modality: ``text``, ``image``, ...
        precision: how weights are stored: ``float32``, ``int8``, ``int4``, ``int8-dynamic``.
        files: every file but the manifest and its signature.
        details: what the runtime of this modality needs to know (see the builder).
    """

    name: str
    modality: str
    precision: str
    files: Mapping[str, FileEntry]
    details: Mapping[str, Any]
    format: int = FORMAT

    @property
    def base_id(self) -> str:
        """Name, precision and the first 12 hex digits of the content's SHA-256.

        Adapters carry it: an adapter belongs to exactly these weights.
        """
        table = "\n".join(f"{name} {self.files[name].sha256}" for name in sorted(self.files))
        digest = hashlib.sha256(table.encode()).hexdigest()
        return f"{self.name}-{self.precision}-{digest[:12]}"

    def to_json(self) -> bytes:
        """Canonical bytes: what is signed."""
        return json.dumps(asdict(self), indent=1, sort_keys=True).encode()

    @classmethod
    def from_json(cls, raw: bytes) -> Manifest:
        """Parse canonical bytes.

        Raises:
            PackageError: not JSON, a missing field, or a format that is not known.
        """
        try:
            data = json.loads(raw)
            if data["format"] != FORMAT:
                raise PackageError(
                    f"package format {data['format']!r} is not known, expected {FORMAT}; "
                    "update locavore or rebuild the package"
                )
            data["files"] = {name: FileEntry(**entry) for name, entry in data["files"].items()}
            return cls(**data)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise PackageError(f"{MANIFEST} cannot be read: {error}; rebuild the package") from None


class Package:
    """A verified package on disk. Make one with :func:`open_package`.

    Args:
        publisher: the trusted key (32 bytes) that signed it.
    """

    def __init__(self, folder: Path, manifest: Manifest, publisher: bytes = b"") -> None:
        self.folder = folder
        self.manifest = manifest
        self.publisher = publisher

    @property
    def base_id(self) -> str:
        """Identity of the weights, see :attr:`Manifest.base_id`."""
        return self.manifest.base_id

    def path(self, name: str) -> Path:
        """Path of a listed file.

        Raises:
            PackageError: the manifest does not list it.
        """
        if name not in self.manifest.files:
            raise PackageError(
                f"package {self.manifest.name!r} has no file {name!r}; it lists "
                f"{', '.join(sorted(self.manifest.files))}"
            )
        return self.folder / name

    def json(self, name: str) -> Any:
        """Parse a listed JSON file."""
        return json.loads(self.path(name).read_bytes())

    @property
    def nbytes(self) -> int:
        """Total size of the listed files in bytes."""
        return sum(entry.length for entry in self.manifest.files.values())


def sign_package(
    folder: Path,
    *,
    key: Ed25519PrivateKey,
    name: str,
    modality: str,
    precision: str,
    details: Mapping[str, Any],
) -> Manifest:
    """Measure every file in ``folder``, write the manifest and sign it.

    Raises:
        BadInputError: the folder is empty.
    """
    paths = [p for p in sorted(folder.rglob("*")) if p.is_file()]
    files = {
        p.relative_to(folder).as_posix(): FileEntry.of(p)
        for p in paths
        if p.name not in (MANIFEST, SIGNATURE)
    }
    if not files:
        raise BadInputError(f"{folder} holds no files to package")
    manifest = Manifest(
        name=name, modality=modality, precision=precision, files=files, details=details
    )
    raw = manifest.to_json()
    (folder / MANIFEST).write_bytes(raw)
    (folder / SIGNATURE).write_bytes(_SIGNATURE_VERSION + key.sign(_DOMAIN + raw))
    return manifest


def open_package(folder: Path, *, trusted: Iterable[bytes]) -> Package:
    """Verify a package and open it.

    Args:
        folder: the package.
        trusted: raw Ed25519 public keys (32 bytes each); one of them must have signed.

    Raises:
        PackageNotFoundError: there is no package in ``folder``.
        IntegrityError: the signature, a length or a hash does not match.
        PackageError: the manifest cannot be read.
    """
    if not (folder / MANIFEST).is_file():
        raise PackageNotFoundError(
            f"no base-model package in {folder}; build one with 'locavore base build' "
            "or see 'locavore base list'"
        )
    if (folder / MANIFEST).stat().st_size > MAX_MANIFEST_BYTES:
        raise IntegrityError(f"{folder / MANIFEST} is larger than {MAX_MANIFEST_BYTES} bytes")
    raw = (folder / MANIFEST).read_bytes()
    publisher = _verify_signature(folder, raw, list(trusted))
    manifest = Manifest.from_json(raw)
    for name, entry in manifest.files.items():
        _verify_file(folder, name, entry)
    return Package(folder, manifest, publisher)


def _verify_signature(folder: Path, raw: bytes, trusted: list[bytes]) -> bytes:
    """The trusted key that signed."""
    path = folder / SIGNATURE
    signature = path.read_bytes() if path.is_file() else b""
    if signature[:1] != _SIGNATURE_VERSION:
        raise IntegrityError(f"{path} is missing or of an unknown version; the package is unsigned")
    for public in trusted:
        try:
            Ed25519PublicKey.from_public_bytes(public).verify(signature[1:], _DOMAIN + raw)
            return public
        except InvalidSignature:
            continue
    raise IntegrityError(
        f"the manifest of {folder} is not signed by any of the {len(trusted)} trusted keys; "
        "it was tampered with, or its publisher's key is not trusted here"
    )


def _verify_file(folder: Path, name: str, entry: FileEntry) -> None:
    path = folder / name
    if not path.resolve().is_relative_to(folder.resolve()):
        raise IntegrityError(f"the manifest of {folder} names a file outside of it: {name!r}")
    if not path.is_file():
        raise IntegrityError(f"{path} is missing; fetch or rebuild the package")
    found = path.stat().st_size
    if found != entry.length:
        raise IntegrityError(f"{path} has {found} bytes, expected {entry.length}")
    if FileEntry.of(path).sha256 != entry.sha256:
        raise IntegrityError(f"{path} does not match its SHA-256 in the manifest")
