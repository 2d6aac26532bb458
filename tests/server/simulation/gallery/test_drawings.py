"""Real drawings as people with pictures."""

from __future__ import annotations

import numpy as np
import pytest

from locavore.server.simulation.gallery import Artist, Gallery, Picture, load_gallery
from locavore.server.simulation.gallery.drawings import load_drawings, load_subjects
from locavore.shared.errors import BadInputError

BLANK = np.zeros((4, 6, 3), np.uint8)


def test_ten_devices_draw() -> None:
    gallery = load_drawings()
    assert (gallery.kind, len(gallery.artists)) == ("real", 10)
    sizes = {artist.name: len(artist.pictures) for artist in gallery.artists}
    assert sizes["emojione"] == 600
    assert sizes["Jean-Victor Balin"] == 326
    assert all(p.pixels.shape == (32, 32, 3) for a in gallery.artists for p in a.pictures)


def test_what_is_held_out_is_so_for_everybody() -> None:
    artists = load_drawings().artists
    trained = {picture.caption for artist in artists for picture in artist.train}
    judged = {picture.caption for artist in artists for picture in artist.held_out}
    assert judged
    assert not trained & judged
    for artist in artists:
        assert len(artist.train) + len(artist.held_out) == len(artist.pictures)


def test_a_subject_is_drawn_often_and_never_twice_the_same() -> None:
    gallery = load_subjects()
    names = {artist.name for artist in gallery.artists}
    assert "Nicu Buculei/smiley" in names
    assert "everyone/penguin" in names
    for artist in gallery.artists:
        pixels = {picture.pixels.tobytes() for picture in artist.pictures}
        assert len(pixels) == len(artist.pictures) >= 5
        assert artist.held_out
        assert len(artist.train) >= 3
        assert {p.attributes["subject"] for p in artist.pictures} == {artist.truth["subject"]}


def test_more_drawings_make_fewer_subjects() -> None:
    many, few = load_subjects(4), load_subjects(12)
    assert {artist.name for artist in few.artists} < {artist.name for artist in many.artists}
    with pytest.raises(BadInputError, match="at least 4, got 3"):
        load_subjects(3)
    with pytest.raises(BadInputError, match="no subject has 1000 drawings"):
        load_subjects(1000)


def test_pixels_are_not_written_to_by_accident() -> None:
    picture = load_drawings().artists[0].pictures[0]
    with pytest.raises(ValueError, match="read-only"):
        picture.pixels[0] = 0


def test_a_picture_is_refused_when_its_parts_do_not_fit() -> None:
    with pytest.raises(BadInputError, match="pixels must be uint8"):
        Picture(pixels=BLANK[..., 0], caption="x")
    with pytest.raises(BadInputError, match="mask 'face' must be bool"):
        Picture(pixels=BLANK, caption="x", masks={"face": np.zeros((6, 4), bool)})
    with pytest.raises(BadInputError, match="no such picture is given"):
        Picture(pixels=BLANK, caption="x", given_masks={"hat": np.zeros((4, 6), bool)})


def test_people_have_names_of_their_own() -> None:
    one = Artist(name="ann", pictures=(Picture(pixels=BLANK, caption="x"),))
    with pytest.raises(BadInputError, match="ann twice"):
        Gallery(name="g", kind="real", artists=(one, one))
    with pytest.raises(BadInputError, match="no 'bob' in gallery 'g'"):
        Gallery(name="g", kind="real", artists=(one,)).artist("bob")


def test_an_unknown_gallery_is_refused() -> None:
    with pytest.raises(BadInputError, match="no gallery 'paintings'; there are drawings"):
        load_gallery("paintings")
