"""Verdicts in a person's records become choices between two answers to one request."""

from __future__ import annotations

from locavore.client.preferences import Choice, choices, judged, likes, worth_imitating, written
from locavore.shared.contexts import Context, UserBehavior, UserDocument


def answer(
    name: str,
    action: str = "rated",
    rating: float | None = None,
    item: str = "red apple",
    media_type: str = "image/png",
) -> Context:
    return UserBehavior(
        id=name, action=action, rating=rating, item=item, media=b"x", media_type=media_type
    )


def named(found: list[Choice]) -> list[str]:
    return sorted(f"{liked.id}>{disliked.id}" for liked, disliked in found)


def test_liked_is_chosen_over_disliked_of_the_same_request() -> None:
    records = [
        answer("a", "liked"),
        answer("b", "disliked"),
        answer("c", "liked", item=" red apple "),
        answer("d", "disliked", item="green apple"),
        answer("e", "disliked", media_type="text/plain"),
        answer("f", "drew"),
        UserBehavior(item="red apple", action="disliked"),
        UserDocument(body="red apple"),
    ]
    assert named(choices(records)) == ["a>b", "c>b"]
    assert [record.id for record in likes(records)] == ["a", "c"]


def test_ratings_are_compared_with_ratings_and_equal_ones_choose_nothing() -> None:
    records = [
        answer("a", rating=5),
        answer("b", rating=2),
        answer("c", rating=2),
        answer("d", "liked"),
        answer("e", "liked", rating=1),
    ]
    assert named(choices(records)) == ["a>b", "a>c"]
    assert likes(records) == records[3:]


def test_every_choice_holds_a_new_record() -> None:
    before = [answer("a", "liked"), answer("b", "disliked")]
    assert choices([], before) == []
    assert named(choices([answer("c", "disliked")], before)) == ["a>c"]
    assert named(choices([answer("c", "liked"), answer("d", "disliked")], before)) == [
        "a>d",
        "c>b",
        "c>d",
    ]


def test_what_was_not_liked_is_not_imitated() -> None:
    told = {
        answer("a", "liked"): True,
        answer("b", "disliked"): False,
        answer("c", rating=5): False,
        answer("d", "drew"): True,
        UserBehavior(item="Dune", action="disliked"): True,  # a fact, and no answer
    }
    assert {record: worth_imitating(record) for record in told} == told
    assert [judged(record) for record in told] == [True, True, True, False, False]


def test_a_text_that_answers_is_written_with_its_request() -> None:
    for item, said in (("Dear Ann,", b" hi!"), ("Dear Ann,", b"hi!\n"), ("Dear Ann, ", b"hi!")):
        note = UserBehavior(item=item, action="liked", media=said, media_type="text/plain")
        assert written(note) == "Dear Ann, hi!"
    assert written(UserDocument(body="hi")) == "hi"
