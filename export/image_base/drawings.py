"""Drawings at 32 pixels with their captions: rendered from packages, stored, and read back."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from multiprocessing import Pool
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from ...shared.errors import BadInputError
from .assets import CLIP_ART, KEYWORDS, PACKAGES, Package
from .captions import Caption, EmojiNames, clip_art_work
from .split import DEVICES

__all__ = ["SIDE", "Drawing", "Drawings", "list_drawings", "render", "render_all"]

SIDE = 32
_SUPERSAMPLING = 4  # resvg's own antialiasing at 32 px breaks thin lines
_MOST_PNG_PIXELS = 20_000_000  # above it are posters, of which nothing remains at 32 px
_MARGIN = 1 / 32  # around clip art, whose pages are cut to what is drawn; emoji bring their own
_CLIP_ART_LEFT_OUT = (
    "logos",  # trademarks
    "special",  # gradients, patterns, examples
    "shapes/stars",  # 1,375 hairline rings by one program
    "unsorted/duplicates",
    "recreation/games/cards",
    "signs_and_symbols/flags",  # the emoji sets have them
    "signs_and_symbols/led",
    "transportation/roadsigns",
)
_ALIASES = {
    "Architetto Francesco Rollandin": "Francesco Rollandin",
    "Rollandin Francesco": "Francesco Rollandin",
    "Jean-VIctor Balin": "Jean-Victor Balin",
    "Jean-Victor Balin (balin_j@epita.fr)": "Jean-Victor Balin",
    "Jean-Vitor Balin": "Jean-Victor Balin",
    "Nathan Eady and Nicu Buculei": "Nicu Buculei",
    "Nicu Buculei and Nathan Eady": "Nicu Buculei",
}
Pixels = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """One drawing, not yet rendered.

    Args:
        style: its team's or artist's name, the device's for a device's drawing.
        name: unique with the style.
        caption: what it shows.
        picture: SVG text, or the path of a PNG.
    """

    style: str
    name: str
    caption: Caption
    picture: str | Path


@dataclass(frozen=True)
class Drawings:
    """Rendered drawings.

    Args:
        pixels: ``(N, 32, 32, 3)`` on white.
        styles: ``(N,)`` of names.
        names: ``(N,)``.
        captions: ``(N,)``.
    """

    pixels: Pixels
    styles: tuple[str, ...]
    names: tuple[str, ...]
    captions: tuple[Caption, ...]

    def __len__(self) -> int:
        return len(self.pixels)

    def take(self, rows: Sequence[int]) -> Drawings:
        """These rows, in this order."""
        return Drawings(
            self.pixels[np.asarray(rows, np.int64)],
            tuple(self.styles[i] for i in rows),
            tuple(self.names[i] for i in rows),
            tuple(self.captions[i] for i in rows),
        )

    def save(self, folder: Path) -> None:
        """Write ``pixels.npy`` and ``captions.jsonl``."""
        folder.mkdir(parents=True, exist_ok=True)
        np.save(folder / "pixels.npy", self.pixels)
        with (folder / "captions.jsonl").open("w", encoding="utf-8") as stream:
            for style, name, caption in zip(self.styles, self.names, self.captions, strict=True):
                stream.write(json.dumps({"style": style, "name": name, **asdict(caption)}) + "\n")

    @classmethod
    def load(cls, folder: Path) -> Drawings:
        """Read what :meth:`save` wrote.

        Raises:
            BadInputError: there is nothing, or the files do not belong together.
        """
        try:
            pixels = np.load(folder / "pixels.npy")
            lines = (folder / "captions.jsonl").read_text("utf-8").splitlines()
        except OSError as error:
            raise BadInputError(f"no drawings in {folder}: {error}") from error
        rows = [json.loads(line) for line in lines]
        if len(rows) != len(pixels):
            raise BadInputError(f"{folder} has {len(pixels)} pictures and {len(rows)} captions")
        return cls(
            pixels,
            tuple(row.pop("style") for row in rows),
            tuple(row.pop("name") for row in rows),
            tuple(Caption(**{**row, "tags": tuple(row["tags"])}) for row in rows),
        )


def list_drawings(assets: Path) -> Iterator[Drawing]:
    """Every drawing of the unpacked packages in ``assets``."""
    names = EmojiNames(assets / KEYWORDS / "package")
    for package in PACKAGES:
        if package.use in ("base", "device"):
            yield from _icons(package, assets / package.key / "package", names)
    yield from _clip_art(*(assets / key for key in CLIP_ART))


def _icons(package: Package, folder: Path, names: EmojiNames) -> Iterator[Drawing]:
    icons: dict[str, Any] = json.loads((folder / "icons.json").read_text("utf-8"))
    points: dict[str, str] = {}
    if (folder / "chars.json").exists():
        chars = json.loads((folder / "chars.json").read_text("utf-8"))
        points = {name: point for point, name in chars.items()}
    for slug, icon in icons["icons"].items():
        if icon.get("hidden"):
            continue
        caption = names.caption(slug, points.get(slug))
        if caption is not None and caption.concept:
            width = icon.get("width", icons.get("width", 16))
            height = icon.get("height", icons.get("height", 16))
            left, top = icon.get("left", 0), icon.get("top", 0)
            svg = (
                '<svg xmlns="http://www.w3.org/2000/svg" '
                'xmlns:xlink="http://www.w3.org/1999/xlink" '
                f'viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>'
            )
            yield Drawing(style=package.key, name=slug, caption=caption, picture=svg)


def _clip_art(svg: Path, png: Path) -> Iterator[Drawing]:
    svg, png = (root / "usr/share/openclipart" / root.name[-3:] for root in (svg, png))
    for path in sorted(svg.rglob("*.svg")):
        inner = PurePosixPath(path.relative_to(svg).as_posix())
        if any(inner.is_relative_to(folder) for folder in _CLIP_ART_LEFT_OUT):
            continue
        work = clip_art_work(inner, path.read_text("utf-8", "replace"), _ALIASES)
        if work.public_domain and work.caption.concept:
            style = work.artist if work.artist in DEVICES else f"clip art/{work.artist}"
            picture = png / inner.with_suffix(".png")
            yield Drawing(style=style, name=str(inner), caption=work.caption, picture=picture)


def render_all(drawings: Sequence[Drawing], processes: int) -> Drawings:
    """Render; what cannot be read, or is blank, is left out."""
    with Pool(processes) as pool:
        found = pool.map(_rendered, [d.picture for d in drawings], chunksize=64)
    kept = [(d, p) for d, p in zip(drawings, found, strict=True) if p is not None]
    return Drawings(
        np.stack([pixels for _, pixels in kept]),
        tuple(d.style for d, _ in kept),
        tuple(d.name for d, _ in kept),
        tuple(d.caption for d, _ in kept),
    )


def _rendered(picture: str | Path) -> Pixels | None:
    if isinstance(picture, Path) and _png_pixels(picture) > _MOST_PNG_PIXELS:
        return None
    try:
        pixels = render(picture)
    except (OSError, ValueError):
        return None
    return None if pixels.std() < 4 else pixels


def _png_pixels(path: Path) -> int:
    with path.open("rb") as stream:
        width, height = struct.unpack(">II", stream.read(24)[16:])
    return int(width * height)


def render(picture: str | Path) -> Pixels:
    """One picture on white, ``(32, 32, 3)``; its longer side fills the square.

    Args:
        picture: SVG text, or the path of a PNG, which is first cut to what is drawn.

    Raises:
        OSError: the file cannot be read.
        ValueError: the SVG cannot be.
    """
    from PIL import Image

    big = SIDE * _SUPERSAMPLING
    if isinstance(picture, str):
        import resvg_py

        png = resvg_py.svg_to_bytes(svg_string=picture, width=big, skip_system_fonts=True)
        image = _on_white(Image.open(io.BytesIO(bytes(png))))
        room = SIDE
    else:
        image = _cut(_on_white(Image.open(picture)))
        room = round(SIDE * (1 - 2 * _MARGIN))
    scale = room / max(image.size)
    size = tuple(max(1, round(n * scale)) for n in image.size)
    canvas = Image.new("RGB", (SIDE, SIDE), "white")
    small = image.resize(size, Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC)
    canvas.paste(small, tuple((SIDE - n) // 2 for n in size))
    return np.asarray(canvas)


def _on_white(image: Any) -> Any:
    from PIL import Image

    rgba = image.convert("RGBA")
    white = Image.new("RGBA", rgba.size, "white")
    return Image.alpha_composite(white, rgba).convert("RGB")


def _cut(image: Any) -> Any:
    """Without the white page around."""
    from PIL import ImageChops, ImageOps

    box = ImageChops.invert(ImageOps.grayscale(image)).point(lambda v: 255 * (v > 8)).getbbox()
    return image.crop(box) if box else image
