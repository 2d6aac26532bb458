"""The measures of pictures know a person's own from another's, and what a task asks is fair."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("PIL.Image", reason="needs the extra 'train'")

from locavore.server.simulation.gallery import TASK_DATA, Artist, load_gallery
from locavore.server.simulation.gallery import Picture as Shown
from locavore.server.simulation.gallery.asked import clicked, dressed, spread, staged
from locavore.server.simulation.gallery.avatar_people import load_tryon
from locavore.server.simulation.gallery.products import GROUPS, load_ads
from locavore.server.simulation.gallery.wardrobe import COLOURS, Garment, draw_garment
from locavore.server.simulation.judging import Judged, worn_colour
from locavore.server.simulation.picture_tasks import PICTURE_TASKS
from locavore.shared.metrics.towers import drawing_towers

BETTER = {  # a measure of each task with known truth, and whether more of it is better
    "image.fashion_design.behaviors": ("palette", True),
    "image.product.behaviors": ("ctr", True),
    "image.fashion_design.profiles": ("palette", True),
    "image.product.profiles": ("ctr", True),
    "image.subject": ("dino_i", True),
    "image.face": ("whose", True),
    "image.tryon": ("psnr", True),
    "image.general": ("paired", False),
}


def judged(artist: Artist, drawn: Sequence[Shown], others: Sequence[Artist]) -> Judged:
    own = [shown.at_size((32, 32)) for shown in artist.held_out]
    pixels = [shown.at_size((32, 32)).pixels for shown in drawn]
    return Judged(
        drawn=pixels[: len(own)],
        asked=own[: len(pixels)],
        own=own,
        known=[shown.at_size((32, 32)) for shown in artist.train[:24]],
        others={a.name: [shown.at_size((32, 32)) for shown in a.held_out] for a in others},
        artist=artist,
        towers=drawing_towers(),
    )


@pytest.mark.parametrize("task", list(PICTURE_TASKS))
def test_a_person_s_own_pictures_are_judged_better_than_others(task: str) -> None:
    artists = PICTURE_TASKS[task].gallery(None, 4, 3).artists
    key, more = BETTER[task]
    measures = {measure.metric.key: measure for measure in PICTURE_TASKS[task].measures}
    own, wrong = [], []
    for i, artist in enumerate(artists):
        others = [other for other in artists if other is not artist]
        stranger = artists[(i + 1) % len(artists)]
        assert all(
            value is None or np.isfinite(value)
            for value in (m.of(judged(artist, artist.held_out, others)) for m in measures.values())
        )
        own.append(measures[key].of(judged(artist, artist.held_out, others)))
        wrong.append(measures[key].of(judged(artist, stranger.held_out, others)))
    gap = np.mean(own) - np.mean(wrong)  # type: ignore[arg-type]  # None would fail here
    assert (gap if more else -gap) > 0.1


def test_every_row_is_of_the_tasks_galleries() -> None:
    assert {task: tuple(row.people) for task, row in PICTURE_TASKS.items()} == dict(TASK_DATA)


def test_a_built_in_gallery_is_chosen_by_its_name() -> None:
    gallery = PICTURE_TASKS["image.general"].gallery(Path("glyphs"), 12, 0)
    assert (gallery.name, len(gallery.artists)) == ("glyphs", 12)
    whole = load_gallery("glyphs")
    assert gallery.artists[1].name == whole.artists[7].name
    assert len(spread(whole, 1000).artists) == 84


@pytest.mark.parametrize("pattern", ["plain", "striped", "checked", "dotted"])
def test_the_colour_of_a_garment_is_seen_through_its_pattern(pattern: str) -> None:
    for colour in COLOURS:
        pixels, mask = draw_garment(Garment("t-shirt", colour, pattern), 64)
        assert worn_colour(pixels, mask) == colour


def test_clicks_count_as_if_all_had_been_shown_equally_often() -> None:
    artist = load_ads(4, 8000).artists[2]
    assert artist.truth["group"] == "night people"
    counted = clicked(artist, seed=0).train
    scenes = [picture.attributes["scene"] for picture in counted]
    share = {scene: scenes.count(scene) / len(scenes) for scene in set(scenes)}
    chances = {scene: 0.08 + GROUPS["night people"].get(scene, 0.0) for scene in share}
    total = sum(chances.values())
    raw = [artist.pictures[i.picture].attributes["scene"] for i in artist.log if i.clicked]
    assert raw.count("beach") / len(raw) > 0.2  # the world's favourite, as it was logged
    for scene, chance in chances.items():
        assert share[scene] == pytest.approx(chance / total, abs=0.05)
    assert clicked(artist, seed=0).train == counted


def test_what_is_drawn_on_shows_only_what_is_given() -> None:
    shown = load_tryon(1, 4).artists[0].pictures[0].at_size((32, 32))
    start, mask = dressed(shown)
    assert (start[mask] == 128).all()
    assert (start[~mask] == shown.pixels[~mask]).all()
    assert 0.1 < mask.mean() < 0.9
    photograph = Shown(
        pixels=shown.pixels, caption="x", given={"agnostic": start}
    )  # as VITON-HD has it, without a mask
    again, found = dressed(photograph)
    assert (again[~found] == shown.pixels[~found]).all()
    assert found.sum() > 0.7 * mask.sum()
    advertisement = load_ads(1, 1).artists[0].pictures[0]
    start, mask = staged(advertisement)
    inside = np.abs(start[~mask].astype(int) - advertisement.pixels[~mask])
    assert np.median(inside) == 0  # but for its outline, which mixes with what is behind it
    assert (start[mask] == 255).all()
