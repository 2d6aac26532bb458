"""Fetching, patching, resuming and falling back, with a real server."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from locavore.client.distribution import Limits, PackageUpdater, Update
from locavore.client.distribution.assembly import require_room
from locavore.server.repository.sources import find_source
from locavore.shared.adapters import Adapter, load_adapter, save_adapter
from locavore.shared.chunk_index import MAX_CHUNK_BYTES
from locavore.shared.errors import (
    BadInputError,
    DistributionError,
    DownloadError,
    IntegrityError,
    LocavoreError,
    PackageNotFoundError,
    SelfCheckError,
    UntrustedError,
)
from locavore.shared.files import lock_folder
from locavore.shared.packages import open_package

from .world import NAME, World, Worlds, files, flip

LAYERS = (3_000, 5_000, 200_000, 300_000, 100_000)


def in_use(device: PackageUpdater) -> dict[str, bytes]:
    folder = device.current(NAME)
    assert folder is not None
    return files(folder)


def refuse(_: Path) -> None:
    raise ValueError("nonsense comes out of it")


def test_a_fetched_package_is_the_published_one(world: World) -> None:
    package = world.folder / "packages" / "tiny-1"
    checked: list[dict[str, bytes]] = []
    done = world.device().update(NAME, check=lambda folder: checked.append(files(folder)))
    assert files(done.folder.resolve()) == files(package) == checked[0]
    opened = open_package(done.folder, trusted=world.trusted)
    assert done == Update(
        kind="bases",
        name=NAME,
        version="1",
        base_id=opened.base_id,
        folder=done.folder,
        changed=True,
        nbytes=sum(map(len, files(package).values())),
        received=done.received,
        held=0,
        kept=0,
    )
    assert done.received == world.site.sent


def test_what_is_in_use_is_not_fetched_again(world: World) -> None:
    world.device().update(NAME)
    world.site.log.clear()
    again = world.device().update(NAME)
    assert not again.changed
    assert {path for path, _ in world.site.log} == {
        "metadata/2.root.json",
        "metadata/timestamp.json",
    }


def test_the_latest_version_is_the_highest_number(worlds: Worlds) -> None:
    world = worlds()
    for version in ("1.9", "1.10", "1.2"):
        world.release(version)
    device = world.device()
    assert device.versions(NAME) == ["1.2", "1.9", "1.10"]
    assert device.update(NAME).version == "1.10"
    assert device.update(NAME, version="1.2").version == "1.2"
    with pytest.raises(PackageNotFoundError, match=r"no version 7 of 'tiny' .* 1\.2, 1\.9, 1\.10"):
        device.update(NAME, version="7")


def test_a_patch_of_one_layer_costs_a_twentieth(worlds: Worlds) -> None:
    world = worlds(layers=[150_000] * 40)
    world.release("1")
    device = world.device()
    whole = device.update(NAME)
    world.site.sent = 0
    package = world.release("2", world.patched(17))
    patch = device.update(NAME)
    assert files(patch.folder) == files(package)
    assert patch.received == world.site.sent
    assert world.site.sent <= 0.05 * whole.received
    assert patch.held >= 0.95 * patch.nbytes


def test_bytes_that_move_cost_nothing(worlds: Worlds) -> None:
    world = worlds(layers=[150_000] * 20)
    world.release("1")
    device = world.device()
    whole = device.update(NAME)
    package = world.release("2", [b"a longer header", *world.layers[5:], *world.layers[:5]])
    moved = device.update(NAME)
    assert files(moved.folder) == files(package)
    assert moved.received <= 0.15 * whole.received


def test_the_repository_keeps_a_chunk_once(worlds: Worlds) -> None:
    world = worlds(layers=[150_000] * 40)
    world.release("1")
    packs = world.repository.public / "packs"
    before = sum(path.stat().st_size for path in packs.iterdir())
    world.release("2", world.patched(17))
    assert sum(path.stat().st_size for path in packs.iterdir()) <= 1.05 * before


def test_a_chunk_that_occurs_twice_is_fetched_once(worlds: Worlds) -> None:
    world = worlds(layers=[200_000])
    package = world.release("1", [*world.layers, bytes(1_000_000), *world.layers])
    done = world.device().update(NAME)
    assert files(done.folder) == files(package)
    assert done.received < 800_000
    assert len(world.site.ranges_of("packs/")) == 1


def test_one_request_fetches_a_whole_package(worlds: Worlds) -> None:
    world = worlds(layers=LAYERS)
    world.release("1")
    world.device().update(NAME)
    assert len(world.site.ranges_of("packs/")) == 1


@pytest.mark.parametrize("ranges", [True, False])
def test_a_first_fetch_may_read_several_packs(ranges: bool, worlds: Worlds) -> None:
    world = worlds(layers=LAYERS)
    world.release("1")
    world.release("2", world.patched(3))
    package = world.release("3", world.patched(4, seed=2))
    world.site.ranges = ranges  # a host without them sends whole files; it works all the same
    assert files(world.device().update(NAME).folder) == files(package)


# Broken connections


def start_of(asked: str | None) -> int:
    found = re.fullmatch(r"bytes=(\d+)-\d+", asked or "")
    assert found is not None
    return int(found[1])


def test_a_cut_connection_is_continued_where_it_broke(worlds: Worlds) -> None:
    world = worlds(layers=LAYERS)
    package = world.release("1")
    world.site.cut = 350_000
    done = world.device().update(NAME)
    assert files(done.folder) == files(package)
    assert [start_of(asked) for asked in world.site.ranges_of("packs/")] == [0, 350_000]
    assert world.pauses == [0.5]
    assert done.received == world.site.sent < done.nbytes + 15_000  # nothing twice


def test_a_later_attempt_fetches_only_the_rest(worlds: Worlds) -> None:
    world = worlds(layers=LAYERS)
    package = world.release("1")
    world.site.cut = 350_000
    once = Limits(attempts=1)
    with pytest.raises(DownloadError, match="broke off"):
        world.device(limits=once).update(NAME)
    assert world.device().current(NAME) is None
    done = world.device(limits=once).update(NAME)
    assert files(done.folder) == files(package)
    first, second = map(start_of, world.site.ranges_of("packs/"))
    assert first == 0
    assert 350_000 - MAX_CHUNK_BYTES <= second <= 350_000
    assert second <= done.kept < second + 1000  # kept, not fetched again
    assert done.received <= done.nbytes - second + 15_000


def test_a_server_that_breaks_off_for_ever_is_given_up(worlds: Worlds) -> None:
    world = worlds(layers=LAYERS)
    world.release("1")
    world.site.forge = {
        f"packs/{path.name}": b"" for path in (world.repository.public / "packs").iterdir()
    }
    with pytest.raises(DownloadError, match="broke off"):
        world.device(limits=Limits(attempts=4)).update(NAME)
    assert world.pauses == [0.5, 1.0, 2.0]


def test_a_partial_download_of_another_version_is_dropped(worlds: Worlds) -> None:
    world = worlds(layers=LAYERS)
    world.release("1")
    world.site.cut = 350_000
    with pytest.raises(DownloadError):
        world.device(limits=Limits(attempts=1)).update(NAME)
    package = world.release("2", [b"other"])
    assert files(world.device().update(NAME).folder) == files(package)


def test_a_server_that_sends_another_range(world: World) -> None:
    world.site.lies_about_range = True
    with pytest.raises(DownloadError, match="sent another range"):
        world.device().update(NAME)


def test_a_trickle_is_given_up(worlds: Worlds) -> None:
    world = worlds(layers=LAYERS)
    world.release("1")
    seconds = iter(range(0, 10**9, 3600))
    device = PackageUpdater(
        world.folder / "device",
        world.site.url,
        world.pinned,
        limits=Limits(attempts=1, slowest_bytes_per_second=1e6),
        clock=lambda: next(seconds),
    )
    with pytest.raises(DownloadError, match="less than 1e\\+06 a second"):
        device.update(NAME)


def test_a_silent_server_is_given_up(world: World) -> None:
    world.site.status = 500
    with pytest.raises(DownloadError, match="answers 500"):
        world.device().update(NAME)
    with pytest.raises(DownloadError, match="cannot be reached"):
        world.device(url="http://127.0.0.1:1").update(NAME)


# What is refused


def published(world: World) -> dict[str, bytes]:
    """Every file that a device fetches."""
    return {
        name: raw
        for name, raw in files(world.repository.public).items()
        if name not in ("metadata/root.json", "metadata/1.root.json")
    }


def test_any_flipped_bit_of_any_file_is_refused(worlds: Worlds) -> None:
    world = worlds()
    world.release("1")
    world.repository.rotate("timestamp", now=world.now)
    world.sign_all()
    world.repository.publish(world.now)
    old = ("metadata/1.targets", "metadata/1.snapshot")
    content = {name: raw for name, raw in published(world).items() if not name.startswith(old)}
    assert {name.split("/")[0] for name in content} == {"metadata", "packs", "targets"}

    @settings(max_examples=200, suppress_health_check=list(HealthCheck))
    @given(st.sampled_from(sorted(content)), st.integers(0, 10**9), st.integers(0, 7))
    def flipped(name: str, at: int, bit: int) -> None:
        world.site.forge = {name: flip(content[name], at, bit)}
        shutil.rmtree(world.folder / "device", ignore_errors=True)
        device = world.device()
        with pytest.raises((UntrustedError, IntegrityError, DownloadError)):
            device.update(NAME, check=lambda _: pytest.fail("it was opened"))
        assert device.current(NAME) is None

    flipped()


def test_metadata_has_one_spelling(world: World) -> None:
    raw = world.metadata("timestamp.json")
    digits = range(raw.index(b'"sig":"') + 7, len(raw))
    expires = raw.index(b'"expires":"') + 11
    for at, said in (
        (next(place for place in digits if raw[place : place + 1].isalpha()), "lower-case hex"),
        (raw.index(b"T", expires), "spelt in another way"),
        (raw.index(b"Z", expires), "spelt in another way"),
    ):
        world.site.forge = {"metadata/timestamp.json": flip(raw, at, 5)}  # to the other case
        with pytest.raises(UntrustedError, match=said):
            world.device().update(NAME)


@pytest.mark.parametrize("at", [0, 1000, -1])
def test_a_flipped_bit_on_the_devices_disk_is_found_and_repaired(at: int, world: World) -> None:
    device = world.device()
    data = device.update(NAME).folder / "model.onnx.data"
    data.write_bytes(flip(data.read_bytes(), at))
    with pytest.raises(IntegrityError, match="SHA-256"):
        open_package(data.parent, trusted=world.trusted)
    assert not device.update(NAME).changed  # a poll does not read the files
    repaired = device.update(NAME, recheck=True)
    assert repaired.changed
    assert in_use(device) == files(world.folder / "packages" / "tiny-1")
    with pytest.raises(PackageNotFoundError):
        device.rollback(NAME)  # the damaged one is no version to go back to


def test_a_patch_from_a_damaged_version_is_whole(worlds: Worlds) -> None:
    world = worlds(layers=LAYERS)
    world.release("1")
    device = world.device()
    data = device.update(NAME).folder / "model.onnx.data"
    data.write_bytes(flip(data.read_bytes(), 100_000))
    package = world.release("2", world.patched(4))
    assert files(device.update(NAME).folder) == files(package)


def test_planted_files_do_not_stay(world: World) -> None:
    device = world.device()
    into = device.folder / "bases" / NAME / "next"
    into.mkdir(parents=True)
    (into / "planted.bin").write_bytes(b"planted")
    (into / "link").symlink_to("/etc/passwd")
    done = device.update(NAME)
    assert files(done.folder) == files(world.folder / "packages" / "tiny-1")


@pytest.mark.parametrize(
    ("limits", "error", "said"),
    [
        (Limits(index_bytes=100), DownloadError, "allowed are 100"),
        (Limits(files=2), UntrustedError, "files, allowed are 2"),
        (Limits(package_bytes=1000), UntrustedError, "bytes, allowed are 1000"),
        (Limits(chunk_bytes=1000), UntrustedError, "bytes in a chunk, allowed are 1000"),
        (Limits(timestamp_bytes=100), DownloadError, "more than is allowed"),
    ],
)
def test_limits_hold(limits: Limits, error: type[Exception], said: str, world: World) -> None:
    with pytest.raises(error, match=said):
        world.device(limits=limits).update(NAME)


def test_a_full_disk_is_said_before_the_download(tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match="MB are needed"):
        require_room(tmp_path, 10**18)


@pytest.mark.parametrize("url", ["ftp://host", "host/path", "https://host/?a=1", "http://"])
def test_an_address_that_is_none(url: str, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="a repository's address is"):
        PackageUpdater(tmp_path, url, b"")


@pytest.mark.parametrize("name", ["../evil", "UPPER", "", "a/b"])
def test_a_name_that_is_none(name: str, world: World) -> None:
    with pytest.raises(BadInputError, match="a name is"):
        world.device().update(name)


def test_a_root_that_is_none(world: World) -> None:
    device = PackageUpdater(world.folder / "device", world.site.url, b"{}")
    with pytest.raises(UntrustedError, match="the pinned root cannot be used"):
        device.update(NAME)


def test_only_one_process_updates(world: World) -> None:
    device = world.device()
    device.folder.mkdir()
    with lock_folder(device.folder), pytest.raises(DistributionError, match="another process"):
        device.update(NAME)


def test_a_folder_that_cannot_be_made_is_one_sentence(world: World) -> None:
    (world.folder / "device").write_bytes(b"a file")
    with pytest.raises(DistributionError, match="cannot be written"):
        world.device().update(NAME)


def test_limits_are_above_zero() -> None:
    with pytest.raises(BadInputError, match="limits must be above 0, got attempts 0"):
        Limits(attempts=0)


# Self-checks and falling back


def test_a_failed_check_leaves_the_last_good_version(world: World) -> None:
    device = world.device()
    before = files(device.update(NAME, check=lambda _: None).folder)
    world.release("2", world.patched(1))
    with pytest.raises(SelfCheckError, match=r"failed its check \(nonsense .*; 1-.* stays in use"):
        device.update(NAME, check=refuse)
    assert in_use(device) == before
    assert len(list((device.folder / "bases" / NAME).glob("2-*"))) == 0  # takes no room


def test_a_bad_version_is_not_tried_again(world: World) -> None:
    device = world.device()
    device.update(NAME)
    world.release("2", world.patched(1))
    with pytest.raises(SelfCheckError):
        device.update(NAME, check=refuse)
    world.site.log.clear()
    with pytest.raises(SelfCheckError, match="is not tried again"):
        world.device().update(NAME, check=lambda _: pytest.fail("it was opened"))
    assert not world.site.ranges_of("packs/")
    world.release("3", world.patched(2))
    assert device.update(NAME, check=lambda _: None).version == "3"
    assert device.update(NAME, version="2", again=True).version == "2"


def test_a_check_that_kills_the_process_counts_as_failed(world: World) -> None:
    device = world.device()

    def die(_: Path) -> None:
        raise Killed

    for _ in range(2):
        with pytest.raises(Killed):
            device.update(NAME, check=die)
    with pytest.raises(SelfCheckError, match=r"is not tried again; none is in use"):
        device.update(NAME, check=die)


def test_an_interrupted_check_says_nothing_about_the_package(world: World) -> None:
    def interrupt(_: Path) -> None:
        raise KeyboardInterrupt

    device = world.device()
    for _ in range(5):
        with pytest.raises(KeyboardInterrupt):
            device.update(NAME, check=interrupt)
    assert device.update(NAME, check=lambda _: None).changed


def test_going_back_to_the_version_before(world: World) -> None:
    device = world.device()
    before = files(device.update(NAME).folder)
    with pytest.raises(PackageNotFoundError, match="no version before"):
        device.rollback(NAME)
    world.release("2", world.patched(1))
    device.update(NAME)
    assert files(device.rollback(NAME)) == before == in_use(device)
    with pytest.raises(SelfCheckError, match="is not tried again"):
        device.update(NAME)


def test_only_the_version_before_is_kept(world: World) -> None:
    device = world.device()
    for number in range(2, 5):
        device.update(NAME)
        world.release(str(number), world.patched(number % 3, seed=number))
    device.update(NAME)
    folder = device.folder / "bases" / NAME
    kept = sorted(path.name.split("-")[0] for path in folder.iterdir() if path.is_dir())
    assert kept == ["3", "4", "current", "previous"]
    assert len(list(folder.glob("*.index"))) == 2


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("when", ["before", "after"])
def test_dying_in_any_step_leaves_the_last_good_version(
    when: str, worlds: Worlds, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = worlds()
    old = files(world.release("1"))
    world.device("first").update(NAME, check=lambda _: None)
    new = files(world.release("2", world.patched(1)))
    countdown = 0

    def deadly(real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **named: Any) -> Any:
            nonlocal countdown
            countdown -= 1
            if countdown == 0 and when == "before":
                raise Killed
            result = real(*arguments, **named)
            if countdown == 0:
                raise Killed
            return result

        return call

    for name in ("fsync", "mkdir", "rename", "replace", "rmdir", "symlink", "unlink"):
        monkeypatch.setattr(os, name, deadly(getattr(os, name)))
    steps, alive = 0, False
    while not alive:
        steps += 1
        device = world.device(f"device-{steps}")
        countdown = 0
        shutil.copytree(world.folder / "first", device.folder, symlinks=True)
        countdown = steps
        try:
            device.update(NAME, check=lambda folder: open_package(folder, trusted=world.trusted))
            alive = countdown > 0
        except Killed:
            pass
        countdown = 0
        assert in_use(device) in (old, new)
        assert device.update(NAME).version == "2"
        assert in_use(device) == new
        shutil.rmtree(device.folder)
    assert steps > 20


def test_a_killed_process_leaves_the_last_good_version(world: World) -> None:
    device = world.device()
    before = files(device.update(NAME).folder)
    world.release("2", world.patched(1))
    (world.folder / "root.json").write_bytes(world.pinned)
    code = (
        "import os, pathlib, signal, sys\n"
        "from locavore.client.distribution import PackageUpdater\n"
        "folder, url, root = sys.argv[1:]\n"
        "updater = PackageUpdater(pathlib.Path(folder), url, pathlib.Path(root).read_bytes())\n"
        "updater.update('tiny', check=lambda _: os.kill(os.getpid(), signal.SIGKILL))\n"
    )
    arguments = [str(device.folder), world.site.url, str(world.folder / "root.json")]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        check=False,
    )
    assert done.returncode == -9
    assert in_use(device) == before
    assert device.update(NAME, check=lambda _: None).version == "2"


# Adapters


def adapter(world: World, name: str, value: float) -> Path:
    ones = np.full((4, 1), value, np.float32)
    folder = world.folder / name
    save_adapter(Adapter("tiny-int8-0", {"model.layers.0.mlp.up_proj": (ones, ones.T)}), folder)
    return folder


@pytest.mark.parametrize("online", [True, False])
def test_shared_adapters_travel_the_same_way(online: bool, worlds: Worlds) -> None:
    world = worlds(online_adapters=online)
    world.release("1")
    for number in (1, 2):
        source = find_source(adapter(world, f"adapter-{number}", number), [])
        world.repository.add(source, "shared", str(number), world.now)
        if not online:
            world.sign_all()
        world.repository.publish(world.now)
    device = world.device()
    done = device.update("shared", kind="adapters")
    assert (done.version, done.base_id) == ("2", "tiny-int8-0")
    assert load_adapter(done.folder).factors["model.layers.0.mlp.up_proj"][0][0, 0] == 2
    assert device.update(NAME).version == "1"


def test_the_device_side_imports_nothing_heavy() -> None:
    code = (
        "import sys, locavore.client.distribution\n"
        "print([m for m in ('flwr', 'starlette', 'torch', 'uvicorn') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stderr, done.stdout.strip()) == ("", "[]")


def test_every_error_is_one_line(world: World) -> None:
    world.site.forge = {"metadata/timestamp.json": b"{"}
    with pytest.raises(LocavoreError) as caught:
        world.device().update(NAME)
    assert "\n" not in str(caught.value)
