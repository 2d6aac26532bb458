from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from locavore.client.concepts import Concept
from locavore.client.device import Device
from locavore.client.vault.entries import Sort
from locavore.shared.adapters import Adapter
from locavore.shared.contexts import Consent, PersonalizedSubject
from locavore.shared.errors import BadInputError

ROWS = np.arange(6, dtype=np.float32).reshape(2, 3)
ADAPTER = Adapter("base-1", {"a.to_q": (np.ones((4, 2), np.float32), np.ones((2, 5), np.float32))})


@pytest.mark.parametrize("adapter", [None, ADAPTER])
def test_a_concept_comes_back_from_bytes(adapter: Adapter | None) -> None:
    concept = Concept("<my-cat>", "cat", "base-1", ROWS, adapter)
    again = Concept.from_bytes(concept.to_bytes())
    assert (again.word, again.kind, again.base_id) == ("<my-cat>", "cat", "base-1")
    assert np.array_equal(again.rows, ROWS)
    assert (again.adapter is None) == (adapter is None)
    assert adapter is None or again.adapter is None or again.adapter.digest == adapter.digest


@pytest.mark.parametrize("word", ["my-cat", "<>", "<my-cat"])
def test_a_word_stands_in_brackets(word: str) -> None:
    with pytest.raises(BadInputError, match="angle brackets"):
        Concept(word, "cat", "base-1", ROWS)


def test_a_concept_goes_with_its_record(tmp_path: Path) -> None:
    record = PersonalizedSubject(
        name="my-cat",
        media=(b"not really a picture",),
        media_type="image/png",
        consent=Consent(train=True),
    )
    with Device.create(tmp_path / "vault", key=bytes(32)) as device:
        device.remember(record)
        with pytest.raises(BadInputError, match="no record 'nobody'"):
            device.store.keep_concept("nobody", Concept("<x>", "cat", "base-1", ROWS))
        device.store.keep_concept(record.id, Concept("<my-cat>", "cat", "base-1", ROWS))
        device.store.keep_concept(record.id, Concept("<my-cat>", "cat", "base-2", ROWS))
        device.store.keep_concept(record.id, Concept("<my-cat>", "cat", "base-1", ROWS, ADAPTER))
    with Device.open(tmp_path / "vault", key=bytes(32)) as device:
        kept = [(one.base_id, one.adapter is not None) for one in device.store.concepts]
        assert kept == [("base-1", True), ("base-2", False)]
        device.forget(record.id)
        assert device.store.concepts == []
        assert device.store.entries.count(Sort.CONCEPT) == 0
