"""Pictures and sounds, with the captions that lie beside them."""

from __future__ import annotations

import json
import wave
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

from ...shared.contexts import Context, PersonalFaceBody, PersonalizedSubject
from .reading import Reading, changed

__all__ = ["IMAGES", "read_image", "read_wav", "sidecars"]

IMAGES = {
    ".png": ("image/png", (b"\x89PNG\r\n\x1a\n",)),
    ".jpg": ("image/jpeg", (b"\xff\xd8\xff",)),
    ".jpeg": ("image/jpeg", (b"\xff\xd8\xff",)),
    ".gif": ("image/gif", (b"GIF87a", b"GIF89a")),
    ".webp": ("image/webp", (b"RIFF",)),
}


def read_image(path: Path, how: Reading) -> Iterator[Context]:
    """A picture is of something that matters to the person; its caption says what."""
    media_type, magic = IMAGES[path.suffix.lower()]
    raw = how.bytes_of(path)
    if raw is None:
        return
    if not raw.startswith(magic):
        how.skipped(str(path), f"not a picture of type {media_type}")
        return
    yield PersonalizedSubject(
        name=path.stem,
        media=(raw,),
        media_type=media_type,
        caption=_caption(path),
        **how.common("images", how.uri(path), raw, changed(path)),
    )


def read_wav(path: Path, how: Reading) -> Iterator[Context]:
    """A recording is taken for the person's own voice."""
    raw = how.bytes_of(path)
    if raw is None:
        return
    try:
        with wave.open(BytesIO(raw)):
            pass
    except (wave.Error, EOFError) as error:
        how.skipped(str(path), f"not a sound that can be read: {error}")
        return
    yield PersonalFaceBody(
        media=raw,
        media_type="audio/wav",
        caption=_caption(path) or path.stem,
        **how.common("sounds", how.uri(path), raw, changed(path)),
    )


def sidecars(path: Path) -> list[Path]:
    """Where the caption of a picture or sound may lie."""
    whole = path.with_name(path.name + ".json")  # as Google Takeout writes it
    return [path.with_suffix(".txt"), path.with_name(path.name + ".txt"), whole]


def _caption(path: Path) -> str:
    for beside in sidecars(path):
        if not beside.is_file():
            continue
        text = beside.read_text("utf-8", "replace").strip()
        if beside.suffix == ".json":
            try:
                said = json.loads(text)
            except ValueError:
                continue
            text = str(said.get("description") or "") if isinstance(said, dict) else ""
        if text:
            return text
    return ""
