"""A picture or a text that a person judged, as a record that choices are made of."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from ...shared.contexts import Consent, Provenance, UserBehavior
from ...shared.errors import BadInputError
from .media import IMAGES
from .reading import MAX_BYTES

__all__ = ["rated_answer"]

_TEXTS = (".txt", ".md")


def rated_answer(path: Path, request: str, verdict: Literal["liked", "disliked"]) -> UserBehavior:
    """The record of an answer in a file; it may train the private adapter and be recalled.

    Args:
        path: of a picture, or of a text (``.txt``, ``.md``).
        request: what the picture shows, or what the text answers or goes on from.
        verdict: of the person.

    Raises:
        BadInputError: there is no such file, it is too long, it is neither, or there is no request.
    """
    if not request.strip():
        raise BadInputError("what the answer is for is empty; give its caption or request")
    if not path.is_file():
        raise BadInputError(f"there is no file {path}")
    if (size := path.stat().st_size) > MAX_BYTES:
        raise BadInputError(f"{path} has {size} bytes, at most {MAX_BYTES} are kept")
    raw, suffix = path.read_bytes(), path.suffix.lower()
    media_type, magic = IMAGES.get(suffix, ("text/plain", ()))
    wrong = not raw.startswith(magic) if magic else suffix not in _TEXTS or not raw.strip()
    if wrong:
        kinds = ", ".join((*_TEXTS, *IMAGES))
        raise BadInputError(f"{path} is no picture and no text that can be read; known: {kinds}")
    return UserBehavior(
        item=request,
        action=verdict,
        media=raw,
        media_type=media_type,
        consent=Consent(retrieve=True, train=True),
        provenance=Provenance(source="shell", uri=str(path)),
    )
