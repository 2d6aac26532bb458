"""Metadata must be spelt in one way.

TUF verifies what a document means: it reads ``AB`` in a signature as ``ab`` and ``t`` in a date as
``T``. That harms nobody, but then a file could be changed on its way without being noticed.
"""

from __future__ import annotations

import json
import re
from typing import Any

from securesystemslib.formats import encode_canonical
from tuf.api.exceptions import RepositoryError
from tuf.api.metadata import Metadata

__all__ = ["require_one_spelling"]

_HEX = re.compile("[0-9a-f]*")


def require_one_spelling(raw: bytes) -> None:
    """Refuse metadata whose text differs from what is verified of it.

    Raises:
        RepositoryError: TUF's own; it is no metadata, or is spelt in another way.
    """
    document: Metadata[Any] = Metadata.from_bytes(raw)
    told = json.loads(raw)
    if encode_canonical(told["signed"]) != document.signed_bytes.decode():
        raise RepositoryError(f"{document.signed.type} is spelt in another way than was signed")
    if not all(_HEX.fullmatch(signature["sig"]) for signature in told["signatures"]):
        raise RepositoryError(f"{document.signed.type} has a signature that is no lower-case hex")
