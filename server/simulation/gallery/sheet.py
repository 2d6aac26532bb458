"""Contact sheets: a gallery at one glance."""

from __future__ import annotations

import numpy as np

from .pictures import Gallery, Mask, Picture, Pixels

__all__ = ["contact_sheet"]


def contact_sheet(gallery: Gallery, people: int = 8, pictures: int = 8, *, zoom: int = 2) -> Pixels:
    """People in rows, a picture and what it was given side by side; uint8, (H, W, 3).

    Given pictures come before the picture; masks of a try-on or product after it, white on black.

    Args:
        gallery: with pictures of one size.
        people: the first so many.
        pictures: of each person, the first so many.
        zoom: by how much a pixel is enlarged.
    """
    rows = [
        [tile for picture in artist.pictures[:pictures] for tile in _tiles(picture)]
        for artist in gallery.artists[:people]
    ]
    columns = max(len(row) for row in rows)
    blank = np.full_like(rows[0][0], 255)
    page = np.concatenate(
        [np.concatenate([*row, *[blank] * (columns - len(row))], axis=1) for row in rows]
    )
    return page.repeat(zoom, axis=0).repeat(zoom, axis=1)


def _tiles(picture: Picture) -> list[Pixels]:
    masks = [_white_on_black(mask) for mask in picture.given_masks.values()]
    edge = [_framed(picture.pixels)] if picture.held_out else [picture.pixels]
    return [*picture.given.values(), *edge, *masks]


def _framed(pixels: Pixels) -> Pixels:
    """The picture with a red edge: it is held out."""
    framed = pixels.copy()
    for side in (np.s_[0, :], np.s_[-1, :], np.s_[:, 0], np.s_[:, -1]):
        framed[side] = (220, 0, 0)
    return framed


def _white_on_black(mask: Mask) -> Pixels:
    return np.where(mask[..., None], np.uint8(255), np.uint8(0)).repeat(3, axis=2)
