"""Pictures keep their bytes, in memory and in files."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from locavore.shared.errors import BadInputError, MissingExtraError
from locavore.shared.pictures import Picture


def noise(height: int = 6, width: int = 4) -> Picture:
    rng = np.random.default_rng(0)
    return Picture(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))


def test_every_byte_survives_as_a_signal() -> None:
    levels = Picture(np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3))
    assert levels.signal.min() == -1
    assert levels.signal.max() == 1
    assert (Picture.of_signal(levels.signal).pixels == levels.pixels).all()
    assert (Picture.of_signal(levels.signal * 9).pixels[0, 0] == 0).all()


def test_files_keep_a_picture(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    made = noise()
    made.save(tmp_path / "new" / "a.png")
    assert (Picture.load(tmp_path / "new" / "a.png").pixels == made.pixels).all()
    assert Picture.load(tmp_path / "new" / "a.png", (32, 16)).size == (32, 16)


def test_what_is_transparent_becomes_white(tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    image.new("RGBA", (2, 2), (9, 9, 9, 0)).save(tmp_path / "clear.png")
    assert (Picture.load(tmp_path / "clear.png").pixels == 255).all()


def test_resizing_keeps_the_middle() -> None:
    pytest.importorskip("PIL")
    pixels = np.zeros((10, 30, 3), np.uint8)
    pixels[:, 10:20] = 255
    assert (Picture(pixels).resized((10, 10)).pixels == 255).all()


def test_what_is_no_picture_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("PIL")
    (tmp_path / "a.png").write_text("words")
    with pytest.raises(BadInputError, match="holds no picture"):
        Picture.load(tmp_path / "a.png")
    with pytest.raises(BadInputError, match=r"got \(2, 2\) of uint8"):
        Picture(np.zeros((2, 2), np.uint8))
    with pytest.raises(BadInputError, match="of float64"):
        Picture(np.zeros((2, 2, 3)))  # type: ignore[arg-type]


def test_files_need_an_extra(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(MissingExtraError, match=r"locavore\[image\]"):
        noise().save(tmp_path / "a.png")
