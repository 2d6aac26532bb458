"""A package is built beside its place and appears there only when it is whole."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from ..shared.errors import BadInputError
from ..shared.packages import MANIFEST, Package, open_package, sign_package

__all__ = ["CARD", "DIRECTIONS", "TOKENIZER", "public_key", "sign_checked", "staged"]

TOKENIZER = "tokenizer.json"
DIRECTIONS = "directions.safetensors"
CARD = "CARD.md"

Checked = TypeVar("Checked")


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


def sign_checked(
    work: Path,
    key: Ed25519PrivateKey,
    *,
    name: str,
    modality: str,
    precision: str,
    details: Mapping[str, Any],
    check: Callable[[Package], Checked],
    card: Callable[[Checked], str],
) -> Checked:
    """Sign a package, check it as a device would open it, and sign it again with what was found.

    Args:
        work: the package's files.
        key: of the publisher.
        name, modality, precision, details: of the manifest.
        check: what the check measured, a dataclass; raises where the package is no good.
        card: the package's card.
    """

    def sign(more: Mapping[str, Any]) -> None:
        told = {**details, **more}
        sign_package(work, key=key, name=name, modality=modality, precision=precision, details=told)

    sign({})
    report = check(open_package(work, trusted=[public_key(key)]))
    (work / CARD).write_text(card(report))
    sign({"check": asdict(report)})  # type: ignore[call-overload]
    return report


def _require_replaceable(folder: Path) -> None:
    """Replace an older package, and never anything else that a person keeps."""
    holds_else = folder.exists() and not (folder / MANIFEST).is_file()
    if holds_else and not (folder.is_dir() and not any(folder.iterdir())):
        raise BadInputError(f"{folder} exists and is no base-model package; choose another folder")


def public_key(key: Ed25519PrivateKey) -> bytes:
    """The raw public key of a signing key."""
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
