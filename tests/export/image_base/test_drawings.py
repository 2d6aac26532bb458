"""Pictures come out at 32 pixels on white, and are read back as they were written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from locavore.export.image_base.captions import Caption
from locavore.export.image_base.drawings import Drawing, Drawings, render, render_all
from locavore.shared.errors import BadInputError

RED = '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 8 8"><rect fill="red" {}/></svg>'


def png(path: Path, size: tuple[int, int], box: tuple[int, int, int, int]) -> Path:
    """A black box on a transparent page."""
    image = Image.new("RGBA", size)
    image.paste((0, 0, 0, 255), box)
    image.save(path)
    return path


def test_clip_art_is_cut_to_what_is_drawn(tmp_path: Path) -> None:
    found = render(png(tmp_path / "a.png", (600, 400), (500, 300, 560, 330)))
    assert found.shape == (32, 32, 3)
    dark = np.argwhere(found[..., 0] < 128)
    assert dark.min(0).tolist() == [8, 1]
    assert dark.max(0).tolist() == [22, 30]
    assert (found[0] == 255).all()


def test_what_cannot_be_read_or_is_blank_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(40))
    pictures = [
        png(tmp_path / "a.png", (40, 40), (10, 10, 30, 20)),
        png(tmp_path / "blank.png", (40, 40), (0, 0, 0, 0)),
        tmp_path / "broken.png",
    ]
    listed = [
        Drawing(style="noto", name=p.name, caption=Caption(concept="box"), picture=p)
        for p in pictures
    ]
    assert render_all(listed, 1).names == ("a.png",)


def test_an_icon_keeps_its_place() -> None:
    pytest.importorskip("resvg_py", reason="rendering icons needs resvg-py")
    found = render(RED.format('x="0" y="0" width="4" height="8"'))
    assert (found[:, :16] == (255, 0, 0)).all()
    assert (found[:, 16:] == 255).all()


def test_drawings_survive_being_written(shapes: Drawings, tmp_path: Path) -> None:
    shapes.save(tmp_path)
    again = Drawings.load(tmp_path)
    assert np.array_equal(again.pixels, shapes.pixels)
    assert (again.styles, again.names, again.captions) == (
        shapes.styles,
        shapes.names,
        shapes.captions,
    )


def test_files_that_do_not_belong_together_are_refused(shapes: Drawings, tmp_path: Path) -> None:
    shapes.save(tmp_path)
    np.save(tmp_path / "pixels.npy", shapes.pixels[1:])
    with pytest.raises(BadInputError, match="11 pictures and 12 captions"):
        Drawings.load(tmp_path)
    with pytest.raises(BadInputError, match="no drawings in"):
        Drawings.load(tmp_path / "nowhere")
