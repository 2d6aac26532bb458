"""A package is built beside its place and appears there only when it is whole."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ..shared.errors import BadInputError
from ..shared.packages import MANIFEST

__all__ = ["CARD", "DIRECTIONS", "TOKENIZER", "public_key", "staged"]

TOKENIZER = "tokenizer.json"
DIRECTIONS = "directions.safetensors"
CARD = "CARD.md"


@contextmanager
def staged(folder: Path) -> Iterator[Path]:
    """An empty folder to build in, which takes the place of ``folder`` if the block succeeds.

    Raises:
        BadInputError: ``folder`` holds something else than an older package.
    """
    _require_replaceable(folder)
    work = folder.with_name(folder.name + ".building")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        yield work
        shutil.rmtree(folder, ignore_errors=True)
        work.rename(folder)
    finally:
        shutil.rmtree(work, ignore_errors=True)


def _require_replaceable(folder: Path) -> None:
    """Replace an older package, and never anything else that a person keeps."""
    holds_else = folder.exists() and not (folder / MANIFEST).is_file()
    if holds_else and not (folder.is_dir() and not any(folder.iterdir())):
        raise BadInputError(f"{folder} exists and is no base-model package; choose another folder")


def public_key(key: Ed25519PrivateKey) -> bytes:
    """The raw public key of a signing key."""
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
