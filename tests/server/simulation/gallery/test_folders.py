"""A folder of pictures is read as people, dealt out where it must be, or refused by name."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

Image = pytest.importorskip("PIL.Image")

from locavore.server.simulation.gallery.folders import load_folder, load_people
from locavore.shared.errors import BadInputError


def draw(path: Path, level: int, size: tuple[int, int] = (40, 30)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (level, 0, 0)).save(path)


def test_captions_are_held_out_for_everybody(tmp_path: Path) -> None:
    for person, level in (("ann", 50), ("bob", 200)):
        for caption in ("bike", "cat 1", "cat (2)", "old_house", "zoo", "tea-3"):
            draw(tmp_path / person / f"{caption}.png", level)
    (tmp_path / "ann" / "notes.txt").write_text("not a picture")
    gallery = load_people(tmp_path)
    assert (gallery.kind, gallery.name) == ("real", tmp_path.name)
    ann = gallery.artist("ann")
    assert [p.caption for p in ann.pictures] == ["bike", "cat", "cat", "old house", "tea", "zoo"]
    assert [[p.caption for p in artist.held_out] for artist in gallery.artists] == [["tea"]] * 2
    assert ann.pictures[0].pixels.shape == (30, 30, 3)
    assert int(ann.pictures[0].pixels[0, 0, 0]) == 50


def test_pictures_are_held_out_where_captions_are_few(tmp_path: Path) -> None:
    for number in range(8):
        draw(tmp_path / "ann" / f"my cat {number}.jpg", 30 * number)
    (ann,) = load_people(tmp_path).artists
    assert {p.caption for p in ann.pictures} == {"my cat"}
    assert [p.held_out for p in ann.pictures] == [False, False, False, True] * 2


def test_a_large_picture_is_kept_smaller(tmp_path: Path) -> None:
    for number in range(4):
        draw(tmp_path / "ann" / f"{number}.png", 9, (700, 600))
    assert load_people(tmp_path).artists[0].pictures[0].pixels.shape == (512, 512, 3)


def test_outfits_of_nobody_are_dealt_out_whole(tmp_path: Path) -> None:
    outfits = []
    for number in range(8):
        items = [{"index": i, "name": f"thing {i}", "categoryid": i} for i in (1, 2)]
        outfits.append({"set_id": str(number), "items": items})
        for item in items:
            draw(tmp_path / "images" / str(number) / f"{item['index']}.jpg", 20 * number)
    (tmp_path / "train_no_dup.json").write_text(json.dumps(outfits))
    gallery = load_folder(tmp_path, "Polyvore", people=2)
    assert [len(artist.pictures) for artist in gallery.artists] == [8, 8]
    held_out = [{p.attributes["outfit"] for p in a.held_out} for a in gallery.artists]
    trained = [{p.attributes["outfit"] for p in a.train} for a in gallery.artists]
    assert held_out == [{"6"}, {"7"}]
    assert trained == [{"0", "2", "4"}, {"1", "3", "5"}]
    (tmp_path / "images" / "3" / "2.jpg").unlink()
    with pytest.raises(BadInputError, match=r"no file .*images/3/2\.jpg"):
        load_folder(tmp_path, "Polyvore", people=2)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match=r"no folder .*nowhere"):
        load_folder(tmp_path / "nowhere", None, 2)
    with pytest.raises(BadInputError, match=r"no train_pairs\.txt \(VITON-HD\)$"):
        load_folder(tmp_path, "VITON-HD", 2, plain=False)
    with pytest.raises(
        BadInputError, match=r"no dataset/.*\(DreamBench\) and no a folder|folder of"
    ):
        load_folder(tmp_path, "DreamBench", 2)
    with pytest.raises(BadInputError, match="needs more than pictures"):
        load_folder(tmp_path, None, 2, plain=False)
    (tmp_path / "dataset").mkdir()
    with pytest.raises(BadInputError, match=r"no file .*dataset/prompts_and_classes\.txt"):
        load_folder(tmp_path, "DreamBench", 2)
    (tmp_path / "dataset").rmdir()
    draw(tmp_path / "ann" / "cat.png", 1)
    with pytest.raises(BadInputError, match=r"ann must hold 4 pictures .*has 1"):
        load_folder(tmp_path, None, 2)
    for number in range(3):
        (tmp_path / "ann" / f"dog {number}.png").write_bytes(np.zeros(9).tobytes())
    with pytest.raises(BadInputError, match=r"dog 0\.png holds no picture"):
        load_folder(tmp_path, None, 2)
