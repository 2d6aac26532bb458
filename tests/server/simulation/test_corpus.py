import hashlib
import io
import os
import tarfile
from datetime import UTC, datetime
from pathlib import Path

import pytest

from locavore.server.simulation.corpus import DEVICE_AUTHORS, load_folder, load_sotu
from locavore.server.simulation.data.make_sotu import choose, read_package
from locavore.shared.errors import BadInputError

LONG = "This sentence has exactly six words. "


def write(folder: Path, name: str, text: str = LONG * 40) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / name
    file.write_text(text, encoding="utf-8")
    return file


def test_the_built_in_corpus_has_eight_devices_and_a_public() -> None:
    corpus = load_sotu()
    assert [person.name for person in corpus.people] == list(DEVICE_AUTHORS)
    assert all(len(person.train) == 200 for person in corpus.people)
    assert all(len(person.held_out) == 8 for person in corpus.people)
    assert len(corpus.public) > 30
    assert not set(corpus.public) & set(DEVICE_AUTHORS)


def test_what_is_held_out_is_later_and_nothing_is_in_both() -> None:
    for person in load_sotu(devices=3, held_out=47).people:
        assert person.train[-1].time < person.held_out[0].time
        assert len({document.time for document in person.held_out}) == 1
        texts = {document.body for document in person.train}
        assert not texts & {document.body for document in person.held_out}


def test_training_takes_the_latest_of_the_earlier_speeches() -> None:
    (jefferson,) = load_sotu(devices=1, train=40).people
    assert [document.time.year for document in jefferson.train] == [1806] * 5 + [1807] * 35


def test_documents_say_where_they_come_from() -> None:
    document = load_sotu(devices=1).people[0].held_out[0]
    assert document.time == datetime(1808, 1, 1, tzinfo=UTC)
    assert document.provenance.source == "sotu"
    assert document.provenance.uri == "thomas_jefferson/1808/0"
    assert document.consent.allows("federate")
    assert 30 <= len(document.body.split()) <= 75


def test_the_built_in_corpus_is_the_same_each_time() -> None:
    assert load_sotu(devices=2) == load_sotu(devices=2)


@pytest.mark.parametrize(
    "numbers", [{"devices": 0}, {"devices": 9}, {"held_out": 0}, {"held_out": 500}, {"train": 0}]
)
def test_numbers_out_of_range_are_quoted(numbers: dict[str, int]) -> None:
    with pytest.raises(BadInputError, match=f"got {next(iter(numbers.values()))}"):
        load_sotu(**numbers)


def test_a_folder_is_split_in_the_order_of_the_dates_in_its_names(tmp_path: Path) -> None:
    write(tmp_path / "ann", "2024-05-01 spring.md", "May. " * 200)
    write(tmp_path / "ann", "2023.txt", "Old. " * 200)
    write(tmp_path / "ann", "2024-12-31.TXT", "Dec. " * 200)
    (ann,) = load_folder(tmp_path, held_out=2, max_words=50).people
    assert [document.body[:3] for document in ann.train] == ["Old"] * 4 + ["May"] * 4 + ["Dec"] * 2
    assert [document.body[:3] for document in ann.held_out] == ["Dec"] * 2
    assert ann.train[0].time == datetime(2023, 1, 1, tzinfo=UTC)
    assert ann.held_out[0].provenance.uri.startswith("ann/2024-12-31.TXT/")


def test_without_dates_in_all_names_the_last_change_gives_the_order(tmp_path: Path) -> None:
    late = write(tmp_path / "bob", "2020-01-01.txt", "Late. " * 100)
    early = write(tmp_path / "bob", "notes.txt", "Early. " * 100)
    os.utime(late, (2e9, 2e9))
    os.utime(early, (1e9, 1e9))
    (bob,) = load_folder(tmp_path).people
    assert bob.train[0].body.startswith("Early")
    assert bob.held_out[-1].body.startswith("Late")


def test_no_more_than_a_quarter_is_held_out(tmp_path: Path) -> None:
    write(tmp_path / "few", "a.txt", "Word. " * 7 * 75)
    write(tmp_path / "one", "a.txt", "Only this.")
    few, one = load_folder(tmp_path, held_out=8).people
    assert (len(few.train), len(few.held_out)) == (6, 1)
    assert ([document.body for document in one.train], one.held_out) == (["Only this."], ())


def test_a_person_without_readable_text_has_no_documents(tmp_path: Path) -> None:
    write(tmp_path / "cam", "photo.jpg", "not text")
    write(tmp_path / "cam", "empty.txt", "  \n")
    write(tmp_path / ".hidden", "a.txt")
    (cam,) = load_folder(tmp_path).people
    assert (cam.name, cam.train, cam.held_out) == ("cam", (), ())


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    write(tmp_path / "dan", "a.txt", "\ufeffHello there.")
    assert load_folder(tmp_path).people[0].train[0].body == "Hello there."


def test_public_authors_are_those_of_the_built_in_corpus(tmp_path: Path) -> None:
    write(tmp_path / "eve", "a.txt")
    assert load_folder(tmp_path).public == load_sotu(devices=1).public


def test_a_file_that_is_not_utf8_is_named_with_the_place(tmp_path: Path) -> None:
    file = write(tmp_path / "fay", "a.txt", "")
    file.write_bytes("\ufeffcaf".encode() + "é".encode("latin-1") + b" au lait")
    with pytest.raises(BadInputError, match=r"a\.txt is not UTF-8 at byte 6"):
        load_folder(tmp_path)


def test_a_folder_that_cannot_be_used_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="nowhere is not a folder"):
        load_folder(tmp_path / "nowhere")
    (tmp_path / "loose.txt").write_text("text")
    with pytest.raises(BadInputError, match="no subfolders"):
        load_folder(tmp_path)
    write(tmp_path / "gus", "a.txt")
    with pytest.raises(BadInputError, match="got -1"):
        load_folder(tmp_path, held_out=-1)


def test_large_and_unspaced_files_are_cut(tmp_path: Path) -> None:
    write(tmp_path / "han", "a.txt", "今日は良い天気です。" * 20_000)
    (han,) = load_folder(tmp_path).people
    assert len(han.held_out) == 8
    assert max(len(document.body) for document in han.train) <= 4 * 75


def package(path: Path, speeches: dict[str, str]) -> str:
    with tarfile.open(path, "w:gz") as archive:
        for name, text in speeches.items():
            info = tarfile.TarInfo(f"package/data/{name}")
            info.size = len(text.encode())
            archive.addfile(info, io.BytesIO(text.encode()))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_the_package_is_cut_cleaned_and_checked(tmp_path: Path) -> None:
    archive = tmp_path / "package.tgz"
    speech = "It’s [Laughter]  a fine day for all of us here.And more. " * 30
    digest = package(archive, {"1999_some_one_d.txt": speech, "1999_some_one_d.json": "{}"})
    passages = list(read_package(archive, digest))
    assert {(passage.author, passage.year) for passage in passages} == {("some_one", 1999)}
    assert [passage.index for passage in passages] == list(range(len(passages)))
    assert passages[0].text.startswith("It's a fine day for all of us here. And more. It's")
    with pytest.raises(BadInputError, match=f"sha256 {digest}, expected ab03"):
        list(read_package(archive))


def test_the_corpus_takes_equal_shares_of_earlier_speeches(tmp_path: Path) -> None:
    archive = tmp_path / "package.tgz"
    lengths = {1901: 90, 1902: 900, 1903: 50}
    author = DEVICE_AUTHORS[3]
    names = {f"{year}_{author}_r.txt": LONG * 6 * n for year, n in lengths.items()}
    kept = choose(list(read_package(archive, package(archive, names))))
    counts = {year: sum(passage.year == year for passage in kept) for year in lengths}
    assert counts[1903] == pytest.approx(50 * 36 / 72, abs=2)
    assert counts[1901] == pytest.approx(45, abs=2)
    assert counts[1901] + counts[1902] == pytest.approx(240, abs=2)
    assert [passage.year for passage in kept] == sorted(passage.year for passage in kept)
