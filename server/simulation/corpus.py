"""People and their texts: the built-in corpus, or a folder of the user's own.

Both are split in time: a person's model learns from earlier texts and is judged on later ones.
"""

from __future__ import annotations

import json
import lzma
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from ...shared.contexts import Consent, Provenance, UserDocument
from ...shared.errors import BadInputError
from ...shared.passages import cut_passages

__all__ = ["DEVICE_AUTHORS", "Corpus", "Passage", "Person", "load_folder", "load_sotu"]

DEVICE_AUTHORS = (
    "thomas_jefferson",
    "andrew_jackson",
    "ulysses_s_grant",
    "theodore_roosevelt",
    "woodrow_wilson",
    "franklin_d_roosevelt",
    "ronald_reagan",
    "barack_obama",
)

_SOTU = Path(__file__).with_name("data") / "sotu.jsonl.xz"
_SUFFIXES = (".txt", ".md")
_DATE = re.compile(r"(\d{4})(?:-(\d{2}))?(?:-(\d{2}))?(?!\d)")
_HELD_OUT_SHARE = 4  # at most one passage in so many is held out


@dataclass(frozen=True)
class Person:
    """One device's owner. Both tuples are in order of time; ``held_out`` is later than ``train``.

    A person without documents is legal: a device that can only retrieve what comes later.
    """

    name: str
    train: tuple[UserDocument, ...]
    held_out: tuple[UserDocument, ...]


@dataclass(frozen=True)
class Corpus:
    """The people of a simulation, and public texts by authors who are none of them.

    ``public`` maps an author to texts: for public directions and the authorship scorer.
    """

    people: tuple[Person, ...]
    public: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class Passage:
    """One line of the built-in corpus; ``index`` counts the passages of a speech from 0."""

    author: str
    year: int
    index: int
    text: str

    def document(self) -> UserDocument:
        """The passage as a record of its author."""
        uri = f"{self.author}/{self.year}/{self.index}"
        return _document(uri, self.text, datetime(self.year, 1, 1, tzinfo=UTC), source="sotu")


def load_sotu(devices: int = 8, held_out: int = 8, train: int = 200) -> Corpus:
    """Load the built-in corpus: passages of 30-72 words of State of the Union addresses.

    Args:
        devices: how many people, 1 to 8, in the order of ``DEVICE_AUTHORS``.
        held_out: passages held out per person, evenly spread over the last speech.
        train: passages to train on per person: the latest of the speeches before the last.

    Raises:
        BadInputError: a number is out of range.
    """
    if not 1 <= devices <= len(DEVICE_AUTHORS):
        raise BadInputError(
            f"devices must be 1..{len(DEVICE_AUTHORS)} with the built-in corpus, got {devices}; "
            "use load_folder for more people"
        )
    if train < 1:
        raise BadInputError(f"train must be at least 1 passage, got {train}")
    authors = _read_sotu()
    people = [_person(authors[name], held_out, train) for name in DEVICE_AUTHORS[:devices]]
    return Corpus(tuple(people), _public(authors))


def _person(lines: Sequence[Passage], held_out: int, train: int) -> Person:
    last_year = lines[-1].year
    earlier = [line for line in lines if line.year < last_year]
    last = [line for line in lines if line.year == last_year]
    if not 1 <= held_out <= len(last):
        raise BadInputError(
            f"held_out must be 1..{len(last)}, the passages in the last speech of "
            f"{lines[0].author}, got {held_out}"
        )
    spread = [last[i * len(last) // held_out] for i in range(held_out)]
    return Person(
        lines[0].author,
        train=tuple(line.document() for line in earlier[-train:]),
        held_out=tuple(line.document() for line in spread),
    )


def _read_sotu() -> dict[str, list[Passage]]:
    authors: dict[str, list[Passage]] = defaultdict(list)
    with lzma.open(_SOTU, "rt", encoding="utf-8") as lines:
        for line in lines:
            entry = Passage(**json.loads(line))
            authors[entry.author].append(entry)
    return authors


def _public(authors: Mapping[str, Iterable[Passage]]) -> dict[str, tuple[str, ...]]:
    return {
        author: tuple(line.text for line in lines)
        for author, lines in authors.items()
        if author not in DEVICE_AUTHORS
    }


def load_folder(path: Path, held_out: int = 8, max_words: int = 75) -> Corpus:
    """Load people from a folder with one subfolder a person, of ``.txt`` and ``.md`` files.

    Files are UTF-8. Their order in time is the date at the beginning of their names
    (``2024-05-31 ...`` or ``2024...``) when every file of a person has one, else the time of
    their last change. The public authors are those of the built-in corpus.

    Args:
        path: the folder; hidden subfolders are skipped.
        held_out: passages held out per person: the last ones, at most a quarter of all.
        max_words: the most words in a passage.

    Raises:
        BadInputError: there is no such folder, it has no subfolders, a file is not UTF-8 or
            cannot be read, or a number is out of range.
    """
    if not path.is_dir():
        raise BadInputError(f"{path} is not a folder; give one with a subfolder for each person")
    if held_out < 0 or max_words < 1:
        raise BadInputError(
            f"held_out must be 0 or more and max_words 1 or more, got {held_out} and {max_words}"
        )
    folders = sorted(f for f in path.iterdir() if f.is_dir() and not f.name.startswith("."))
    if not folders:
        raise BadInputError(f"{path} has no subfolders; make one for each person, with their texts")
    people = tuple(_person_of_folder(folder, held_out, max_words) for folder in folders)
    return Corpus(people, _public(_read_sotu()))


def _person_of_folder(folder: Path, held_out: int, max_words: int) -> Person:
    passages = [
        _document(f"{file.relative_to(folder.parent).as_posix()}/{index}", text, time, "folder")
        for time, file in _in_order_of_time(folder)
        for index, text in enumerate(
            cut_passages(_read(file), max_words=max_words, min_words=max(1, 2 * max_words // 5))
        )
    ]
    first_held_out = len(passages) - min(held_out, len(passages) // _HELD_OUT_SHARE)
    return Person(
        folder.name,
        train=tuple(passages[:first_held_out]),
        held_out=tuple(passages[first_held_out:]),
    )


def _in_order_of_time(folder: Path) -> list[tuple[datetime, Path]]:
    files = [f for f in folder.rglob("*") if f.suffix.lower() in _SUFFIXES and f.is_file()]
    dates = [date for file in files if (date := _date_in(file.name)) is not None]
    if len(dates) < len(files):
        dates = [datetime.fromtimestamp(file.stat().st_mtime, UTC) for file in files]
    return sorted(zip(dates, files, strict=True))


def _date_in(name: str) -> datetime | None:
    """The date that a file's name begins with, or None."""
    found = _DATE.match(name)
    if found is None:
        return None
    year, month, day = (int(part or 1) for part in found.groups())
    try:
        return datetime(year, month, day, tzinfo=UTC)
    except ValueError:  # such as 2024-13-01
        return None


def _read(file: Path) -> str:
    try:
        return file.read_bytes().decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise BadInputError(
            f"{file} is not UTF-8 at byte {error.start}; save it as UTF-8"
        ) from error
    except OSError as error:
        raise BadInputError(f"cannot read {file}: {error.strerror}") from error


def _document(uri: str, text: str, time: datetime, source: str) -> UserDocument:
    return UserDocument(
        id=f"{source}:{uri}",
        time=time,
        consent=Consent.full(),
        provenance=Provenance(source=source, uri=uri),
        body=text,
    )
