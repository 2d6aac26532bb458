"""Honest rounds: the sum is the survivors', bit for bit, whoever disappears and when."""

from __future__ import annotations

import contextlib
import os

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from locavore.privacy.secagg.masks import add_masks, pack, packed_bytes, unpack
from locavore.privacy.secagg.session import SecureSum, Session
from locavore.privacy.secagg.shamir import SEED_BYTES, combine, split
from locavore.shared.errors import BadInputError, SecAggError

from .rounds import Round


def test_the_sum_is_exact() -> None:
    world = Round(8).to("all")
    assert (world.server.total() == world.expected()).all()
    assert world.server.survivors() == tuple(range(8))
    assert len(world.server.transcript) == 64


@settings(max_examples=25, deadline=None)
@given(
    devices=st.integers(3, 12),
    bits=st.sampled_from([16, 17, 24, 32]),
    data=st.data(),
    seed=st.integers(0, 9),
)
def test_whoever_disappears(devices: int, bits: int, data: st.DataObject, seed: int) -> None:
    rules = SecureSum(bits=bits, agreement=0.51, threshold=0.3, neighbours=6)
    world = Round(devices, seed=seed, rules=rules)
    gone: set[int] = set()
    try:
        world.advertise()
        for step in (world.share, world.mask, world.confirm, world.open):
            gone |= data.draw(st.sets(st.integers(0, devices - 1), max_size=2))
            step(gone)
        total = world.server.total()
    except SecAggError as error:
        refused = str(error)
    else:
        refused = ""
        assert (total == world.expected()).all()
    assert not refused or "needed" in refused or "needs" in refused  # too many are gone


def test_a_vector_tells_nothing_by_itself() -> None:
    world = Round(6, dim=20_000).to("mask")
    world.vectors[2][:] = 7
    masked = world.devices[2].mask(world.vectors[2], world.server.inbox(2))
    counts = np.bincount(masked >> 12, minlength=16)
    assert np.square(counts - 1250).sum() / 1250 < 45  # χ² with 15 degrees of freedom, p = 1e-4
    again = Round(6, dim=20_000, seed=1).to("mask")
    other = again.devices[2].mask(world.vectors[2], again.server.inbox(2))
    assert (masked != other).mean() > 0.99


def test_too_many_gone_ends_the_round_with_a_sentence() -> None:
    world = Round(8, rules=SecureSum(agreement=0.6))
    world.advertise()
    world.share(gone=[0, 1, 2])
    with pytest.raises(SecAggError, match="4 devices have sent their vectors, 5 are needed"):
        world.mask(gone=[0, 1, 2, 3])
        world.server.survivors()


def test_too_few_shares_end_the_round_with_a_sentence() -> None:
    world = Round(9, rules=SecureSum(agreement=0.51, threshold=0.8)).to("open")
    world.open(gone=[0, 1, 2])
    with pytest.raises(SecAggError, match=r"shares of device .* were opened, 7 are needed"):
        world.server.total()


def test_thousands_draw_sparse_neighbours() -> None:
    world = Round(60, rules=SecureSum(neighbours=8)).to("confirm")
    drawn = [len(shares.neighbours) for shares in world.server._shares.values()]
    assert set(drawn) == {8}
    world.confirm()
    world.open()
    assert (world.server.total() == world.expected()).all()


@pytest.mark.parametrize("bits", [16, 17, 20, 31, 32])
def test_packing(bits: int) -> None:
    kind = np.uint16 if bits == 16 else np.uint32
    words = np.random.default_rng(0).integers(0, 1 << bits, 1001, np.uint64).astype(kind)
    packed = pack(words, bits)
    assert packed.nbytes == packed_bytes(1001, bits)
    assert (unpack(packed, 1001, bits) == words).all()


@pytest.mark.parametrize("dim", [1, 16_384, 16_385, 40_000])
def test_masks_cancel_whatever_the_length(dim: int) -> None:
    total = np.arange(dim).astype(np.uint16)
    keys = [os.urandom(16) for _ in range(3)]
    add_masks(total, [(key, 1) for key in keys])
    assert dim == 1 or (total != np.arange(dim).astype(np.uint16)).any()
    add_masks(total, [(key, -1) for key in reversed(keys)])
    assert (total == np.arange(dim).astype(np.uint16)).all()


@given(st.binary(min_size=32, max_size=32), st.integers(1, 12), st.integers(0, 5))
def test_shares(seed: bytes, threshold: int, more: int) -> None:
    points = [3 * i + 1 for i in range(threshold + more)]
    shares = dict(zip(points, split(seed, points, threshold, os.urandom), strict=True))
    chosen = points[more:]
    assert combine({point: shares[point] for point in chosen}) == seed
    if threshold > 1:
        fewer = {point: shares[point] for point in chosen[1:]}
        with contextlib.suppress(SecAggError):
            assert combine(fewer) != seed


@pytest.mark.parametrize("seed", [bytes(32), b"\xff" * 32])
def test_extreme_seeds(seed: bytes) -> None:
    shares = dict(zip([1, 2, 3], split(seed, [1, 2, 3], 2, os.urandom), strict=True))
    assert combine({1: shares[1], 3: shares[3]}) == seed


def test_bad_parameters() -> None:
    with pytest.raises(BadInputError, match=r"bits must be 16..32, got 8; .*got 0.5: two halves"):
        SecureSum(bits=8, agreement=0.5)
    with pytest.raises(SecAggError, match=r"threshold must be 1..2, got 3"):
        split(bytes(SEED_BYTES), [1, 2], 3, os.urandom)
    with pytest.raises(SecAggError, match="distinct and from 1"):
        split(bytes(SEED_BYTES), [1, 1], 2, os.urandom)


def test_everything_that_is_agreed_is_in_the_session() -> None:
    world = Round(3)
    base = vars(world.session)
    changes: list[dict[str, object]] = [
        {"plan": "b" * 64},
        {"round": 2},
        {"dim": 51},
        {"fewest": 4},
        {"roster": "c" * 64},
        {"rules": SecureSum(threshold=0.4)},
        {"nonce": bytes(15) + b"1"},
    ]
    ids = {Session(**(base | change)).id for change in changes}
    assert len(ids | {world.session.id}) == 8


def test_the_bound_on_failures() -> None:
    rules = SecureSum(neighbours=20, threshold=0.25)
    assert rules.failure(1000, 0.0) == 0
    assert rules.failure(1000, 0.3) == pytest.approx(0.043, abs=0.002)  # P(Bin(20, .7) < 6)
