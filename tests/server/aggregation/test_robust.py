"""Robust averages: liars do not move them far, and honest devices are averaged."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("flwr", reason="the federation needs the extra 'federate'")

from locavore.server.aggregation import ROBUST, RobustMean
from locavore.shared.errors import BadInputError

COMPARING = [kind for kind in ROBUST if kind != "norm-bound"]


def updates(
    seed: int, count: int = 11, dim: int = 6
) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    rng = np.random.default_rng(seed)
    return 1.0 + 0.1 * rng.standard_normal((count, dim))


@pytest.mark.parametrize("kind", ROBUST)
def test_honest_updates_are_averaged(kind: str) -> None:
    rows = updates(1)
    found = RobustMean(kind=kind).of(rows)  # type: ignore[arg-type]
    assert np.abs(found - rows.mean(0)).max() < 0.25


@settings(max_examples=25)
@given(
    seed=st.integers(0, 999),
    kind=st.sampled_from(COMPARING),
    lie=st.sampled_from([1e6, -1e6, 1e12, 100.0]),
)
def test_liars_do_not_move_it_far(seed: int, kind: str, lie: float) -> None:
    rows = updates(seed)
    honest = rows[2:].mean(0)
    rows[:2] = lie
    assert np.abs(RobustMean(kind=kind, liars=0.2).of(rows) - honest).max() < 0.5  # type: ignore[arg-type]
    assert np.abs(rows.mean(0) - honest).max() > 10


def test_a_bound_holds_for_every_update() -> None:
    rows = updates(3)
    rows[0] *= 1e9
    found = RobustMean(kind="norm-bound", bound=1.0).of(rows)
    assert np.linalg.norm(found) <= 1 + 1e-9
    assert np.abs(RobustMean(kind="norm-bound").of(rows) - rows[1:].mean(0)).max() < 0.5


@settings(max_examples=25)
@given(seed=st.integers(0, 999), kind=st.sampled_from(ROBUST), order=st.permutations(range(11)))
def test_the_order_changes_no_bit(seed: int, kind: str, order: list[int]) -> None:
    rows = updates(seed)
    how = RobustMean(kind=kind)  # type: ignore[arg-type]
    assert how.of(rows[order]).tobytes() == how.of(rows).tobytes()


def test_krum_is_one_of_the_updates() -> None:
    rows = updates(5)
    found = RobustMean(kind="krum").of(rows)
    assert any(np.array_equal(found, row) for row in rows)
    many = RobustMean(kind="multi-krum", liars=0.2).of(rows)
    assert not any(np.array_equal(many, row) for row in rows)


def test_krum_needs_enough_neighbours() -> None:
    how = RobustMean(kind="krum", liars=0.2)
    assert how.fewest() == 5
    with pytest.raises(BadInputError, match=r"krum with liars 0.2 needs at least 5 updates, got 4"):
        how.of(updates(1, count=4))
    assert how.of(updates(1, count=5)).shape == (6,)
    for liars in (0.0, 0.1, 0.3, 0.45):
        krum = RobustMean(kind="krum", liars=liars)
        for count in range(krum.fewest(), 60):
            assert count >= 2 * krum._faulty(count) + 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "mode"}, "'mode'"),
        ({"liars": 0.5}, "liars must be 0 or more and below 0.5, got 0.5"),
        ({"bound": 0.0}, "bound must be above 0, got 0.0"),
    ],
)
def test_settings_are_checked(change: dict[str, object], said: str) -> None:
    with pytest.raises(BadInputError, match=said):
        RobustMean(**({"kind": "median"} | change))  # type: ignore[arg-type]
