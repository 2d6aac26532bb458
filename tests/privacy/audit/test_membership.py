"""Attacks on losses whose distribution is known: they find what is there, and nothing else."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("scipy", reason="needs the extra 'train'")

from locavore.privacy.audit.evidence import Scores
from locavore.privacy.audit.membership import (
    Losses,
    area,
    chance_finding,
    lira_offline,
    lira_online,
    rate_at,
    rmia,
    roc,
)
from locavore.privacy.audit.ngrams import NgramModel
from locavore.privacy.audit.pairing import pairing_finding, pairing_p_value
from locavore.shared.errors import BadInputError


def made_up(gain: float, *, n: int = 400, shadows: int = 16) -> tuple[Losses, Scores]:
    """Records of very different difficulty; a member's loss is lower by ``gain``."""
    rng = np.random.default_rng(0)
    hard = rng.uniform(1, 5, n)
    there = rng.permuted(np.repeat(np.arange(shadows)[:, None] < shadows // 2, n, 1), axis=0)
    member = rng.random(n) < 0.5
    losses = Losses(
        seen=hard - gain * member + rng.normal(0, 0.1, n),
        shadows=hard - gain * there + rng.normal(0, 0.1, (shadows, n)),
        there=there,
        seen_public=rng.uniform(1, 5, 50),
        shadows_public=rng.uniform(1, 5, (shadows, 50)),
    )
    return losses, Scores.of(-losses.seen, member)


@pytest.mark.parametrize("attack", [lira_online, lira_offline, rmia])
def test_shadows_find_what_the_loss_alone_hides(attack: object) -> None:
    losses, raw = made_up(0.3)
    member = np.isin(-losses.seen, raw.included)
    found = area(Scores.of(attack(losses), member))  # type: ignore[operator]
    assert area(raw) < 0.65
    assert found > 0.9


@pytest.mark.parametrize("attack", [lira_online, lira_offline, rmia])
def test_nothing_is_found_where_nothing_was_learned(attack: object) -> None:
    losses, raw = made_up(0.0)
    member = np.isin(-losses.seen, raw.included)
    scores = Scores.of(attack(losses), member)  # type: ignore[operator]
    assert abs(area(scores) - 0.5) < 4 / np.sqrt(12 * 400 / 4)
    found = chance_finding(
        scores, audit="a", observer="one", rng=np.random.default_rng(1), confidence=0.999
    )
    assert found.holds


def test_losses_that_do_not_fit_are_refused() -> None:
    losses, _ = made_up(0.0, n=20, shadows=4)
    fields = {name: getattr(losses, name) for name in Losses.__dataclass_fields__}
    with pytest.raises(BadInputError, match=r"must be \(4, 19\)"):
        Losses(**fields | {"seen": losses.seen[1:]})
    with pytest.raises(BadInputError, match="only 0 of 4"):
        Losses(**fields | {"there": np.ones((4, 20), bool)})
    with pytest.raises(BadInputError, match="public losses"):
        Losses(**fields | {"shadows_public": losses.shadows_public[:, 1:]})


def test_the_area_is_a_members_chance_to_score_higher() -> None:
    rng = np.random.default_rng(2)
    inside = rng.integers(0, 9, 40).astype(np.float64) + 1
    outside = rng.integers(0, 9, 30).astype(np.float64)
    pairs = inside[:, None] - outside[None]
    expected = ((pairs > 0) + (pairs == 0) / 2).mean()
    assert area(Scores(inside, outside)) == pytest.approx(expected)
    away, there = roc(Scores(inside, outside))
    trapezes = np.diff(away) * (np.array(there[1:]) + there[:-1]) / 2
    assert trapezes.sum() == pytest.approx(expected)
    assert (away[0], there[0], away[-1], there[-1]) == (0, 0, 1, 1)


def test_a_rate_is_stated_only_from_enough_others() -> None:
    ramp = np.arange(100, dtype=np.float64)
    scores = Scores(ramp + 0.5, ramp)
    assert rate_at(scores, 0.001) is None
    found = rate_at(scores, 0.1)
    assert found is not None
    assert found.rate == 0.11  # the threshold is 89; 89.5 to 99.5 are above
    assert found.low < 0.06 < 0.18 < found.high
    assert "of 100 members" in str(found)


def test_who_is_told_apart_refutes_chance_and_states_the_counts() -> None:
    rng = np.random.default_rng(3)
    scores = Scores(rng.normal(3, 1, 200), rng.normal(0, 1, 200))
    found = chance_finding(scores, audit="a", observer="one", rng=rng)
    assert not found.holds
    assert "of 100 members" in found.found


def test_a_true_claim_of_chance_is_seldom_refuted() -> None:
    refuted = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        scores = Scores(rng.normal(size=200), rng.normal(size=200))
        refuted += not chance_finding(scores, audit="a", observer="one", rng=rng).holds
    assert refuted <= 20  # 5 % of 200 is 10; more than 20 by chance: 2e-3, and the test is seeded


def test_ngrams_prefer_what_they_have_seen() -> None:
    model = NgramModel([[1, 2, 3, 4], [1, 2, 3, 5]], vocabulary=10)
    assert model.log_likelihood([1, 2, 3]) > model.log_likelihood([3, 2, 1])
    assert model.log_likelihood([]) == 0
    each = [np.exp(model.log_likelihood([token])) for token in range(10)]
    assert sum(each) == pytest.approx(1)


def test_a_pairing_is_told_by_its_own_records() -> None:
    rng = np.random.default_rng(4)
    common = rng.random((8, 8)) * 0.1 + 0.5  # what every release tells of every record
    assert pairing_finding(common, audit="a", what="an update", rng=rng).holds
    found = pairing_finding(common + np.eye(8) * 0.4, audit="a", what="an update", rng=rng)
    assert not found.holds
    assert "against 56 %" in found.found
    assert pairing_p_value(np.ones((4, 4)), rng) == 1
    with pytest.raises(BadInputError, match="6 releases cannot"):
        pairing_finding(common[:6, :6], audit="a", what="an update", rng=rng)
    with pytest.raises(BadInputError, match="at least 4"):
        pairing_p_value(np.ones((3, 3)), rng)
