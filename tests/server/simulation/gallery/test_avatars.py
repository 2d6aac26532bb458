"""Synthetic people: who they are stays, and masks cover exactly what they say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("PIL")

from locavore.server.simulation.gallery.avatar_people import load_faces, load_tryon
from locavore.server.simulation.gallery.avatars import (
    BODY,
    FACES,
    PORTRAIT,
    UPPER,
    Drawn,
    Face,
    Moment,
    draw_person,
)
from locavore.server.simulation.gallery.canvas import Canvas, View
from locavore.server.simulation.gallery.pictures import Gallery
from locavore.server.simulation.gallery.wardrobe import (
    CATEGORIES,
    TOPS,
    Garment,
    compatibility,
    draw_garment,
    is_reserved,
)
from locavore.shared.errors import BadInputError

FACE = Face("pale", "red", "bob", "green", "round", glasses=False)
TROUSERS, SHOES = Garment("trousers", "black"), Garment("shoes", "brown")


def drawn(top: Garment, *, face: Face = FACE, moment: Moment = Moment(), **how: object) -> Drawn:  # noqa: B008
    return draw_person(face, moment, top, bottom=TROUSERS, shoes=SHOES, **how)  # type: ignore[arg-type]


def differ(a: Drawn, b: Drawn) -> np.ndarray[tuple[int, ...], np.dtype[np.bool_]]:
    return np.asarray((a.pixels != b.pixels).any(axis=2))


@pytest.mark.parametrize("size", [32, 64])
@pytest.mark.parametrize("kind", TOPS)
@pytest.mark.parametrize("view", [PORTRAIT, UPPER, BODY])
def test_the_clothes_mask_is_all_that_the_clothes_colour_reaches(
    kind: str, size: int, view: View
) -> None:
    red, blue = (
        drawn(Garment(kind, colour), view=view, size=size, moment=Moment(left="up"))
        for colour in ("red", "blue")
    )
    assert (differ(red, blue) == red.masks["clothes"]).all()
    assert red.masks["clothes"].sum() > size


def test_the_face_mask_is_all_that_a_mood_reaches() -> None:
    top = Garment("sweater", "teal")
    for mouth in Moment.MOUTHS[1:]:
        other = drawn(top, moment=Moment(mouth=mouth, gaze="left"))
        moved = differ(drawn(top), other)
        assert moved.any()
        assert not (moved & ~other.masks["face"]).any()


def test_the_hair_mask_is_all_that_the_hairs_colour_reaches_besides_brows() -> None:
    top = Garment("sweater", "teal")
    red, blue = drawn(top), drawn(top, face=replace(FACE, hair="blue"))
    moved = differ(red, blue)
    assert (moved & ~red.masks["face"] == red.masks["hair"] & ~red.masks["face"]).all()


def test_joints_follow_the_arms_on_the_persons_own_side() -> None:
    down, up = (
        drawn(Garment("t-shirt", "red"), view=UPPER, moment=Moment(left=arm)).pose
        for arm in ("down", "up")
    )
    assert up["left_wrist"][1] < up["left_shoulder"][1] < down["left_wrist"][1]
    assert up["right_wrist"] == down["right_wrist"]
    assert down["left_wrist"][0] > 32 > down["right_wrist"][0]


def test_every_identity_looks_different() -> None:
    assert len(set(FACES)) == len(FACES)
    rng = np.random.default_rng(0)
    some = [FACES[i] for i in rng.choice(len(FACES), 60, replace=False)]
    looks = {drawn(Garment("t-shirt", "red"), face=face).pixels.tobytes() for face in some}
    assert len(looks) == len(some)


@pytest.fixture(scope="module")
def faces() -> Gallery:
    return load_faces(6, 8, size=32)


@pytest.fixture(scope="module")
def tryon() -> Gallery:
    return load_tryon(5, 8, size=32)


def test_a_person_stays_who_they_are_while_all_else_varies(faces: Gallery) -> None:
    assert faces.kind == "synthetic"
    for artist in faces.artists:
        for name, value in artist.truth.items():
            assert {picture.attributes[name] for picture in artist.pictures} == {value}
        assert len({picture.attributes["mouth"] for picture in artist.pictures}) > 1
        assert len({picture.caption for picture in artist.pictures}) > 4
        assert (len(artist.train), len(artist.held_out)) == (6, 2)
    assert len({tuple(artist.truth.values()) for artist in faces.artists}) == 6


def test_a_caption_does_not_say_who_it_is(faces: Gallery) -> None:
    for artist in faces.artists:
        hair = artist.truth["hair"].split()[0]
        assert not any(hair in picture.caption for picture in artist.pictures)


@pytest.mark.parametrize("name", ["faces", "tryon"])
def test_held_out_garments_are_trained_on_by_nobody(
    name: str, request: pytest.FixtureRequest
) -> None:
    artists = request.getfixturevalue(name).artists
    wearable = ("kind", "colour", "pattern")
    trained, judged = (
        {
            tuple(picture.attributes[word] for word in wearable)
            for artist in artists
            for picture in artist.pictures
            if picture.held_out == held_out
        }
        for held_out in (False, True)
    )
    assert trained
    assert judged
    assert not trained & judged


def test_what_is_worn_before_is_no_held_out_garment(tryon: Gallery) -> None:
    reserved = {str(Garment(kind, c, p)) for kind in TOPS for c in ("red", "blue", "black")
                for p in ("plain", "striped") if is_reserved(Garment(kind, c, p))}  # fmt: skip
    worn = {p.attributes["worn before"] for a in tryon.artists for p in a.pictures}
    assert reserved
    assert not worn & reserved


def test_data_come_from_the_seed_alone(faces: Gallery) -> None:
    again, other = load_faces(6, 8, size=32), load_faces(6, 8, size=32, seed=1)
    pixels = [
        b"".join(p.pixels.tobytes() for a in gallery.artists for p in a.pictures)
        for gallery in (faces, again, other)
    ]
    assert pixels[0] == pixels[1]
    assert pixels[0] != pixels[2]


def test_a_try_on_has_its_exact_truth(tryon: Gallery) -> None:
    for picture in (picture for artist in tryon.artists for picture in artist.pictures):
        grey, before = picture.given["agnostic"], picture.given["person"]
        hidden = picture.given_masks["agnostic"]
        assert (grey[hidden] == 128).all()
        assert (grey[~hidden] == picture.pixels[~hidden]).all()
        assert (before[~hidden] == picture.pixels[~hidden]).all()
        assert not (picture.masks["clothes"] & ~hidden).any()
        assert not (picture.given_masks["person"] & ~hidden).any()
        assert (before != picture.pixels).any()


@pytest.mark.parametrize("cut", ["long", "bob", "bald"])
def test_what_is_greyed_out_does_not_tell_the_garment(cut: str) -> None:
    face = replace(FACE, cut=cut)
    masks = {
        drawn(Garment(kind, "red"), face=face, view=UPPER).masks["wearable"].tobytes()
        for kind in TOPS
    }
    assert len(masks) == 1


def test_a_garments_own_picture_is_white_outside_its_mask() -> None:
    looks = set()
    for kind in (kind for kinds in CATEGORIES.values() for kind in kinds):
        pixels, mask = draw_garment(Garment(kind, "blue", "dotted"), 64)
        assert (pixels[~mask] == 255).all()
        assert (pixels[mask] != 255).any(axis=1).all()
        looks.add(mask.tobytes())
    assert len(looks) == 12


def test_garments_go_together_by_the_rule() -> None:
    red, pink = Garment("t-shirt", "red", "striped"), Garment("skirt", "pink")
    black, blue = Garment("boots", "black", "dotted"), Garment("bag", "blue")
    assert compatibility([red, pink]) == 1
    assert compatibility([red, blue]) == 0
    assert compatibility([red, black]) == 0  # striped with dotted
    assert compatibility([red, pink, blue]) == pytest.approx(1 / 3)
    with pytest.raises(BadInputError, match="at least 2 garments, got 1"):
        compatibility([red])


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(BadInputError, match=r"colour must be one of red, .* got 'mauve'"):
        Garment("t-shirt", "mauve")
    with pytest.raises(BadInputError, match="size must divide 256"):
        drawn(Garment("t-shirt", "red"), size=48)
    with pytest.raises(BadInputError, match="people must be 1"):
        load_faces(0)
    with pytest.raises(BadInputError, match="pictures must be at least 4 a person, got 3"):
        load_tryon(1, 3)
    canvas = Canvas(32, PORTRAIT)
    with pytest.raises(BadInputError, match="pattern must be plain"):
        canvas.paint(canvas.stencil(), (0, 0, 0), "x", pattern="tartan")
