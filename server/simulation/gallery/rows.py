"""Which galleries there are, and which task uses which."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from ....shared.errors import BadInputError
from .avatar_people import load_faces, load_tryon
from .drawings import load_drawings, load_subjects
from .glyphs import load_glyphs
from .outfits import load_outfits, load_styled
from .pictures import Gallery
from .products import load_ads, load_group_ads

__all__ = ["GALLERIES", "TASK_DATA", "load_gallery"]

GALLERIES: Mapping[str, Callable[[], Gallery]] = MappingProxyType(
    {
        # real
        "drawings": load_drawings,
        "subjects": load_subjects,
        "glyphs": load_glyphs,
        # synthetic
        "faces": load_faces,
        "tryon": load_tryon,
        "outfits": load_outfits,
        "styled": load_styled,
        "ads": load_ads,
        "group ads": load_group_ads,
    }
)
"""Every built-in gallery by its name, at its usual size."""

TASK_DATA: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "image.general": ("drawings", "glyphs"),
        "image.fashion_design.behaviors": ("outfits",),
        "image.product.behaviors": ("ads",),
        "image.fashion_design.profiles": ("styled",),
        "image.product.profiles": ("group ads",),
        "image.subject": ("subjects",),
        "image.face": ("faces",),
        "image.tryon": ("tryon",),
    }
)
"""Names of the galleries for a task, by the task's id; the first is the usual one."""


def load_gallery(name: str) -> Gallery:
    """Load a built-in gallery at its usual size.

    Raises:
        BadInputError: there is none of that name.
    """
    if name not in GALLERIES:
        raise BadInputError(f"no gallery {name!r}; there are {', '.join(GALLERIES)}")
    return GALLERIES[name]()
