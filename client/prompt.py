"""From an instruction and retrieved passages to a prompt within a token budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..shared.contexts import Instruction
from ..shared.errors import BadInputError, ContextLengthError
from .retrieval import Hit
from .user_model import Guidance

__all__ = ["Prompt", "build_prompt"]

_ABOUT = "About me:"
_CHAT_HEADING = "Here is how I write:"


@dataclass(frozen=True)
class Prompt:
    """A prompt and what went into it.

    Args:
        context: what stands before the instruction's own text; may be empty.
        text: the instruction's own text, with the chat template around it in chat mode.
        used: the hits that fitted, in the order in which they stand.
        tokens: length of context and text together.
        reason: why it is personalised, or why not.
    """

    context: str
    text: str
    used: tuple[Hit, ...]
    tokens: int
    reason: str = ""

    @property
    def full(self) -> str:
        """Context and text."""
        return self.context + self.text


def build_prompt(
    instruction: Instruction,
    guidance: Guidance,
    *,
    budget: int,
    encode: Callable[[str], Sequence[int]],
    chat: Callable[[str], str],
) -> Prompt:
    """Put as much guidance as fits in front of the instruction, the best passage closest to it.

    A text that is continued is preceded by passages only; a chat is told about the person too.

    Args:
        guidance: what is known about the person, most telling first.
        budget: tokens that context and instruction may take together.
        encode: the base's tokenizer.
        chat: the base's chat template; used in ``chat`` mode only.

    Raises:
        BadInputError: the instruction is empty.
        ContextLengthError: the instruction alone exceeds the budget.
    """
    if not instruction.text.strip():
        raise BadInputError("the instruction's text is empty")
    left = budget - len(encode("".join(_render(instruction, [], [], chat))))
    if left < 0:
        raise ContextLengthError(
            f"the instruction takes {budget - left} tokens, the budget is {budget}; shorten it"
        )
    about: list[str] = []
    if instruction.mode == "chat":
        for sentence in guidance.about:
            cost = len(encode(sentence + "\n"))
            if cost <= left:
                about.append(sentence)
                left -= cost
    used: list[Hit] = []
    for hit in guidance.exemplars:
        cost = len(encode(hit.text + "\n\n"))
        if cost <= left:
            used.insert(0, hit)
            left -= cost
    context, text = _render(instruction, about, used, chat)
    tokens = len(encode(context + text))
    while tokens > budget:  # headings, and joining texts, cost a few tokens more than their parts
        (used or about).pop(0 if used else -1)
        context, text = _render(instruction, about, used, chat)
        tokens = len(encode(context + text))
    return Prompt(context, text, tuple(used), tokens, guidance.reason)


def _render(
    instruction: Instruction,
    about: Sequence[str],
    used: Sequence[Hit],
    chat: Callable[[str], str],
) -> tuple[str, str]:
    passages = "".join(f"{hit.text}\n\n" for hit in used)
    if instruction.mode == "continue":
        return passages, instruction.text
    known = "".join(f"{sentence}\n" for sentence in about)
    parts = [f"{_ABOUT}\n{known}\n"] if about else []
    parts += [f"{_CHAT_HEADING}\n\n{passages}"] if used else []
    return "", chat("".join(parts) + instruction.text)
