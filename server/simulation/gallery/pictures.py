"""What a gallery is made of: people, their pictures, and what is known about both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ....shared.errors import BadInputError
from ....shared.pictures import Picture as Plain

__all__ = ["Artist", "Gallery", "Impression", "Mask", "Picture", "Pixels"]

Pixels = NDArray[np.uint8]  # (H, W, 3)
Mask = NDArray[np.bool_]  # (H, W)


def _nothing() -> Mapping[str, str]:
    return MappingProxyType({})


@dataclass(frozen=True, kw_only=True, eq=False)
class Picture:
    """One picture of a person, with what a task gives beside its caption.

    Args:
        pixels: uint8, (H, W, 3): what a task is to make.
        caption: what is to be seen.
        tags: keywords.
        attributes: what is known to be true of it, such as ``{"shirt": "red"}``.
        held_out: whether nobody may train on it.
        masks: bool, (H, W), where ``pixels`` show what the name says.
        given: pictures that go in, uint8, (H, W, 3), such as a garment to be tried on.
        given_masks: bool, (H, W), of pictures that go in, under the same names.
        pose: (x, y) in pixels of ``pixels`` for each joint or landmark; y grows downwards,
            left and right are the person's own.

    Raises:
        BadInputError: an array has another type, or a mask another size than its picture.
    """

    pixels: Pixels
    caption: str
    tags: tuple[str, ...] = ()
    attributes: Mapping[str, str] = field(default_factory=_nothing)
    held_out: bool = False
    masks: Mapping[str, Mask] = field(default_factory=dict)
    given: Mapping[str, Pixels] = field(default_factory=dict)
    given_masks: Mapping[str, Mask] = field(default_factory=dict)
    pose: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, pixels in {"pixels": self.pixels, **self.given}.items():
            _validate_pixels(name, pixels)
        for name, mask in self.masks.items():
            _validate_mask(name, mask, self.pixels)
        for name, mask in self.given_masks.items():
            if name not in self.given:
                raise BadInputError(f"there is a mask of {name!r}, but no such picture is given")
            _validate_mask(name, mask, self.given[name])

    def at_size(self, size: tuple[int, int]) -> Picture:
        """The middle of it and of all that is given with it, in another size; without pose.

        Raises:
            MissingExtraError: Pillow is not installed.
        """
        if size == self.pixels.shape[:2]:
            return self
        return replace(
            self,
            pixels=_fitted(self.pixels, size),
            masks={name: _fitted_mask(mask, size) for name, mask in self.masks.items()},
            given={name: _fitted(pixels, size) for name, pixels in self.given.items()},
            given_masks={name: _fitted_mask(m, size) for name, m in self.given_masks.items()},
            pose={},
        )


def _fitted(pixels: Pixels, size: tuple[int, int]) -> Pixels:
    return Plain(pixels).resized(size).pixels


def _fitted_mask(mask: Mask, size: tuple[int, int]) -> Mask:
    """True where most of a pixel is."""
    levels = np.repeat(mask[..., None], 3, axis=2).astype(np.uint8) * 255
    fitted: Mask = _fitted(levels, size)[..., 0] > 127
    return fitted


def _validate_pixels(name: str, pixels: Pixels) -> None:
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3:
        raise BadInputError(f"{name} must be uint8 (H, W, 3), got {pixels.dtype} {pixels.shape}")


def _validate_mask(name: str, mask: Mask, pixels: Pixels) -> None:
    if mask.dtype != np.bool_ or mask.shape != pixels.shape[:2]:
        raise BadInputError(
            f"mask {name!r} must be bool {pixels.shape[:2]}, got {mask.dtype} {mask.shape}"
        )


@dataclass(frozen=True)
class Impression:
    """One line of a log: a picture was shown, and clicked or not.

    Args:
        picture: index of the artist's picture.
        propensity: probability with which the logging policy showed this one, 0 < p <= 1.
        clicked: what happened.
    """

    picture: int
    propensity: float
    clicked: bool


@dataclass(frozen=True, kw_only=True, eq=False)
class Artist:
    """One device's owner, with pictures.

    Args:
        name: unique in the gallery.
        pictures: in a fixed order.
        profile: what the person tells about themselves.
        truth: what the person's pictures were made by, where that is known. For judging only: a
            device never sees it.
        log: impressions of the person's own pictures, oldest first.
    """

    name: str
    pictures: tuple[Picture, ...]
    profile: Mapping[str, str] = field(default_factory=_nothing)
    truth: Mapping[str, str] = field(default_factory=_nothing)
    log: tuple[Impression, ...] = ()

    @property
    def train(self) -> tuple[Picture, ...]:
        """The pictures that may be trained on."""
        return tuple(picture for picture in self.pictures if not picture.held_out)

    @property
    def held_out(self) -> tuple[Picture, ...]:
        """The pictures to judge by."""
        return tuple(picture for picture in self.pictures if picture.held_out)


@dataclass(frozen=True, kw_only=True, eq=False)
class Gallery:
    """People with pictures.

    Args:
        name: of the data.
        kind: ``real``: made by people, or by teams. ``synthetic``: made by a program of ours.
        artists: the people.
    """

    name: str
    kind: Literal["real", "synthetic"]
    artists: tuple[Artist, ...]

    def __post_init__(self) -> None:
        names = [artist.name for artist in self.artists]
        twice = sorted({name for name in names if names.count(name) > 1})
        if not names or twice:
            raise BadInputError(
                f"gallery {self.name!r} needs people with names of their own, got "
                + (f"{', '.join(twice)} twice" if twice else "none")
            )

    def artist(self, name: str) -> Artist:
        """The person of that name.

        Raises:
            BadInputError: there is none.
        """
        for artist in self.artists:
            if artist.name == name:
                return artist
        raise BadInputError(f"no {name!r} in gallery {self.name!r}")
