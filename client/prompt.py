"""From an instruction and retrieved passages to a prompt within a token budget."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from ..shared.contexts import Instruction
from ..shared.errors import BadInputError, ContextLengthError
from .retrieval import Hit

__all__ = ["Prompt", "build_prompt"]

_CHAT_HEADING = "Here is how I write:"


@dataclass(frozen=True)
class Prompt:
    """A prompt and what went into it.

    Args:
        context: what stands before the instruction's own text; may be empty.
        text: the instruction's own text, with the chat template around it in chat mode.
        used: the hits that fitted, in the order in which they stand.
        tokens: length of context and text together.
    """

    context: str
    text: str
    used: tuple[Hit, ...]
    tokens: int

    @property
    def full(self) -> str:
        """Context and text."""
        return self.context + self.text


def build_prompt(
    instruction: Instruction,
    hits: Sequence[Hit],
    *,
    budget: int,
    encode: Callable[[str], Sequence[int]],
    chat: Callable[[str], str],
) -> Prompt:
    """Put as many hits as fit in front of the instruction, the best one closest to it.

    Args:
        hits: best first.
        budget: tokens that context and instruction may take together.
        encode: the base's tokenizer.
        chat: the base's chat template; used in ``chat`` mode only.

    Raises:
        BadInputError: the instruction is empty.
        ContextLengthError: the instruction alone exceeds the budget.
    """
    if not instruction.text.strip():
        raise BadInputError("the instruction's text is empty")
    bare = _render(instruction, [], chat)
    left = budget - len(encode("".join(bare)))
    if left < 0:
        raise ContextLengthError(
            f"the instruction takes {budget - left} tokens, the budget is {budget}; shorten it"
        )
    used: list[Hit] = []
    for hit in hits:
        cost = len(encode(hit.text + "\n\n"))
        if cost <= left:
            used.insert(0, hit)
            left -= cost
    context, text = _render(instruction, used, chat)
    tokens = len(encode(context + text))
    while tokens > budget:  # joining texts can cost a token or two more than their parts
        used.pop(0)
        context, text = _render(instruction, used, chat)
        tokens = len(encode(context + text))
    return Prompt(context, text, tuple(used), tokens)


def _render(
    instruction: Instruction, used: Sequence[Hit], chat: Callable[[str], str]
) -> tuple[str, str]:
    passages = "".join(f"{hit.text}\n\n" for hit in used)
    if instruction.mode == "continue":
        return passages, instruction.text
    heading = f"{_CHAT_HEADING}\n\n{passages}" if used else ""
    return "", chat(heading + instruction.text)
