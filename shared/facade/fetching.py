"""Bases from a repository, where this user's commands find them."""

from __future__ import annotations

import sys
from pathlib import Path

from rich.console import Console

from .home import distribution_folder, fetched_link, install_fetched

__all__ = ["fetch_base"]

console = Console(width=None if sys.stdout.isatty() else 100)


def fetch_base(
    name: str,
    url: str,
    root: bytes,
    *,
    version: str | None = None,
    again: bool = False,
    certificates: str | None = None,
) -> None:
    """Fetch a base, or bring it up to date, and say what that took.

    Args:
        name: of the base in the repository, and here.
        url: of the repository.
        root: its pinned root.
        version: this one instead of the latest.
        again: try a version again that failed its check here.
        certificates: PEM of the authorities to trust for TLS; None: those that the system trusts.

    Raises:
        DistributionError, PackageError: see :class:`~locavore.client.distribution.PackageUpdater`.
    """
    from .client.distribution import PackageUpdater
    from .client.distribution.installed import index_beside
    from .shared.packages import open_package

    fetched_link(name)  # before anything is downloaded
    updater = PackageUpdater(distribution_folder(url), url, root, certificates=certificates)

    def check(folder: Path) -> None:
        publisher = bytes.fromhex(index_beside(folder).publisher)
        open_package(folder, trusted=[publisher])

    with console.status(f"fetching {name}") as spinner:
        done = updater.update(
            name,
            version=version,
            check=check,
            recheck=True,
            again=again,
            progress=lambda at, of: spinner.update(f"{name}: {at / 1e6:.0f} of {of / 1e6:.0f} MB"),
        )
    install_fetched(name, updater.folder / "bases" / name / "current")
    what = f"{done.name} {done.version}, {done.base_id}"
    share = f"{done.received / 1e6:.2f} MB received for {done.nbytes / 1e6:.2f} MB"
    said = f"fetched {what}: {share}" if done.changed else f"{what} is in use already: {share}"
    console.print(said, highlight=False, markup=False, soft_wrap=True)
