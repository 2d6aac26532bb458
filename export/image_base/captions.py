"""What a drawing shows, in words: from emoji names, their keywords, and clip art's metadata.

All teams that draw the same emoji must get the same *concept*, so names are looked up in one list:
by code points where a set states them, else by any name that the emoji goes by, without spaces
(``sakebottleandcup`` is Unicode's ``SAKE BOTTLE AND CUP``, today's "sake").
"""

from __future__ import annotations

import html
import json
import math
import re
import unicodedata
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

__all__ = ["Caption", "ClipArtWork", "EmojiNames", "clip_art_work", "words"]

_TONE = re.compile(r"\b(medium light|medium dark|light|medium|dark) skin tone\b")
_BARE_TONE = re.compile(r"^(.*?) (medium light|medium dark|light|medium|dark)$")
_TONE_POINTS = {f"1f3f{'bcdef'[i]}": tone for i, tone in enumerate(
    ("light", "medium light", "medium", "medium dark", "dark"))}  # fmt: skip
_LONGEST_NAME = 60
_LETTERS_COST = 20.0  # long words are better guesses than many short ones
_SHORT_WORDS = frozenset({"in", "no", "of", "ok", "on", "to", "tv", "up"})
_PRESENTATION = "fe0f"  # asks for the coloured form; sets disagree on whether to write it
# fmt: off
_EMPTY_WORDS = frozenset({
    "a", "an", "and", "art", "by", "clip", "clipart", "collection", "etiquette", "flat", "hash",
    "icon", "icons", "image", "in", "lemon", "misc", "of", "on", "other", "others", "part",
    "png", "sign", "signs", "svg", "symbol", "symbols", "the", "theme", "unsorted", "with",
})
# fmt: on


@dataclass(frozen=True, kw_only=True)
class Caption:
    """The words that a drawing goes by.

    Args:
        concept: what everyone who draws this calls it, such as ``man rowing boat``.
        detail: what this drawing adds: a skin tone, or nothing.
        tags: keywords, none of which needs to be said.
    """

    concept: str
    detail: str = ""
    tags: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """Concept and detail."""
        return f"{self.concept} {self.detail}".strip()


def words(text: str) -> str:
    """Lower-case ASCII words and numbers with single blanks between them."""
    plain = unicodedata.normalize("NFKD", text.lower()).encode("ascii", "ignore").decode()
    return " ".join(re.findall(r"[a-z]+|[0-9]+", plain.replace("'", "").replace("’", "")))


class EmojiNames:
    """Captions of emoji by code points or by any of their names.

    Args:
        folder: of the unpacked package ``emojibase-data``.
    """

    def __init__(self, folder: Path) -> None:
        emoji = json.loads((folder / "en" / "data.json").read_text("utf-8"))
        self._by_points: dict[str, Caption] = {}
        self._by_name: dict[str, Caption] = {}
        self._seen: Counter[str] = Counter()
        for entry in emoji:
            caption = Caption(
                concept=words(entry["label"].replace("flag: ", "flag of ")),
                tags=tuple(dict.fromkeys(map(words, entry.get("tags", ())))),
            )
            self._by_points[_points(entry["hexcode"])] = caption
            self._seen.update(" ".join((caption.concept, *caption.tags)).split())
            for name in (entry["label"], caption.concept, _unicode_name(entry["emoji"])):
                self._by_name.setdefault(_squashed(name), caption)
        for path in sorted((folder / "en" / "shortcodes").glob("*.json")):
            for hexcode, names in json.loads(path.read_text("utf-8")).items():
                found = self._by_points.get(_points(hexcode))
                for name in [names] if isinstance(names, str) else names:
                    if found is not None:
                        self._by_name.setdefault(_squashed(name), found)

    def caption(self, slug: str, points: str | None = None) -> Caption | None:
        """The caption of an icon, or None for one with two skin tones, and the like.

        Args:
            slug: the set's name for it: ``man-farmer-dark-skin-tone``, ``man-farmer-2``.
            points: its code points, joined by hyphens, where the set states them.
        """
        name = words(slug)
        if points is not None:
            return self._of_points(_points(points))
        tones = _TONE.findall(name)
        if len(tones) > 1:
            return None
        name = _TONE.sub("", name).strip()
        if not tones and (bare := _BARE_TONE.match(name)) and _squashed(name) not in self._by_name:
            name, tones = bare[1], [bare[2]]
        found = self._named(name) or self._named(re.sub(r" \d+$", "", name))
        if found is None:
            found = Caption(concept=self._spaced(re.sub(r" \d+$", "", name)))
        return _toned(found, tones)

    def known(self, slug: str) -> bool:
        """Whether a name without skin tone is an emoji's."""
        return self._named(words(slug)) is not None

    def _named(self, name: str) -> Caption | None:
        flag = re.sub(r"^flag (for )?(flag )?(of )?", "flagof", name)
        ways = (name, flag, name.removeprefix("person "))
        return next((c for w in ways if (c := self._by_name.get(_squashed(w))) is not None), None)

    def _spaced(self, name: str) -> str:
        """Known words of a name that is written as one word; the name itself if there are none."""
        if " " in name or name in self._seen or len(name) > _LONGEST_NAME:
            return name
        best: list[tuple[float, list[str]]] = [(0.0, [])]  # of the first n letters
        for end in range(1, len(name) + 1):
            ways = [
                (cost + _LETTERS_COST / len(word) - math.log(self._seen[word]), [*before, word])
                for start in range(end)
                for cost, before in [best[start]]
                if (word := name[start:end]) in self._seen
                and (len(word) > 2 or word in _SHORT_WORDS or word.isdigit())
            ]
            best.append(min(ways, default=(math.inf, [])))
        return " ".join(best[-1][1]) or name

    def _of_points(self, points: str) -> Caption | None:
        parts = points.split("-")
        tones = [_TONE_POINTS[p] for p in parts if p in _TONE_POINTS]
        plain = "-".join(p for p in parts if p not in _TONE_POINTS)
        found = self._by_points.get(plain) or self._by_points.get(points)
        return None if found is None or len(tones) > 1 else _toned(found, tones)


def _toned(caption: Caption, tones: list[str]) -> Caption:
    detail = f"{tones[0]} skin tone" if tones else ""
    return Caption(concept=caption.concept, detail=detail, tags=caption.tags)


def _points(hexcode: str) -> str:
    return "-".join(p for p in hexcode.lower().split("-") if p != _PRESENTATION)


def _unicode_name(emoji: str) -> str:
    return unicodedata.name(emoji[0], "") if len(_points_of(emoji)) == 1 else ""


def _points_of(emoji: str) -> list[str]:
    return [c for c in emoji if c != "\ufe0f"]


def _squashed(name: str) -> str:
    return words(name).replace(" ", "")


@dataclass(frozen=True, kw_only=True)
class ClipArtWork:
    """Who drew a piece of clip art, whether it is in the public domain, and its caption."""

    artist: str
    public_domain: bool
    caption: Caption


def clip_art_work(path: PurePosixPath, svg: str, aliases: Mapping[str, str]) -> ClipArtWork:
    """Read the metadata of one file.

    Args:
        path: below the collection's root; file and folder names are words too.
        svg: its text.
        aliases: artists' other names to the one that we use.
    """
    creator = _first(r"<dc:creator.*?<dc:title[^>]*>(.*?)</dc:title>", svg)
    artist = aliases.get(creator, creator)
    subject = _first(r"<dc:subject(.*?)</dc:subject>", svg)
    keywords = re.findall(r"<rdf:li[^>]*>(.*?)</rdf:li>", subject, re.S)
    concept = _stem(path.name, f"{artist} {creator}")
    tags = dict.fromkeys(words(html.unescape(k)) for k in [*keywords, *path.parts[:-1]])
    return ClipArtWork(
        artist=artist,
        public_domain="PublicDomain" in svg or "licenses/publicdomain" in svg,
        caption=Caption(
            concept=concept or words(path.parent.name),
            tags=tuple(t for t in tags if t and t not in concept and not _EMPTY_WORDS & {t}),
        ),
    )


def _first(pattern: str, text: str) -> str:
    found = re.search(pattern, text, re.S)
    return html.unescape(found[1]).strip() if found else ""


def _stem(name: str, artist: str) -> str:
    """The words of a file's name, less its number and the artist's name, often cut short."""
    stem = words(re.sub(r"\.svg|\.png", " ", name)).split()
    names = words(artist).split()
    while stem and (stem[-1].isdigit() or len(stem[-1]) < 3 or _begins_any(names, stem[-1])):
        stem.pop()
    return " ".join(w for w in stem if len(w) > 1 and not w.isdigit() and w not in _EMPTY_WORDS)


def _begins_any(names: list[str], start: str) -> bool:
    return any(name.startswith(start) for name in names)
