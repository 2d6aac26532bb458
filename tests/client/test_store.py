"""One contract for every store."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from locavore.client.store import ContextStore, MemoryStore
from locavore.shared.contexts import Context, UserBehavior, UserDocument, UserProfile
from locavore.shared.errors import BadInputError

NOW = datetime(2026, 5, 1, tzinfo=UTC)


class StoreContract:
    """What holds for every ContextStore."""

    make: Callable[[], ContextStore]

    @pytest.fixture
    def store(self) -> ContextStore:
        return type(self).make()

    def test_a_new_store_is_empty(self, store: ContextStore) -> None:
        assert len(store) == 0
        assert list(store) == []

    def test_what_is_added_can_be_read(self, store: ContextStore) -> None:
        records: list[Context] = [
            UserDocument(body="a"),
            UserProfile(attributes={"x": "y"}),
            UserBehavior(item="b"),
        ]
        for record in records:
            store.add(record)
        assert len(store) == 3
        for record in records:
            assert store.get(record.id) == record

    def test_iteration_is_oldest_first(self, store: ContextStore) -> None:
        for days in (3, 1, 2):
            store.add(UserDocument(body=str(days), time=NOW - timedelta(days=days)))
        assert [record.text for record in store] == ["3", "2", "1"]
        assert [record.text for record in store] == ["3", "2", "1"]  # and again

    def test_records_of_one_time_have_an_order(self, store: ContextStore) -> None:
        for name in "bca":
            store.add(UserDocument(body=name, id=name, time=NOW))
        assert [record.id for record in store] == ["a", "b", "c"]

    def test_a_taken_id_is_refused(self, store: ContextStore) -> None:
        store.add(UserDocument(body="first", id="x"))
        with pytest.raises(BadInputError, match="'x' already"):
            store.add(UserDocument(body="second", id="x"))
        assert store.get("x").text == "first"

    def test_what_is_removed_is_gone(self, store: ContextStore) -> None:
        store.add(UserDocument(body="a", id="x"))
        store.add(UserDocument(body="b", id="y"))
        store.remove("x")
        assert [record.id for record in store] == ["y"]
        assert len(store) == 1
        with pytest.raises(BadInputError, match="no record 'x'"):
            store.get("x")
        store.add(UserDocument(body="again", id="x"))
        assert store.get("x").text == "again"

    def test_an_unknown_id_is_refused(self, store: ContextStore) -> None:
        with pytest.raises(BadInputError, match="no record 'x'"):
            store.get("x")
        with pytest.raises(BadInputError, match="no record 'x'"):
            store.remove("x")


class TestMemoryStore(StoreContract):
    make = MemoryStore
