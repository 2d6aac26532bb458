"""Readers for data sets that others publish, from a copy on this machine, in their own layout.

DreamBench (DreamBooth), VITON-HD and Polyvore; each becomes a :class:`~.pictures.Gallery`. None of
them comes with locavore: their owners' terms hold.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image, UnidentifiedImageError

from ....shared.errors import BadInputError
from .pictures import Artist, Gallery, Picture, Pixels

__all__ = ["load_dreambench", "load_polyvore", "load_viton_hd"]

_PICTURES = (".jpg", ".jpeg", ".png")
_UPPER_CLOTHES = (5, 6, 7)  # of image-parse-v3: upper clothes, dress, coat
_JOINTS = (  # OpenPose BODY_25, in its order, as far as the upper body needs
    "nose", "neck", "right_shoulder", "right_elbow", "right_wrist", "left_shoulder", "left_elbow",
    "left_wrist", "mid_hip", "right_hip", "right_knee", "right_ankle", "left_hip", "left_knee",
    "left_ankle", "right_eye", "left_eye",
)  # fmt: skip


def load_dreambench(folder: Path, *, size: int = 64) -> Gallery:
    """DreamBench: thirty subjects with 4 to 6 photographs each; a subject is a device's.

    Layout: ``dataset/SUBJECT/*.jpg`` and ``dataset/prompts_and_classes.txt``, whose ``Classes``
    section has lines ``subject,class``. The last photograph of each subject is held out. Source:
    Ruiz et al., "DreamBooth", CVPR 2023, §4.1; github.com/google/dreambooth.

    Args:
        folder: the one that holds ``dataset``.
        size: to which pictures are cut square and scaled, in pixels.

    Raises:
        BadInputError: a file is missing or cannot be read; it is named.
    """
    data = _folder(folder / "dataset")
    classes = _classes(_file(data / "prompts_and_classes.txt"))
    artists = []
    for subject, kind in classes.items():
        files = [f for f in sorted(_folder(data / subject).iterdir()) if f.suffix in _PICTURES]
        if len(files) < 2:
            raise BadInputError(f"{data / subject} must hold 2 pictures or more, has {len(files)}")
        pictures = tuple(
            Picture(
                pixels=_pixels(file, size),
                caption=kind,
                attributes={"subject": subject, "class": kind},
                held_out=file == files[-1],
            )
            for file in files
        )
        artists.append(
            Artist(name=subject, pictures=pictures, truth={"subject": subject, "class": kind})
        )
    return Gallery(name="DreamBench", kind="real", artists=tuple(artists))


def _classes(path: Path) -> dict[str, str]:
    """Subject to class, from the first section of the file."""
    lines = [line.strip() for line in _text(path).splitlines()]
    if "Classes" not in lines:
        raise BadInputError(f"{path} has no line 'Classes'; it is not DreamBench's")
    pairs: dict[str, str] = {}
    for line in lines[lines.index("Classes") + 1 :]:
        if line.startswith("Prompts") or line.startswith("Prompt"):
            break
        match = re.fullmatch(r"([\w-]+)\s*,\s*([\w -]+)", line)
        if match and match[1] != "subject_name":
            pairs[match[1]] = match[2]
    if not pairs:
        raise BadInputError(
            f"{path} names no subject; lines 'subject,class' belong under 'Classes'"
        )
    return pairs


def load_viton_hd(
    folder: Path, split: Literal["train", "test"] = "train", *, size: int = 64
) -> Gallery:
    """VITON-HD: photographs of people, each with the garment that they wear; a person a device.

    Layout: ``SPLIT_pairs.txt`` with lines ``person.jpg garment.jpg``, and in the folder ``SPLIT``:
    ``image``, ``cloth``, ``cloth-mask``, ``image-parse-v3``, ``openpose_json``, ``agnostic-v3.2``.
    The pairs of ``test`` have another garment than the person wears: there the picture is no truth
    of the pair. Everything of ``test`` is held out. Source: Choi et al., "VITON-HD", CVPR 2021,
    §4.1.

    Args:
        folder: the one that holds ``train``, ``test`` and the pairs.
        split: which of the two.
        size: pictures are cut square about their middle and scaled to it, in pixels.

    Raises:
        BadInputError: a file is missing or cannot be read; it is named.
    """
    pairs = _file(folder / f"{split}_pairs.txt")
    data = _folder(folder / split)
    artists = tuple(
        Artist(
            name=f"{Path(person).stem}, {Path(garment).stem}",
            pictures=(_viton_picture(data, person, garment, size, held_out=split == "test"),),
        )
        for person, garment in _pairs(pairs)
    )
    return Gallery(name=f"VITON-HD {split}", kind="real", artists=artists)


def _pairs(path: Path) -> Iterator[tuple[str, str]]:
    for number, line in enumerate(_text(path).splitlines(), 1):
        if not line.strip():
            continue
        names = line.split()
        if len(names) != 2:
            raise BadInputError(
                f"{path}, line {number}: must be 'person.jpg garment.jpg', got {line!r}"
            )
        yield names[0], names[1]


def _viton_picture(data: Path, person: str, garment: str, size: int, *, held_out: bool) -> Picture:
    stem = Path(person).stem
    photo, parse = data / "image" / person, data / "image-parse-v3" / f"{stem}.png"
    with _opened(photo) as image:
        frame = image.size
    labels = _scaled(parse, size, labels=True)
    return Picture(
        pixels=_pixels(photo, size),
        caption="person wearing the garment",
        attributes={"person": stem, "garment": Path(garment).stem},
        held_out=held_out,
        masks={"clothes": np.isin(labels, _UPPER_CLOTHES)},
        given={
            "garment": _pixels(data / "cloth" / garment, size),
            "agnostic": _pixels(data / "agnostic-v3.2" / person, size),
        },
        given_masks={"garment": _scaled(data / "cloth-mask" / garment, size) > 127},
        pose=_pose(data / "openpose_json" / f"{stem}_keypoints.json", frame, size),
    )


def _pose(path: Path, frame: tuple[int, int], size: int) -> dict[str, tuple[float, float]]:
    """The first person's joints that were found, in pixels of the picture as cut and scaled."""
    found = _json(path)
    try:
        numbers = found["people"][0]["pose_keypoints_2d"]
        points = [(numbers[i], numbers[i + 1], numbers[i + 2]) for i in range(0, len(numbers), 3)]
    except (LookupError, TypeError) as error:
        raise BadInputError(f"{path} has no people[0].pose_keypoints_2d in triples") from error
    side = min(frame)
    left, top = ((length - side) // 2 for length in frame)
    return {
        joint: ((x - left) * size / side, (y - top) * size / side)
        for joint, (x, y, sure) in zip(_JOINTS, points, strict=False)
        if sure > 0
    }


def load_polyvore(
    folder: Path, split: Literal["train", "valid", "test"] = "train", *, size: int = 64
) -> Gallery:
    """Polyvore: outfits by the people who put them together, an item a picture.

    Layout: ``{train,valid,test}_no_dup.json``, a list of outfits with ``set_id`` and ``items``,
    each with ``index``, ``name``, ``categoryid``; and ``images/SET/INDEX.jpg``. The files name
    no people, so an outfit is an artist. Everything but ``train`` is held out. Source: Han et al.,
    "Learning Fashion Compatibility with Bidirectional LSTMs", ACM MM 2017, §4.1.

    Args:
        folder: the one that holds the files and ``images``.
        split: which of the three.
        size: to which pictures are cut square and scaled, in pixels.

    Raises:
        BadInputError: a file is missing or cannot be read; it is named.
    """
    path = _file(folder / f"{split}_no_dup.json")
    outfits = _json(path)
    try:
        artists = tuple(
            Artist(
                name=str(outfit["set_id"]),
                pictures=tuple(
                    _polyvore_item(folder / "images", outfit, item, size, split != "train")
                    for item in outfit["items"]
                ),
            )
            for outfit in outfits
        )
    except (KeyError, TypeError) as error:
        raise BadInputError(
            f"{path}: an outfit needs set_id and items with index and name; {error!r}"
        ) from error
    return Gallery(name=f"Polyvore {split}", kind="real", artists=artists)


def _polyvore_item(
    images: Path, outfit: Mapping[str, Any], item: Mapping[str, Any], size: int, held_out: bool
) -> Picture:
    outfit_id, index = str(outfit["set_id"]), str(item["index"])
    return Picture(
        pixels=_pixels(images / outfit_id / f"{index}.jpg", size),
        caption=item["name"],
        attributes={
            "outfit": outfit_id,
            "index": index,
            "category": str(item.get("categoryid", "")),
        },
        held_out=held_out,
    )


def _folder(path: Path) -> Path:
    if not path.is_dir():
        raise BadInputError(f"there is no folder {path}; see the layout that this reader expects")
    return path


def _file(path: Path) -> Path:
    if not path.is_file():
        raise BadInputError(f"there is no file {path}; see the layout that this reader expects")
    return path


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except UnicodeDecodeError as error:
        raise BadInputError(f"{path} is not UTF-8 text") from error


def _json(path: Path) -> Any:
    try:
        return json.loads(_text(_file(path)))
    except json.JSONDecodeError as error:
        raise BadInputError(f"{path} is not JSON: {error}") from error


def _opened(path: Path) -> Image.Image:
    try:
        return Image.open(_file(path))
    except UnidentifiedImageError as error:
        raise BadInputError(f"{path} is not a picture that Pillow can read") from error


def _pixels(path: Path, size: int) -> Pixels:
    """uint8, (size, size, 3): cut square about the middle, and scaled."""
    with _opened(path) as image:
        return np.asarray(_squared(image.convert("RGB"), size, Image.Resampling.LANCZOS))


def _scaled(path: Path, size: int, *, labels: bool = False) -> np.ndarray[Any, Any]:
    """(size, size): a mask in grey, or labels that are kept whole."""
    with _opened(path) as image:
        if labels and image.mode not in ("L", "P"):
            raise BadInputError(f"{path} must have a label a pixel, but is of mode {image.mode}")
        whole = image if labels else image.convert("L")
        return np.asarray(_squared(whole, size, Image.Resampling.NEAREST))


def _squared(image: Image.Image, size: int, how: Image.Resampling) -> Image.Image:
    side = min(image.size)
    left, top = ((length - side) // 2 for length in image.size)
    return image.resize((size, size), how, box=(left, top, left + side, top + side))
