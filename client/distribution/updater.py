"""Keeps packages on a device up to date from a repository that nobody needs to trust.

Steps of :meth:`PackageUpdater.update`:

1. Refresh the signed metadata; what is forged, older than known, expired or mixed is refused.
2. Take the latest version's index, whose hash is signed, and see that it is what was asked for.
3. Leave alone what is in use already, and what failed its check on this device before.
4. Put the files together from chunks on the device and ranges of packs; each chunk is verified.
5. Read all files again: lengths and SHA-256 of the signed index.
6. Let the self-check open it. Until it has passed, the version before stays in use.
7. Change over at one stroke; remove all but this version and the one before.

Nothing is parsed by a model runtime before step 6. Dying in any step leaves the last good version.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tuf.api.metadata import TargetFile

from ...shared.chunk_index import Index, require_name
from ...shared.errors import (
    DistributionError,
    IntegrityError,
    PackageNotFoundError,
    SelfCheckError,
)
from ...shared.files import lock_folder
from .assembly import Progress, Tally, assemble, finish, require_room, verify
from .http import Http, base_address
from .installed import Installed, file_digest, index_beside
from .limits import Limits
from .packs import PackReader
from .plan import plan
from .trust import Trust

__all__ = ["PackageUpdater", "SelfCheck", "Update"]

SelfCheck = Callable[[Path], object]
"""Opens a verified package's folder; whatever it raises means that the package is bad."""


@dataclass(frozen=True, kw_only=True)
class Update:
    """What an update came to.

    Args:
        kind, name, version, base_id: of the package in use now.
        folder: its files; the path is another one for every version.
        changed: whether it is another version than before, or was repaired.
        nbytes: size of the package.
        received: bytes received over the network in all, metadata and index included.
        held: bytes of the package that came from versions on the device.
        kept: bytes of the package that were there from a broken attempt.
    """

    kind: str
    name: str
    version: str
    base_id: str
    folder: Path
    changed: bool
    nbytes: int
    received: int
    held: int
    kept: int


class PackageUpdater:
    """Fetches packages of one repository into one folder.

    Args:
        folder: keeps the trusted metadata and the packages; one process at a time updates it.
        url: the repository's address.
        root: the pinned root: bytes of its ``root.json``, from a source that is trusted.
        limits: what the server may cost.
        certificates: PEM of the authorities to trust for TLS; None: those that the system trusts.
        clock: monotonic seconds, for the pace of answers.
        pause: waits between attempts.

    Raises:
        BadInputError: ``url`` is no HTTP address.
    """

    def __init__(
        self,
        folder: Path,
        url: str,
        root: bytes,
        *,
        limits: Limits | None = None,
        certificates: str | None = None,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self.folder, self.url, self.limits = folder, base_address(url), limits or Limits()
        self._root, self._clock, self._pause = root, clock, pause
        self._certificates = certificates

    def current(self, name: str, *, kind: str = "bases") -> Path | None:
        """Folder of the version in use; None when there is none. Needs no network."""
        return self._installed(kind, name).current

    def versions(self, name: str, *, kind: str = "bases") -> list[str]:
        """Versions that the repository offers, the latest last.

        Raises:
            UntrustedError, DownloadError: see :meth:`update`.
        """
        with self._working() as http:
            return self._trust(http).versions(kind, name)

    def update(
        self,
        name: str,
        *,
        kind: str = "bases",
        version: str | None = None,
        check: SelfCheck | None = None,
        recheck: bool = False,
        again: bool = False,
        progress: Progress = lambda done, total: None,
    ) -> Update:
        """Bring a package to the latest version, or to a given one.

        Args:
            name: of the package.
            kind: ``bases`` or ``adapters``.
            version: the latest when None.
            check: opens the new version before it is used.
            recheck: verify the files in use too, and repair them.
            again: try a version that failed its check before.
            progress: told the bytes in place, and the total.

        Raises:
            UntrustedError: the repository's metadata is refused.
            DownloadError: it cannot be reached, or exceeds a limit.
            PackageNotFoundError: it offers no such package.
            IntegrityError: bytes that do not match what was signed.
            SelfCheckError: the new version failed its check, now or before.
            DistributionError: another process updates, or the folder cannot be written.
        """
        with self._working() as http:
            trust, installed = self._trust(http), self._installed(kind, name)
            version = version or self._latest(trust, kind, name)
            target = trust.target(kind, name, version)
            digest = target.hashes["sha256"]
            if again:
                installed.forgive(digest)
            in_use = installed.current if installed.current_digest == digest else None
            if in_use is not None:
                index = index_beside(in_use)
                if not (recheck and _damaged(index, in_use)):
                    return _told(index, in_use, http, changed=False, tally=Tally())
            self._require_untried(installed, name, version, digest)
            index = self._index(trust, installed, target)
            trust.require_match(index, kind, name, version)
            place, tally = self._put_together(installed, index, digest, http, progress)
            if check is not None:
                self._check(check, installed, place, digest)
            installed.use(place, remember=in_use is None)
            installed.prune()
            return _told(index, place, http, changed=True, tally=tally)

    def rollback(self, name: str, *, kind: str = "bases") -> Path:
        """Go back to the version before, and never again try the one in use now.

        For what turns out to be bad only after its self-check. Needs no network.

        Raises:
            PackageNotFoundError: there is no version before.
            DistributionError: another process updates, or the folder cannot be written.
        """
        with self._working():
            installed = self._installed(kind, name)
            digest = installed.current_digest
            installed.back()
            if digest is not None:
                installed.end_check(digest, passed=False)
            installed.prune()
            assert installed.current is not None  # back() has just set it
            return installed.current

    @contextmanager
    def _working(self) -> Iterator[Http]:
        http = Http(self.limits, self._clock, self._pause, self._certificates)
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            with lock_folder(self.folder):
                yield http
        except OSError as error:
            what = error.filename or self.folder
            raise DistributionError(f"{what} cannot be written: {error.strerror}") from error
        finally:
            http.close()

    def _trust(self, http: Http) -> Trust:
        return Trust(self.folder / "metadata", self.url, self._root, http, self.limits)

    def _installed(self, kind: str, name: str) -> Installed:
        require_name(kind, name, "0")
        return Installed(self.folder / kind / name)

    def _latest(self, trust: Trust, kind: str, name: str) -> str:
        offered = trust.versions(kind, name)
        if not offered:
            raise PackageNotFoundError(f"{self.url} offers no {name!r} in {kind}")
        return offered[-1]

    def _require_untried(self, installed: Installed, name: str, version: str, digest: str) -> None:
        if installed.is_bad(digest, self.limits.checks):
            current = installed.current
            stays = f"{current.name} stays in use" if current else "none is in use"
            raise SelfCheckError(
                f"{name} {version} failed its check on this device before and is not tried again; "
                f"{stays}. Wait for a newer version, or ask for it again"
            )

    def _index(self, trust: Trust, installed: Installed, target: TargetFile) -> Index:
        path = installed.next_index
        if path.exists() and file_digest(path) != target.hashes["sha256"]:
            installed.drop_next()  # of another version
        return Index.from_json(trust.fetch_index(target, path))

    def _put_together(
        self, installed: Installed, index: Index, digest: str, http: Http, progress: Progress
    ) -> tuple[Path, Tally]:
        place = installed.place(index.version, digest)
        if place.is_dir() and not _damaged(index, place):
            installed.drop_next()  # was put together by an attempt that died later
            return place, Tally(kept=index.nbytes)
        into = installed.next
        into.mkdir(exist_ok=True)
        there = sum(path.stat().st_size for path in into.rglob("*") if path.is_file())
        require_room(self.folder, index.nbytes - there)
        pieces = plan(index, into, installed.held())
        tally = assemble(
            pieces, into, index.nbytes, PackReader(http, self.url, self.limits), progress
        )
        finish(index, into)
        try:
            verify(index, into)
        except IntegrityError:
            installed.drop_next()
            raise
        place = installed.place(index.version, digest, anew=True)
        installed.settle(place)
        return place, tally

    def _check(self, check: SelfCheck, installed: Installed, place: Path, digest: str) -> None:
        installed.begin_check(digest)
        try:
            check(place)
        except KeyboardInterrupt:
            installed.forgive(digest)  # says nothing about the package
            raise
        except Exception as error:
            installed.end_check(digest, passed=False)
            installed.prune()
            current = installed.current
            stays = f"{current.name} stays in use" if current else "nothing was installed"
            raise SelfCheckError(f"{place.name} failed its check ({error}); {stays}") from error
        installed.end_check(digest, passed=True)


def _told(index: Index, folder: Path, http: Http, *, changed: bool, tally: Tally) -> Update:
    return Update(
        kind=index.kind,
        name=index.name,
        version=index.version,
        base_id=index.base_id,
        folder=folder,
        changed=changed,
        nbytes=index.nbytes,
        received=http.received,
        held=tally.held,
        kept=tally.kept,
    )


def _damaged(index: Index, folder: Path) -> bool:
    try:
        verify(index, folder)
    except IntegrityError:
        return True
    return False
