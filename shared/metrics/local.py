"""Figures about images that depend on a small tower of our own, and carry its name.

They follow the literature's definitions, but not its networks (CLIP, DINO, Inception, AlexNet):
none of these numbers compares with a published one. That is why each is a :class:`LocalFigure`,
whose name is the metric's and the tower's, such as ``fid@drawings-looks``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..errors import BadInputError, TooLittleDataError
from .images import Pixels
from .statistics import CalibratedScore
from .towers import TextTower, Tower

__all__ = [
    "LocalFigure",
    "StyleClassifier",
    "clip_i",
    "clip_t",
    "dino_i",
    "fid",
    "kid",
    "lpips",
    "paired_distance",
    "personalization",
]

_Matrix = npt.NDArray[np.float64]
_SMALLEST_GAP = 0.15  # of ceiling over floor: twice the spread (0.08) over draws of 8 drawings


@dataclass(frozen=True)
class LocalFigure:
    """A number that one tower gives.

    Args:
        metric: what the literature calls it.
        tower: the tower's name.
        value: the number.
    """

    metric: str
    tower: str
    value: float

    @property
    def name(self) -> str:
        """The only name under which it may be reported."""
        return f"{self.metric}@{self.tower}"

    def __str__(self) -> str:
        return f"{self.name} {self.value:.4g}"


def clip_t(tower: TextTower, made: Pixels, captions: Sequence[str]) -> LocalFigure:
    """Mean cosine of images and their captions; higher is better.

    Source: Ruiz et al., arXiv:2208.12242, Section 4.2 (CLIP-T).

    Raises:
        BadInputError: there is not one caption for each image.
    """
    _require_as_many("captions", len(captions), len(made))
    cosines = (_directions(tower, made) * _normalized(tower.embed_texts(captions), 1)).sum(axis=1)
    return LocalFigure("clip_t", tower.name, float(cosines.mean()))


def clip_i(tower: Tower, made: Pixels, real: Pixels) -> LocalFigure:
    """Mean cosine between all generated and all real images; higher is more alike.

    Source: Ruiz et al., arXiv:2208.12242, Section 4.2 (CLIP-I).
    """
    return LocalFigure("clip_i", tower.name, _mean_cosine(tower, made, real))


def dino_i(tower: Tower, made: Pixels, real: Pixels) -> LocalFigure:
    """As :func:`clip_i`, where the paper has DINO: a tower's features, and no space of captions."""
    return LocalFigure("dino_i", tower.name, _mean_cosine(tower, made, real))


def paired_distance(tower: Tower, made: Pixels, real: Pixels) -> LocalFigure:
    """Mean of ``1 - cosine`` between each image and the real one of the same concept; 0 to 2.

    Raises:
        BadInputError: there is not one real image for each generated one.
    """
    _require_as_many("real images", len(real), len(made))
    cosines = (_directions(tower, made) * _directions(tower, real)).sum(axis=1)
    return LocalFigure("paired_distance", tower.name, float((1 - cosines).mean()))


def lpips(tower: Tower, made: Pixels, real: Pixels) -> LocalFigure:
    """Mean perceptual distance of pairs; 0 for equal images.

    Squared distances between feature maps of unit length in every place, averaged over places and
    summed over maps. Source: Zhang et al., arXiv:1801.03924, Equation 1, with all weights 1.

    Raises:
        BadInputError: there is not one real image for each generated one.
    """
    _require_as_many("real images", len(real), len(made))
    total = 0.0
    for a, b in zip(tower.features(made), tower.features(real), strict=True):
        squared = np.square(_normalized(a, 1) - _normalized(b, 1)).sum(axis=1)  # (N, H, W)
        total += float(squared.mean())
    return LocalFigure("lpips", tower.name, total)


def fid(tower: Tower, made: Pixels, real: Pixels) -> LocalFigure:
    """Fréchet distance between Gaussians fitted to both sets; 0 for equal sets, lower is better.

    It is biased upwards for few images, the more so the more numbers an embedding has: compare
    sets of the same size only. Source: Heusel et al., arXiv:1706.08500, Equation 6.

    Raises:
        TooLittleDataError: one of the sets has fewer than two images.
    """
    a, b = _two_sets(tower, made, real)
    (mean_a, spread_a), (mean_b, spread_b) = _moments(a), _moments(b)
    root = _square_root(spread_a)
    # The trace of (A B)^(1/2) is that of (A^(1/2) B A^(1/2))^(1/2), which is symmetric.
    shared = np.linalg.eigvalsh(root @ spread_b @ root)
    overlap = np.sqrt(np.maximum(shared, 0)).sum()
    apart = np.square(mean_a - mean_b).sum()
    distance = apart + np.trace(spread_a) + np.trace(spread_b) - 2 * overlap
    return LocalFigure("fid", tower.name, max(0.0, float(distance)))


def kid(tower: Tower, made: Pixels, real: Pixels) -> LocalFigure:
    """Kernel distance of two sets, about 0 for sets of one kind, sometimes below; not biased.

    Squared maximum mean discrepancy with the kernel ``(x.y / D + 1)^3``. Source: Binkowski et al.,
    arXiv:1801.01401, Section 4, on all images at once.

    Raises:
        TooLittleDataError: one of the sets has fewer than two images.
    """
    a, b = _two_sets(tower, made, real)
    own = sum(_mean_off_diagonal(_kernel(x, x)) for x in (a, b))
    return LocalFigure("kid", tower.name, float(own - 2 * _kernel(a, b).mean()))


@dataclass(frozen=True)
class StyleClassifier:
    """Whose image is it? The one whose real images' mean embedding is nearest.

    Args:
        tower: that embeds.
        people: names.
        centres: ``(P, D)``, unit vectors.
    """

    tower: Tower
    people: tuple[str, ...]
    centres: _Matrix

    @classmethod
    def fit(cls, tower: Tower, real: Mapping[str, Pixels]) -> StyleClassifier:
        """Learn from real images, by person.

        Raises:
            TooLittleDataError: there are fewer than two people.
        """
        if len(real) < 2:
            raise TooLittleDataError(f"a style classifier needs 2 people or more, got {len(real)}")
        centres = np.stack([_centre(tower, pixels) for pixels in real.values()])
        return cls(tower, tuple(real), centres)

    def people_of(self, pixels: Pixels) -> list[str]:
        """Whose each image seems to be."""
        nearest = (_directions(self.tower, pixels) @ self.centres.T).argmax(axis=1)
        return [self.people[i] for i in nearest]

    def accuracy(self, made: Mapping[str, Pixels]) -> LocalFigure:
        """Share of images that seem to be by whom they are meant to be, the mean over people.

        Raises:
            BadInputError: a person is not known, or there is nobody.
        """
        if not made or not set(made) <= set(self.people):
            raise BadInputError(
                f"style accuracy needs images of known people, got {', '.join(made) or 'nobody'}"
            )
        shares = [np.mean([p == who for p in self.people_of(x)]) for who, x in made.items()]
        return LocalFigure("style_accuracy", self.tower.name, float(np.mean(shares)))


def personalization(
    tower: Tower,
    made: Pixels,
    own_reference: Pixels,
    own_held_out: Pixels,
    others: Mapping[str, Pixels],
) -> CalibratedScore:
    """How far generated images are from others' real ones (0) to a person's own real ones (1).

    Compared are mean embeddings, so real sets are first cut to as many images as were generated:
    the mean of few is less like the reference than that of many.

    Args:
        tower: best one that sees style.
        made: generated for the person.
        own_reference: the person's real images to compare with.
        own_held_out: other real images of the person.
        others: real images of other people, by person.

    Raises:
        BadInputError: there are no other people.
    """
    if not others:
        raise BadInputError("personalization needs the images of another person or more, got none")
    reference = _centre(tower, own_reference)

    def similarity(real: Pixels) -> float:
        return float(_centre(tower, _spread(real, len(made))) @ reference)

    return CalibratedScore.between(
        similarity(made),
        float(np.mean([similarity(real) for real in others.values()])),
        similarity(own_held_out),
        least=_SMALLEST_GAP,
        advice="give more images",
    )


def _require_as_many(what: str, found: int, wanted: int) -> None:
    if found != wanted:
        raise BadInputError(f"there must be as many {what} as images, got {found} and {wanted}")


def _mean_cosine(tower: Tower, a: Pixels, b: Pixels) -> float:
    # The mean of all products of pairs is the product of the means.
    return float(_directions(tower, a).mean(axis=0) @ _directions(tower, b).mean(axis=0))


def _directions(tower: Tower, pixels: Pixels) -> _Matrix:
    return _normalized(tower.embed_images(pixels), 1)


def _centre(tower: Tower, pixels: Pixels) -> _Matrix:
    return _normalized(_directions(tower, pixels).mean(axis=0), 0)


def _spread(pixels: Pixels, count: int) -> Pixels:
    """At most ``count`` images, evenly spread over all."""
    count = min(count, len(pixels))
    chosen: Pixels = pixels[np.arange(count) * len(pixels) // count]
    return chosen


def _normalized(vectors: _Matrix, axis: int) -> _Matrix:
    lengths = np.linalg.norm(vectors, axis=axis, keepdims=True)
    normalized: _Matrix = vectors / np.maximum(lengths, 1e-10)
    return normalized


def _two_sets(tower: Tower, made: Pixels, real: Pixels) -> tuple[_Matrix, _Matrix]:
    if min(len(made), len(real)) < 2:
        raise TooLittleDataError(
            f"a distance of sets needs 2 images or more in each, got {len(made)} and {len(real)}"
        )
    return tower.embed_images(made), tower.embed_images(real)


def _moments(points: _Matrix) -> tuple[_Matrix, _Matrix]:
    return points.mean(axis=0), np.atleast_2d(np.cov(points, rowvar=False))


def _square_root(symmetric: _Matrix) -> _Matrix:
    values, axes = np.linalg.eigh(symmetric)
    root: _Matrix = (axes * np.sqrt(np.maximum(values, 0))) @ axes.T
    return root


def _kernel(a: _Matrix, b: _Matrix) -> _Matrix:
    kernel: _Matrix = (a @ b.T / a.shape[1] + 1) ** 3
    return kernel


def _mean_off_diagonal(square: _Matrix) -> float:
    count = len(square)
    return float((square.sum() - np.trace(square)) / (count * (count - 1)))
