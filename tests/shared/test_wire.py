"""The allow-list: what is on it passes, everything else is refused by name."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from locavore.shared.errors import PrivacyError, WireError
from locavore.shared.wire import (
    MESSAGE_TYPES,
    WIRE,
    Broadcast,
    check_incoming,
    check_outgoing,
    describe,
    silence_flower,
)

PLAN = "ab" * 32
DIM = 4
Draft = dict[str, dict[str, Any]]


def update() -> Draft:
    return {
        "arrays": {"delta": np.arange(DIM, dtype=np.float32)},
        "config": {"plan": PLAN, "round": 3},
    }


def broadcast() -> Draft:
    sent = Broadcast(np.ones(DIM, np.float32), 3, PLAN, "tiny-float32-0123").records()
    return {name: dict(record) for name, record in sent.items()}


def check(records: Draft) -> None:
    check_outgoing(records, phase="train", dim=DIM, plan=PLAN, round=3)


def put(record: str, key: str, value: object) -> Callable[[Draft], None]:
    return lambda draft: draft.setdefault(record, {}).update({key: value})


def test_the_table_lists_every_message_and_only_one_vector_leaves() -> None:
    assert set(WIRE) == {f"{phase} {way}" for phase in MESSAGE_TYPES for way in ("down", "up")}
    up = {
        name: row["arrays"]
        for name, row in WIRE.items()
        if name.endswith(" up") and "arrays" in row
    }
    assert up == {"train up": {"delta": "vector"}, "mask up": {"masked": "packed"}}
    assert {name: set(keys) for name, keys in WIRE["train up"].items()} == {
        "arrays": {"delta"},
        "config": {"plan", "round"},
    }
    assert not WIRE["evaluate up"]


def test_the_table_cannot_be_extended_at_run_time() -> None:
    with pytest.raises(TypeError):
        WIRE["query up"] = {}  # type: ignore[index]


def test_a_proper_update_passes() -> None:
    check(update())


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (put("metrics", "loss", 0.5), "'metrics' is not on the allow-list"),
        (put("arrays", "private_adapter", np.zeros(2, np.float32)), "'private_adapter'"),
        (put("config", "num-examples", 12), "'num-examples'"),
        (put("arrays", "delta", np.zeros(DIM + 1, np.float32)), r"\(4,\), got float32 of shape"),
        (put("arrays", "delta", np.zeros((DIM, 1), np.float32)), r"\(4, 1\)"),
        (put("arrays", "delta", np.zeros(DIM, np.float64)), "float64"),
        (put("arrays", "delta", np.zeros(DIM, ">f4")), ">f4"),
        (put("arrays", "delta", [0.0] * DIM), "got list"),
        (put("arrays", "delta", np.ma.zeros(DIM, np.float32)), "got MaskedArray"),
        (put("arrays", "delta", np.array([0, np.nan, np.inf, 0], np.float32)), "got 2 values"),
        (put("config", "round", True), "config.round .* got True"),
        (put("config", "round", 0), "whole number from 1, got 0"),
        (put("config", "round", 2), "round must be 3"),
        (put("config", "plan", "cd" * 32), "plan must be 'abab"),
        (put("config", "plan", "my address"), "64 lower-case hex digits, got 'my address'"),
        (lambda draft: draft.pop("config"), "'config' is missing"),
        (lambda draft: draft["arrays"].clear(), "'delta' is missing"),
    ],
)
def test_anything_else_is_refused_by_name(spoil: Callable[[Draft], None], said: str) -> None:
    draft = update()
    spoil(draft)
    with pytest.raises(WireError, match=said):
        check(draft)


def test_a_wire_error_is_a_privacy_error() -> None:
    assert issubclass(WireError, PrivacyError)


def test_a_long_strange_value_is_not_repeated_in_full() -> None:
    draft = update()
    draft["config"]["x" * 10_000] = 1
    with pytest.raises(WireError) as caught:
        check(draft)
    assert len(str(caught.value)) < 300


def test_an_acknowledgement_is_empty() -> None:
    check_outgoing({}, phase="evaluate", dim=DIM, plan=PLAN, round=3)
    with pytest.raises(WireError, match=r"'metrics'.*allowed is nothing"):
        check_outgoing({"metrics": {"loss": 1.0}}, phase="evaluate", dim=DIM, plan=PLAN, round=3)


def test_a_broadcast_comes_back_typed() -> None:
    found = check_incoming(broadcast(), phase="train")
    assert (found.round, found.plan, found.base) == (3, PLAN, "tiny-float32-0123")
    np.testing.assert_array_equal(found.theta, np.ones(DIM, np.float32))


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (put("config", "learning-rate", 0.1), "'learning-rate' is not on the allow-list"),
        (put("config", "dim", 5), r"shape \(5,\), got float32 of shape \(4,\)"),
        (put("config", "dim", "4"), "config.dim .* got '4'"),
        (put("config", "base", ""), "text of 1..200 characters"),
        (put("arrays", "theta", np.full(DIM, np.nan, np.float32)), "finite, got 4"),
        (put("code", "pickle", b"..."), "'code'"),
        (lambda draft: draft.pop("config"), "'config' is missing"),
    ],
)
def test_a_broadcast_is_checked_as_strictly(spoil: Callable[[Draft], None], said: str) -> None:
    draft = broadcast()
    spoil(draft)
    with pytest.raises(WireError, match=said):
        check_incoming(draft, phase="evaluate")


class Broken:
    def numpy(self) -> object:
        raise ValueError("secret bytes")


def test_describe_names_an_array_that_cannot_be_decoded_without_its_content() -> None:
    with pytest.raises(WireError, match="'delta' cannot be decoded: ValueError") as caught:
        describe({"arrays": {"delta": Broken()}})
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(("users", "expected"), [(None, "0"), ("1", "1")])
def test_telemetry_is_off_unless_the_user_asked_for_it(
    monkeypatch: pytest.MonkeyPatch, users: str | None, expected: str
) -> None:
    for name in ("FLWR_TELEMETRY_ENABLED", "FLWR_DISABLE_UPDATE_CHECK"):
        monkeypatch.setenv(name, "to be restored")
        monkeypatch.delenv(name)
    if users is not None:
        monkeypatch.setenv("FLWR_TELEMETRY_ENABLED", users)
    loaded = ModuleType("flwr.supercore.telemetry")
    loaded.__dict__["FLWR_TELEMETRY_ENABLED"] = "1"
    monkeypatch.setitem(sys.modules, "flwr.supercore.telemetry", loaded)
    silence_flower()
    assert vars(loaded)["FLWR_TELEMETRY_ENABLED"] == expected
