"""What a person writes about shows in an adapter without noise, and not in a noised update."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'train'")

from locavore.client.audit.attributes import AttributeAudit, guessed, most_accurate, sketch
from locavore.client.audit.canaries import QuietNoise
from locavore.client.runtime import TextModel
from locavore.client.training.private import PrivateTraining
from locavore.client.training.text import TextTwin
from locavore.privacy.noise import insecure_seeded_noise
from locavore.shared.adapters import Adapter, compose
from locavore.shared.errors import BadInputError
from locavore.shared.forms import Directions

from ...plans import record_plan, user_plan


def audit(
    twin: TextTwin, model: TextModel, directions: Directions, **changes: Any
) -> AttributeAudit:
    settings: dict[str, Any] = {
        "twin": twin,
        "model": model,
        "directions": directions,
        "plan": record_plan(expected_batch=8, rounds=1, clip=3.0),
        "users": user_plan(trust="local", cohort=1, rounds=1, noise_multiplier=2.0),
        "people": 40,
        "each": 8,
        "private": PrivateTraining(rank=2, steps=2, batch=8, learning_rate=1e-2),
        "noise": lambda person: insecure_seeded_noise(1, person),
    }
    return AttributeAudit(**(settings | changes))


def test_a_topic_shows_without_noise_and_not_with_noise_for_users(
    twin: TextTwin, model: TextModel, directions: Directions
) -> None:
    section = audit(twin, model, directions).section()
    rows = {row[0]: row[1:] for row in section.figures[1].data["rows"]}
    assert all(finding.holds for finding in section.findings)
    for name in ("private adapter", "update, no noise"):
        assert rows[name][2] > 0.6  # at least, with 95 % confidence
    low, high = rows["update, noise for users"][2:]
    assert low < 0.5 < high


def test_an_update_that_is_less_noised_than_claimed_is_refuted(
    twin: TextTwin, model: TextModel, directions: Directions
) -> None:
    users = user_plan(
        trust="local", cohort=1, rounds=1, noise_multiplier=20.0, relation="replace-one"
    )
    wide = {"form": "ffa", "rank": 4, "people": 60}
    asked = audit(twin, model, directions, users=users, noise=QuietNoise, **wide)
    assert most_accurate(users) < 0.65
    rows = np.stack([sketch(adapter) for adapter in asked.updates(users)])
    assert not asked.claim(guessed(rows, asked.attributes)).holds


def test_a_sketch_sees_products_and_not_factors() -> None:
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(12, 3)).astype("f4"), rng.normal(size=(3, 8)).astype("f4")
    turn = np.linalg.qr(rng.normal(size=(3, 3)))[0].astype("f4")
    one, same = Adapter("base", {"x": (a, b)}), Adapter("base", {"x": (a @ turn, turn.T @ b)})
    np.testing.assert_allclose(sketch(one), sketch(same), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(sketch(compose(one, one)), 2 * sketch(one), rtol=1e-4)
    assert sketch(one).shape == (36,)
    assert not np.allclose(sketch(one), sketch(Adapter("base", {"x": (a, 2 * b)})))


def test_what_shows_is_guessed_and_what_does_not_is_not() -> None:
    rng = np.random.default_rng(0)
    has = rng.random(400) < 0.5
    rows = rng.normal(size=(400, 50))
    assert 0.4 < guessed(rows, has).accuracy < 0.6
    rows[:, 7] += 3 * has
    found = guessed(rows, has)
    assert found.accuracy > 0.8
    assert found.tried == 200
    assert found.interval[0] < found.accuracy < found.interval[1]


def test_how_accurate_a_guess_can_be_follows_from_epsilon() -> None:
    same = user_plan(trust="local", cohort=1, rounds=1, relation="replace-one")
    odds = math.exp(same.epsilon(1, 1))
    assert most_accurate(same) == pytest.approx(odds / (1 + odds), abs=1e-4)
    apart = user_plan(trust="local", cohort=1, rounds=1)
    twice = math.exp(2 * apart.epsilon(1, 1))
    assert most_accurate(apart) == pytest.approx(twice / (1 + twice), abs=1e-3)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"people": 6}, "at least 8, got 6"),
        ({"plan": record_plan(noise_multiplier=0)}, "without noise"),
        ({"users": user_plan()}, "local trust, got 'central'"),
    ],
)
def test_what_cannot_be_audited_is_refused(
    twin: TextTwin,
    model: TextModel,
    directions: Directions,
    changes: dict[str, Any],
    said: str,
) -> None:
    with pytest.raises(BadInputError, match=said):
        audit(twin, model, directions, **changes)
