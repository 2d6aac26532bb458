"""Guidance: what is known in short, within a budget, and a reason for doing nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from locavore.client.device import Device
from locavore.client.prompt import Prompt
from locavore.client.runtime import Generation, TextModel, Told
from locavore.client.user_model import Guidance, UserModel
from locavore.shared.contexts import (
    Consent,
    Context,
    Instruction,
    UserBehavior,
    UserDocument,
    UserProfile,
)

NOW = datetime(2026, 5, 1, tzinfo=UTC)
FOUND = Consent(retrieve=True)


def behavior(item: str, rating: float | None = None) -> Context:
    return UserBehavior(item=item, action="rated", rating=rating, consent=FOUND)


def test_the_latest_profile_counts_and_consent_is_asked() -> None:
    records: list[Context] = [
        UserProfile(attributes={"role": "nurse", "city": "Bern"}, consent=FOUND),
        UserProfile(attributes={"role": "doctor"}, consent=FOUND),
        UserProfile(attributes={"secret": "x"}),
    ]
    assert UserModel.of(records).sentences == ["role: doctor", "city: Bern"]


def test_behaviors_are_summed_up_best_first_and_few_are_none() -> None:
    few = [behavior("a", 5), behavior("b", 1)]
    assert UserModel.of(few).sentences == []
    many = [*few, behavior("a", 4), behavior("c", 3), behavior("d"), behavior("e", 2)]
    assert UserModel.of(many).sentences == ["rated: a (4.5) (2 times), c (3), e (2) and 2 more"]


@given(st.integers(0, 60), st.lists(st.text(min_size=1, max_size=20), max_size=5))
def test_the_budget_is_kept(budget: int, values: list[str]) -> None:
    profile = UserProfile(attributes={str(i): v for i, v in enumerate(values)}, consent=FOUND)
    model = UserModel.of([profile])
    guidance = model.guidance([], budget=budget, cost=len)
    assert guidance.tokens <= budget
    assert sum(len(sentence) + 1 for sentence in guidance.about) == guidance.tokens


def device(model: TextModel) -> Device:
    made = Device(model)
    for days in range(30):
        body = f"The goat number {days} eats the grass."
        made.remember(UserDocument(body=body, time=NOW + timedelta(days=days), consent=FOUND))
    return made


def guide(person: Device, request: str, *, budget: int = 100, k: int = 4) -> Guidance:
    return person.guide(request, budget=budget, cost=lambda text: len(text.split()), k=k)


def prompt(person: Device, instruction: Instruction) -> Prompt:
    told = person.request(instruction, k=1)
    assert isinstance(told, Told)
    return told.prompt


def test_it_says_why_it_did_not_personalise(model: TextModel) -> None:
    person = device(model)
    assert guide(person, "zebra").reason == (
        "not personalised: nothing that is kept has to do with the request"
    )
    assert guide(person, "the zebra crossing plan").reason == (
        "not personalised: what was found shares only common words with the request"
    )
    assert guide(person, "goat number 7", budget=0).reason == (
        "not personalised: nothing of what is known fits into the budget"
    )
    assert not guide(person, "zebra").personal
    found = guide(person, "goat number 7", k=1)
    assert found.personal
    assert found.reason == "personalised by 1 passages of their own"


def test_a_chat_is_told_about_the_person_and_a_continued_text_is_not(model: TextModel) -> None:
    person = device(model)
    person.remember(UserProfile(attributes={"role": "nurse"}, consent=FOUND))
    chat = prompt(person, Instruction(text="goat number 7", mode="chat"))
    assert "About me:\nrole: nurse\n\nHere is how I write:\n\nThe goat number 7" in chat.text
    plain = prompt(person, Instruction(text="goat number 7"))
    assert "nurse" not in plain.full
    content = person.generate(Instruction(text="goat number 7"), Generation(max_tokens=2), k=1)
    assert content.trace.reason == "personalised by 1 passages of their own"
