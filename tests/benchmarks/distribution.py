"""Fetching, patching and verifying a package, beside a bare download and bare hashing.

python -m tests.benchmarks distribution [--quick]

The repository is served by its own app on this machine. Downloads run in processes of their own,
whose peak memory is the kernel's figure. Verification reads the signed index and checks every file
against it; it stands beside reading and hashing the same files, in seconds of CPU.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import uvicorn
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from securesystemslib.signer import CryptoSigner

from locavore.client.distribution import PackageUpdater
from locavore.client.distribution.assembly import verify
from locavore.client.distribution.installed import index_beside
from locavore.server.repository.app import repository_app
from locavore.server.repository.keys import load_signer, make_key
from locavore.server.repository.repository import Repository
from locavore.server.repository.sources import base_source
from locavore.shared.packages import FileEntry, open_package, sign_package

from .report import Goal, Options, Report, machine_line

_NAME, _LAYERS = "bench", 40
_VERIFY = Goal(name="verification / hashing", bound=1.1, at_most=True)
_PATCH = Goal(name="bytes of a patch / of the whole", bound=0.05, at_most=True)

_FETCH = """
import json, sys, time
from pathlib import Path
from locavore.client.distribution import PackageUpdater
folder, url, root = sys.argv[1:]
def peak():
    with open("/proc/self/status") as stream:
        return next(int(line.split()[1]) for line in stream if line.startswith("VmHWM"))
before = peak()
begun = time.perf_counter()
done = PackageUpdater(Path(folder), url, Path(root).read_bytes()).update("bench")
seconds = time.perf_counter() - begun
print(json.dumps([seconds, before, peak(), done.received]))
"""
_PLAIN = """
import hashlib, json, os, sys, time, urllib3
from pathlib import Path
folder, url = sys.argv[1:]
Path(folder).mkdir()
def peak():
    with open("/proc/self/status") as stream:
        return next(int(line.split()[1]) for line in stream if line.startswith("VmHWM"))
before = peak()
begun, digest, received = time.perf_counter(), hashlib.sha256(), 0
answer = urllib3.PoolManager().request("GET", url, preload_content=False)
with (Path(folder) / "pack").open("wb") as stream:
    while piece := answer.read1(1 << 16):
        digest.update(piece)
        stream.write(piece)
        received += len(piece)
    stream.flush()
    os.fsync(stream.fileno())
seconds = time.perf_counter() - begun
print(json.dumps([seconds, before, peak(), received]))
"""


class _Publisher:
    """One who holds all keys."""

    def __init__(self, folder: Path, layer_bytes: int) -> None:
        self.folder, self._key = folder, Ed25519PrivateKey.generate()
        self.trusted = [self._key.public_key().public_bytes_raw()]
        self._signers = [self._holder("root"), self._holder("targets")]
        root, targets = ([signer.public_key] for signer in self._signers)
        self.repository = Repository.create(
            folder / "site", root=root, targets=targets, now=datetime.now(UTC)
        )
        generator = np.random.default_rng(0)
        self._layers = [generator.bytes(layer_bytes) for _ in range(_LAYERS)]

    def _holder(self, name: str) -> CryptoSigner:
        make_key(self.folder / f"{name}.pem", b"bench")
        return load_signer(self.folder / f"{name}.pem", lambda _: b"bench")

    def publish(self, version: str) -> tuple[Path, float]:
        """Publish a version, from the second on with one more layer changed; seconds of adding."""
        number = int(version)
        if number > 1:
            size = len(self._layers[number])
            self._layers[number] = np.random.default_rng(number).bytes(size)
        folder = self.folder / f"package-{version}"
        folder.mkdir()
        with (folder / "model.onnx.data").open("wb") as stream:
            stream.writelines(self._layers)
        (folder / "model.onnx").write_bytes(bytes(200_000))
        sign_package(
            folder, key=self._key, name=_NAME, modality="text", precision="int8", details={}
        )
        now = datetime.now(UTC)
        source, begun = base_source(folder, self.trusted), time.perf_counter()
        self.repository.add(source, _NAME, version, now)
        seconds = time.perf_counter() - begun
        for signer in self._signers if number == 1 else self._signers[1:]:
            self.repository.sign(signer)
        self.repository.publish(now)
        return folder, seconds


def run(options: Options) -> Report:
    """Measure; a fetched package that is not the published one is a failure."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        publisher = _Publisher(folder, 200_000 if options.quick else 5_500_000)
        _, adding = publisher.publish("1")
        with _served(publisher.repository) as url:
            return _measure(options, publisher, adding, url)


def _measure(options: Options, publisher: _Publisher, adding: float, url: str) -> Report:
    folder, public = publisher.folder, publisher.repository.public
    root = public / "metadata" / "1.root.json"
    pack = next((public / "packs").glob("*.pack"))
    repeats = 1 if options.quick else 3
    plain, whole = [], []
    for number in range(repeats):
        plain.append(_process(_PLAIN, folder / f"plain-{number}", f"{url}/packs/{pack.name}"))
        whole.append(_process(_FETCH, folder / f"device-{number}", url, root))
    device = PackageUpdater(folder / "device-0", url, root.read_bytes())
    installed = device.current(_NAME)
    assert installed is not None  # it was just fetched
    files = [path for path in installed.rglob("*") if path.is_file()]
    hashing, verifying = _interleaved(
        2 if options.quick else 9,
        lambda: [FileEntry.of(path) for path in files],
        lambda: verify(index_beside(installed), installed),
    )
    polling, _ = _interleaved(2 if options.quick else 9, lambda: device.update(_NAME), list)
    nbytes = sum(path.stat().st_size for path in files)
    latest, patching = publisher.publish("2")
    patch = _process(_FETCH, folder / "device-0", url, root)
    current = device.current(_NAME)
    failures = []
    if current is None or not _same(current, latest):
        failures.append("the patched package is not the published one")
    elif len(open_package(current, trusted=publisher.trusted).manifest.files) != 2:
        failures.append("the patched package has other files")
    first = _median(whole)
    rows = [
        ["hashing the files, CPU", f"{hashing:.3f}", "-", "-"],
        ["verifying the package, CPU", f"{verifying:.3f}", "-", "-"],
        ["refreshing the metadata, CPU", f"{polling:.3f}", "-", "-"],
        ["bare download, hashed", *_cells(_median(plain))],
        ["first fetch", *_cells(first)],
        ["patch of one layer", *_cells(patch)],
        ["adding it (publisher)", f"{adding:.2f}", "-", "-"],
        ["adding the patch (publisher)", f"{patching:.2f}", "-", "-"],
    ]
    return Report(
        benchmark="distribution",
        lines=[
            machine_line(),
            f"a package of {nbytes / 1e6:.0f} MB in {_LAYERS} layers, one of them patched; "
            f"loopback HTTP; medians of {repeats} fetches",
            "peak memory beyond what the process had after its imports",
        ],
        columns=("what", "s", "MB received", "MB of memory beyond"),
        rows=rows,
        ratios={
            _VERIFY.name: verifying / hashing,
            _PATCH.name: patch[3] / first[3],
            "first fetch / bare download, time": first[0] / _median(plain)[0],
            "MB of memory for a first fetch": (first[2] - first[1]) / 1e3,
            "MB of memory for a patch": (patch[2] - patch[1]) / 1e3,
        },
        goals=(_PATCH,) if options.quick else (_VERIFY, _PATCH),
        failures=failures,
    )


def _interleaved(
    repeats: int, first: Callable[[], object], second: Callable[[], object]
) -> tuple[float, float]:
    """Median seconds of CPU of two pieces of work, done in turns."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for work, taken in zip((first, second), times, strict=True):
            begun = time.process_time()
            work()
            taken.append(time.process_time() - begun)
    return statistics.median(times[0]), statistics.median(times[1])


def _process(code: str, *arguments: object) -> list[float]:
    """Seconds, kB of memory before and at the peak, bytes received."""
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    figures: list[float] = json.loads(done.stdout)
    return figures


def _median(figures: list[list[float]]) -> list[float]:
    return [statistics.median(column) for column in zip(*figures, strict=True)]


def _cells(figures: list[float]) -> list[str]:
    seconds, before, peak, received = figures
    return [f"{seconds:.3f}", f"{received / 1e6:.2f}", f"{(peak - before) / 1e3:.1f}"]


def _same(left: Path, right: Path) -> bool:
    names = {path.relative_to(right) for path in right.rglob("*") if path.is_file()}
    return all(FileEntry.of(left / name) == FileEntry.of(right / name) for name in names)


@contextmanager
def _served(repository: Repository) -> Iterator[str]:
    started = threading.Event()
    server = uvicorn.Server(
        uvicorn.Config(repository_app(repository.folder), port=0, log_level="warning", ws="none")
    )
    begin: Any = server.startup

    async def startup(sockets: Any = None) -> None:
        await begin(sockets)
        started.set()

    server.startup = startup  # type: ignore[method-assign]
    thread = threading.Thread(target=server.run)
    thread.start()
    started.wait(30)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join()
