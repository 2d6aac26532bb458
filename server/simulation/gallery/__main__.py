"""``python -m locavore.server.simulation.gallery sheet NAME --out FILE``: look at a gallery."""

from __future__ import annotations

import argparse
from pathlib import Path

from .rows import GALLERIES, load_gallery
from .sheet import contact_sheet


def main() -> None:
    """Write a contact sheet of a built-in gallery."""
    parser = argparse.ArgumentParser(prog="python -m locavore.server.simulation.gallery")
    parser.add_argument("step", choices=["sheet"])
    parser.add_argument("name", choices=list(GALLERIES))
    parser.add_argument("--out", type=Path, required=True, help="PNG file")
    parser.add_argument("--people", type=int, default=8)
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--zoom", type=int, default=2)
    given = parser.parse_args()
    from PIL import Image

    gallery = load_gallery(given.name)
    page = contact_sheet(gallery, given.people, given.pictures, zoom=given.zoom)
    Image.fromarray(page).save(given.out)


if __name__ == "__main__":
    main()
