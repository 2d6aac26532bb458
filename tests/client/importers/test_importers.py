"""Readers on files as programs really write them; imports that can be repeated and interrupted."""

from __future__ import annotations

import json
import mailbox
import wave
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locavore.client.device import Device
from locavore.client.importers import import_records, rated_answer, read_source
from locavore.client.importers.mail import own_text
from locavore.client.importers.reading import Reading
from locavore.shared.contexts import (
    Consent,
    PersonalFaceBody,
    PersonalizedSubject,
    UserBehavior,
    UserDocument,
)
from locavore.shared.errors import BadInputError

ME = Reading(me=frozenset({"ann@example.org"}), consent=Consent(retrieve=True, train=True))


def message(body: str, sender: str = "Ann <Ann@Example.org>", **more: str) -> EmailMessage:
    made = EmailMessage()
    made["From"] = sender
    made["To"] = "tom@example.org"
    made["Subject"] = more.get("subject", "Grüße")
    made["Date"] = "Mon, 2 Mar 2026 10:00:00 +0100"
    made["Message-ID"] = more.get("name", f"<{hash(body)}@example.org>")
    made.set_content(body, subtype=more.get("subtype", "plain"))
    return made


@pytest.fixture
def mbox(tmp_path: Path) -> Path:
    box = mailbox.mbox(tmp_path / "sent.mbox")
    box.add(message("Dear Tom,\n\nthe tomatoes are in.\n\n> are they?\n\n-- \nAnn\nGarden Ltd"))
    box.add(message("I never wrote this.", sender="Tom <tom@example.org>"))
    html = "<p>Dear Tom,<br>see you <b>soon</b></p><blockquote>old</blockquote>"
    box.add(message(html, subtype="html"))
    with_file = message("See the picture. Çà et là.")
    with_file.add_attachment(b"\0" * 500, maintype="image", subtype="png", filename="a.png")
    box.add(with_file)
    box.add(message("> only a quote\n"))
    box.add(b"From: ann@example.org\nContent-Type: text/plain; charset=x-none\n\nodd set\n")
    box.add(b"\xff\xfe\n\nno headers\n")
    box.flush()
    box.close()
    return tmp_path / "sent.mbox"


def test_mail_gives_own_words_only(mbox: Path) -> None:
    left_out: list[str] = []
    how = Reading(me=ME.me, skipped=lambda _what, why: left_out.append(why))
    records = list(read_source(mbox, how))
    assert [r.body for r in records if isinstance(r, UserDocument)] == [
        "Dear Tom,\n\nthe tomatoes are in.",
        "Dear Tom,\nsee you soon",
        "See the picture. Çà et là.",
        "odd set",
    ]
    first = records[0]
    assert isinstance(first, UserDocument)
    assert first.title == "Grüße"
    assert first.time.isoformat() == "2026-03-02T10:00:00+01:00"
    assert first.provenance.source == "mail"
    assert left_out == ["nothing of the person's own in it"]


def test_mail_without_own_addresses_is_refused(mbox: Path) -> None:
    with pytest.raises(BadInputError, match="the person's own addresses"):
        list(read_source(mbox))


@pytest.mark.parametrize(
    ("body", "own"),
    [
        ("Hi\n\nOn Mon, 2 Mar 2026, Tom <t@x.org> wrote:\n> a\n> b\n\nNo.", "Hi\n\nNo."),
        ("Yes\n\nOn Mon, 2 Mar 2026 at 10:00, Tom Long Name\n<t@x.org> wrote:\n> a", "Yes"),
        ("Ja\n\nAm 02.03.26 um 10:00 schrieb Tom:\n> a\n", "Ja"),
        ("Oui\n\nLe 2 mars 2026, Tom a écrit :\n> a\n", "Oui"),
        ("See below\n\n-----Original Message-----\nFrom: Tom\nsecret", "See below"),
        ("Bye\nSent from my telephone", "Bye"),
        ("a > b is fine\nOn time we wrote: nothing", "a > b is fine\nOn time we wrote: nothing"),
        ("> > nested\n>\n", ""),
        ("", ""),
    ],
)
def test_quotes_and_signatures(body: str, own: str) -> None:
    assert own_text(body) == own


@given(st.text(alphabet="ab> \n-:", max_size=60))
def test_own_text_holds_no_quoted_line_and_nothing_new(body: str) -> None:
    own = own_text(body)
    assert not any(line.lstrip().startswith(">") for line in own.split("\n"))
    assert all(line.strip() in body for line in own.split("\n"))


def test_a_calendar_and_contacts(tmp_path: Path) -> None:
    pytest.importorskip("icalendar", reason="needs the extra 'import'")
    (tmp_path / "a.ics").write_bytes(
        b"BEGIN:VCALENDAR\r\nVERSION:2.0\r\nPRODID:x\r\nBEGIN:VEVENT\r\nUID:1@x\r\n"
        b"DTSTART:20260302T100000Z\r\nSUMMARY:Planting\\, with\r\n  Tom\r\nLOCATION:Garden\r\n"
        b"END:VEVENT\r\nBEGIN:VEVENT\r\nUID:2@x\r\nDTSTART;VALUE=DATE:20260401\r\n"
        b"SUMMARY:Fair\r\nEND:VEVENT\r\nEND:VCALENDAR\r\n"
    )
    (tmp_path / "b.vcf").write_bytes(
        b"BEGIN:VCARD\r\nVERSION:4.0\r\nFN:Tom Lee\r\nitem1.EMAIL:tom@x.org\r\n"
        b"ADR:;;1 Lane;Town;;;\r\nNOTE:likes boats\r\nPHOTO:data:image/png;base64\\,AAAA\r\n"
        b"END:VCARD\r\nBEGIN:VCARD\r\nVERSION:3.0\r\nN:Ray;Bo;;;\r\nEND:VCARD\r\n"
    )
    (tmp_path / "c.ics").write_text("BEGIN:VCALENDAR\nno colon")
    events = [r for r in read_source(tmp_path) if isinstance(r, UserBehavior)]
    assert [(e.action, e.item) for e in events] == [
        ("calendar", "Planting, with Tom, Garden"),
        ("calendar", "Fair"),
    ]
    assert [f"{e.time:%Y-%m-%d}" for e in events] == ["2026-03-02", "2026-04-01"]
    cards = [r for r in read_source(tmp_path) if isinstance(r, UserDocument)]
    assert [card.title for card in cards] == ["Tom Lee", "Bo Ray"]
    assert cards[0].body == "email: tom@x.org\nadr: 1 Lane Town\nnote: likes boats"


def test_activity_and_bookmarks(tmp_path: Path) -> None:
    rows = [
        {"header": "YouTube", "title": "Watched A film", "time": "2026-03-02T10:00:00.123Z"},
        {"header": "Search", "title": "Searched for boats", "time": "bad"},
        {"title": "Odd one out", "titleUrl": "https://x.org"},
        {"no": "title"},
    ]
    (tmp_path / "MyActivity.json").write_text(json.dumps(rows))
    (tmp_path / "settings.json").write_text('{"a": 1}')
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "bookmarks.html").write_text(
        "<!DOCTYPE NETSCAPE-Bookmark-file-1>\n<DL><p><DT><H3>Folder</H3>\n<DT>"
        '<A HREF="https://x.org/?a=1&amp;b=2" ADD_DATE="1772445600">Boats &amp; oars</A>\n'
        '<DT><A HREF="javascript:alert(1)">bad</A></DL>'
    )
    (tmp_path / "page.html").write_text("<html><a href='https://y.org'>no bookmark</a></html>")
    found = [r for r in read_source(tmp_path) if isinstance(r, UserBehavior)]
    assert sorted((r.action, r.item, r.provenance.source) for r in found) == [
        ("bookmarked", "Boats & oars, https://x.org/?a=1&b=2", "bookmarks"),
        ("searched for", "boats", "search"),
        ("used", "Odd one out", "activity"),
        ("watched", "A film", "youtube"),
    ]


def test_media_and_their_captions(tmp_path: Path) -> None:
    (tmp_path / "cat.png").write_bytes(b"\x89PNG\r\n\x1a\nrest")
    (tmp_path / "cat.txt").write_text("my cat on the roof")
    (tmp_path / "dog.jpg").write_bytes(b"\xff\xd8\xffrest")
    (tmp_path / "dog.jpg.json").write_text('{"description": "the dog"}')
    (tmp_path / "fake.png").write_text("no picture")
    with wave.open(str(tmp_path / "hello.wav"), "wb") as sound:
        sound.setparams((1, 2, 8000, 0, "NONE", "none"))
        sound.writeframes(b"\0\0" * 80)
    (tmp_path / "bad.wav").write_bytes(b"RIFF")
    records = list(read_source(tmp_path))
    pictures = {r.name: r for r in records if isinstance(r, PersonalizedSubject)}
    assert {name: r.caption for name, r in pictures.items()} == {
        "cat": "my cat on the roof",
        "dog": "the dog",
    }
    assert pictures["dog"].modality == "image"
    (voice,) = [r for r in records if isinstance(r, PersonalFaceBody)]
    assert (voice.caption, voice.modality) == ("hello", "audio")
    assert len(records) == 3  # captions are no documents of their own


def test_a_folder_of_texts(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "a.md").write_text("# Note\n\nkettle")
    (tmp_path / "b.txt").write_text("\ufeffboat", "utf-8")
    (tmp_path / "c.txt").write_bytes(b"\0\1binary")
    (tmp_path / "d.txt").write_text("  ")
    (tmp_path / "e.xyz").write_text("not read")
    found = {r.provenance.uri: r.text for r in read_source(tmp_path)}
    assert found == {"deep/a.md": "# Note\n\nkettle", "b.txt": "boat"}


@pytest.mark.parametrize("make", [Device, None])
def test_imports_are_idempotent_and_can_be_interrupted(
    make: Callable[[], Device] | None, mbox: Path, tmp_path: Path
) -> None:
    device = make() if make else Device.create(tmp_path / "v", key=b"k" * 32)
    notes = tmp_path / "notes"
    notes.mkdir()
    for number in range(200):
        (notes / f"{number}.txt").write_text(f"note {number}")

    def interrupted() -> None:
        raise KeyboardInterrupt

    seen = []
    with pytest.raises(KeyboardInterrupt):
        import_records(
            device,
            read_source(notes),
            lambda done: seen.append(done) if done.added < 128 else interrupted(),
        )
    assert len(device.store) == 128
    done = import_records(device, read_source(notes), seen.append)
    assert (done.added, done.known) == (72, 128)
    assert import_records(device, read_source(notes)).added == 0
    assert import_records(device, read_source(mbox, ME)).added == 4
    assert import_records(device, read_source(mbox, ME)).known == 4
    assert len(device.store) == 204
    device.close()


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="there is no file"):
        list(read_source(tmp_path / "none.txt"))
    (tmp_path / "a.xyz").write_text("x")
    with pytest.raises(BadInputError, match=r"no reader for a.xyz; there are for folders and .eml"):
        list(read_source(tmp_path / "a.xyz"))


def test_an_answer_that_was_judged(tmp_path: Path) -> None:
    png = b"\x89PNG\r\n\x1a\n and so on"
    for name, raw in (
        ("a.png", png),
        ("a.txt", b"the tomatoes are in"),
        ("b.png", b"GIF89a"),
        ("a.pdf", b"%PDF"),
        ("c.txt", b" "),
    ):
        (tmp_path / name).write_bytes(raw)
    picture = rated_answer(tmp_path / "a.png", "red apple", "liked")
    assert (picture.item, picture.action, picture.modality) == ("red apple", "liked", "image")
    assert picture.media == png
    assert picture.consent.train
    text = rated_answer(tmp_path / "a.txt", "Dear Ann,", "disliked")
    assert (text.modality, text.media) == ("text", b"the tomatoes are in")
    for name in ("b.png", "a.pdf", "c.txt"):
        with pytest.raises(BadInputError, match="no picture and no text that can be read"):
            rated_answer(tmp_path / name, "x", "liked")
    with pytest.raises(BadInputError, match="no file"):
        rated_answer(tmp_path / "none.png", "x", "liked")
    with pytest.raises(BadInputError, match="is empty"):
        rated_answer(tmp_path / "a.png", " ", "liked")
