"""What may be published: a signed base-model package, or a shared adapter in PEFT's files."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ...shared.adapters import load_adapter
from ...shared.errors import BadInputError
from ...shared.packages import MANIFEST, SIGNATURE, open_package

__all__ = ["Source", "adapter_source", "base_source", "find_source"]

_ADAPTER = ("adapter_config.json", "adapter_model.safetensors")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A folder to publish, verified.

    Args:
        kind: ``bases`` or ``adapters``.
        files: paths below ``folder``.
        base_id, publisher: see :class:`~locavore.shared.chunk_index.Index`.
    """

    kind: str
    folder: Path
    files: tuple[str, ...]
    base_id: str
    publisher: str = ""


def find_source(folder: Path, trusted: Iterable[bytes]) -> Source:
    """See what a folder holds, and verify it.

    Raises:
        BadInputError: neither a package nor an adapter.
        IntegrityError, AdapterError: it holds one that cannot be used.
    """
    if (folder / MANIFEST).is_file():
        return base_source(folder, trusted)
    if (folder / _ADAPTER[0]).is_file():
        return adapter_source(folder)
    raise BadInputError(
        f"{folder} holds neither a base-model package ({MANIFEST}) nor an adapter ({_ADAPTER[0]})"
    )


def base_source(folder: Path, trusted: Iterable[bytes]) -> Source:
    """A base-model package.

    Raises:
        IntegrityError: it does not match its manifest, or no trusted key signed it.
    """
    package = open_package(folder, trusted=trusted)
    return Source(
        kind="bases",
        folder=folder,
        files=(MANIFEST, SIGNATURE, *package.manifest.files),
        base_id=package.base_id,
        publisher=package.publisher.hex(),
    )


def adapter_source(folder: Path) -> Source:
    """A shared adapter.

    Raises:
        AdapterError: it is not a plain LoRA in PEFT's files.
    """
    adapter = load_adapter(folder)
    return Source(kind="adapters", folder=folder, files=_ADAPTER, base_id=adapter.base_id)
