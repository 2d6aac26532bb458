"""Only what is pinned is unpacked, and only what may be shared is pinned."""

from __future__ import annotations

import hashlib
import io
import tarfile
from dataclasses import replace
from pathlib import Path

import pytest

from locavore.export.image_base.assets import CLIP_ART, KEYWORDS, PACKAGES, fetch
from locavore.shared.errors import BadInputError

PERMISSIVE = {"Apache-2.0", "CC-BY-4.0", "CC-PDDC", "MIT"}


def archive(folder: Path, content: str) -> str:
    """Write what npm would have downloaded; its digest."""
    raw = content.encode()
    member = tarfile.TarInfo("package/icons.json")
    member.size = len(raw)
    path = folder / "archives" / "iconify-json-noto-1.2.9.tgz"
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:
        tar.addfile(member, io.BytesIO(raw))
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_every_package_is_pinned_and_may_be_shared() -> None:
    assert {p.licence for p in PACKAGES} <= PERMISSIVE
    assert all(len(bytes.fromhex(p.sha256)) == 32 for p in PACKAGES)
    assert all(p.by and p.source.startswith("https://") for p in PACKAGES)
    keys = [p.key for p in PACKAGES]
    assert len(set(keys)) == len(keys)
    assert {KEYWORDS, *CLIP_ART} <= set(keys)


def test_the_pinned_archive_is_unpacked_once(tmp_path: Path) -> None:
    package = replace(PACKAGES[0], sha256=archive(tmp_path, "{}"))
    home = fetch(package, tmp_path)
    assert (home / "package" / "icons.json").read_text() == "{}"
    (tmp_path / "archives" / "iconify-json-noto-1.2.9.tgz").unlink()
    assert fetch(package, tmp_path) == home


def test_another_archive_is_refused(tmp_path: Path) -> None:
    archive(tmp_path, "{}")
    with pytest.raises(BadInputError, match=rf"{PACKAGES[0].sha256} is pinned"):
        fetch(PACKAGES[0], tmp_path)
    assert not (tmp_path / PACKAGES[0].key).exists()
