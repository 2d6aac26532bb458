"""What the person did on the web: activity as Google Takeout writes it, and bookmarks."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from ...shared.contexts import Context, UserBehavior
from .reading import Reading

__all__ = ["read_activity", "read_bookmarks"]

_VERB = re.compile(
    r"(watched|searched for|visited|listened to|used|viewed|liked|read|saved|bought|played)\s+(.+)",
    re.IGNORECASE | re.DOTALL,
)


def read_activity(path: Path, how: Reading) -> Iterator[Context]:
    """A list of ``{"title", "time", ...}``: what was watched, searched for, visited."""
    raw = how.bytes_of(path)
    if raw is None:
        return
    try:
        rows = json.loads(raw)
    except ValueError as error:
        how.skipped(str(path), f"not JSON: {error}")
        return
    if not isinstance(rows, list):
        how.skipped(str(path), "not a list of activities")
        return
    for row in rows:
        if not isinstance(row, dict) or not isinstance(row.get("title"), str) or not row["title"]:
            how.skipped(str(path), "an activity without a title")
            continue
        found = _VERB.fullmatch(row["title"])
        action, item = (found[1].lower(), found[2]) if found else ("used", row["title"])
        source = str(row.get("header") or "activity").lower()
        uri = str(row.get("titleUrl") or how.uri(path))
        fields = how.common(source, uri, f"{row['title']}\n{row.get('time')}", _moment(row))
        yield UserBehavior(item=item, action=action, **fields)


def read_bookmarks(path: Path, how: Reading) -> Iterator[Context]:
    """Bookmarks as browsers export them (the Netscape format)."""
    raw = how.bytes_of(path)
    if raw is None:
        return
    text = raw.decode("utf-8", "replace")
    if "netscape-bookmark" not in text[:500].lower():
        how.skipped(str(path), "an HTML file that is no export of bookmarks")
        return
    reader = _Bookmarks()
    reader.feed(text)
    reader.close()
    for title, url, added in reader.found:
        item = f"{title}, {url}" if title else url
        time = datetime.fromtimestamp(int(added), UTC) if added.isdigit() else None
        yield UserBehavior(
            item=item, action="bookmarked", **how.common("bookmarks", url, item, time)
        )


class _Bookmarks(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, str, str]] = []
        self._open: tuple[str, str] | None = None
        self._title = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            given = dict(attrs)
            self._open = (given.get("href") or "", given.get("add_date") or "")
            self._title = ""

    def handle_data(self, data: str) -> None:
        self._title += data

    def handle_endtag(self, tag: str) -> None:
        if tag == "a" and self._open is not None:
            url, added = self._open
            if url.startswith(("http://", "https://")):
                self.found.append((" ".join(self._title.split()), url, added))
            self._open = None


def _moment(row: dict[str, Any]) -> datetime | None:
    try:
        return datetime.fromisoformat(str(row.get("time")))
    except ValueError:
        return None
