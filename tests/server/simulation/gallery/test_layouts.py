"""Published data sets are read in their own layout, and what is missing is named."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

Image = pytest.importorskip("PIL.Image")

from locavore.server.simulation.gallery.layouts import (
    load_dreambench,
    load_polyvore,
    load_viton_hd,
)
from locavore.shared.errors import BadInputError

CLASSES = """Classes

subject_name,class
dog6,dog
bear_plushie,stuffed animal

Prompts

Object Prompts
'a {0} {1}, on a beach'
"""


def picture(path: Path, colour: object, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, (48, 64), colour).save(path)


@pytest.fixture
def dreambench(tmp_path: Path) -> Path:
    for subject in ("dog6", "bear_plushie"):
        for number in range(4):
            picture(tmp_path / "dataset" / subject / f"0{number}.jpg", (number * 60, 0, 0))
    (tmp_path / "dataset" / "prompts_and_classes.txt").write_text(CLASSES)
    return tmp_path


def test_dreambench_is_read(dreambench: Path) -> None:
    gallery = load_dreambench(dreambench, size=16)
    assert (gallery.kind, [artist.name for artist in gallery.artists]) == (
        "real",
        ["dog6", "bear_plushie"],
    )
    bear = gallery.artist("bear_plushie")
    assert bear.truth["class"] == "stuffed animal"
    assert (len(bear.train), len(bear.held_out)) == (3, 1)
    assert bear.pictures[3].pixels.shape == (16, 16, 3)
    assert abs(int(bear.pictures[3].pixels[0, 0, 0]) - 180) < 4


def test_what_is_missing_of_dreambench_is_named(dreambench: Path) -> None:
    classes = dreambench / "dataset" / "prompts_and_classes.txt"
    with pytest.raises(BadInputError, match=r"no folder .*nowhere/dataset"):
        load_dreambench(dreambench / "nowhere")
    classes.write_text(CLASSES.replace("dog6,dog", "cat,cat"))
    with pytest.raises(BadInputError, match=r"no folder .*dataset/cat"):
        load_dreambench(dreambench)
    classes.write_text("Subjects\n")
    with pytest.raises(BadInputError, match="has no line 'Classes'"):
        load_dreambench(dreambench)
    classes.write_text("Classes\n\nPrompts\n")
    with pytest.raises(BadInputError, match="names no subject"):
        load_dreambench(dreambench)
    classes.unlink()
    with pytest.raises(BadInputError, match=r"no file .*prompts_and_classes\.txt"):
        load_dreambench(dreambench)


def test_a_file_that_is_no_picture_is_named(dreambench: Path) -> None:
    (dreambench / "dataset" / "dog6" / "01.jpg").write_bytes(b"<html>")
    with pytest.raises(BadInputError, match=r"dog6/01\.jpg is not a picture"):
        load_dreambench(dreambench)


@pytest.fixture
def viton(tmp_path: Path) -> Path:
    for split in ("train", "test"):
        for name in ("00001_00", "00002_00"):
            for part in ("image", "cloth", "agnostic-v3.2"):
                picture(tmp_path / split / part / f"{name}.jpg", (10, 200, 30))
            picture(tmp_path / split / "cloth-mask" / f"{name}.jpg", 255, mode="L")
            labels = Image.new("P", (48, 64), 0)
            labels.putpalette([0] * 768)
            labels.paste(5, (0, 32, 48, 64))  # upper clothes in the lower half
            path = tmp_path / split / "image-parse-v3" / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            labels.save(path)
            joints = [24.0, 20.0, 0.9] + [24.0, 32.0, 0.8] + [0.0, 0.0, 0.0] * 23
            pose = tmp_path / split / "openpose_json" / f"{name}_keypoints.json"
            pose.parent.mkdir(parents=True, exist_ok=True)
            pose.write_text(json.dumps({"people": [{"pose_keypoints_2d": joints}]}))
    (tmp_path / "train_pairs.txt").write_text("00001_00.jpg 00001_00.jpg\n")
    (tmp_path / "test_pairs.txt").write_text("00001_00.jpg 00002_00.jpg\n")
    return tmp_path


def test_viton_hd_is_read(viton: Path) -> None:
    (person,) = load_viton_hd(viton, size=24).artists
    (one,) = person.pictures
    assert set(one.given) == {"garment", "agnostic"}
    assert one.given_masks["garment"].all()
    clothes = np.zeros((24, 24), bool)
    clothes[12:] = True
    assert (one.masks["clothes"] == clothes).all()
    assert one.pose == {"nose": (12.0, 6.0), "neck": (12.0, 12.0)}  # cut from rows 8..56
    assert not one.held_out
    (pair,) = load_viton_hd(viton, "test", size=24).artists
    assert pair.pictures[0].held_out
    assert pair.pictures[0].attributes == {"person": "00001_00", "garment": "00002_00"}


@pytest.mark.parametrize(
    "part",
    [
        "image/00001_00.jpg",
        "cloth/00001_00.jpg",
        "cloth-mask/00001_00.jpg",
        "image-parse-v3/00001_00.png",
        "openpose_json/00001_00_keypoints.json",
        "agnostic-v3.2/00001_00.jpg",
    ],
)
def test_what_is_missing_of_viton_hd_is_named(viton: Path, part: str) -> None:
    (viton / "train" / part).unlink()
    with pytest.raises(BadInputError, match=f"no file .*train/{part}"):
        load_viton_hd(viton)


def test_malformed_parts_of_viton_hd_are_named(viton: Path) -> None:
    pose = viton / "train" / "openpose_json" / "00001_00_keypoints.json"
    pose.write_text('{"people": []}')
    with pytest.raises(BadInputError, match=r"has no people\[0\]\.pose_keypoints_2d"):
        load_viton_hd(viton)
    pose.write_text("{")
    with pytest.raises(BadInputError, match=r"keypoints\.json is not JSON"):
        load_viton_hd(viton)
    picture(viton / "train" / "image-parse-v3" / "00001_00.png", (1, 2, 3))
    with pytest.raises(BadInputError, match="a label a pixel, but is of mode RGB"):
        load_viton_hd(viton)
    (viton / "train_pairs.txt").write_text("00001_00.jpg\n")
    with pytest.raises(BadInputError, match=r"line 1: must be 'person\.jpg garment\.jpg'"):
        load_viton_hd(viton)
    (viton / "train_pairs.txt").unlink()
    with pytest.raises(BadInputError, match=r"no file .*train_pairs\.txt"):
        load_viton_hd(viton)


@pytest.fixture
def polyvore(tmp_path: Path) -> Path:
    items = [{"index": i, "name": f"item {i}", "categoryid": 40 + i} for i in (1, 2, 3)]
    for split in ("train", "valid", "test"):
        (tmp_path / f"{split}_no_dup.json").write_text(
            json.dumps([{"set_id": "77", "items": items}])
        )
    for i in (1, 2, 3):
        picture(tmp_path / "images" / "77" / f"{i}.jpg", (0, 0, 80 * i))
    return tmp_path


def test_polyvore_is_read(polyvore: Path) -> None:
    (outfit,) = load_polyvore(polyvore, size=16).artists
    assert [p.caption for p in outfit.pictures] == ["item 1", "item 2", "item 3"]
    assert outfit.pictures[2].attributes == {"outfit": "77", "index": "3", "category": "43"}
    assert not outfit.held_out
    assert len(load_polyvore(polyvore, "test", size=16).artists[0].held_out) == 3


def test_what_is_wrong_with_polyvore_is_named(polyvore: Path) -> None:
    (polyvore / "images" / "77" / "2.jpg").unlink()
    with pytest.raises(BadInputError, match=r"no file .*images/77/2\.jpg"):
        load_polyvore(polyvore)
    (polyvore / "train_no_dup.json").write_text('[{"items": []}]')
    with pytest.raises(BadInputError, match="needs set_id"):
        load_polyvore(polyvore)
    (polyvore / "valid_no_dup.json").unlink()
    with pytest.raises(BadInputError, match=r"no file .*valid_no_dup\.json"):
        load_polyvore(polyvore, "valid")
