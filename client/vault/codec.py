"""Records as bytes: what is encrypted. Media go beside the record, in parts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from ...shared.contexts import (
    Consent,
    Context,
    PersonalFaceBody,
    PersonalizedSubject,
    Provenance,
    UserBehavior,
    UserDocument,
    UserProfile,
)

__all__ = ["KINDS", "decode", "encode", "kind_of", "media_of"]

KINDS: dict[str, type[Context]] = {
    "profile": UserProfile,
    "document": UserDocument,
    "behavior": UserBehavior,
    "face-body": PersonalFaceBody,
    "subject": PersonalizedSubject,
}
_NAMES = {made: name for name, made in KINDS.items()}
_FIELDS: dict[str, tuple[str, ...]] = {
    "profile": ("attributes",),
    "document": ("body", "title"),
    "behavior": ("item", "action", "rating", "media_type"),
    "face-body": ("media_type", "caption"),
    "subject": ("name", "media_type", "caption"),
}
_USES = ("retrieve", "train", "federate")


def kind_of(record: Context) -> str:
    """The record's kind, as on the command line: ``document``, ``behavior``, ..."""
    return _NAMES[type(record)]


def media_of(record: Context) -> tuple[bytes, ...]:
    """The record's media, if it has any."""
    if isinstance(record, PersonalFaceBody):
        return (record.media,)
    if isinstance(record, UserBehavior):
        return (record.media,) if record.media else ()
    return record.media if isinstance(record, PersonalizedSubject) else ()


def encode(record: Context) -> bytes:
    """Everything but the media, as JSON; of those, the sizes."""
    kind = kind_of(record)
    return json.dumps(
        {
            "kind": kind,
            "id": record.id,
            "time": record.time.isoformat(),
            "expires": record.expires and record.expires.isoformat(),
            "uses": [use for use in _USES if getattr(record.consent, use)],
            "source": record.provenance.source,
            "uri": record.provenance.uri,
            "media": [len(medium) for medium in media_of(record)],
            **{name: getattr(record, name) for name in _FIELDS[kind]},
        },
        ensure_ascii=False,
    ).encode("utf-8", "surrogatepass")


def decode(raw: bytes, media: Sequence[bytes] = ()) -> Context:
    """The record that :func:`encode` wrote, with its media."""
    row: dict[str, Any] = parse(raw)
    kind = row["kind"]
    own = {name: row[name] for name in _FIELDS[kind]}
    if kind in ("face-body", "behavior"):
        own["media"] = media[0] if media else b""
    elif kind == "subject":
        own["media"] = tuple(media)
    return KINDS[kind](
        id=row["id"],
        time=datetime.fromisoformat(row["time"]),
        expires=datetime.fromisoformat(row["expires"]) if row["expires"] else None,
        consent=Consent(**{use: use in row["uses"] for use in _USES}),
        provenance=Provenance(source=row["source"], uri=row["uri"]),
        **own,
    )


def parse(raw: bytes) -> dict[str, Any]:
    """The fields of an encoded record."""
    row: dict[str, Any] = json.loads(raw.decode("utf-8", "surrogatepass"))
    return row
