"""Serving: ranges, heads, and nothing that is not public."""

from __future__ import annotations

import asyncio
import http.client
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from locavore.client.distribution import PackageUpdater
from locavore.shared.errors import BadInputError
from locavore.shared.files import lock_folder

uvicorn = pytest.importorskip("uvicorn", reason="needs the extra 'serve'")

from starlette.applications import Starlette
from starlette.routing import Mount

from locavore.server.repository.app import repository_app
from locavore.server.repository.serving import refreshing

from ...client.distribution.world import NAME, World, files


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(tmp_path_factory.mktemp("world"), layers=(300_000,))
    world.release("1")
    (world.repository.public / "packs" / ".new.tmp").write_bytes(b"unfinished")
    (world.repository.public / "packs" / "out").symlink_to(world.repository.folder / "keys")
    (world.repository.public / "secret.txt").write_bytes(b"left there")
    yield world
    world.close()


@pytest.fixture(scope="module")
def port(world: World) -> Iterator[int]:
    """The app in a server of its own, at its root and mounted below a path."""
    app = repository_app(world.repository.folder)
    both = Starlette(routes=[Mount("/below/here", app), Mount("/", app)])
    server = uvicorn.Server(uvicorn.Config(both, port=0, log_level="warning", ws="none"))
    started = threading.Event()
    begin = server.startup

    async def startup(sockets: list[object] | None = None) -> None:
        await begin(sockets)
        started.set()

    server.startup = startup
    thread = threading.Thread(target=server.run)
    thread.start()
    assert started.wait(30)
    yield server.servers[0].sockets[0].getsockname()[1]
    server.should_exit = True
    thread.join()


class Answer:
    def __init__(self, port: int, method: str, path: str, **headers: str) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request(
            method, path, headers={k.replace("_", "-"): v for k, v in headers.items()}
        )
        response = connection.getresponse()
        self.status, self.headers, self.body = response.status, response.headers, response.read()
        connection.close()


def pack_of(world: World) -> tuple[str, bytes]:
    return next(
        (name, raw)
        for name, raw in files(world.repository.public).items()
        if name.startswith("packs/") and name.endswith(".pack")
    )


def test_every_public_file_is_served(port: int, world: World) -> None:
    for name, raw in files(world.repository.public).items():
        if name.startswith(("metadata", "targets")) or name.endswith(".pack"):
            got = Answer(port, "GET", f"/{name}")
            assert (got.status, got.body) == (200, raw)
            assert got.headers["X-Content-Type-Options"] == "nosniff"
            changing = name in ("metadata/timestamp.json", "metadata/root.json")
            assert ("immutable" in got.headers["Cache-Control"]) is not changing


@pytest.mark.parametrize(
    ("asked", "status", "cut"),
    [
        ("bytes=0-0", 206, slice(0, 1)),
        ("bytes=1000-1999", 206, slice(1000, 2000)),
        ("bytes=1000-", 206, slice(1000, None)),
        ("bytes=-10", 206, slice(-10, None)),
        ("bytes=0-99999999", 206, slice(0, None)),
        ("bytes=99999999-", 416, slice(0, 0)),
    ],
)
def test_ranges(asked: str, status: int, cut: slice, port: int, world: World) -> None:
    name, raw = pack_of(world)
    got = Answer(port, "GET", f"/{name}", Range=asked)
    assert (got.status, got.body) == (status, raw[cut])
    if status == 206:
        start = cut.indices(len(raw))[0]
        assert got.headers["Content-Range"] == (
            f"bytes {start}-{start + len(got.body) - 1}/{len(raw)}"
        )


def test_a_head_has_no_body(port: int, world: World) -> None:
    name, raw = pack_of(world)
    got = Answer(port, "HEAD", f"/{name}")
    assert (got.status, got.body) == (200, b"")
    assert got.headers["Content-Length"] == str(len(raw))
    assert got.headers["Accept-Ranges"] == "bytes"
    assert Answer(port, "HEAD", "/packs/none").status == 404


def test_what_is_known_is_not_sent_again(port: int) -> None:
    tag = Answer(port, "GET", "/metadata/timestamp.json").headers["ETag"]
    got = Answer(port, "GET", "/metadata/timestamp.json", If_None_Match=tag)
    assert (got.status, got.body) == (304, b"")


@pytest.mark.parametrize(
    "path",
    [
        "/",
        "/metadata",
        "/metadata/",
        "/packs/",
        "/none",
        "/metadata/none.json",
        "/metadata/timestamp.json/more",
        "/secret.txt",
        "/packs/.new.tmp",
        "/packs/out/timestamp-1.pem",
        "/../keys/timestamp-1.pem",
        "/packs/../../keys/timestamp-1.pem",
        "/packs/%2e%2e/%2e%2e/keys/timestamp-1.pem",
        "/packs/..%2f..%2fkeys/timestamp-1.pem",
        "/packs/..%5c..%5ckeys/timestamp-1.pem",
        "//etc/passwd",
        "/packs//etc/passwd",
        "/%2fetc/passwd",
        "/metadata/%00",
        "/metadata/" + "a" * 5000,
    ],
)
@pytest.mark.parametrize("prefix", ["", "/below/here"])
def test_nothing_else_is_served(prefix: str, path: str, port: int) -> None:
    got = Answer(port, "GET", prefix + path)
    assert (got.status, got.body) == (404, b"Not Found")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_can_be_sent(method: str, port: int) -> None:
    got = Answer(port, method, "/metadata/timestamp.json")
    assert got.status == 405
    assert got.headers["Allow"] == "GET, HEAD"


@pytest.mark.parametrize("below", ["", "/below/here", "/below/here/"])
def test_a_device_fetches_from_it(below: str, port: int, world: World, tmp_path: Path) -> None:
    device = PackageUpdater(tmp_path / "device", f"http://127.0.0.1:{port}{below}", world.pinned)
    done = device.update(NAME)
    assert files(done.folder) == files(world.folder / "packages" / "tiny-1")


def test_there_must_be_a_repository(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no repository in"):
        repository_app(tmp_path)


def test_the_timestamp_is_renewed_while_it_is_served(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    before = world.metadata("timestamp.json")

    async def until(said: str) -> None:
        task = asyncio.create_task(refreshing(world.repository, every=1e-3))
        while said not in caplog.text:
            await asyncio.sleep(0)
        task.cancel()

    with lock_folder(world.repository.folder):
        asyncio.run(until("the timestamp was not renewed"))
    assert world.metadata("timestamp.json") == before
    asyncio.run(until("timestamp renewed; timestamp expires first"))
    assert world.metadata("timestamp.json") != before
