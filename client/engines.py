"""Which engine serves a base of which modality: the one place of this room that lists them.

An engine has a runtime, which generates on the device, a twin, which trains, and the twin's pairs,
which learn from choices between two answers. None is imported before it is asked for: a device that
only generates has no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, NamedTuple

from ..shared.errors import BadInputError
from ..shared.packages import Package

if TYPE_CHECKING:
    from .engine import Model
    from .training.adapted import AdaptedTwin
    from .training.preferences import Pairs

__all__ = ["ENGINES", "Engine", "open_model", "open_pairs", "open_trainer"]


class Engine(NamedTuple):
    """Module and class of a runtime, of a twin, and of its pairs, within this room."""

    model: tuple[str, str]
    twin: tuple[str, str]
    pairs: tuple[str, str]


ENGINES = {
    "text": Engine(
        (".runtime", "TextModel"),
        (".training.text", "TextTwin"),
        (".training.preferences", "TextPairs"),
    ),
    "image": Engine(
        (".image_model", "ImageModel"),
        (".training.image", "ImageTwin"),
        (".training.preferences", "PicturePairs"),
    ),
}


def open_model(package: Package, *, threads: int = 0) -> Model[Any, Any]:
    """The runtime of a base.

    Raises:
        BadInputError: no engine runs bases of this modality.
    """
    made: Model[Any, Any] = _found(package, 0)(package, threads=threads)
    return made


def open_trainer(package: Package, *, fast: bool = False) -> AdaptedTwin[Any]:
    """The twin of a base, which trains its adapters; needs the extra ``train``.

    Args:
        package: a verified base.
        fast: where and in the precision in which this machine trains fastest, instead of float32
            on the processor.

    Raises:
        BadInputError: no engine trains bases of this modality.
    """
    made: AdaptedTwin[Any] = _found(package, 1).of(package, fast=fast)
    return made


def open_pairs(twin: AdaptedTwin[Any], *, beta: float | None = None) -> Pairs[Any]:
    """What learns from choices, over a base's twin.

    Args:
        twin: of the base.
        beta: how strongly the base is held on to; the modality's usual when not given.
    """
    module, name = ENGINES[twin.modality].pairs
    made: Pairs[Any] = getattr(import_module(module, __package__), name)(twin, beta)
    return made


def _found(package: Package, place: int) -> Any:
    modality = package.manifest.modality
    if modality not in ENGINES:
        raise BadInputError(
            f"base {package.base_id!r} is of modality {modality!r}; there are engines for "
            f"{', '.join(ENGINES)}"
        )
    module, name = ENGINES[modality][place]
    return getattr(import_module(module, __package__), name)
