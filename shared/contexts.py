"""The five personalized contexts of a person, and the instruction that a person gives.

Source: "A Survey of Personalized Generation", §2.1: user profiles, documents, behaviours,
face/body and personalized subjects condition the generation of content.
"""

from __future__ import annotations

import math
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal

from .errors import BadInputError
from .tasks import Task

__all__ = [
    "Consent",
    "Context",
    "Instruction",
    "Modality",
    "PersonalFaceBody",
    "PersonalizedSubject",
    "Provenance",
    "Use",
    "UserBehavior",
    "UserDocument",
    "UserProfile",
]

Use = Literal["retrieve", "train", "federate"]
Modality = Literal["text", "image", "video", "audio", "3d"]


@dataclass(frozen=True, kw_only=True)
class Consent:
    """What a record may be used for. Nothing is allowed unless it is said.

    ``federate`` implies ``train``: a record can only reach the shared adapter by training.
    """

    retrieve: bool = False
    train: bool = False
    federate: bool = False

    def __post_init__(self) -> None:
        if self.federate and not self.train:
            raise BadInputError(
                "consent federate=True needs train=True: a record reaches the shared adapter "
                "only by training"
            )

    @classmethod
    def full(cls) -> Consent:
        """Allow retrieval, private training and federated training."""
        return cls(retrieve=True, train=True, federate=True)

    def allows(self, use: Use) -> bool:
        """Whether this consent covers ``use``."""
        return bool(getattr(self, use))


@dataclass(frozen=True, kw_only=True)
class Provenance:
    """Where a record came from, for the trace of a generation (``source="mail"``)."""

    source: str = "app"
    uri: str = ""


@dataclass(frozen=True, kw_only=True)
class _Record:
    """Fields that every context shares."""

    id: str = field(default_factory=lambda: uuid.uuid4().hex)
    time: datetime = field(default_factory=lambda: datetime.now(UTC))
    consent: Consent = field(default_factory=Consent)
    provenance: Provenance = field(default_factory=Provenance)
    expires: datetime | None = None  # from then on it is forgotten

    def __post_init__(self) -> None:
        if not self.id:
            raise BadInputError("a record's id must not be empty")
        for name, time in (("time", self.time), ("expires", self.expires)):
            if time is not None and time.tzinfo is None:
                raise BadInputError(
                    f"a record's {name} must carry a time zone, got {time!r}; use datetime.now(UTC)"
                )

    @property
    def text(self) -> str:
        """The record as text: what retrieval indexes and a language model can train on."""
        raise NotImplementedError

    @property
    def modality(self) -> Modality:
        """What the record's content is."""
        return "text"


@dataclass(frozen=True, kw_only=True)
class UserProfile(_Record):
    """Who the person is: attributes such as ``{"role": "nurse", "tone": "dry"}``."""

    attributes: dict[str, str]

    @property
    def text(self) -> str:
        """One ``name: value`` line per attribute."""
        return "\n".join(f"{name}: {value}" for name, value in self.attributes.items())


@dataclass(frozen=True, kw_only=True)
class UserDocument(_Record):
    """Something that the person wrote."""

    body: str
    title: str = ""

    @property
    def text(self) -> str:
        """The title, when there is one, and the body."""
        return f"{self.title}\n{self.body}" if self.title else self.body


@dataclass(frozen=True, kw_only=True)
class UserBehavior(_Record):
    """Something that the person did with an item: clicked, rated, skipped, drew.

    The item may come with an encoded picture, sound or clip of itself, or be a request with a
    text (``text/plain``) that answers it. The actions ``liked`` and ``disliked``, or a rating,
    higher for better, are verdicts on the medium; see :mod:`locavore.client.preferences`.
    """

    item: str
    action: str = "used"
    rating: float | None = None
    media: bytes = b""
    media_type: str = ""

    @property
    def modality(self) -> Modality:
        """What the item's media are, by their type; text where there are none."""
        return _modality(self.media_type) if self.media else "text"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rating is not None and not math.isfinite(self.rating):
            raise BadInputError(f"rating must be finite, got {self.rating}")

    @property
    def text(self) -> str:
        """``action: item (rating)``."""
        return f"{self.action}: {self.item}" + (
            f" ({self.rating:g})" if self.rating is not None else ""
        )


@dataclass(frozen=True, kw_only=True)
class PersonalFaceBody(_Record):
    """A picture, scan or clip of the person's face or body, encoded (PNG, WAV, ...)."""

    media: bytes
    media_type: str
    caption: str = ""

    @property
    def modality(self) -> Modality:
        """What the media are, by their type."""
        return _modality(self.media_type)

    @property
    def text(self) -> str:
        """The caption."""
        return self.caption


@dataclass(frozen=True, kw_only=True)
class PersonalizedSubject(_Record):
    """A thing that matters to the person ("my cat"), with encoded media of it."""

    name: str
    media: tuple[bytes, ...] = ()
    media_type: str = ""
    caption: str = ""

    @property
    def modality(self) -> Modality:
        """What the media are, by their type."""
        return _modality(self.media_type)

    @property
    def text(self) -> str:
        """The name and, when there is one, the caption."""
        return f"{self.name}: {self.caption}" if self.caption else self.name


def _modality(media_type: str) -> Modality:
    major = media_type.split("/")[0]
    known: dict[str, Modality] = {
        "image": "image",
        "video": "video",
        "audio": "audio",
        "model": "3d",
    }
    return known.get(major, "text")


Context = UserProfile | UserDocument | UserBehavior | PersonalFaceBody | PersonalizedSubject


@dataclass(frozen=True, kw_only=True)
class Instruction:
    """What the person asks for.

    Args:
        text: the request, or the beginning of a text to be continued.
        task: id of the task (see :mod:`locavore.shared.tasks`).
        mode: ``"continue"`` writes on from ``text``; ``"chat"`` answers it, through the
            base's chat template.

    Raises:
        BadInputError: there is no such task.
    """

    text: str
    task: str = "text.writing_assistant"
    mode: Literal["continue", "chat"] = "continue"

    def __post_init__(self) -> None:
        Task.of(self.task)
