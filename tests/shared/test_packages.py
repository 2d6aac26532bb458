"""Base-model packages: one test per threat."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from locavore.shared.errors import (
    BadInputError,
    IntegrityError,
    PackageError,
    PackageNotFoundError,
)
from locavore.shared.packages import (
    MAX_MANIFEST_BYTES,
    FileEntry,
    Manifest,
    open_package,
    sign_package,
)

FILES = {
    "model.onnx": b"graph",
    "model.onnx.data": bytes(range(256)),
    "config.json": b'{"a": 1}',
    "sub/tokenizer.json": b"{}",
    "empty": b"",
}
MANIFEST, SIGNATURE = "manifest.json", "manifest.sig"


def public(key: Ed25519PrivateKey) -> bytes:
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def sign(folder: Path, key: Ed25519PrivateKey) -> Manifest:
    return sign_package(
        folder, key=key, name="tiny", modality="text", precision="int8", details={"opset": 23}
    )


@pytest.fixture
def folder(tmp_path: Path, key: Ed25519PrivateKey) -> Path:
    for name, raw in FILES.items():
        path = tmp_path / "package" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(raw)
    sign(tmp_path / "package", key)
    return tmp_path / "package"


def edit_manifest(folder: Path, key: Ed25519PrivateKey | None, **changes: Any) -> None:
    """Change the manifest; sign it again when a key is given."""
    raw = json.dumps(json.loads((folder / MANIFEST).read_bytes()) | changes).encode()
    replace_manifest(folder, key, raw)


def replace_manifest(folder: Path, key: Ed25519PrivateKey | None, raw: bytes) -> None:
    (folder / MANIFEST).write_bytes(raw)
    if key is not None:
        signature = key.sign(b"locavore base-model package\x00" + raw)
        (folder / SIGNATURE).write_bytes(b"\x01" + signature)


def test_an_untouched_package_opens(folder: Path, trusted: list[bytes]) -> None:
    package = open_package(folder, trusted=trusted)
    assert set(package.manifest.files) == set(FILES)
    assert package.path("sub/tokenizer.json").read_bytes() == b"{}"
    assert package.json("config.json") == {"a": 1}
    assert package.nbytes == sum(map(len, FILES.values()))
    assert package.manifest.details == {"opset": 23}
    assert package.base_id.startswith("tiny-int8-")


def test_any_of_the_trusted_keys_will_do(folder: Path, trusted: list[bytes]) -> None:
    other = public(Ed25519PrivateKey.generate())
    assert open_package(folder, trusted=[other, *trusted])


@pytest.mark.parametrize("name", [n for n in FILES if n != "empty"])
@pytest.mark.parametrize("at", [0, -1])
def test_a_flipped_bit_in_a_file(name: str, at: int, folder: Path, trusted: list[bytes]) -> None:
    raw = bytearray((folder / name).read_bytes())
    raw[at] ^= 1
    (folder / name).write_bytes(raw)
    with pytest.raises(IntegrityError, match=f"{name} does not match its SHA-256"):
        open_package(folder, trusted=trusted)


@given(
    at=st.integers(0, 10_000), bit=st.integers(0, 7), name=st.sampled_from([MANIFEST, SIGNATURE])
)
def test_a_flipped_bit_in_the_manifest_or_its_signature(
    at: int, bit: int, name: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, key = tmp_path_factory.mktemp("flip"), Ed25519PrivateKey.generate()
    (folder / "file").write_bytes(b"x")
    sign(folder, key)
    raw = bytearray((folder / name).read_bytes())
    raw[at % len(raw)] ^= 1 << bit
    (folder / name).write_bytes(raw)
    with pytest.raises(IntegrityError):
        open_package(folder, trusted=[public(key)])


@pytest.mark.parametrize("name", [n for n in FILES if n != "empty"])
def test_a_truncated_file(name: str, folder: Path, trusted: list[bytes]) -> None:
    (folder / name).write_bytes((folder / name).read_bytes()[:-1])
    with pytest.raises(IntegrityError, match=r"has \d+ bytes, expected"):
        open_package(folder, trusted=trusted)


@pytest.mark.parametrize("name", FILES)
def test_an_extended_file(name: str, folder: Path, trusted: list[bytes]) -> None:
    (folder / name).write_bytes((folder / name).read_bytes() + b"\0")
    with pytest.raises(IntegrityError, match=r"has \d+ bytes, expected"):
        open_package(folder, trusted=trusted)


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file(name: str, folder: Path, trusted: list[bytes]) -> None:
    (folder / name).unlink()
    with pytest.raises(IntegrityError, match=f"{name} is missing"):
        open_package(folder, trusted=trusted)


def test_a_folder_in_place_of_a_file(folder: Path, trusted: list[bytes]) -> None:
    (folder / "config.json").unlink()
    (folder / "config.json").mkdir()
    with pytest.raises(IntegrityError, match="is missing"):
        open_package(folder, trusted=trusted)


def test_a_missing_signature(folder: Path, trusted: list[bytes]) -> None:
    (folder / SIGNATURE).unlink()
    with pytest.raises(IntegrityError, match="unsigned"):
        open_package(folder, trusted=trusted)


@pytest.mark.parametrize(
    "forge", [lambda raw: raw[1:], lambda raw: b"\x02" + raw[1:], lambda _: b""]
)
def test_a_signature_of_unknown_version(
    forge: Callable[[bytes], bytes], folder: Path, trusted: list[bytes]
) -> None:
    (folder / SIGNATURE).write_bytes(forge(b"\x02" + (folder / SIGNATURE).read_bytes()[1:]))
    with pytest.raises(IntegrityError):
        open_package(folder, trusted=trusted)


@pytest.mark.parametrize("raw", [b"\x01", b"\x01" + bytes(64), b"\x01" + bytes(63)])
def test_a_wrong_signature(raw: bytes, folder: Path, trusted: list[bytes]) -> None:
    (folder / SIGNATURE).write_bytes(raw)
    with pytest.raises(IntegrityError, match="not signed by any of the 1 trusted keys"):
        open_package(folder, trusted=trusted)


def test_a_signature_made_for_another_purpose(
    folder: Path, key: Ed25519PrivateKey, trusted: list[bytes]
) -> None:
    raw = (folder / MANIFEST).read_bytes()
    (folder / SIGNATURE).write_bytes(b"\x01" + key.sign(raw))
    with pytest.raises(IntegrityError, match="not signed by any"):
        open_package(folder, trusted=trusted)


def test_an_untrusted_key(folder: Path) -> None:
    with pytest.raises(IntegrityError, match="not signed by any of the 1 trusted keys"):
        open_package(folder, trusted=[public(Ed25519PrivateKey.generate())])


def test_no_trusted_key_trusts_nobody(folder: Path) -> None:
    with pytest.raises(IntegrityError, match="not signed by any of the 0 trusted keys"):
        open_package(folder, trusted=[])


def test_an_edited_manifest(folder: Path, trusted: list[bytes]) -> None:
    edit_manifest(folder, None, precision="float32")
    with pytest.raises(IntegrityError, match="tampered with"):
        open_package(folder, trusted=trusted)


def test_a_manifest_that_drops_a_file(folder: Path, trusted: list[bytes]) -> None:
    files = json.loads((folder / MANIFEST).read_bytes())["files"]
    del files["config.json"]
    edit_manifest(folder, None, files=files)
    with pytest.raises(IntegrityError, match="tampered with"):
        open_package(folder, trusted=trusted)


@pytest.mark.parametrize("kind", ["relative", "absolute", "parent", "link"])
def test_a_name_that_leads_out_of_the_package(
    kind: str, folder: Path, key: Ed25519PrivateKey, trusted: list[bytes]
) -> None:
    secret = folder.parent / "secret"
    secret.write_bytes(b"secret")
    name = {"relative": "../secret", "absolute": str(secret), "parent": "..", "link": "link"}[kind]
    if kind == "link":
        (folder / "link").symlink_to(secret)
    entry = FileEntry.of(secret)
    files = {name: {"length": entry.length, "sha256": entry.sha256}}
    edit_manifest(folder, key, files=files)
    with pytest.raises(IntegrityError, match="names a file outside of it"):
        open_package(folder, trusted=trusted)


@pytest.mark.parametrize("number", [0, 2, "1", None])
def test_an_unknown_format(
    number: object, folder: Path, key: Ed25519PrivateKey, trusted: list[bytes]
) -> None:
    edit_manifest(folder, key, format=number)
    with pytest.raises(PackageError, match="is not known, expected 1"):
        open_package(folder, trusted=trusted)


@pytest.mark.parametrize(
    "raw",
    [b"", b"{", b"[]", b"\xff", b'{"format": 1}', b'{"format": 1, "files": []}'],
)
def test_a_signed_manifest_that_is_none(
    raw: bytes, folder: Path, key: Ed25519PrivateKey, trusted: list[bytes]
) -> None:
    replace_manifest(folder, key, raw)
    with pytest.raises(PackageError, match=r"manifest\.json cannot be read"):
        open_package(folder, trusted=trusted)


def test_a_huge_manifest_is_not_even_read(folder: Path, trusted: list[bytes]) -> None:
    with (folder / MANIFEST).open("r+b") as stream:
        stream.truncate(MAX_MANIFEST_BYTES + 1)
    with pytest.raises(IntegrityError, match="is larger than"):
        open_package(folder, trusted=trusted)


@pytest.mark.parametrize("name", ["extra.bin", MANIFEST, SIGNATURE, "../package/config.json"])
def test_what_is_not_listed_is_not_served(name: str, folder: Path, trusted: list[bytes]) -> None:
    (folder / "extra.bin").write_bytes(b"planted")
    package = open_package(folder, trusted=trusted)
    with pytest.raises(PackageError, match="has no file"):
        package.path(name)


def test_no_package(tmp_path: Path, trusted: list[bytes]) -> None:
    with pytest.raises(PackageNotFoundError, match="locavore base build"):
        open_package(tmp_path, trusted=trusted)
    with pytest.raises(PackageNotFoundError):
        open_package(tmp_path / "missing", trusted=trusted)


def test_an_empty_folder_is_not_signed(tmp_path: Path, key: Ed25519PrivateKey) -> None:
    with pytest.raises(BadInputError, match="holds no files"):
        sign(tmp_path, key)


def test_the_base_id_names_the_content(folder: Path, key: Ed25519PrivateKey) -> None:
    before = sign(folder, key).base_id
    assert sign(folder, key).base_id == before
    (folder / "config.json").write_bytes(b'{"a": 2}')
    assert sign(folder, key).base_id != before


def test_a_manifest_reads_back(folder: Path, key: Ed25519PrivateKey) -> None:
    manifest = sign(folder, key)
    assert Manifest.from_json(manifest.to_json()) == manifest
