"""A signed roster: of this federation, by who lets devices in, and no older than what was seen."""

from __future__ import annotations

from dataclasses import replace

import pytest

from locavore.privacy.secagg.roster import SignedRoster
from locavore.shared.errors import SecAggError

from .rounds import identity

KEY, OTHER = identity(0), identity(1)
ADMISSION = KEY.public_key().public_bytes_raw()
TERMS = "ab" * 32
MEMBERS = tuple(identity(i).public_key().public_bytes_raw() for i in range(2, 6))


def signed(version: int = 3) -> SignedRoster:
    return SignedRoster.sign(KEY, TERMS, version, MEMBERS)


def test_a_roster_comes_back_and_holds() -> None:
    back = SignedRoster.from_json(signed().to_json())
    assert back == signed()
    assert back.verified(ADMISSION, TERMS, 3).identities == frozenset(MEMBERS)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        (replace(signed(), identities=MEMBERS[1:]), "not signed by who lets devices in"),
        (replace(signed(), version=9), "not signed by who lets devices in"),
        (SignedRoster.sign(OTHER, TERMS, 3, MEMBERS), "not signed by who lets devices in"),
        (SignedRoster.sign(KEY, "cd" * 32, 3, MEMBERS), "another federation's"),
        (signed(version=2), "roster 2 is older than 3"),
    ],
)
def test_any_other_is_refused(changed: SignedRoster, why: str) -> None:
    with pytest.raises(SecAggError, match=why):
        changed.verified(ADMISSION, TERMS, at_least=3)


@pytest.mark.parametrize("text", ["{", "[]", '{"version": 1}', '{"identities": ["xy"]}'])
def test_what_is_no_roster_is_refused(text: str) -> None:
    with pytest.raises(SecAggError, match="cannot be read"):
        SignedRoster.from_json(text)
