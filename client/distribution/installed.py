"""The versions of one package on disk, of which one is in use.

::

    current -> 1.1-0123456789ab      what is in use; changed at one stroke
    previous -> 1.0-ba9876543210     the last good one before it
    1.1-0123456789ab/                the files of a version
    1.1-0123456789ab.index           its signed index
    next.index, next/                what is being put together
    trials.json                      self-checks by index: begun without a verdict, or failed

Rules:

1. A folder under its own name is complete and verified.
2. ``current`` moves only to a version that passed its self-check.
3. ``previous`` is set before ``current`` moves, and nothing is removed before it has moved.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

from ...shared.chunk_index import Index
from ...shared.errors import PackageError, PackageNotFoundError
from ...shared.files import point_link, sync_folder, write_whole

__all__ = ["Installed", "file_digest", "index_beside"]

_FAILED = -1  # in trials: there was a verdict


def index_beside(folder: Path) -> Index:
    """The signed index of an installed package's folder.

    Raises:
        PackageError: there is none, or it cannot be read.
    """
    real = folder.resolve()
    try:
        return Index.from_json(real.with_name(f"{real.name}.index").read_bytes())
    except OSError as error:
        raise PackageError(f"{folder} has no index: {error.strerror}; fetch it again") from None


def file_digest(path: Path) -> str:
    """SHA-256 (hex) of a small file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


class Installed:
    """What is installed of one package.

    Args:
        folder: of this package alone; made when it is missing.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.next, self.next_index = folder / "next", folder / "next.index"
        self._trials = folder / "trials.json"

    @property
    def current(self) -> Path | None:
        """Folder of the version in use."""
        return self._linked("current")

    @property
    def previous(self) -> Path | None:
        """Folder of the last good version before it."""
        return self._linked("previous")

    @property
    def current_digest(self) -> str | None:
        """SHA-256 (hex) of the index of the version in use."""
        current = self.current
        if current is None:
            return None
        index = current.with_name(f"{current.name}.index")
        return file_digest(index) if index.is_file() else None

    def held(self) -> list[tuple[Path, Index]]:
        """Complete versions with their indexes, that in use first."""
        found = []
        for folder in dict.fromkeys((self.current, self.previous, *self._versions())):
            if folder is not None:
                try:
                    found.append((folder, index_beside(folder)))
                except PackageError:
                    continue  # costs a full download, and no more
        return found

    def place(self, version: str, digest: str, *, anew: bool = False) -> Path:
        """Folder for a version; another name when the old one is to be replaced."""
        name = f"{version}-{digest[:12]}"
        number = 1
        while anew and (self.folder / name).exists():
            number += 1
            name = f"{version}-{digest[:12]}.{number}"
        return self.folder / name

    def settle(self, place: Path) -> None:
        """Give what was put together and verified its own name."""
        write_whole(place.with_name(f"{place.name}.index"), self.next_index.read_bytes())
        self.next.rename(place)
        sync_folder(self.folder)
        self.next_index.unlink()

    def use(self, place: Path, *, remember: bool = True) -> None:
        """Put a version into use; remember the one before it, unless it is damaged."""
        current = self.current
        if remember and current is not None and current != place:
            point_link(self.folder / "previous", current.name)
        point_link(self.folder / "current", place.name)

    def back(self) -> Path:
        """Put the previous version into use again; return the folder of the one given up.

        Raises:
            PackageNotFoundError: there is none.
        """
        current, previous = self.current, self.previous
        if current is None or previous is None or current == previous:
            raise PackageNotFoundError(f"{self.folder} holds no version before the one in use")
        point_link(self.folder / "current", previous.name)
        (self.folder / "previous").unlink()
        return current

    def prune(self) -> None:
        """Remove every version but the one in use and the one before it."""
        kept = {self.current, self.previous}
        for folder in self._versions():
            if folder not in kept:
                shutil.rmtree(folder)
        for path in self.folder.glob("*.index"):
            if path != self.next_index and not path.with_suffix("").is_dir():
                path.unlink()

    def drop_next(self) -> None:
        """Remove what is being put together."""
        shutil.rmtree(self.next, ignore_errors=True)
        self.next_index.unlink(missing_ok=True)

    # Self-checks

    def is_bad(self, digest: str, checks: int) -> bool:
        """Whether a version failed its check, or that many checks ended without a verdict."""
        trials = self._read_trials().get(digest, 0)
        return trials == _FAILED or trials >= checks

    def begin_check(self, digest: str) -> None:
        """Note that a check begins: if the process dies in it, that is remembered."""
        trials = self._read_trials()
        self._write_trials(trials | {digest: trials.get(digest, 0) + 1})

    def end_check(self, digest: str, *, passed: bool) -> None:
        """Note the verdict."""
        trials = self._read_trials()
        trials.pop(digest, None)
        self._write_trials(trials if passed else trials | {digest: _FAILED})

    def forgive(self, digest: str) -> None:
        """Forget what is known of a version's checks."""
        self.end_check(digest, passed=True)

    def _read_trials(self) -> dict[str, int]:
        try:
            found = json.loads(self._trials.read_bytes())
        except (OSError, ValueError):
            return {}
        return {str(k): int(v) for k, v in found.items()} if isinstance(found, dict) else {}

    def _write_trials(self, trials: dict[str, int]) -> None:
        if trials != self._read_trials():
            write_whole(self._trials, json.dumps(trials).encode())

    def _versions(self) -> list[Path]:
        return [
            path
            for path in sorted(self.folder.iterdir())
            if path.is_dir() and not path.is_symlink() and path != self.next
        ]

    def _linked(self, name: str) -> Path | None:
        link = self.folder / name
        if not link.is_symlink():
            return None
        place = self.folder / link.readlink()
        return place if place.is_dir() else None
