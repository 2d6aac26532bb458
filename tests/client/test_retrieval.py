"""Retrieval: BM25 as published, consent, recency, and any script."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from locavore.client.retrieval import Retriever, words
from locavore.client.vault.codec import kind_of
from locavore.shared.adapters import Array
from locavore.shared.contexts import Consent, Context, UserDocument, UserProfile
from locavore.shared.errors import BadInputError

NOW = datetime(2026, 5, 1, tzinfo=UTC)
FOUND = Consent(retrieve=True)
TEXTS = [
    "the cat sat on the mat",
    "the dog ate the cat food and the mat",
    "boats sail on the cold sea",
    "a cat, a cat, another cat",
    "cold soup is food for a warm day",
]


def over(records: Sequence[Context], embedder: Any = None) -> Retriever:
    return Retriever.over([(kind_of(one), one) for one in records], embedder)


def record(text: str, age: int = 0, consent: Consent = FOUND) -> Context:
    return UserDocument(body=text, consent=consent, time=NOW - timedelta(days=age))


def retriever(*texts: str) -> Retriever:
    return over([record(text) for text in texts])


def bm25_by_hand(query: str, texts: Sequence[str]) -> list[float]:
    """Robertson and Zaragoza 2009, §3.4, with Lucene's idf; k1 = 1.2, b = 0.75."""
    bags = [text.replace(",", "").split() for text in texts]
    mean = sum(map(len, bags)) / len(bags)
    scores = []
    for bag in bags:
        score = 0.0
        for word in query.split():
            held = sum(word in other for other in bags)
            idf = math.log(1 + (len(bags) - held + 0.5) / (held + 0.5))
            count = bag.count(word)
            score += idf * count * 2.2 / (count + 1.2 * (0.25 + 0.75 * len(bag) / mean))
        scores.append(score)
    return scores


@pytest.mark.parametrize("query", ["cat", "cold food", "the mat", "sea cat day"])
def test_bm25_equals_a_computation_by_hand(query: str) -> None:
    found = retriever(*TEXTS)._bm25(query)
    np.testing.assert_allclose(found, bm25_by_hand(query, TEXTS), rtol=1e-12)


@pytest.mark.parametrize("query", ["cat", "cold food", "the mat", "sea cat day"])
def test_bm25_ranks_as_bm25s_does(query: str) -> None:
    bm25s = pytest.importorskip("bm25s")
    peer: Any = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
    peer.index([words(text) for text in TEXTS], show_progress=False)
    expected = np.asarray(peer.get_scores(words(query)))
    np.testing.assert_allclose(retriever(*TEXTS)._bm25(query) / 2.2, expected, rtol=1e-5)


def test_best_first_and_no_more_than_k() -> None:
    hits = retriever(*TEXTS).retrieve("cat", k=2)
    assert [hit.text for hit in hits] == [TEXTS[3], TEXTS[0]]
    assert hits[0].score > hits[1].score
    assert hits[0].why["words"] == 1


def test_what_shares_nothing_with_the_query_is_never_found() -> None:
    assert retriever(*TEXTS).retrieve("zebra", k=5) == []
    assert {hit.text for hit in retriever(*TEXTS).retrieve("cat", k=5)} == {
        TEXTS[0],
        TEXTS[1],
        TEXTS[3],
    }


def test_the_newest_are_found_without_a_query() -> None:
    long = " ".join(f"word{i}" for i in range(400))  # several passages of one record
    kept = [record("old", 9), record(long, 1), record("middle", 5)]
    hidden = record("hidden", 0, Consent(train=True))
    searched = over([*kept, hidden])
    assert [hit.record for hit in searched.newest(5)] == [kept[1], kept[2], kept[0]]
    assert [hit.record for hit in searched.newest(1, without=[kept[1].id])] == [kept[2]]
    assert searched.newest(0) == []


def test_a_word_given_twice_counts_once() -> None:
    np.testing.assert_array_equal(
        retriever(*TEXTS)._bm25("cat cat"), retriever(*TEXTS)._bm25("cat")
    )


@pytest.mark.parametrize("consent", [Consent(), Consent(train=True, federate=True)])
def test_records_without_consent_to_retrieval_are_left_out(consent: Consent) -> None:
    index = over([record("cat", consent=consent), record("cat food")])
    assert len(index) == 1
    assert [hit.text for hit in index.retrieve("cat")] == ["cat food"]


def test_of_equals_the_newer_comes_first() -> None:
    records = [record("cat one", age=5), record("cat two", age=1), record("cat six", age=3)]
    for order in (records, records[::-1]):
        hits = over(order).retrieve("cat", k=3)
        assert hits[0].text == "cat two"
        assert hits[0].why["recency"] == 1


def test_recency_does_not_beat_a_far_better_match() -> None:
    index = over([record("cat cat cat", age=900), record("a long walk with a cat", age=0)])
    assert index.retrieve("cat", k=1)[0].text == "cat cat cat"


@pytest.mark.parametrize(
    ("query", "found", "other"),
    [
        ("東京の天気", "明日の東京は雨です", "大阪で魚を食べた"),
        ("погода", "Завтра Погода хорошая", "Мы купили рыбу"),
        ("الطقس", "الطقس جميل اليوم", "اشترينا السمك"),
        ("อากาศ", "วันนี้อากาศดีมาก", "เราซื้อปลา"),
        ("दिन", "आज का दिन अच्छा", "दान और धन"),
        ("CAFÉ", "the cafe\u0301 is open", "the cave is open"),
        ("ＡＢＣ", "abc of cooking", "cooking for two"),
        ("straße", "die STRASSE ist lang", "die See ist tief"),
    ],
)
def test_other_scripts(query: str, found: str, other: str) -> None:
    assert [hit.text for hit in retriever(other, found).retrieve(query)] == [found]


def test_an_empty_store_finds_nothing() -> None:
    assert over([]).retrieve("cat") == []
    assert len(over([])) == 0


@pytest.mark.parametrize("query", ["", "   ", "?!", "\ufffd"])
def test_an_empty_query_finds_nothing(query: str) -> None:
    assert retriever(*TEXTS).retrieve(query) == []


def test_records_without_text_are_no_hindrance() -> None:
    index = over([record(""), UserProfile(attributes={}, consent=FOUND), record("cat")])
    assert [hit.text for hit in index.retrieve("cat")] == ["cat"]


@pytest.mark.parametrize("k", [0, -1])
def test_k_below_one_is_refused(k: int) -> None:
    with pytest.raises(BadInputError, match=f"k must be at least 1, got {k}"):
        retriever("cat").retrieve("cat", k)


def test_a_long_document_is_found_by_passage() -> None:
    """Ten megabytes, with one needle."""
    filler = "the quick brown fox jumps over the lazy dog again and again. "
    half = filler * (5_000_000 // len(filler))
    index = over([record(half + "A needle lies here. " + half)])
    (hit,) = index.retrieve("needle")
    assert "needle" in hit.text
    assert len(hit.text.split()) <= 120
    assert len(index) > 10_000


class _Axes:
    """An embedder of three known directions."""

    name = "axes"

    def embed(self, texts: Sequence[str]) -> Array:
        rows = [[("cat" in t or "feline" in t), "dog" in t, 0.1] for t in texts]
        raw = np.array(rows, np.float32)
        unit: Array = raw / np.linalg.norm(raw, axis=1, keepdims=True)
        return unit


def test_meaning_finds_what_words_do_not() -> None:
    records = [record("my cat sleeps"), record("my dog barks")]
    assert over(records).retrieve("feline") == []
    hits = over(records, _Axes()).retrieve("feline", k=1)
    assert hits[0].text == "my cat sleeps"
    assert hits[0].why["meaning"] == 1
    assert "words" not in hits[0].why
