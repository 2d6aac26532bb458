"""``locavore repo`` and ``locavore base fetch``, as their users meet them."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from locavore.cli import app
from locavore.home import bases_folder, find_base, signing_key
from locavore.shared.adapters import Adapter, save_adapter
from locavore.shared.errors import LocavoreError
from locavore.shared.packages import sign_package

MACHINE = ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME")


def done(*arguments: object) -> str:
    """What a command prints; it must succeed."""
    result = CliRunner().invoke(app, [str(word) for word in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def refused(*arguments: object) -> LocavoreError:
    """The error of a command that cannot be done."""
    result = CliRunner().invoke(app, [str(word) for word in arguments])
    assert isinstance(result.exception, LocavoreError), result.exception
    return result.exception


@pytest.fixture(autouse=True)
def passphrase(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAVORE_REPO_PASSPHRASE", "six random words")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A repository of two root holders and one who signs packages; nothing is signed yet."""
    for name in ("ann", "bob", "tia"):
        said = done("repo", "key", tmp_path / f"{name}.pem")
        assert "which only its passphrase opens" in said
    said = done(
        *("repo", "init", tmp_path / "site", "--root-threshold", 2),
        *("--root", tmp_path / "ann.pub", "--root", tmp_path / "bob.pub"),
        *("--targets", tmp_path / "tia.pub"),
    )
    assert "root version 1 waits for 2 signature(s), of any of ann" in said
    return tmp_path / "site"


def build(folder: Path, layer: int = 0) -> Path:
    """A base of this user's making."""
    folder.mkdir()
    layers = [np.random.default_rng(i + 100 * (i == layer)).bytes(60_000) for i in range(40)]
    (folder / "model.onnx.data").write_bytes(b"".join(layers))
    (folder / "CARD.md").write_text("a card")
    sign_package(
        folder, key=signing_key(), name="tiny", modality="text", precision="int8", details={}
    )
    return folder


def sign(site: Path, *names: str) -> str:
    return "".join(
        done("repo", "sign", site, "--key", site.parent / f"{name}.pem") for name in names
    )


@pytest.fixture
def host() -> Iterator[Callable[[Path], str]]:
    """A plain static host that knows no ranges."""
    running: list[tuple[ThreadingHTTPServer, threading.Thread]] = []

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    def serve(folder: Path) -> str:
        server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder))
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}"

    yield serve
    for server, thread in running:
        server.shutdown()
        thread.join()
        server.server_close()


def test_from_keys_to_a_device(
    site: Path, host: Callable[[Path], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = done("repo", "add", site, build(tmp_path / "tiny"), "--version", "1.0")
    assert "added tiny 1.0 to bases: 2.40 MB, of which 2.4" in said
    assert "lacks 2 signature(s)" in str(refused("repo", "publish", site))
    assert "waits for 1 signature(s), of any of bob" in sign(site, "ann")
    said = sign(site, "bob", "tia")
    assert "root: 2 of ann" in said
    assert "bases tiny 1.0: 2.40 MB, tiny-int8-" in said
    assert "everything is signed" in said
    assert "devices pin" in done("repo", "publish", site)
    shown = done("repo", "show", site)
    assert shown.count("published") == 4
    assert "2 of 2" in shown
    (tmp_path / "root.json").write_bytes((site / "public/metadata/root.json").read_bytes())
    address = host(site / "public")
    fetch = ("base", "fetch", "tiny", "--repo", address, "--root", tmp_path / "root.json")
    publisher = {name: os.environ[name] for name in MACHINE}

    def at(machine: dict[str, str]) -> None:
        for name, value in machine.items():
            monkeypatch.setenv(name, value)

    device = {name: str(tmp_path / "device" / name) for name in MACHINE}
    at(device)  # another machine, which has never seen the publisher's key
    assert "fetched tiny 1.0, tiny-int8-" in done(*fetch)
    assert done("base", "verify", "tiny").startswith("ok: tiny-int8-")
    assert "tiny" in done("base", "list")
    assert "a card" in done("base", "show", "tiny")
    assert "is in use already" in done(*fetch)
    first = find_base("tiny").base_id
    shutil.copytree(bases_folder() / "tiny", tmp_path / "copy")
    said = str(refused("base", "verify", tmp_path / "copy"))
    assert "not signed by any" in said  # what a repository vouches for is trusted in its place

    at(publisher)
    done("repo", "add", site, build(tmp_path / "next", 7), "--version", "1.1", "--name", "tiny")
    sign(site, "tia")
    done("repo", "publish", site)
    at(device)
    assert "fetched tiny 1.1" in done(*fetch)
    assert find_base("tiny").base_id != first
    assert "fetched tiny 1.0" in done(*fetch, "--version", "1.0")
    assert find_base("tiny").base_id == first

    data = (bases_folder() / "tiny" / "model.onnx.data").resolve()
    data.write_bytes(data.read_bytes()[:-1] + b"\0")
    assert "SHA-256" in str(refused("base", "verify", "tiny"))
    assert "fetched tiny 1.0" in done(*fetch, "--version", "1.0")
    assert done("base", "verify", "tiny").startswith("ok: ")


def test_a_version_that_is_withdrawn(
    site: Path, host: Callable[[Path], str], tmp_path: Path
) -> None:
    done("repo", "add", site, build(tmp_path / "tiny"), "--version", "1")
    done("repo", "add", site, build(tmp_path / "next", 7), "--version", "2", "--name", "tiny")
    sign(site, "ann", "bob", "tia")
    done("repo", "publish", site)
    root = site / "public" / "metadata" / "root.json"
    fetch = ("base", "fetch", "tiny", "--repo", host(site / "public"), "--root", root)
    assert "fetched tiny 2" in done(*fetch)
    assert "tiny 2 is withdrawn" in done("repo", "withdraw", site, "tiny", "2")
    assert "freed 0.00 MB" in done("repo", "tidy", site)  # it is offered until then
    sign(site, "tia")
    done("repo", "publish", site)
    assert "freed 0.2" in done("repo", "tidy", site)
    assert len(list((site / "public" / "packs").iterdir())) == 1
    assert "fetched tiny 1" in done(*fetch)
    assert "is not listed in bases" in str(refused("repo", "withdraw", site, "tiny", "2"))


def test_rotation(site: Path) -> None:
    sign(site, "ann", "bob", "tia")
    done("repo", "publish", site)
    assert "the keys of timestamp change" in done("repo", "rotate", site, "timestamp")
    folder = site.parent
    done(
        "repo", "rotate", site, "targets", "--drop", folder / "tia.pub", "--add", folder / "bob.pub"
    )
    done("repo", "rotate", site, "root", "--threshold", 1)
    assert "lacks 2 of ann" in " ".join(done("repo", "show", site).split())
    sign(site, "ann", "bob")
    done("repo", "publish", site)
    assert "timestamp until" in done("repo", "refresh", site)
    said = done("repo", "sign", site, "--key", folder / "ann.pem", "--renew", "root")
    assert "root version 3, until" in said
    assert "signed root as ann" in said


def test_adapters_by_the_servers_key(tmp_path: Path) -> None:
    done("repo", "key", tmp_path / "ann.pem")
    site, public = tmp_path / "site", tmp_path / "ann.pub"
    done("repo", "init", site, "--root", public, "--targets", public, "--online-adapters")
    sign(site, "ann")
    done("repo", "publish", site)
    ones = np.ones((4, 1), np.float32)
    save_adapter(Adapter("tiny-int8-0", {"a": (ones, ones.T)}), tmp_path / "shared")
    said = done("repo", "add", site, tmp_path / "shared", "--version", "1")
    assert "added shared 1 to adapters" in said
    assert "everything is signed" in said
    done("repo", "publish", site)
    assert "adapters shared 1" in done("repo", "show", site)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("repo", "show", "nowhere"), 2, "locavore repo init"),
        (("repo", "serve", "nowhere"), 2, "locavore repo init"),
        (("repo", "add", "{site}", "nowhere", "--version", "1"), 2, "neither a base-model package"),
        (("repo", "sign", "{site}", "--key", "none.pem"), 2, "none.pub is no public key"),
        (("repo", "sign", "{site}", "--key", "{site}/../ann.pem", "--renew", "x"), 2, "only root"),
        (("repo", "rotate", "{site}", "mirror"), 2, "role must be one of"),
        (("repo", "refresh", "{site}"), 10, "was not published yet"),
        (("repo", "key", "{site}/../ann.pem"), 2, "never written over"),
        (
            ("repo", "init", "{site}", "--root", "{site}/../ann.pub", "--targets", "none.pub"),
            2,
            "none.pub is no public key",
        ),
        (("base", "fetch", "x", "--repo", "http://a", "--root", "none.json"), 2, "no root"),
        (
            ("base", "fetch", "x", "--repo", "a", "--root", "{site}/staged/root.json"),
            2,
            "http(s)://host/path, got 'a'",
        ),
        (
            (
                "base",
                "fetch",
                "x",
                "--repo",
                "http://127.0.0.1:1",
                "--root",
                "{site}/staged/root.json",
            ),
            10,
            "the pinned root cannot be used",
        ),
    ],
)
def test_mistakes(arguments: tuple[str, ...], code: int, said: str, site: Path) -> None:
    error = refused(*(word.replace("{site}", str(site)) for word in arguments))
    assert (error.exit_code, said in str(error)) == (code, True), str(error)


def test_a_wrong_or_empty_passphrase(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAVORE_REPO_PASSPHRASE", "wrong")
    key = site.parent / "ann.pem"
    assert "the passphrase is wrong" in str(refused("repo", "sign", site, "--key", key))
    monkeypatch.setenv("LOCAVORE_REPO_PASSPHRASE", "")
    assert "must not be empty" in str(refused("repo", "sign", site, "--key", key))
    monkeypatch.delenv("LOCAVORE_REPO_PASSPHRASE")
    result = CliRunner().invoke(
        app, ["repo", "sign", str(site), "--key", str(key)], input="six random words\n"
    )
    assert "signed root" in result.output


def test_a_base_that_was_built_here_is_not_replaced(
    site: Path, host: Callable[[Path], str], tmp_path: Path
) -> None:
    bases_folder().mkdir(parents=True)
    done("repo", "add", site, build(bases_folder() / "tiny"), "--version", "1")
    sign(site, "ann", "bob", "tia")
    done("repo", "publish", site)
    root = site / "public" / "metadata" / "root.json"
    address = host(site / "public")
    error = refused("base", "fetch", "tiny", "--repo", address, "--root", root)
    assert "was built on this machine" in str(error)
    assert not (bases_folder() / "tiny").is_symlink()


def test_serving_until_interrupted(site: Path, tmp_path: Path) -> None:
    pytest.importorskip("uvicorn", reason="needs the extra 'serve'")
    done("repo", "add", site, build(tmp_path / "tiny"), "--version", "1")
    sign(site, "ann", "bob", "tia")
    done("repo", "publish", site)
    command = [sys.executable, "-u", "-W", "ignore", "-m", "locavore.cli", "repo", "serve"]
    with subprocess.Popen(
        [*command, str(site), "--port", "0"], stdout=subprocess.PIPE, text=True
    ) as serving:
        assert serving.stdout is not None
        said = serving.stdout.readline()
        assert "serving" in said
        address = said.split()[-1]
        root = site / "public" / "metadata" / "root.json"
        try:
            assert "fetched tiny 1" in done(
                "base", "fetch", "tiny", "--repo", address, "--root", root
            )
            port = address.rsplit(":", 1)[1]
            error = refused("repo", "serve", site, "--port", port)
            assert "cannot be listened on" in str(error)
        finally:
            serving.send_signal(signal.SIGINT)
            serving.wait(30)
