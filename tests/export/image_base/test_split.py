"""No drawing is on both sides, and no device trains on a concept that is held out."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from locavore.export.image_base.assets import PACKAGES
from locavore.export.image_base.captions import Caption
from locavore.export.image_base.devices import MOST_DRAWINGS, device_drawings
from locavore.export.image_base.drawings import Drawings
from locavore.export.image_base.recipe import base_drawings
from locavore.export.image_base.split import DEVICES, TEAMS, held_out, measures_base, rank


def many(styles: list[str], each: int) -> Drawings:
    """Blank drawings, ``each`` a style, of the same concepts."""
    names = [f"thing-{i}" for i in range(each)]
    return Drawings(
        np.zeros((len(styles) * each, 32, 32, 3), np.uint8),
        tuple(style for style in styles for _ in names),
        tuple(names * len(styles)),
        tuple(Caption(concept=name) for _ in styles for name in names),
    )


def test_the_base_never_sees_what_devices_drew(tmp_path: Path) -> None:
    drawings = many(["noto", *DEVICES, "clip art/Ada Quill"], 300)
    drawings.save(tmp_path / "drawings")
    learned, measure = base_drawings(tmp_path)
    own = device_drawings(drawings)
    assert set(learned.styles) | set(measure.styles) == {"noto", "clip art/Ada Quill"}
    assert set(own.styles) == set(DEVICES)
    assert len(learned) + len(measure) + len(own) == len(drawings)
    sides = [set(zip(d.styles, d.names, strict=True)) for d in (learned, measure)]
    assert not sides[0] & sides[1]
    assert 0 < len(measure) < 0.06 * len(learned)


def test_packages_say_the_same_as_the_split() -> None:
    assert {p.key for p in PACKAGES if p.use == "device"} == set(TEAMS)
    assert not {p.key for p in PACKAGES if p.use == "base"} & set(DEVICES)


def test_a_device_with_too_much_keeps_the_concepts_that_others_keep() -> None:
    own = device_drawings(many(list(DEVICES[:2]), MOST_DRAWINGS + 50))
    first, second = (
        {n for s, n in zip(own.styles, own.names, strict=True) if s == device}
        for device in DEVICES[:2]
    )
    assert len(first) == MOST_DRAWINGS
    assert first == second


def test_skin_tones_and_flags_stay_out() -> None:
    drawings = many([DEVICES[0]], 3)
    captions = (
        Caption(concept="waving hand", detail="dark skin tone"),
        Caption(concept="flag of brazil"),
        Caption(concept="flag in hole"),
    )
    changed = Drawings(drawings.pixels, drawings.styles, drawings.names, captions)
    assert device_drawings(changed).captions == captions[2:]


def test_shares_are_about_what_is_said_and_never_change() -> None:
    concepts = [f"concept {i}" for i in range(2000)]
    assert 0.17 < np.mean([held_out(c) for c in concepts]) < 0.23
    assert 0.01 < np.mean([measures_base(c) for c in concepts]) < 0.03
    assert 0.45 < np.mean([rank(c) for c in concepts]) < 0.55
    concepts = ["cat face", "red apple", "pizza", "rocket", "penguin"]
    assert [c for c in concepts if held_out(c)] == ["red apple"]
