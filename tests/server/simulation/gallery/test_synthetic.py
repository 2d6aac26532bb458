"""Outfits and advertisements: tastes, logs with known propensities, and the registry's rows."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest

pytest.importorskip("PIL")

from locavore.server.simulation.gallery import GALLERIES, TASK_DATA
from locavore.server.simulation.gallery.glyphs import load_glyphs
from locavore.server.simulation.gallery.outfits import Taste, load_outfits, load_styled
from locavore.server.simulation.gallery.pictures import Picture
from locavore.server.simulation.gallery.products import (
    GROUPS,
    SCENES,
    click_chance,
    load_ads,
    load_group_ads,
)
from locavore.server.simulation.gallery.sheet import contact_sheet
from locavore.server.simulation.gallery.wardrobe import CATEGORIES, Garment
from locavore.shared.errors import BadInputError
from locavore.shared.tasks import TASKS


def test_every_image_task_has_data() -> None:
    assert set(TASK_DATA) == {id for id, task in TASKS.items() if task.modality == "image"}
    assert {name for names in TASK_DATA.values() for name in names} == set(GALLERIES)


def test_writers_have_alphabets_and_hold_out_letters_of_their_own() -> None:
    gallery = load_glyphs()
    assert (gallery.kind, len(gallery.artists)) == ("real", 84)
    held_out: Counter[str] = Counter()
    for writer in gallery.artists:
        assert [p.caption for p in writer.pictures] == [
            f"letter {c}" for c in "abcdefghijklmnopqrstuvwxyz"
        ]
        assert len(writer.held_out) == 5
        held_out.update(p.caption for p in writer.held_out)
        assert all(p.pixels.shape == (32, 32, 3) and p.pixels.min() < 200 for p in writer.pictures)
    assert set(held_out) == {f"letter {c}" for c in "abcdefghijklmnopqrstuvwxyz"}
    assert max(held_out.values()) < 42  # most writers train on every letter


def test_two_writers_never_write_the_same() -> None:
    alphabets = {
        b"".join(picture.pixels.tobytes() for picture in writer.pictures)
        for writer in load_glyphs().artists
    }
    assert len(alphabets) == 84


def garment(picture: Picture) -> Garment:
    return Garment(*(picture.attributes[word] for word in ("kind", "colour", "pattern")))


def test_an_outfit_is_a_garment_of_each_category_with_the_others_given() -> None:
    gallery = load_outfits(4, 4, size=32)
    for artist in gallery.artists:
        by_outfit = defaultdict(list)
        for picture in artist.pictures:
            by_outfit[picture.attributes["outfit"]].append(picture)
        assert len(by_outfit) == 4
        for items in by_outfit.values():
            assert {p.attributes["category"] for p in items} == set(CATEGORIES)
            for one in items:
                others = {p.attributes["category"]: p.pixels for p in items if p is not one}
                assert set(one.given) == set(others)
                assert all((one.given[name] == others[name]).all() for name in others)


def test_people_wear_what_they_like_more_often_than_others_do() -> None:
    artists = load_outfits(12, 4, size=32).artists
    tastes = [Taste(**artist.truth) for artist in artists]
    own, others = [], []
    for artist, taste in zip(artists, tastes, strict=True):
        for picture in artist.pictures:
            own.append(taste.likes(garment(picture)))
            others.append(np.mean([other.likes(garment(picture)) for other in tastes]))
    assert np.mean(own) > 0.85 > 0.75 > np.mean(others)
    assert np.mean(own) < 1  # a taste is no law


def test_held_out_garments_are_worn_by_nobody_else() -> None:
    artists = load_outfits(12, 4, size=32).artists
    trained = {garment(p) for artist in artists for p in artist.train}
    judged = {garment(p) for artist in artists for p in artist.held_out}
    assert judged
    assert not trained & judged


def test_a_styled_persons_profile_tells_the_taste() -> None:
    gallery = load_styled(6, 4, size=64)
    for artist in gallery.artists:
        assert artist.profile["style"] == artist.truth["style"]
        assert artist.truth["palette"] in artist.profile["favourite colours"]
        assert (len(artist.train), len(artist.held_out)) == (3, 1)
        for picture in artist.pictures:
            assert 0 <= float(picture.attributes["compatibility"]) <= 1
            assert picture.masks["shoes"].any()
            assert picture.masks["bottom"].any() == ("bottom" in picture.attributes)


def test_the_product_is_the_same_before_every_scene() -> None:
    pictures = load_ads(1, 1).artists[0].pictures
    by_product = defaultdict(list)
    for picture in pictures:
        by_product[picture.attributes["product"]].append(picture)
    assert {len(of_one) for of_one in by_product.values()} == {len(SCENES)}
    for of_one in by_product.values():
        mask = of_one[0].masks["product"]
        same = np.all([p.pixels == of_one[0].pixels for p in of_one], axis=(0, 3))
        assert not (same & ~mask).all()
        assert (same & mask).sum() > 0.5 * mask.sum()
        assert (of_one[0].given["product"][~mask] == 255).all()


def test_held_out_products_are_in_no_log() -> None:
    for artist in load_ads(4, 50, size=32).artists:
        shown = {artist.pictures[one.picture].attributes["product"] for one in artist.log}
        held_out = {picture.attributes["product"] for picture in artist.held_out}
        assert held_out == {"lamp", "plant"}
        assert not shown & held_out


def test_a_logs_propensities_are_those_of_its_policy() -> None:
    artist = load_group_ads(8_000, size=32).artists[0]
    shown = Counter(one.picture for one in artist.log)
    propensity = {one.picture: one.propensity for one in artist.log}
    assert sum(propensity.values()) == pytest.approx(1)
    for picture, p in propensity.items():
        error = np.sqrt(p * (1 - p) / len(artist.log))
        assert abs(shown[picture] / len(artist.log) - p) < 4.5 * error


def test_a_log_gives_the_true_value_of_another_policy() -> None:
    for artist in load_group_ads(8_000, size=32).artists:
        group = artist.truth["group"]
        best = max(SCENES, key=lambda scene: click_chance(group, scene))
        worth = np.array(
            [
                one.clicked / (one.propensity * 4)  # shown for each of four products alike
                if artist.pictures[one.picture].attributes["scene"] == best
                else 0.0
                for one in artist.log
            ]
        )
        error = worth.std() / np.sqrt(len(worth))
        assert abs(worth.mean() - click_chance(group, best)) < 4.5 * error
    assert set(GROUPS) == {artist.name for artist in load_group_ads(1, size=32).artists}


def test_numbers_out_of_range_are_refused() -> None:
    with pytest.raises(BadInputError, match="outfits must be at least 4"):
        load_outfits(1, 3)
    with pytest.raises(BadInputError, match="got 0 and 5"):
        load_ads(0, 5)
    with pytest.raises(BadInputError, match="no group 'x'"):
        click_chance("x", "beach")


def test_a_contact_sheet_shows_people_in_rows() -> None:
    page = contact_sheet(load_ads(3, 5, size=32), 2, 4, zoom=2)
    assert page.shape == (2 * 32 * 2, 4 * 3 * 32 * 2, 3)
    assert (page[:64, 64:128] == page[64:, 64:128]).all()  # all are shown the same
