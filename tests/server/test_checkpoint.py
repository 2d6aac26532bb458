"""Checkpoints: whole or not there, of this federation or refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from locavore.server.checkpoint import Checkpoint, latest
from locavore.shared.errors import FederationError

PLAN = "ab" * 32


def at(round: int) -> Checkpoint:
    theta = np.full(5, round / 3, np.float32)
    rows = tuple({"round": r, "change_norm": r / 7, "applied": True} for r in range(1, round + 1))
    return Checkpoint(round, theta, "tiny-float32-0123", PLAN, "core", rows)


def test_a_checkpoint_comes_back_bit_for_bit(tmp_path: Path) -> None:
    written = at(3)
    found = Checkpoint.load(written.save(tmp_path))
    assert found.theta.dtype == np.float32
    assert found.theta.tobytes() == written.theta.tobytes()
    assert (found.round, found.base_id, found.plan_digest, found.form, found.history) == (
        written.round,
        written.base_id,
        written.plan_digest,
        written.form,
        written.history,
    )


def test_what_an_optimizer_remembers_comes_back_bit_for_bit(tmp_path: Path) -> None:
    remembered = {"momentum": np.arange(5) / 3, "second": np.arange(5) / 7}
    written = replace(at(2), optimizer=remembered, noise=np.ones((2, 5)))
    path = written.save(tmp_path)
    found = Checkpoint.load(path)
    assert found.optimizer.keys() == remembered.keys()
    assert all(found.optimizer[n].tobytes() == v.tobytes() for n, v in remembered.items())
    assert found.noise is not None
    assert Checkpoint.load(at(3).save(tmp_path)).optimizer == {}
    raw = path.read_bytes()
    place = raw.index(remembered["second"].tobytes())
    path.write_bytes(raw[:place] + b"\x01" + raw[place + 1 :])
    with pytest.raises(FederationError, match="does not match its SHA-256"):
        Checkpoint.load(path)


def test_the_newest_is_found_and_nothing_else_is_left_in_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "made" / "by" / "save"
    for number in (2, 10, 9):
        at(number).save(folder)
    found = latest(folder)
    assert found is not None
    assert found.round == 10
    assert len(list(folder.iterdir())) == 3


def test_an_empty_or_missing_folder_has_none(tmp_path: Path) -> None:
    assert latest(tmp_path) is None
    assert latest(tmp_path / "missing") is None


def test_a_write_that_was_cut_off_does_not_count(tmp_path: Path) -> None:
    whole = at(1).save(tmp_path).read_bytes()
    (tmp_path / ".round-000002.safetensors.tmp").write_bytes(whole[:40])
    found = latest(tmp_path)
    assert found is not None
    assert found.round == 1


def damage_cut(raw: bytes) -> bytes:
    return raw[: len(raw) // 2]


def damage_empty(raw: bytes) -> bytes:
    return b""


def damage_tensor(raw: bytes) -> bytes:
    return raw[:-1] + bytes([raw[-1] ^ 1])


def damage_history(raw: bytes) -> bytes:
    return raw.replace(rb"\"round\": 2", rb"\"round\": 7")


@pytest.mark.parametrize("damage", [damage_cut, damage_empty, damage_tensor, damage_history])
def test_a_damaged_newest_file_gives_way_to_the_one_before(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[bytes], bytes]
) -> None:
    at(1).save(tmp_path)
    newest = at(2).save(tmp_path)
    raw = newest.read_bytes()
    newest.write_bytes(damage(raw))
    assert newest.read_bytes() != raw
    found = latest(tmp_path)
    assert found is not None
    assert found.round == 1
    assert "round-000002.safetensors cannot be read" in caplog.text
    assert "falling back" in caplog.text


def test_only_damaged_files_are_an_error_and_not_a_fresh_start(tmp_path: Path) -> None:
    at(1).save(tmp_path).write_bytes(b"not a checkpoint")
    with pytest.raises(FederationError, match=r"none of the 1 checkpoints .* can be read; restore"):
        latest(tmp_path)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"base_id": "other"}, "base 'tiny-float32-0123', not 'other'"),
        ({"plan_digest": "cd" * 32}, "plan 'abab.*', not 'cdcd"),
        ({"form": "ffa"}, "form 'core', not 'ffa'"),
        ({"dim": 6}, "dim 5, not 6"),
    ],
)
def test_another_federations_checkpoint_is_refused_with_advice(
    change: dict[str, object], said: str
) -> None:
    mine = {"base_id": "tiny-float32-0123", "plan_digest": PLAN, "form": "core", "dim": 5}
    at(4).require(**mine)  # type: ignore[arg-type]
    with pytest.raises(FederationError, match=said) as caught:
        at(4).require(**(mine | change))  # type: ignore[arg-type]
    assert "Use an empty checkpoint folder" in str(caught.value)


def test_a_file_of_a_later_format_is_not_guessed_at(tmp_path: Path) -> None:
    path = at(1).save(tmp_path)
    path.write_bytes(path.read_bytes().replace(b'"format":"1"', b'"format":"9"'))
    with pytest.raises(FederationError, match="format '9', expected '1'"):
        Checkpoint.load(path)


def test_a_federation_with_a_key_goes_on_only_from_what_it_signed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    mine, theirs = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
    signer = mine.public_key()
    at(1).save(tmp_path, mine)
    at(2).save(tmp_path, theirs)
    at(3).save(tmp_path)
    found = latest(tmp_path, signer)
    assert found is not None
    assert found.round == 1
    assert caplog.text.count("is not signed by this federation") == 2
    unsigned = latest(tmp_path)
    assert unsigned is not None
    assert unsigned.round == 3
