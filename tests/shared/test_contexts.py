"""Records say what they may be used for, and when they are from."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from locavore.shared.contexts import (
    Consent,
    Context,
    PersonalFaceBody,
    PersonalizedSubject,
    UserBehavior,
    UserDocument,
    UserProfile,
)
from locavore.shared.errors import BadInputError


def test_nothing_is_allowed_unless_it_is_said() -> None:
    consent = UserDocument(body="x").consent
    assert not any(consent.allows(use) for use in ("retrieve", "train", "federate"))


@pytest.mark.parametrize("retrieve", [False, True])
def test_federation_needs_training(retrieve: bool) -> None:
    with pytest.raises(BadInputError, match="federate=True needs train=True"):
        Consent(federate=True, retrieve=retrieve)


def test_each_flag_allows_its_own_use_only() -> None:
    assert Consent(train=True).allows("train")
    assert not Consent(train=True).allows("federate")
    assert not Consent(train=True).allows("retrieve")
    assert all(Consent.full().allows(use) for use in ("retrieve", "train", "federate"))


def test_a_naive_time_is_refused() -> None:
    with pytest.raises(BadInputError, match="must carry a time zone"):
        UserDocument(body="x", time=datetime(2026, 1, 1))


def test_an_empty_id_is_refused() -> None:
    with pytest.raises(BadInputError, match="id must not be empty"):
        UserDocument(body="x", id="")


def test_ids_differ_and_the_default_time_is_aware() -> None:
    a, b = UserDocument(body="x"), UserDocument(body="x")
    assert a.id != b.id
    assert a.time.tzinfo is UTC


@pytest.mark.parametrize("rating", [float("nan"), float("inf")])
def test_a_rating_is_finite(rating: float) -> None:
    with pytest.raises(BadInputError, match="rating must be finite"):
        UserBehavior(item="x", rating=rating)


def test_a_behaviour_checks_its_time_too() -> None:
    with pytest.raises(BadInputError, match="must carry a time zone"):
        UserBehavior(item="x", time=datetime(2026, 1, 1))


@pytest.mark.parametrize(
    ("record", "text"),
    [
        (UserProfile(attributes={"role": "nurse", "tone": "dry"}), "role: nurse\ntone: dry"),
        (UserDocument(body="Hello."), "Hello."),
        (UserDocument(title="Letter", body="Hello."), "Letter\nHello."),
        (UserBehavior(item="Dune"), "used: Dune"),
        (UserBehavior(item="Dune", action="rated", rating=4.5), "rated: Dune (4.5)"),
        (UserBehavior(item="Dune", action="rated", rating=0.0), "rated: Dune (0)"),
        (PersonalFaceBody(media=b"\x89", media_type="image/png", caption="me"), "me"),
        (PersonalFaceBody(media=b"\x89", media_type="image/png"), ""),
        (PersonalizedSubject(name="Minka", caption="my cat"), "Minka: my cat"),
        (PersonalizedSubject(name="Minka"), "Minka"),
    ],
)
def test_the_text_form(record: Context, text: str) -> None:
    assert record.text == text
