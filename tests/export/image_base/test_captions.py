"""Whoever draws an emoji, its concept is the same."""

from __future__ import annotations

import json
from pathlib import Path, PurePosixPath

import pytest

from locavore.export.image_base.captions import Caption, EmojiNames, clip_art_work, words

SVG = """<svg><metadata><rdf:RDF><cc:Work><dc:title>ignored</dc:title>
<dc:subject><rdf:Bag><rdf:li>Fruit &amp; vegetables</rdf:li><rdf:li>icon</rdf:li></rdf:Bag>
</dc:subject>
<dc:creator><cc:Agent><dc:title>Ada Quill</dc:title></cc:Agent></dc:creator>
<cc:license rdf:resource="http://web.resource.org/cc/PublicDomain"/></cc:Work></rdf:RDF></metadata>
</svg>"""


@pytest.fixture
def names(tmp_path: Path) -> EmojiNames:
    emoji = [
        {"label": "sake", "hexcode": "1F376", "emoji": "🍶", "tags": ["bar", "bottle", "cup"]},
        {"label": "waving hand", "hexcode": "1F44B", "emoji": "👋", "tags": ["hello", "hand"]},
        {"label": "flag: Brazil", "hexcode": "1F1E7-1F1F7", "emoji": "🇧🇷"},
        {"label": "red heart", "hexcode": "2764-FE0F", "emoji": "❤️", "tags": ["love"]},
        {"label": "last quarter moon", "hexcode": "1F317", "emoji": "🌗", "tags": ["flying"]},
        {"label": "envelope", "hexcode": "2709-FE0F", "emoji": "✉️", "tags": ["mail"]},
    ]
    (tmp_path / "en" / "shortcodes").mkdir(parents=True)
    (tmp_path / "en" / "data.json").write_text(json.dumps(emoji))
    codes = {"1F44B": ["wave", "hello_hand"], "2764": "heart"}
    (tmp_path / "en" / "shortcodes" / "some.json").write_text(json.dumps(codes))
    return EmojiNames(tmp_path)


@pytest.mark.parametrize(
    ("slug", "points", "concept", "detail"),
    [
        ("sake", None, "sake", ""),
        ("sakebottleandcup", None, "sake", ""),
        ("waving-hand-dark-skin-tone", None, "waving hand", "dark skin tone"),
        ("waving-hand-medium-dark", None, "waving hand", "medium dark skin tone"),
        ("hello-hand-2", None, "waving hand", ""),
        ("whatever", "1f44b-1f3fd", "waving hand", "medium skin tone"),
        ("heart", "2764", "red heart", ""),
        ("flag-for-brazil", None, "flag of brazil", ""),
        ("flag-for-flag-brazil", None, "flag of brazil", ""),
        ("flag-brazil", "1f1e7-1f1f7", "flag of brazil", ""),
    ],
)
def test_names_of_one_emoji(
    names: EmojiNames, slug: str, points: str | None, concept: str, detail: str
) -> None:
    found = names.caption(slug, points)
    assert found is not None
    assert (found.concept, found.detail) == (concept, detail)


def test_an_unknown_name_keeps_its_words(names: EmojiNames) -> None:
    assert names.caption("filing-cabinet-3") == Caption(concept="filing cabinet")


def test_words_written_as_one_are_cut_where_all_are_known(names: EmojiNames) -> None:
    assert names.caption("flyingenvelope") == Caption(concept="flying envelope")
    assert names.caption("flyingzebra") == Caption(concept="flyingzebra")


@pytest.mark.parametrize(
    ("slug", "points"),
    [
        ("handshake-light-skin-tone-dark-skin-tone", None),
        ("handshake", "1f44b-1f3fb-1f44b-1f3ff"),
        ("unheard-of", "1f9ff"),
    ],
)
def test_two_tones_and_unknown_points_have_no_caption(
    names: EmojiNames, slug: str, points: str | None
) -> None:
    assert names.caption(slug, points) is None


def test_clip_art_is_captioned_by_file_folder_and_keywords() -> None:
    work = clip_art_work(PurePosixPath("food/icons/Red_apple_ada_qui_01.svg"), SVG, {})
    assert work.artist == "Ada Quill"
    assert work.public_domain
    assert work.caption == Caption(concept="red apple", tags=("fruit vegetables", "food"))


def test_clip_art_without_dedication_is_not_public_domain() -> None:
    svg = SVG.replace("PublicDomain", "GPL")
    assert not clip_art_work(PurePosixPath("a.svg"), svg, {}).public_domain


def test_aliases_name_one_artist() -> None:
    work = clip_art_work(PurePosixPath("a.svg"), SVG, {"Ada Quill": "A. Quill"})
    assert work.artist == "A. Quill"


def test_words_are_plain() -> None:
    assert words("Crème  brûlée, 3rd (man’s)") == "creme brulee 3 rd mans"
