"""Make ``glyphs.npy.xz`` and ``glyphs.jsonl.xz``: one writer's alphabet for each handwriting font.

The fonts are npm packages; ``glyph_fonts.tsv`` pins them. From a checkout that is installed:

    python -m locavore.server.simulation.data.make_glyphs FOLDER

Packages that are not in FOLDER are fetched into it by npm. Same packages and Pillow, same bytes.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import io
import json
import lzma
import string
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ....shared.errors import BadInputError

__all__ = ["Font", "alphabet", "fetch", "fonts", "write_glyphs"]

SIZE = 32  # pixels a side
_MARGIN = 2  # pixels
_FINE = 4  # glyphs are drawn so many times larger and averaged
_TRIAL = 200.0  # a font size to measure at
_FONTS = Path(__file__).with_name("glyph_fonts.tsv")


@dataclass(frozen=True)
class Font:
    """A row of ``glyph_fonts.tsv``: a package ``@fontsource/FONT`` and whose work it is."""

    font: str
    version: str
    sha256: str
    licence: str
    copyright: str

    @property
    def archive(self) -> str:
        """The file that ``npm pack`` writes."""
        return f"fontsource-{self.font}-{self.version}.tgz"


def fonts() -> list[Font]:
    """The fonts of the data set, by name."""
    with _FONTS.open(encoding="utf-8", newline="") as lines:
        rows = csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [Font(**row) for row in rows]


def fetch(font: Font, folder: Path) -> bytes:
    """The font's file, WOFF2, from its package, which is fetched if it is not in the folder.

    Raises:
        BadInputError: npm failed, or the package is not the pinned one.
    """
    archive = folder / font.archive
    if not archive.exists():
        command = ["npm", "pack", "--silent", f"@fontsource/{font.font}@{font.version}"]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)  # noqa: S603
        if done.returncode:
            raise BadInputError(f"{' '.join(command)} failed: {done.stderr.strip()[-300:]}")
    found = hashlib.sha256(archive.read_bytes()).hexdigest()
    if found != font.sha256:
        raise BadInputError(f"{archive} has sha256 {found}, but {font.sha256} is pinned")
    name = f"package/files/{font.font}-latin-400-normal.woff2"
    with tarfile.open(archive) as package:
        content = package.extractfile(name)
        if content is None:
            raise BadInputError(f"{name} in {archive} is not a file")
        return content.read()


def alphabet(font: bytes, letters: str = string.ascii_lowercase) -> NDArray[np.uint8]:
    """Black letters on white, uint8 (letters, SIZE, SIZE): one scale and one baseline for all.

    Each letter is centred from left to right. The scale is the largest at which all fit in.
    """
    trial = ImageFont.truetype(io.BytesIO(font), _TRIAL)
    boxes = [trial.getbbox(letter, anchor="ls") for letter in letters]
    top, bottom = min(box[1] for box in boxes), max(box[3] for box in boxes)
    widest = max(box[2] - box[0] for box in boxes)
    room, side = (SIZE - 2 * _MARGIN) * _FINE, SIZE * _FINE
    scale = room / max(bottom - top, widest)
    sized = ImageFont.truetype(io.BytesIO(font), _TRIAL * scale)
    baseline = side / 2 - (top + bottom) / 2 * scale
    drawn = []
    for letter, (left, _, right, _) in zip(letters, boxes, strict=True):
        page = Image.new("L", (side, side), 255)
        at = (side / 2 - (left + right) / 2 * scale, baseline)
        ImageDraw.Draw(page).text(at, letter, 0, sized, anchor="ls")
        drawn.append(np.asarray(page.reduce(_FINE)))
    return np.stack(drawn)


def write_glyphs(archives: Path, out: Path) -> list[Path]:
    """Write pixels, uint8 (N, 32, 32, 1), and a line for each; the files."""
    pixels, lines = [], []
    for font in fonts():
        pixels.append(alphabet(fetch(font, archives)))
        lines += [json.dumps({"writer": font.font, "letter": c}) for c in string.ascii_lowercase]
    raw = io.BytesIO()
    np.save(raw, np.concatenate(pixels)[..., None])
    contents = {
        "glyphs.npy.xz": raw.getvalue(),
        "glyphs.jsonl.xz": "\n".join([*lines, ""]).encode(),
    }
    for name, content in contents.items():
        (out / name).write_bytes(lzma.compress(content, preset=9))
    return [out / name for name in contents]


def main() -> None:
    """Fetch what is missing and write both files beside this one."""
    parser = argparse.ArgumentParser(prog="make_glyphs", description=__doc__)
    parser.add_argument("folder", type=Path, help="folder of the fonts' packages")
    parser.add_argument("--out", type=Path, default=_FONTS.parent)
    given = parser.parse_args()
    given.folder.mkdir(parents=True, exist_ok=True)
    for path in write_glyphs(given.folder, given.out):
        print(f"{path}: {path.stat().st_size} bytes")


if __name__ == "__main__":
    main()
