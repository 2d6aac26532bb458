"""Mail that the person wrote: mbox and .eml, without what they quoted and how they sign."""

from __future__ import annotations

import mailbox
import re
from collections.abc import Iterator
from datetime import datetime
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from email.utils import getaddresses, parsedate_to_datetime
from html.parser import HTMLParser
from pathlib import Path

from ...shared.contexts import Context, UserDocument
from ...shared.errors import BadInputError
from .reading import Reading

__all__ = ["own_text", "read_eml", "read_mbox"]

_BEGUN = re.compile(
    r"^(on\b.{0,200}\bwrote|am\b.{0,200}\bschrieb.{0,100}|le\b.{0,200}\ba écrit\s?|"
    r"el\b.{0,200}\bescribió)\s?:\s*$",
    re.IGNORECASE,
)
_ADDRESS = re.compile(r"^.{0,100}<[^<>@\s]+@[^<>\s]+>\s*(wrote|writes)\s?:\s*$", re.IGNORECASE)
_FORWARDED = re.compile(
    r"^-{2,}\s*(original message|forwarded message|ursprüngliche nachricht|message d'origine)\b",
    re.IGNORECASE,
)
_SIGNATURE = re.compile(r"^(--\s?|__+|sent from my .{1,40})$", re.IGNORECASE)


def read_mbox(path: Path, how: Reading) -> Iterator[Context]:
    """The person's own messages of a mailbox, one by one.

    Raises:
        BadInputError: no address of the person is known.
    """
    _require_me(how)
    box = mailbox.mbox(path, create=False)
    try:
        for key in box.iterkeys():
            yield from _record(box.get_bytes(key), f"{how.uri(path)}#{key}", how)
    finally:
        box.close()


def read_eml(path: Path, how: Reading) -> Iterator[Context]:
    """One message, if the person wrote it. Raises as :func:`read_mbox`."""
    _require_me(how)
    raw = how.bytes_of(path)
    if raw is not None:
        yield from _record(raw, how.uri(path), how)


def own_text(body: str) -> str:
    """A message's text up to the signature, without quoted lines and what introduces them."""
    lines = body.replace("\r\n", "\n").split("\n")
    kept: list[str] = []
    for line in lines:
        bare = line.rstrip()
        if _SIGNATURE.match(bare) or _FORWARDED.match(bare.strip()):
            break
        if bare.lstrip().startswith(">"):
            while kept and not kept[-1].strip():
                kept.pop()
            del kept[len(kept) - _introduction(kept) :]
            continue
        kept.append(bare)
    while count := _introduction(kept):
        del kept[-count:]
    return re.sub(r"\n{3,}", "\n\n", "\n".join(kept)).strip()


def _introduction(lines: list[str]) -> int:
    """How many of the last lines say whom a quotation is of; they may be wrapped."""
    last = lines[-1].strip() if lines else ""
    if _BEGUN.match(last):
        return 1
    if _BEGUN.match(" ".join(lines[-2:]).strip()):
        return 2
    return 1 if _ADDRESS.match(last) else 0


def _require_me(how: Reading) -> None:
    if not how.me:
        raise BadInputError("mail needs the person's own addresses, to take only what they wrote")


def _record(raw: bytes, uri: str, how: Reading) -> Iterator[Context]:
    try:
        message = message_from_bytes(raw, policy=default)
        assert isinstance(message, EmailMessage)
        senders = {a.lower() for _, a in getaddresses([str(message.get("From", ""))])}
        if not senders & how.me:
            return
        body = own_text(_body(message))
        subject = " ".join(str(message.get("Subject", "")).split())
        time = _date(message)
    except (ValueError, LookupError, AttributeError, TypeError, IndexError) as error:
        how.skipped(uri, f"not a message that can be read: {type(error).__name__}")
        return
    if not body:
        how.skipped(uri, "nothing of the person's own in it")
        return
    name = str(message.get("Message-ID", "")).strip() or uri
    yield UserDocument(body=body, title=subject, **how.common("mail", name, body, time))


def _date(message: EmailMessage) -> datetime | None:
    try:
        return parsedate_to_datetime(str(message["Date"])) if message["Date"] else None
    except ValueError:
        return None


def _body(message: EmailMessage) -> str:
    part = message.get_body(("plain", "html"))
    if part is None:
        return ""
    try:
        text = str(part.get_content())
    except LookupError:  # an unknown character set
        payload = part.get_payload(decode=True)
        text = payload.decode("utf-8", "replace") if isinstance(payload, bytes) else ""
    return _plain(text) if part.get_content_subtype() == "html" else text


class _Text(HTMLParser):
    """Text of an HTML message, without quoted blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.parts: list[str] = []
        self._hidden = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("blockquote", "style", "script", "title"):
            self._hidden += 1
        elif tag in ("p", "div", "br", "tr", "li"):
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in ("blockquote", "style", "script", "title"):
            self._hidden = max(0, self._hidden - 1)
        elif tag in ("p", "div"):
            self.parts.append("\n")

    def handle_data(self, data: str) -> None:
        if not self._hidden:
            self.parts.append(re.sub(r"\s+", " ", data))


def _plain(html: str) -> str:
    reader = _Text()
    reader.feed(html)
    reader.close()
    return "\n".join(line.strip() for line in "".join(reader.parts).split("\n"))
