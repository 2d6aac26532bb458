"""Calendars (iCalendar, RFC 5545) and contacts (vCard, RFC 6350). Needs the extra ``import``."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any

from ...shared.contexts import Context, UserBehavior, UserDocument
from ...shared.errors import MissingExtraError
from .reading import Reading, changed

__all__ = ["read_calendar", "read_contacts"]

_SHOWN = ("ORG", "TITLE", "ROLE", "EMAIL", "TEL", "ADR", "BDAY", "NOTE", "CATEGORIES")


def read_calendar(path: Path, how: Reading) -> Iterator[Context]:
    """An event is something that the person did, at its beginning; a series is one record."""
    icalendar = _icalendar()
    raw = how.bytes_of(path)
    if raw is None:
        return
    try:
        calendars = icalendar.Calendar.from_ical(raw.decode("utf-8", "replace"), multiple=True)
    except ValueError as error:
        how.skipped(str(path), f"not a calendar: {error}")
        return
    for calendar in calendars:
        for event in calendar.walk("VEVENT"):
            item = ", ".join(str(event[name]) for name in ("SUMMARY", "LOCATION") if name in event)
            if not item:
                how.skipped(str(path), "an event without a summary")
                continue
            begins = event.decoded("DTSTART") if "DTSTART" in event else None
            uri = str(event.get("UID", how.uri(path)))
            fields = how.common("calendar", uri, f"{item}\n{begins}", _moment(begins))
            yield UserBehavior(item=item, action="calendar", **fields)


def read_contacts(path: Path, how: Reading) -> Iterator[Context]:
    """A card is a document: whom the person knows, and what of them."""
    lines = _icalendar().parser.Contentlines
    raw = how.bytes_of(path)
    if raw is None:
        return
    card: list[tuple[str, str]] = []
    for line in lines.from_ical(raw.decode("utf-8", "replace")):
        if not line:
            continue
        try:
            name, _, value = line.parts()
        except ValueError as error:
            how.skipped(str(path), f"a line that cannot be read: {error}")
            continue
        field = name.split(".")[-1].upper()  # groups are written item1.EMAIL
        if field == "BEGIN":
            card = []
        elif field == "END":
            yield from _card(card, path, how)
        else:
            card.append((field, value.replace("\\,", ",").replace("\\n", " ")))


def _card(card: list[tuple[str, str]], path: Path, how: Reading) -> Iterator[Context]:
    values = dict(reversed(card))
    name = values.get("FN") or " ".join(p for p in values.get("N", "").split(";")[1::-1] if p)
    if not name:
        how.skipped(str(path), "a contact without a name")
        return
    body = "\n".join(
        f"{field.lower()}: {' '.join(part for part in value.split(';') if part)}"
        for field, value in card
        if field in _SHOWN and value.strip(";")
    )
    uri = values.get("UID", how.uri(path))
    fields = how.common("contacts", uri, f"{name}\n{body}", changed(path))
    yield UserDocument(body=body or name, title=name, **fields)


def _moment(begins: Any) -> datetime | None:
    if isinstance(begins, datetime):
        return begins
    return datetime.combine(begins, time(), UTC) if isinstance(begins, date) else None


def _icalendar() -> Any:
    try:
        import icalendar
        import icalendar.parser
    except ImportError:
        raise MissingExtraError("import", "reading calendars and contacts") from None
    return icalendar
