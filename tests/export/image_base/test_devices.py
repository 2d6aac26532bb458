"""The devices' data set that is in the repository is what the split says."""

from __future__ import annotations

import io
import json
import lzma
from collections import Counter
from pathlib import Path

import numpy as np

from locavore.export.image_base.devices import CAPTIONS, MOST_DRAWINGS, PIXELS, write_devices
from locavore.export.image_base.drawings import Drawings
from locavore.export.image_base.split import DEVICES, held_out

DATA = Path(__file__).parents[3] / "server" / "simulation" / "data"


def rows(folder: Path) -> list[dict[str, object]]:
    text = lzma.decompress((folder / CAPTIONS).read_bytes()).decode()
    return [json.loads(line) for line in text.splitlines()]


def test_every_device_has_drawings_to_learn_from_and_to_be_tested_on() -> None:
    found = rows(DATA)
    counts = Counter((row["device"], row["held_out"]) for row in found)
    assert {device for device, _ in counts} == set(DEVICES)
    for device in DEVICES:
        assert counts[device, False] > 200, device
        assert counts[device, True] > 50, device
        assert counts[device, False] + counts[device, True] <= MOST_DRAWINGS
    assert len({(row["device"], row["name"]) for row in found}) == len(found)


def test_held_out_concepts_are_the_same_for_all() -> None:
    for row in rows(DATA):
        assert row["held_out"] == held_out(str(row["caption"])), row


def test_there_is_a_picture_for_every_caption() -> None:
    pixels = np.load(io.BytesIO(lzma.decompress((DATA / PIXELS).read_bytes())))
    assert pixels.dtype == np.uint8
    assert pixels.shape == (len(rows(DATA)), 32, 32, 3)
    assert (pixels.reshape(len(pixels), -1).std(1) > 3).all()


def test_what_is_written_is_what_was_drawn(shapes: Drawings, tmp_path: Path) -> None:
    write_devices(shapes, tmp_path)
    pixels = np.load(io.BytesIO(lzma.decompress((tmp_path / PIXELS).read_bytes())))
    assert np.array_equal(pixels, shapes.pixels)
    assert [row["caption"] for row in rows(tmp_path)] == [c.text for c in shapes.captions]
