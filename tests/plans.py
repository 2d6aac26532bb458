"""Privacy plans for tests."""

from __future__ import annotations

from typing import Any

from locavore.privacy.plan import PrivacyPlan

__all__ = ["record_plan"]


def record_plan(**changes: Any) -> PrivacyPlan:
    """A plan per record, for neighbours that differ by one record."""
    return PrivacyPlan(**({"unit": "record", "relation": "add-or-remove-one"} | changes))
