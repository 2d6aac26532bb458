"""The index: what it says reads back, and what it may not say is refused."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locavore.shared.chunk_index import (
    MAX_CHUNK_BYTES,
    Chunk,
    Index,
    IndexedFile,
    require_name,
    version_order,
)
from locavore.shared.errors import BadInputError, PackageError

PACKS = {"a" * 64: 1_000_000, "b" * 64: 500}


def index(chunks: list[Chunk]) -> Index:
    file, empty = IndexedFile.of("0" * 64, chunks), IndexedFile.of("1" * 64, [])
    assert list(file.chunks) == chunks
    return Index(
        kind="bases",
        name="tiny",
        version="1.2",
        files={"sub/model.onnx": file, "empty": empty},
        packs=PACKS,
        base_id="tiny-int8-0",
        publisher="ab" * 32,
    )


CHUNK = st.builds(
    lambda digest, pack, offset, length: Chunk(digest, length, pack, offset),
    digest=st.binary(min_size=32, max_size=32),
    pack=st.sampled_from(sorted(PACKS)),
    offset=st.integers(0, 250),
    length=st.integers(1, 250),
)


@given(st.lists(CHUNK, max_size=20))
def test_an_index_reads_back(chunks: list[Chunk]) -> None:
    assert Index.from_json(index(chunks).to_json()) == index(chunks)


def test_chunks_that_follow_each_other_take_one_run() -> None:
    pack = "a" * 64
    chunks = [Chunk(bytes(32), 10, pack, 10 * place) for place in range(1000)]
    told = json.loads(index(chunks).to_json())
    assert told["files"]["sub/model.onnx"]["runs"] == [[0, 0, 1000]]


def changed(path: list[Any], value: Any) -> bytes:
    told = json.loads(index([Chunk(bytes(32), 100, "a" * 64, 0)]).to_json())
    place = told
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return json.dumps(told).encode()


FILE = ["files", "sub/model.onnx"]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["format"], 2),
        (["kind"], "plugins"),
        (["name"], "../tiny"),
        (["name"], 7),
        (["version"], "1.2.3.4.5"),
        (["version"], "latest"),
        (["publisher"], "ab"),
        (["publisher"], 7),
        (["packs"], [["short", 10]]),
        (["packs"], []),
        (["packs"], [["a" * 64, 99]]),
        (["files"], {}),
        (["files"], None),
        ([*FILE, "length"], 99),
        ([*FILE, "length"], -1),
        ([*FILE, "sha256"], "0" * 63),
        ([*FILE, "hashes"], "AAAA"),
        ([*FILE, "hashes"], "no base64!"),
        ([*FILE, "lengths"], [0]),
        ([*FILE, "lengths"], [MAX_CHUNK_BYTES + 1]),
        ([*FILE, "lengths"], [1.5]),
        ([*FILE, "lengths"], [50, 50]),
        ([*FILE, "runs"], []),
        ([*FILE, "runs"], [[0, -1, 1]]),
        ([*FILE, "runs"], [[0, 999_950, 1]]),
        ([*FILE, "runs"], [[2, 0, 1]]),
        ([*FILE, "runs"], [[-1, 0, 1]]),
        ([*FILE, "runs"], [[0, 0, 2]]),
        ([*FILE, "runs"], [[0, 0, 0], [0, 0, 1]]),
        ([*FILE, "runs"], [[0, 0, 10**12]]),
    ],
)
def test_what_an_index_may_not_say(path: list[Any], value: Any) -> None:
    with pytest.raises(PackageError, match="the index cannot be"):
        Index.from_json(changed(path, value))


@pytest.mark.parametrize(
    "name",
    [
        *("../secret", "/etc/passwd", "a/../b", "a//b", "./a", "a/", "", "a\\b", "c:a", "a\0"),
        *("EMPTY", "empty/more", "a\nb", "a*"),
    ],
)
def test_file_names_that_are_refused(name: str) -> None:
    entry = json.loads(changed(["format"], 1))["files"]["empty"]
    with pytest.raises(PackageError):
        Index.from_json(changed(["files", name], entry))


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"\xff", b"{}", b"[" * 100_000])
def test_bytes_that_are_no_index(raw: bytes) -> None:
    with pytest.raises(PackageError, match="the index cannot be read"):
        Index.from_json(raw)


@given(st.binary(max_size=200))
def test_any_bytes_are_refused_in_one_sentence(raw: bytes) -> None:
    with pytest.raises(PackageError):
        Index.from_json(raw)


def test_versions_are_ordered_as_numbers() -> None:
    assert sorted(["1.10", "1.9", "2", "1.9.1"], key=version_order) == ["1.9", "1.9.1", "1.10", "2"]
    assert version_order("1.0.0") == version_order("1")
    assert version_order("0.0") == version_order("0")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda: require_name("x", "tiny", "1"), "kind must be one of adapters, bases, got 'x'"),
        (lambda: require_name("bases", "", "1"), "a name is"),
        (lambda: require_name("bases", "a" * 101, "1"), "a name is"),
        (lambda: require_name("bases", "tiny", ""), "a version is"),
        (lambda: require_name("bases", "tiny", "1."), "a version is"),
    ],
)
def test_names(change: Callable[[], None], said: str) -> None:
    with pytest.raises(BadInputError, match=said):
        change()
