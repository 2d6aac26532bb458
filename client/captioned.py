"""Records as captioned pictures: what an image base is trained on and judged by."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..shared.adapters import Array
from ..shared.contexts import Context, PersonalFaceBody, PersonalizedSubject, UserBehavior
from ..shared.pictures import Picture

__all__ = ["CHECKED_AT", "Seen", "captioned", "checking_noise", "picture_record"]

CHECKED_AT = 0.5  # of a schedule's time: where a runtime and its twin are compared


@dataclass(frozen=True, eq=False)
class Seen:
    """A picture as an image base sees it.

    Args:
        latents: ``(C, H, W)``.
        ids: token ids of its caption, ``(T,)``.
        looks: image tokens ``(n, D)`` of at most four pictures that it is trained to be like; none:
            of no picture.
    """

    latents: Array
    ids: npt.NDArray[np.int64]
    looks: Array | None = None


def checking_noise(example: Seen) -> Array:
    """The noise at which a runtime and its twin are compared, ``(1, C, H, W)``."""
    return np.random.default_rng(0).standard_normal((1, *example.latents.shape), np.float32)


def captioned(record: Context, size: tuple[int, int]) -> list[tuple[Picture, str]]:
    """The record's pictures, resized, each with what it shows in words.

    Raises:
        MissingExtraError: Pillow is not installed.
        BadInputError: what says that it is a picture is none.
    """
    if record.modality != "image":
        return []
    if isinstance(record, PersonalizedSubject):
        media, caption = record.media, record.caption or record.name
    elif isinstance(record, PersonalFaceBody):
        media, caption = (record.media,), record.caption
    elif isinstance(record, UserBehavior):
        media, caption = (record.media,), record.item
    else:
        return []
    return [(Picture.load(io.BytesIO(medium), size), caption) for medium in media]


def picture_record(
    picture: Picture, caption: str, *, action: str = "drew", **fields: object
) -> UserBehavior:
    """A picture that the person made or liked, as a record.

    Raises:
        MissingExtraError: Pillow is not installed.
    """
    return UserBehavior(
        item=caption,
        action=action,
        media=picture.encoded("png"),
        media_type="image/png",
        **fields,  # type: ignore[arg-type]
    )
