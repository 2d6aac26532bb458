"""Where this user's bases and keys lie.

Bases: ``$LOCAVORE_CACHE``, else ``$XDG_CACHE_HOME/locavore``, else ``~/.cache/locavore``.
Keys: ``$LOCAVORE_CONFIG``, else ``$XDG_CONFIG_HOME/locavore``, else ``~/.config/locavore``.
Fetched packages: ``distribution`` in ``$LOCAVORE_DATA``, ``$XDG_DATA_HOME/locavore`` or
``~/.local/share/locavore``.
Vault: ``$LOCAVORE_VAULT``, else ``vault`` in ``$LOCAVORE_DATA``, ``$XDG_DATA_HOME/locavore`` or
``~/.local/share/locavore``.
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from .shared.chunk_index import Index
from .shared.errors import BadInputError, PackageNotFoundError
from .shared.files import point_link
from .shared.packages import MANIFEST, Manifest, Package, open_package

__all__ = [
    "base_of",
    "bases_folder",
    "distribution_folder",
    "fetched_link",
    "find_base",
    "install_fetched",
    "installed_bases",
    "signing_key",
    "trusted_keys",
    "vault_folder",
]


def bases_folder() -> Path:
    """Folder of built base-model packages."""
    return _place("LOCAVORE_CACHE", "XDG_CACHE_HOME", ".cache") / "bases"


def installed_bases() -> list[Path]:
    """Folders of the packages in :func:`bases_folder`, by name."""
    return sorted(path.parent for path in bases_folder().glob(f"*/{MANIFEST}"))


def find_base(name: str) -> Package:
    """Verify and open a base by its name in the cache or by its path.

    Raises:
        PackageNotFoundError: there is none; the message lists what there is.
        IntegrityError: it does not match its manifest, or no trusted key signed it.
    """
    for folder in (bases_folder() / name, Path(name)):
        if (folder / MANIFEST).is_file():
            place = folder.resolve()  # a fetched name may lead elsewhere at any time
            return open_package(place, trusted=[*trusted_keys(), *_publishers(place)])
    known = ", ".join(path.name for path in installed_bases()) or "none yet"
    raise PackageNotFoundError(
        f"no base {name!r}; built here: {known}. Build one with 'locavore base build'"
    )


def base_of(base_id: str) -> Package:
    """Verify and open the base with this identity, under whatever name it is installed.

    Raises:
        PackageNotFoundError: it is not installed.
        IntegrityError: it does not match its manifest, or no trusted key signed it.
    """
    for folder in installed_bases():
        if Manifest.from_json((folder / MANIFEST).read_bytes()).base_id == base_id:
            return find_base(folder.name)
    raise PackageNotFoundError(f"base {base_id} is not installed; build or fetch it first")


def distribution_folder(url: str) -> Path:
    """Folder for what is fetched from one repository, and what is known of its state."""
    digest = hashlib.sha256(url.encode()).hexdigest()[:8]
    readable = re.sub(r"[^A-Za-z0-9.]+", "-", url.split("://", 1)[-1]).strip("-.")[:60]
    return _fetched() / f"{readable}-{digest}"


def fetched_link(name: str) -> Path:
    """Where a fetched base of that name is found.

    Raises:
        BadInputError: a base of that name was built here.
    """
    link = bases_folder() / name
    if link.exists() and not link.is_symlink():
        raise BadInputError(
            f"a base {name!r} was built on this machine, in {link}; remove it, or publish the "
            "other one under another name"
        )
    return link


def install_fetched(name: str, package: Path) -> None:
    """Let a base's name lead to a fetched package.

    Raises:
        BadInputError: a base of that name was built here.
    """
    link = fetched_link(name)
    link.parent.mkdir(parents=True, exist_ok=True)
    point_link(link, os.path.relpath(package, link.parent.resolve()))


def signing_key() -> Ed25519PrivateKey:
    """This user's key for signing what is built here; made on first use."""
    path = _config() / "signing.key"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = Ed25519PrivateKey.generate().private_bytes_raw()
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(fresh)
    return Ed25519PrivateKey.from_private_bytes(path.read_bytes())


def trusted_keys() -> list[bytes]:
    """Public keys whose signatures are accepted: this user's own, and ``trusted/*.pub`` (hex).

    Raises:
        BadInputError: a ``.pub`` file does not hold 64 hex digits.
    """
    own = signing_key().public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return [own, *(_public(path) for path in sorted((_config() / "trusted").glob("*.pub")))]


def vault_folder() -> Path:
    """Folder of this user's vault."""
    if own := os.environ.get("LOCAVORE_VAULT"):
        return Path(own)
    return _place("LOCAVORE_DATA", "XDG_DATA_HOME", ".local/share") / "vault"


def _fetched() -> Path:
    return _place("LOCAVORE_DATA", "XDG_DATA_HOME", ".local/share") / "distribution"


def _publishers(folder: Path) -> list[bytes]:
    """Who signed a fetched package, by the index that its repository signed; nobody otherwise."""
    index = folder.with_name(f"{folder.name}.index")
    if not (folder.is_relative_to(_fetched().resolve()) and index.is_file()):
        return []
    return [bytes.fromhex(Index.from_json(index.read_bytes()).publisher)]


def _public(path: Path) -> bytes:
    try:
        raw = bytes.fromhex(path.read_text().strip())
    except ValueError:
        raw = b""
    if len(raw) != 32:
        raise BadInputError(f"{path} does not hold an Ed25519 public key as 64 hex digits")
    return raw


def _config() -> Path:
    return _place("LOCAVORE_CONFIG", "XDG_CONFIG_HOME", ".config")


def _place(variable: str, standard: str, fallback: str) -> Path:
    if own := os.environ.get(variable):
        return Path(own)
    if base := os.environ.get(standard):
        return Path(base) / "locavore"
    return Path.home() / fallback / "locavore"
