"""Which reader takes which file, and how records get into a device in batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from ...shared.contexts import Context, UserDocument
from ...shared.errors import BadInputError
from ..device import Device
from .agenda import read_calendar, read_contacts
from .mail import read_eml, read_mbox
from .media import IMAGES, read_image, read_wav, sidecars
from .reading import Reading, changed
from .web import read_activity, read_bookmarks

__all__ = ["READERS", "Imported", "import_records", "read_source"]

_BATCH = 64  # records that are stored together; an interruption loses at most so many


def read_text(path: Path, how: Reading) -> Iterator[Context]:
    """A text file is a document."""
    raw = how.bytes_of(path)
    if raw is None:
        return
    text = raw.decode("utf-8-sig", "replace").strip()
    if not text or "\0" in text:
        how.skipped(str(path), "empty" if not text else "not a text")
        return
    yield UserDocument(body=text, **how.common("folder", how.uri(path), text, changed(path)))


READERS: dict[str, Callable[[Path, Reading], Iterator[Context]]] = {
    ".txt": read_text,
    ".md": read_text,
    ".mbox": read_mbox,
    ".eml": read_eml,
    ".ics": read_calendar,
    ".vcf": read_contacts,
    ".json": read_activity,
    ".html": read_bookmarks,
    ".htm": read_bookmarks,
    ".wav": read_wav,
    **dict.fromkeys(IMAGES, read_image),
}


@dataclass(frozen=True)
class Imported:
    """What an import did.

    Args:
        added: records that are new.
        known: records that were there already.
    """

    added: int
    known: int


def read_source(path: Path, how: Reading | None = None) -> Iterator[Context]:
    """Records of a file, or of every file in a folder that some reader takes, as they are read.

    Raises:
        BadInputError: there is no such file, or no reader for it; mail without own addresses.
        MissingExtraError: calendars and contacts need the extra ``import``.
    """
    how = how or Reading()
    if path.is_dir():
        how = replace(how, root=path)
        files = sorted(file for file in path.rglob("*") if file.is_file())
        captions = {
            beside
            for file in files
            if file.suffix.lower() in (*IMAGES, ".wav")
            for beside in sidecars(file)
        }
        for file in files:
            reader = READERS.get(file.suffix.lower())
            if reader is not None and file not in captions:
                yield from reader(file, how)
        return
    if not path.exists():
        raise BadInputError(f"there is no file {path}")
    reader = READERS.get(path.suffix.lower())
    if reader is None:
        known = " ".join(sorted(READERS))
        raise BadInputError(f"no reader for {path.name}; there are for folders and {known}")
    yield from reader(path, how)


def import_records(
    device: Device,
    records: Iterable[Context],
    progress: Callable[[Imported], None] = lambda _: None,
) -> Imported:
    """Remember records in batches; those that are there already are passed over.

    Can be interrupted and begun again: what was stored stays, and is not stored twice.
    """
    done, source = Imported(0, 0), iter(records)
    while batch := list(islice(source, _BATCH)):
        once = {record.id: record for record in batch}
        fresh = [record for name, record in once.items() if not device.store.holds(name)]
        if fresh:
            device.remember_all(fresh)
        done = Imported(done.added + len(fresh), done.known + len(batch) - len(fresh))
        progress(done)
    return done
