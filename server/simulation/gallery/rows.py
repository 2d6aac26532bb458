"""Which galleries there are, and which task uses which."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from ....shared.errors import BadInputError
from .drawings import load_drawings, load_subjects
from .pictures import Gallery

__all__ = ["GALLERIES", "TASK_DATA", "load_gallery"]

GALLERIES: Mapping[str, Callable[[], Gallery]] = MappingProxyType(
    {
        "drawings": load_drawings,
        "subjects": load_subjects,
    }
)
"""Every built-in gallery by its name, at its usual size."""

TASK_DATA: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "image.general": ("drawings",),
        "image.subject": ("subjects",),
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
