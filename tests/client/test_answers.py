"""The very same question gets the very same answer."""

from __future__ import annotations

import numpy as np

from locavore.client.answers import Answers
from locavore.shared.wire import Phase, Records


class Asked:
    """Answers by counting."""

    def __init__(self) -> None:
        self.answers, self.count = Answers(), 0

    def __call__(self, said: Records, *, node: int = 1, phase: Phase = "train") -> object:
        def answer() -> Records:
            self.count += 1
            return {"config": {"count": self.count}}

        return self.answers.of(node, phase, said, answer)["config"]["count"]


def said(value: float = 1.0, round: int = 1) -> Records:
    return {"arrays": {"theta": np.full(3, value, np.float32)}, "config": {"round": round}}


def test_the_same_is_answered_the_same_and_anything_else_anew() -> None:
    asked = Asked()
    assert [asked(said()), asked(said())] == [1, 1]
    assert asked(said(2.0)) == 2
    assert asked(said(2.0, round=2)) == 3
    assert asked(said()) == 4, "only the last answer is kept"


def test_nodes_and_kinds_of_messages_do_not_mix() -> None:
    asked = Asked()
    assert asked(said()) == 1
    assert asked(said(), node=2) == 2
    assert asked(said(), phase="mask") == 3
    assert [asked(said()), asked(said(), node=2), asked(said(), phase="mask")] == [1, 2, 3]


def test_parts_cannot_be_moved_between_fields() -> None:
    asked = Asked()
    assert asked({"config": {"a": b"xy", "b": b"z"}}) == 1
    assert asked({"config": {"a": b"x", "b": b"yz"}}) == 2
    assert asked({"config": {"a": "b'x'", "b": b"yz"}}) == 3
