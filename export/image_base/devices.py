"""The drawings of the simulation's devices: ten teams and artists that the base never saw."""

from __future__ import annotations

import io
import json
import lzma
from collections import defaultdict
from pathlib import Path

import numpy as np

from .drawings import Drawings
from .split import DEVICES, held_out, rank

__all__ = ["CAPTIONS", "MOST_DRAWINGS", "PIXELS", "device_drawings", "write_devices"]

MOST_DRAWINGS = 600  # of a device
PIXELS = "drawings.npy.xz"
CAPTIONS = "drawings.jsonl.xz"


def device_drawings(drawings: Drawings) -> Drawings:
    """The devices' share of all drawings, in the order of devices and their drawings' names.

    Skin tones are left out, which are five times one drawing, and national flags, on which teams
    have no say. A device with more than :data:`MOST_DRAWINGS` keeps concepts by their digest, so
    that devices that draw the same concepts keep the same ones.
    """
    rows: dict[str, list[int]] = defaultdict(list)
    for i, (style, caption) in enumerate(zip(drawings.styles, drawings.captions, strict=True)):
        if style in DEVICES and not caption.detail and not caption.concept.startswith("flag of"):
            rows[style].append(i)
    kept = []
    for device in DEVICES:
        ranked = sorted(rows[device], key=lambda i: rank(drawings.captions[i].concept))
        kept += sorted(ranked[:MOST_DRAWINGS], key=lambda i: drawings.names[i])
    return drawings.take(kept)


def write_devices(drawings: Drawings, folder: Path) -> list[Path]:
    """Write pixels and captions of what :func:`device_drawings` kept; the files."""
    raw = io.BytesIO()
    np.save(raw, drawings.pixels)
    lines = [
        json.dumps(
            {
                "device": style,
                "name": name,
                "caption": caption.text,
                "tags": caption.tags,
                "held_out": held_out(caption.concept),
            }
        )
        for style, name, caption in zip(
            drawings.styles, drawings.names, drawings.captions, strict=True
        )
    ]
    contents = {PIXELS: raw.getvalue(), CAPTIONS: "\n".join([*lines, ""]).encode()}
    for name, content in contents.items():
        (folder / name).write_bytes(lzma.compress(content, preset=9))
    return [folder / name for name in contents]
