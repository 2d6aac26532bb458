"""Pictures as tokens that an image base looks at beside its prompt.

A base that looks at pictures ships ``tower.onnx``, a network that sees them: ``pixels
(B, h, w, 3)`` in bytes to features ``(B, d)``; the package's signature pins it. A picture is one
token: some features side by side, each scaled to a mean square of one, then zeros up to the
denoiser's width. Tokens of zeros are no picture: they add nothing to what the denoiser says
(:class:`~.image_networks.DecoupledAttention`). Source: Ye et al., arXiv:2308.06721, Section 3.2.

The manifest's ``image_tokens`` has the denoiser's ``width`` and the names of the ``features``.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnxruntime as ort

from .adapters import Array
from .errors import BadInputError
from .packages import Package
from .pictures import Picture

__all__ = ["MOST_PICTURES", "TOWER", "ImageTower", "shown"]

TOWER = "tower.onnx"
MOST_PICTURES = 4
_TOKENS = 12  # each of 1, 2, 3 or 4 pictures is repeated to as many: attention stays as it is


class ImageTower:
    """What a base sees pictures with.

    Args:
        graph: file of the network.
        features: names of its outputs that make a token.
        width: of a token, ``D``.
    """

    def __init__(self, graph: Path, features: Sequence[str], width: int) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1  # so small that threads only wait for each other
        self._session = ort.InferenceSession(str(graph), options, ["CPUExecutionProvider"])
        self._features, self.width = list(features), width

    @classmethod
    def of(cls, package: Package) -> ImageTower | None:
        """A package's; None where the base looks at no pictures."""
        told = package.manifest.details.get("image_tokens")
        return told and cls(package.path(TOWER), told["features"], told["width"])

    def tokens(self, pixels: npt.NDArray[np.uint8]) -> Array:
        """A token for each of ``(N, h, w, 3)``, ``(N, D)``."""
        found = self._session.run(self._features, {"pixels": pixels})
        whole = np.concatenate([_evened(part) for part in found], axis=1)
        tokens: Array = np.pad(whole, ((0, 0), (0, self.width - whole.shape[1])))
        return tokens.astype(np.float32)

    def look(self, pictures: Sequence[Picture]) -> Array:
        """What a denoiser is shown of a few pictures of the base's size; see :func:`shown`."""
        none = np.zeros((0, self.width), np.float32)
        if not pictures:
            return shown(none)
        return shown(self.tokens(np.stack([picture.pixels for picture in pictures])))


def shown(tokens: Array) -> Array:
    """Tokens ``(n, D)`` of at most four pictures, repeated to ``(12, D)``; zeros for none.

    Raises:
        BadInputError: there are more.
    """
    count, width = tokens.shape
    if count > MOST_PICTURES:
        raise BadInputError(f"at most {MOST_PICTURES} pictures can be looked at, got {count}")
    if not count:
        return np.zeros((_TOKENS, width), np.float32)
    repeated: Array = np.tile(tokens, (_TOKENS // count, 1))
    return repeated


def _evened(features: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    size = np.sqrt(np.square(features).mean(axis=1, keepdims=True))
    evened: npt.NDArray[np.floating] = features / np.maximum(size, 1e-6)
    return evened
