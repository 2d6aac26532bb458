"""What a repository says, once its signatures, versions, expiry and lengths were verified.

The rules are TUF's, applied by ``tuf.ngclient``; the last trusted state is kept on disk, so that an
older one is noticed. Here its errors become sentences, and an index is tied to what was asked for.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tuf.api import exceptions
from tuf.api.metadata import Metadata, TargetFile, Targets
from tuf.ngclient import Updater, UpdaterConfig

from ...shared.chunk_index import Index, target_path, version_order
from ...shared.errors import DownloadError, PackageNotFoundError, UntrustedError
from .http import Http
from .limits import Limits

__all__ = ["Trust"]


class Trust:
    """One refresh of a repository's metadata, and what follows from it.

    Args:
        folder: keeps the trusted metadata.
        url: the repository's address, ending in ``/``.
        root: the pinned root, bytes of ``root.json``.

    Raises:
        UntrustedError: the pinned root cannot be used, or what the repository says is refused.
        DownloadError: it cannot be reached, or sends too much.
    """

    def __init__(self, folder: Path, url: str, root: bytes, http: Http, limits: Limits) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._url, self._limits = folder, url, limits
        try:
            self._updater = Updater(
                str(folder),
                f"{url}metadata/",
                target_base_url=f"{url}targets/",
                fetcher=http,
                config=UpdaterConfig(
                    max_root_rotations=limits.root_rotations,
                    max_delegations=2,
                    root_max_length=limits.root_bytes,
                    timestamp_max_length=limits.timestamp_bytes,
                    snapshot_max_length=limits.snapshot_bytes,
                    targets_max_length=limits.targets_bytes,
                ),
                bootstrap=root,
            )
        except (exceptions.RepositoryError, ValueError) as error:
            raise UntrustedError(
                f"the pinned root cannot be used: {error}; ask the repository's operator for "
                "root.json"
            ) from error
        with _sentences(url):
            self._updater.refresh()

    def versions(self, kind: str, name: str) -> list[str]:
        """Versions of a package that the repository offers, the latest last."""
        prefix = f"{kind}/{name}/"
        with _sentences(self._url):
            self._updater.get_targetinfo(f"{prefix}0.json")  # loads the role that may sign it
            listed = [path for path in self._listed(kind) if path.startswith(prefix)]
            # A list says what it likes; only what its role may sign is found.
            found = [path for path in listed if self._updater.get_targetinfo(path) is not None]
        named = [path.removeprefix(prefix).removesuffix(".json") for path in found]
        return sorted((v for v in named if _well_formed(v)), key=version_order)

    def target(self, kind: str, name: str, version: str) -> TargetFile:
        """The signed length and hash of an index.

        Raises:
            PackageNotFoundError: the repository offers no such version.
        """
        with _sentences(self._url):
            target = self._updater.get_targetinfo(target_path(kind, name, version))
        if target is None:
            offered = ", ".join(self.versions(kind, name)) or "none"
            raise PackageNotFoundError(
                f"{self._url} offers no version {version} of {name!r} in {kind}; it has {offered}"
            )
        if target.length > self._limits.index_bytes:
            raise DownloadError(
                f"the index of {name} {version} has {target.length} bytes, allowed are "
                f"{self._limits.index_bytes}"
            )
        return target

    def fetch_index(self, target: TargetFile, path: Path) -> bytes:
        """Download an index, verified, into a file; one that is there already is only verified."""
        with _sentences(self._url):
            if self._updater.find_cached_target(target, str(path)) is None:
                self._updater.download_target(target, str(path))
        return path.read_bytes()

    def require_match(self, index: Index, kind: str, name: str, version: str) -> None:
        """Refuse an index that is of another package than it was signed as.

        Raises:
            UntrustedError: kind, name or version differ, or a bound is exceeded.
        """
        found, asked = (index.kind, index.name, index.version), (kind, name, version)
        if found != asked:
            raise UntrustedError(
                f"{self._url} offers {' '.join(found)} in the place of {' '.join(asked)}"
            )
        limits = self._limits
        longest = max(length for file in index.files.values() for length in (0, *file.lengths))
        for what, value, bound in (
            ("files", len(index.files), limits.files),
            ("bytes", index.nbytes, limits.package_bytes),
            ("bytes in a chunk", longest, limits.chunk_bytes),
        ):
            if value > bound:
                raise UntrustedError(f"{name} {version} has {value} {what}, allowed are {bound}")

    def _listed(self, kind: str) -> Iterator[str]:
        """Signed paths, from the files that the refresh has just verified and kept."""
        for role in dict.fromkeys(("targets", kind)):
            path = self._folder / f"{role}.json"
            if path.is_file():
                listed: Metadata[Targets] = Metadata.from_bytes(path.read_bytes())
                yield from listed.signed.targets


def _well_formed(version: str) -> bool:
    return all(part.isdecimal() and part.isascii() for part in version.split("."))


@contextmanager
def _sentences(url: str) -> Iterator[None]:
    """Say in one line what TUF refuses, and what to do."""
    try:
        yield
    except exceptions.ExpiredMetadataError as error:
        raise UntrustedError(
            f"{url} shows a state that has expired ({error}): it is kept from changing, or its "
            "operator stopped renewing it. Nothing was changed; check this device's clock"
        ) from error
    except exceptions.BadVersionNumberError as error:
        raise UntrustedError(
            f"{url} shows an older state than this device has seen ({error}). Nothing was changed"
        ) from error
    except exceptions.UnsignedMetadataError as error:
        raise UntrustedError(
            f"{url} is not signed by the keys that the pinned root names ({error}). Nothing was "
            "changed; is this the repository that the root came from?"
        ) from error
    except (exceptions.RepositoryError, ValueError) as error:
        raise UntrustedError(f"{url} is not to be trusted: {error}. Nothing was changed") from error
    except exceptions.DownloadLengthMismatchError as error:
        raise DownloadError(f"{url} sends more than is allowed: {error}") from error
    except exceptions.DownloadError as error:
        raise DownloadError(str(error)) from error
