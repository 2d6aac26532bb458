"""A publisher, a hostile web server and a device, all real, all on this machine."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner

from locavore.client.distribution import Limits, PackageUpdater
from locavore.server.repository.keys import load_public, load_signer, make_key
from locavore.server.repository.repository import Repository
from locavore.server.repository.roles import Validity
from locavore.server.repository.sources import find_source
from locavore.shared.errors import RepositoryError
from locavore.shared.packages import sign_package

PASSPHRASE = b"correct horse"
NAME = "tiny"
PIECE = 1 << 14


@dataclass
class Site:
    """A web server that may do anything with what it serves.

    Args:
        folder: what it serves.
        log: path and Range header of each request.
        sent: bytes of bodies.
        forge: path to other content; None is a 404.
        ranges: whether it knows ranges.
        cut: breaks off after so many more bytes of packs; once.
        endless: paths that never end.
    """

    folder: Path
    log: list[tuple[str, str | None]] = field(default_factory=list)
    sent: int = 0
    forge: dict[str, bytes | None] = field(default_factory=dict)
    ranges: bool = True
    cut: int | None = None
    endless: str = ""
    status: int = 0
    lies_about_range: bool = False
    idle: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def do_GET(self) -> None:
                site.answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                pass  # a device that hangs up is what many tests are about

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def ranges_of(self, part: str) -> list[str | None]:
        return [asked for path, asked in self.log if path.startswith(part)]

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path, asked = request.path.lstrip("/"), request.headers.get("Range")
        self.log.append((path, asked))
        if self.endless and re.fullmatch(self.endless, path):
            self._send_for_ever(request)
            return
        raw = self._content(path)
        if self.status or raw is None:
            request.send_response(self.status or 404)
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        start, stop = 0, len(raw)
        if asked and self.ranges:
            found = re.fullmatch(r"bytes=(\d+)-(\d+)", asked)
            assert found is not None
            start, stop = int(found[1]), min(int(found[2]) + 1, len(raw))
            shown = start + self.lies_about_range
            request.send_response(206)
            request.send_header("Content-Range", f"bytes {shown}-{stop - 1}/{len(raw)}")
        else:
            request.send_response(200)
        request.send_header("Content-Length", str(stop - start))
        request.end_headers()
        self._send(request, raw[start:stop], path)

    def _content(self, path: str) -> bytes | None:
        if path in self.forge:
            return self.forge[path]
        file = self.folder / path
        return file.read_bytes() if file.is_file() else None

    def _send(self, request: BaseHTTPRequestHandler, raw: bytes, path: str) -> None:
        if self.cut is not None and path.startswith("packs/") and len(raw) > self.cut:
            raw, self.cut = raw[: self.cut], None
            request.close_connection = True
        try:
            request.wfile.write(raw)
            self.sent += len(raw)
        except OSError:  # the device has heard enough
            request.close_connection = True

    def _send_for_ever(self, request: BaseHTTPRequestHandler) -> None:
        request.close_connection = True
        request.send_response(200)
        request.end_headers()
        self.idle.clear()
        try:
            while True:
                request.wfile.write(bytes(PIECE))
                self.sent += PIECE
        except OSError:
            self.idle.set()


class World:
    """Who publishes, with all keys; a site that serves it; and a device.

    Args:
        root, targets: how many keys, and how many must sign.
        layers: bytes of each layer of the package.
    """

    def __init__(
        self,
        folder: Path,
        *,
        root: tuple[int, int] = (2, 2),
        targets: tuple[int, int] = (1, 1),
        layers: Sequence[int] = (3_000, 5_000, 40_000),
        online_adapters: bool = False,
        validity: Validity | None = None,
        now: datetime | None = None,
    ) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.key = Ed25519PrivateKey.generate()
        self.now = now or datetime.now(UTC)
        self.roots = [self.holder(f"root-{i}") for i in range(root[0])]
        self.signers = [self.holder(f"targets-{i}") for i in range(targets[0])]
        self.repository = Repository.create(
            folder / "repository",
            root=[signer.public_key for signer in self.roots],
            targets=[signer.public_key for signer in self.signers],
            root_threshold=root[1],
            targets_threshold=targets[1],
            online_adapters=online_adapters,
            validity=validity,
            now=self.now,
        )
        self.enough = [*self.roots[: root[1]], *self.signers[: targets[1]]]
        generator = np.random.default_rng(0)
        self.layers = [generator.bytes(size) for size in layers]
        self.site = Site(self.repository.public)
        self.pauses: list[float] = []

    def holder(self, name: str) -> CryptoSigner:
        path = self.folder / "holders" / f"{name}.pem"
        make_key(path, PASSPHRASE)
        return load_signer(path, lambda _: PASSPHRASE)

    def online(self, role: str, number: int = 1) -> CryptoSigner:
        path = self.repository.folder / "keys" / f"{role}-{number}.pem"
        assert load_public(path)
        return load_signer(path, lambda _: b"")

    @property
    def trusted(self) -> list[bytes]:
        return [self.key.public_key().public_bytes_raw()]

    def package(self, name: str, layers: Sequence[bytes], extra: Sequence[str] = ()) -> Path:
        folder = self.folder / "packages" / name
        folder.mkdir(parents=True)
        (folder / "model.onnx.data").write_bytes(b"".join(layers))
        (folder / "model.onnx").write_bytes(b"graph of " + name.encode())
        (folder / "empty").write_bytes(b"")
        (folder / "sub").mkdir()
        for file in ("sub/tokenizer.json", *extra):
            (folder / file).write_bytes(b"{}")
        sign_package(folder, key=self.key, name=NAME, modality="text", precision="int8", details={})
        return folder

    def sign_all(self) -> None:
        for signer in self.enough:
            with suppress(RepositoryError):  # a holder of whom nothing waits
                self.repository.sign(signer)

    def release(
        self, version: str, layers: Sequence[bytes] | None = None, name: str = NAME
    ) -> Path:
        """Add a version, sign it and publish it."""
        package = self.package(f"{name}-{version}", layers or self.layers)
        self.repository.add(find_source(package, self.trusted), name, version, self.now)
        self.sign_all()
        self.repository.publish(self.now)
        return package

    def patched(self, layer: int, seed: int = 1) -> list[bytes]:
        """The layers, with one of them trained further."""
        layers = list(self.layers)
        layers[layer] = np.random.default_rng(seed).bytes(len(layers[layer]))
        return layers

    @property
    def pinned(self) -> bytes:
        return (self.repository.public / "metadata" / "1.root.json").read_bytes()

    def device(
        self, name: str = "device", *, url: str = "", limits: Limits | None = None
    ) -> PackageUpdater:
        return PackageUpdater(
            self.folder / name,
            url or self.site.url,
            self.pinned,
            limits=limits or Limits(attempts=2),
            pause=self.pauses.append,
        )

    def metadata(self, name: str) -> bytes:
        return (self.repository.public / "metadata" / name).read_bytes()

    def copy_public(self, name: str) -> Path:
        """What a mirror took once."""
        copy = self.folder / name
        shutil.copytree(self.repository.public, copy)
        return copy

    def close(self) -> None:
        self.site.close()


def files(folder: Path) -> dict[str, bytes]:
    """Content of every file below a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def flip(raw: bytes, at: int, bit: int = 0) -> bytes:
    """Bytes with one bit changed."""
    changed = bytearray(raw)
    changed[at % len(raw)] ^= 1 << bit
    return bytes(changed)


Worlds = Callable[..., World]
