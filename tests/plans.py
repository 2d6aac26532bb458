"""Privacy plans for tests."""

from __future__ import annotations

from typing import Any

from locavore.privacy.plan import RecordPlan, UserPlan

__all__ = ["record_plan", "user_plan"]


def record_plan(**changes: Any) -> RecordPlan:
    """A plan per record, for neighbours that differ by one record."""
    return RecordPlan(**({"relation": "add-or-remove-one"} | changes))


def user_plan(**changes: Any) -> UserPlan:
    """A plan per user, with a trusted server."""
    settings: dict[str, Any] = {
        "relation": "add-or-remove-one",
        "trust": "central",
        "cohort": 4,
        "clip": 1.0,
    }
    return UserPlan(**(settings | changes))
