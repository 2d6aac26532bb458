"""Prompts: never over the budget, and a trace that tells the truth."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from locavore.client.prompt import build_prompt
from locavore.client.retrieval import Hit
from locavore.client.user_model import Guidance
from locavore.shared.contexts import Instruction, UserDocument
from locavore.shared.errors import BadInputError, ContextLengthError


def encode(text: str) -> list[int]:
    """Two characters a token, so that joining texts can change the count."""
    return [hash(text[i : i + 2]) for i in range(0, len(text), 2)]


def chat(text: str) -> str:
    return f"<user>{text}<bot>"


def hit(text: str) -> Hit:
    return Hit(UserDocument(body=text), text, 1.0, {"words": 1})


@given(
    st.text(min_size=1, max_size=30).filter(str.strip),
    st.lists(st.text(min_size=1, max_size=40), max_size=6),
    st.integers(0, 80),
    st.sampled_from(["continue", "chat"]),
)
def test_the_budget_is_never_exceeded(
    text: str, passages: list[str], budget: int, mode: str
) -> None:
    instruction = Instruction(text=text, mode=mode)  # type: ignore[arg-type]
    hits = [hit(passage) for passage in passages]
    bare = chat(text) if mode == "chat" else text
    if len(encode(bare)) > budget:
        with pytest.raises(ContextLengthError, match=f"the budget is {budget}"):
            build_prompt(
                instruction,
                Guidance(exemplars=tuple(hits)),
                budget=budget,
                encode=encode,
                chat=chat,
            )
        return
    prompt = build_prompt(
        instruction, Guidance(exemplars=tuple(hits)), budget=budget, encode=encode, chat=chat
    )
    assert prompt.tokens == len(encode(prompt.full)) <= budget
    assert all(used in hits for used in prompt.used)
    passages_part = "".join(f"{used.text}\n\n" for used in prompt.used)
    assert passages_part + text in prompt.full


def test_the_best_passage_stands_closest() -> None:
    hits = [hit("best"), hit("second")]
    prompt = build_prompt(
        Instruction(text="Go"), Guidance(exemplars=tuple(hits)), budget=99, encode=encode, chat=chat
    )
    assert prompt.context == "second\n\nbest\n\n"
    assert prompt.text == "Go"
    assert prompt.used == (hits[1], hits[0])


def test_chat_puts_everything_inside_the_template() -> None:
    prompt = build_prompt(
        Instruction(text="Go", mode="chat"),
        Guidance(exemplars=(hit("p"),)),
        budget=99,
        encode=encode,
        chat=chat,
    )
    assert prompt.full == "<user>Here is how I write:\n\np\n\nGo<bot>"
    bare = build_prompt(
        Instruction(text="Go", mode="chat"), Guidance(), budget=99, encode=encode, chat=chat
    )
    assert bare.full == "<user>Go<bot>"


def test_a_passage_that_does_not_fit_makes_room_for_a_shorter_one() -> None:
    hits = [hit("x" * 200), hit("short")]
    prompt = build_prompt(
        Instruction(text="Go"), Guidance(exemplars=tuple(hits)), budget=20, encode=encode, chat=chat
    )
    assert prompt.used == (hits[1],)


def test_an_instruction_that_fills_the_budget_stands_alone() -> None:
    prompt = build_prompt(
        Instruction(text="abcd"),
        Guidance(exemplars=(hit("p"),)),
        budget=2,
        encode=encode,
        chat=chat,
    )
    assert prompt.full == "abcd"
    assert prompt.used == ()


@pytest.mark.parametrize("text", ["", "  \n"])
def test_an_empty_instruction_is_refused(text: str) -> None:
    with pytest.raises(BadInputError, match="text is empty"):
        build_prompt(Instruction(text=text), Guidance(), budget=9, encode=encode, chat=chat)
