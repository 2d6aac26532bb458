"""The journal of a round: what was written is read again, to the byte."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from locavore.privacy.secagg.session import Roster
from locavore.server.journal import Journal
from locavore.server.replies import Replies
from locavore.shared.errors import FederationError
from locavore.shared.wire import Records


def test_a_round_that_has_not_begun_knows_nothing(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, 4)
    assert journal.asked is None
    assert journal.heard("share") is None
    assert not list(tmp_path.iterdir())


def test_a_round_begins_once(tmp_path: Path) -> None:
    first = Journal.open(tmp_path, 4)
    roster = Roster([bytes(32), bytes(range(32))])
    first.begin([7, 9, 2**63], roster)
    again = Journal.open(tmp_path, 4)
    again.begin([1])
    assert (again.asked, again.nonce) == ((7, 9, 2**63), first.nonce)
    assert again.roster is not None
    assert again.roster.digest == roster.digest
    assert len(first.nonce) == 16
    assert Journal.open(tmp_path, 5).asked is None


def test_what_was_heard_comes_back_to_the_byte(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, 1)
    journal.begin([2**63, 3])
    packed = np.arange(9, dtype=np.uint8)
    good: dict[int, Records] = {
        2**63: {
            "config": {"round": 1, "plan": "ab", "sealed": bytes(range(256))},
            "arrays": {"masked": packed},
        },
        3: {"config": {"round": 1, "plan": "ab", "sealed": b""}},
    }
    journal.write("mask", Replies(good, 1, 2, 3))
    heard = Journal.open(tmp_path, 1).heard("mask")
    assert heard is not None
    assert (heard.failed, heard.refused, heard.silent) == (1, 2, 3)
    assert heard.good[3] == good[3]
    assert heard.good[2**63]["config"] == good[2**63]["config"]
    found = heard.good[2**63]["arrays"]["masked"]
    assert isinstance(found, np.ndarray)
    assert (found.dtype, found.tobytes()) == (packed.dtype, packed.tobytes())


def test_a_phase_without_good_replies_is_over_too(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, 1)
    journal.begin([1])
    journal.write("share", Replies({}, 0, 0, 1))
    assert journal.heard("share") == Replies({}, 0, 0, 1)


def test_a_round_that_is_over_leaves_nothing(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path, 1)
    journal.begin([1])
    journal.delete()
    journal.delete()
    assert not list(tmp_path.iterdir())


def test_a_spoilt_beginning_is_not_guessed_at(tmp_path: Path) -> None:
    Journal.open(tmp_path, 1).begin([1])
    (tmp_path / "round-000001.journal" / "begin").write_bytes(b"{")
    with pytest.raises(FederationError, match=r"cannot be read.*to ask round 1 anew"):
        Journal.open(tmp_path, 1)


def test_another_plans_round_is_not_gone_on_with(tmp_path: Path) -> None:
    Journal.open(tmp_path, 1, "ab").begin([1])
    assert Journal.open(tmp_path, 1, "ab").asked == (1,)
    with pytest.raises(FederationError, match="it is of plan 'ab', not 'cd'"):
        Journal.open(tmp_path, 1, "cd")
