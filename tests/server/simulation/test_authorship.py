import sys

import numpy as np
import pytest

from locavore.server.simulation.authorship import AuthorshipScorer
from locavore.server.simulation.corpus import Corpus, load_sotu
from locavore.shared.errors import BadInputError, MissingExtraError, TooLittleDataError


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return load_sotu()


@pytest.fixture(scope="module")
def scorer(corpus: Corpus) -> AuthorshipScorer:
    return AuthorshipScorer.fit(corpus.public, seed=0)


def texts(corpus: Corpus, held_out: bool) -> dict[str, list[str]]:
    return {
        person.name: [d.body for d in (person.held_out if held_out else person.train)]
        for person in corpus.people
    }


def test_most_unseen_authors_are_recognized_by_eight_passages(
    corpus: Corpus, scorer: AuthorshipScorer
) -> None:
    references = texts(corpus, held_out=False)
    right = sum(
        name == max(references, key=lambda other: scorer.similarity(passages, references[other]))
        for name, passages in texts(corpus, held_out=True).items()
    )
    assert right >= 6  # of 8; chance is 1


def test_real_texts_score_one_and_strangers_about_zero(
    corpus: Corpus, scorer: AuthorshipScorer
) -> None:
    held_out, references = texts(corpus, held_out=True), texts(corpus, held_out=False)
    own = "barack_obama"
    others = {name: passages for name, passages in held_out.items() if name != own}
    real = scorer.calibrated(held_out[own], references[own], held_out[own], others)
    assert real.score == pytest.approx(1.0)
    assert real.ceiling > 0.5 > 0.2 > real.floor
    strangers = [
        scorer.calibrated(passages, references[own], held_out[own], others).score
        for passages in others.values()
    ]
    known = [score for score in strangers if score is not None]
    assert len(known) == 7
    assert np.mean(known) == pytest.approx(0.0, abs=0.1)


def test_an_author_who_cannot_be_told_apart_gets_no_score(
    corpus: Corpus, scorer: AuthorshipScorer
) -> None:
    held_out, references = texts(corpus, held_out=True), texts(corpus, held_out=False)
    own = references["barack_obama"]
    result = scorer.calibrated(own[:8], own, held_out["thomas_jefferson"], {"self": own[8:]})
    assert result.score is None
    assert "hardly closer" in result.reason
    assert result.similarity > 0.5


def test_texts_are_compared_at_the_same_number_and_length(scorer: AuthorshipScorer) -> None:
    generated, own = ["We must act now."] * 2, ["The union is strong, and we know it."] * 2
    long = ["The committee reports that the revenue has grown. " * 20, "tail"]
    cut = [long[0][: len(generated[0])], "tail"]
    results = [scorer.calibrated(generated, own, own, {"a": other}) for other in (long, cut)]
    assert results[0].floor == results[1].floor
    assert results[0].floor != scorer.similarity(long, own)


def test_an_embedding_is_a_unit_vector_or_nothing(scorer: AuthorshipScorer) -> None:
    assert np.linalg.norm(scorer.embed("My fellow citizens")) == pytest.approx(1.0)
    assert not scorer.embed("  ").any()
    assert scorer.similarity([""], ["My fellow citizens"]) == 0.0


def test_the_same_seed_gives_the_same_scorer(corpus: Corpus) -> None:
    few = {name: corpus.public[name][:6] for name in ("abraham_lincoln", "john_f_kennedy")}
    first, second = (AuthorshipScorer.fit(few, seed=3).embed("Fellow citizens") for _ in range(2))
    np.testing.assert_allclose(first, second, atol=1e-9)


def test_tiny_public_sets_are_legal_and_smaller_ones_refused() -> None:
    tiny = {"a": ["one two", "two three"], "b": ["four five", "five six"]}
    assert np.linalg.norm(AuthorshipScorer.fit(tiny, seed=0).embed("two")) == pytest.approx(1.0)
    with pytest.raises(TooLittleDataError, match="got 1"):
        AuthorshipScorer.fit({"a": ["x", "y"]}, seed=0)
    with pytest.raises(TooLittleDataError, match="author 'b' needs 2 texts or more, got 1"):
        AuthorshipScorer.fit({"a": ["x", "y"], "b": ["z"]}, seed=0)


def test_empty_sets_are_refused(scorer: AuthorshipScorer) -> None:
    with pytest.raises(BadInputError, match="empty set"):
        scorer.similarity([], ["text"])
    with pytest.raises(BadInputError, match="other author"):
        scorer.calibrated(["a"], ["b"], ["c"], {})


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.decomposition", None)
    with pytest.raises(MissingExtraError, match=r"locavore\[simulate\]"):
        AuthorshipScorer.fit({"a": ["x", "y"], "b": ["x", "y"]}, seed=0)
