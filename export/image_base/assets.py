"""The packages that the recipe reads: pinned, licensed, and fetched by their own clients."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from ...shared.errors import BadInputError

__all__ = ["CLIP_ART", "KEYWORDS", "PACKAGES", "Package", "fetch"]


@dataclass(frozen=True, kw_only=True)
class Package:
    """A published package with drawings or their keywords.

    Args:
        name: as npm or Debian know it.
        sha256: of the archive.
        licence: SPDX identifier of what we take from it.
        by: whom to name as the author.
        source: where the authors publish it.
        use: ``base`` drawings train the base; ``device`` drawings never do.
    """

    name: str
    version: str
    sha256: str
    licence: str
    by: str
    source: str
    use: Literal["base", "device", "clip art", "keywords"]
    client: Literal["npm", "apt"] = "npm"

    @property
    def key(self) -> str:
        """Short name, of the folder that it is unpacked to and of its style."""
        return self.name.rpartition("/")[2]


def _icons(
    key: str,
    version: str,
    sha256: str,
    licence: str,
    by: str,
    source: str,
    use: Literal["base", "device"],
) -> Package:
    return Package(
        name=f"@iconify-json/{key}",
        version=version,
        sha256=sha256,
        licence=licence,
        by=by,
        source=f"https://github.com/{source}",
        use=use,
    )


# fmt: off
PACKAGES = (
    _icons("noto", "1.2.9",
           "3e918d88fc945c0bb3d468dbace6f88caef67f01c9f0e7bcae0915a042e8f1ad",
           "Apache-2.0", "Google Inc", "googlefonts/noto-emoji", "base"),
    _icons("twemoji", "1.2.5",
           "19046dff7d8707ce96212ec86468b36ac5f8e60409629dd13f809265c6d0ebb7",
           "CC-BY-4.0", "Twitter", "jdecked/twemoji", "base"),
    _icons("fluent-emoji-flat", "1.2.6",
           "7d064769dee690815f823bc5bcc511d957198caf9f5edd8dd9c1aa48a6aeb175",
           "MIT", "Microsoft Corporation", "microsoft/fluentui-emoji", "base"),
    _icons("fluent-emoji", "1.2.7",
           "8044210dbf11e016d4de85f15d01a243423bd832457e7e2491df1b751c0e272b",
           "MIT", "Microsoft Corporation", "microsoft/fluentui-emoji", "base"),
    _icons("flat-color-icons", "1.2.3",
           "d8878a9b0f02d749bc8671eb7d47882eb711185cbcefbb365cbfb488773c4786",
           "MIT", "Icons8", "icons8/flat-Color-icons", "base"),
    _icons("emojione", "1.2.3",
           "26a14f44284407e8bcde91799388dca2bfd91dbcd55a97f425524a1c5b73610e",
           "CC-BY-4.0", "Emoji One", "EmojiTwo/emojitwo", "device"),
    _icons("fxemoji", "1.2.2",
           "f3e72b3c59d05e1db03b7e308d55c0d05bd7ba3f625a90da1b79313c12858eef",
           "Apache-2.0", "Mozilla", "mozilla/fxemoji", "device"),
    _icons("noto-v1", "1.2.5",
           "2bf62c26c2c2884aa99e90aec942cdaee17a5921f05690694f4978ad4b017c37",
           "Apache-2.0", "Google Inc", "googlefonts/noto-emoji", "device"),
    _icons("streamline-emojis", "1.2.4",
           "5dac87c876b322500989828c5823143e0100d78881627a2e4081a4b897cbfdbc",
           "CC-BY-4.0", "Streamline", "webalys-hq/streamline-vectors", "device"),
    _icons("streamline-freehand-color", "1.2.2",
           "00d74cbddaf1bcf35c8614ac0544d10af69c7cee8801475473fe424ee0c0c642",
           "CC-BY-4.0", "Streamline", "webalys-hq/streamline-vectors", "device"),
    Package(
        name="emojibase-data", version="17.0.0", use="keywords", licence="MIT",
        sha256="d01d0e2ca4e22cb402679532155342c71e2e871f25c32223c013b8b166ebdf5a",
        by="Miles Johnson; names and keywords by the Unicode Consortium (Unicode-3.0)",
        source="https://github.com/milesj/emojibase",
    ),
    Package(
        name="openclipart-svg", version="1:0.18+dfsg-19", use="clip art", licence="CC-PDDC",
        sha256="989712d90d57dfa3230049f553bb43b76c30ee4d4b8c5f6e106e33f7db5cbdc5",
        by="the artists of the Open Clip Art Library", source="https://openclipart.org",
        client="apt",
    ),
    Package(
        name="openclipart-png", version="1:0.18+dfsg-19", use="clip art", licence="CC-PDDC",
        sha256="f07f1545a2970c2cf3fa339bc2405da1a95cf2b1827bfa05bf73eb1c20291c02",
        by="the artists of the Open Clip Art Library", source="https://openclipart.org",
        client="apt",
    ),
)
# fmt: on
KEYWORDS = "emojibase-data"
CLIP_ART = ("openclipart-svg", "openclipart-png")


def fetch(package: Package, folder: Path) -> Path:
    """The folder ``folder/key`` with the package's files, downloaded if it is not there.

    Raises:
        BadInputError: the client failed, or the archive is not the pinned one.
    """
    home = folder / package.key
    if home.exists():
        return home
    archives = folder / "archives"
    archives.mkdir(parents=True, exist_ok=True)
    archive = _download(package, archives)
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != package.sha256:
        raise BadInputError(
            f"{archive.name} has sha256 {found}, but {package.sha256} is pinned; delete it and "
            "fetch again, or review the new archive and change the pin"
        )
    work = folder / f".{package.key}"
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir()
    if package.client == "apt":
        _run(["dpkg-deb", "-x", str(archive), str(work)], folder)
    else:
        with tarfile.open(archive) as tar:
            tar.extractall(work, filter="data")
    work.rename(home)
    return home


def _download(package: Package, archives: Path) -> Path:
    if package.client == "apt":
        version = package.version.replace(":", "%3a")
        archive = archives / f"{package.name}_{version}_all.deb"
        command = ["apt-get", "download", f"{package.name}={package.version}"]
    else:
        flat = package.name.removeprefix("@").replace("/", "-")
        archive = archives / f"{flat}-{package.version}.tgz"
        command = ["npm", "pack", "--silent", f"{package.name}@{package.version}"]
    if not archive.exists():
        _run(command, archives)
    return archive


def _run(command: list[str], folder: Path) -> None:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603
    if done.returncode:
        raise BadInputError(f"{' '.join(command)} failed: {done.stderr.strip()[-300:]}")
