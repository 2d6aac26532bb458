"""The on-device text runtime: numpy, ONNX Runtime and tokenizers, nothing else.

Batches are padded on the right. Padding is masked and positions go on from each row's true
length; in the cache it moves to the front, so that a row's tokens stay neighbours, as sliding
windows need. A row's result does not depend on what it was batched with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from onnxruntime import OrtValue
from tokenizers import Tokenizer

from ..shared.adapters import Adapter, Array
from ..shared.causal_graph import CausalGraph, Past, Step
from ..shared.contexts import Instruction
from ..shared.errors import BadInputError, ContextLengthError
from ..shared.packages import Package
from .continued import Continued
from .engine import Adaptable, Guide
from .prompt import Prompt, build_prompt
from .retrieval import Hit
from .sampling import Sampling, choose

__all__ = ["Completion", "Generation", "TextModel", "Told", "start_of"]

TOKENIZER = "tokenizer.json"

_PROMPT_SHARE = 0.75  # of the base's context that a prompt may fill at most

_Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Generation:
    """How a text is generated.

    Args:
        max_tokens: how many tokens at most.
        stop: strings that end a text; they are not part of it.
        sampling: how tokens are chosen.
    """

    max_tokens: int = 128
    stop: tuple[str, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        if self.max_tokens < 1:
            raise BadInputError(f"max_tokens must be at least 1, got {self.max_tokens}")
        if "" in self.stop:
            raise BadInputError("a stop string must not be empty")


@dataclass(frozen=True)
class Completion:
    """A generated text, its number of tokens, and why it ended: ``eos``, ``stop``, ``length``."""

    text: str
    tokens: int
    reason: str


@dataclass(frozen=True)
class Told:
    """A prompt that is ready to be completed."""

    model: TextModel
    prompt: Prompt
    how: Generation

    @property
    def used(self) -> tuple[Hit, ...]:
        """The hits that stand in the prompt."""
        return self.prompt.used

    @property
    def tokens(self) -> int:
        """Of the prompt."""
        return self.prompt.tokens

    @property
    def reason(self) -> str:
        """Why it is personalised, or why not."""
        return self.prompt.reason

    @property
    def adapters(self) -> tuple[Adapter, ...]:
        """None: a text names no things that were learned."""
        return ()

    def fulfil(self) -> tuple[str, str]:
        """The completion's text, and why it ended."""
        done = self.model.generate([self.prompt.full], self.how)[0]
        return done.text, done.reason

    def stream(self) -> Iterator[str]:
        """Pieces of the completion, as they become certain."""
        return self.model.stream(self.prompt.full, self.how)


class TextModel(Adaptable):
    """A verified base with at most one live adapter (compose several into one)."""

    def __init__(self, package: Package, *, threads: int = 0) -> None:
        self._graph = CausalGraph(package, threads=threads)
        self._tokenizer = Tokenizer.from_file(str(package.path(TOKENIZER)))
        details = package.manifest.details
        self._eos: int | None = details["special"]["eos"]
        self._chat: tuple[str, str] | None = tuple(details["chat"]) if details["chat"] else None
        self.max_tokens: int = details["max_tokens"]
        self.start = start_of(details["special"])
        super().__init__(package, self._graph)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without special tokens in front."""
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of token ids."""
        text: str = self._tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def chat_prompt(self, request: str) -> str:
        """Wrap a request in the base's chat template.

        Raises:
            BadInputError: the base has no chat template.
        """
        if self._chat is None:
            raise BadInputError(f"base {self.base_id!r} has no chat template; use mode='continue'")
        return self._chat[0] + request + self._chat[1]

    def request(
        self, instruction: Instruction, guide: Guide, how: Generation | None = None
    ) -> Told:
        """Build a prompt that leaves room for what is to be generated."""
        how = how or Generation()
        room = min(int(self.max_tokens * _PROMPT_SHARE), self.max_tokens - how.max_tokens - 1)
        return Told(self, self.prompt(instruction, guide, room), how)

    def prompt(self, instruction: Instruction, guide: Guide, budget: int) -> Prompt:
        """Build a prompt of at most ``budget`` tokens."""
        guidance = guide(
            budget=budget,
            cost=lambda text: len(self.encode(text)),
            about=instruction.mode == "chat",
        )
        return build_prompt(
            instruction, guidance, budget=budget, encode=self.encode, chat=self.chat_prompt
        )

    def generate(self, prompts: Sequence[str], how: Generation | None = None) -> list[Completion]:
        """Complete a batch of prompts.

        Raises:
            BadInputError: no prompt.
            ContextLengthError: a prompt and ``max_tokens`` exceed the base's context.
        """
        if not prompts:
            raise BadInputError("generate needs at least one prompt")
        how = how or Generation()
        rows = [
            _Row(self, self._prompt_ids(prompt, how), how, i) for i, prompt in enumerate(prompts)
        ]
        for _ in self._steps(rows):
            pass
        return [row.completion() for row in rows]

    def stream(self, prompt: str, how: Generation | None = None) -> Iterator[str]:
        """Complete one prompt, yielding pieces of text as they become certain."""
        how = how or Generation()
        row = _Row(self, self._prompt_ids(prompt, how), how, 0)
        sent = 0
        for _ in self._steps([row]):
            stable = row.stable_text()
            if len(stable) > sent:
                yield stable[sent:]
                sent = len(stable)
        rest = row.completion().text[sent:]
        if rest:
            yield rest

    def score(self, contexts: Sequence[str], targets: Sequence[str]) -> list[Array]:
        """Per-token loss of each target after its context.

        Returns:
            For every pair the negative log-likelihood (nats) of each of the target's tokens.

        Raises:
            BadInputError: an empty target, or lists of different lengths.
            ContextLengthError: a pair exceeds the base's context.
        """
        if len(contexts) != len(targets):
            raise BadInputError(f"{len(contexts)} contexts do not match {len(targets)} targets")
        return self.score_ids([self.encode(c) for c in contexts], [self.encode(t) for t in targets])

    def score_ids(
        self, contexts: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]
    ) -> list[Array]:
        """:meth:`score` for token ids."""
        if any(not target for target in targets):
            raise BadInputError("a target to be scored must not be empty")
        start = self.start
        sequences = [[*start, *c, *t] for c, t in zip(contexts, targets, strict=True)]
        for sequence in sequences:
            self._require_fit(len(sequence))
        firsts = [len(s) - len(t) - 1 for s, t in zip(sequences, targets, strict=True)]
        if min(firsts, default=0) < 0:
            raise BadInputError("this base has no start token: every target needs a context")
        first, last = min(firsts), max(map(len, sequences)) - 1
        ids, mask, positions = _right_padded(sequences)
        keep = np.arange(first, last)
        logits = self._graph.run(
            ids, mask, positions, keep, self._graph.empty_past(len(sequences))
        ).logits
        return [
            _token_losses(logits[i, begin - first :], np.array(target))
            for i, (begin, target) in enumerate(zip(firsts, targets, strict=True))
        ]

    def continued(self, texts: Sequence[Sequence[int]]) -> Continued:
        """Texts, as token ids of one length, that go on in several ways; with the start's tokens.

        Raises:
            BadInputError: no text, or no token.
        """
        return Continued.begun(
            self._graph, np.array([[*self.start, *ids] for ids in texts], np.int64)
        )

    def outputs(self, example: Sequence[int]) -> Array:
        """Logits ``(T, V)`` at every token of a record, the start's included."""
        return self.logits([*self.start, *example])

    def logits(self, ids: Sequence[int]) -> Array:
        """Next-token logits ``(len(ids), V)`` at every position, under the live adapter."""
        logits: Array = self._whole(ids).logits[0]
        return logits

    def hidden_states(self, ids: Sequence[int]) -> Array:
        """Last hidden states ``(len(ids), D)`` of a text, under the live adapter."""
        hidden: Array = self._whole(ids).hidden[0]
        return hidden

    def _whole(self, ids: Sequence[int]) -> Step:
        self._require_fit(len(ids))
        padded, mask, positions = _right_padded([ids])
        return self._graph.run(
            padded, mask, positions, np.arange(len(ids)), self._graph.empty_past(1)
        )

    def _prompt_ids(self, prompt: str, how: Generation) -> list[int]:
        ids = [*self.start, *self.encode(prompt)]
        if not ids:
            raise BadInputError("the prompt is empty")
        self._require_fit(len(ids) + how.max_tokens)
        return ids

    def _require_fit(self, tokens: int) -> None:
        if tokens > self.max_tokens:
            raise ContextLengthError(
                f"{tokens} tokens do not fit in the base's context of {self.max_tokens}; "
                "shorten the prompt or ask for fewer tokens"
            )

    def _steps(self, rows: list[_Row]) -> Iterator[None]:
        """Prefill, then decode until every row is done."""
        ids, mask, positions = _right_padded([row.ids for row in rows])
        lengths = np.array([len(row.ids) for row in rows])
        keep = np.unique(lengths - 1)
        step = self._graph.run(ids, mask, positions, keep, self._graph.empty_past(len(rows)))
        logits = step.logits[np.arange(len(rows)), np.searchsorted(keep, lengths - 1)]
        past, mask = _padding_first(step.past, mask, lengths)
        while True:
            tokens = [row.advance(logits[i]) for i, row in enumerate(rows)]
            yield
            if all(row.reason for row in rows):
                return
            mask = np.concatenate([mask, np.ones((len(rows), 1), np.int64)], axis=1)
            step = self._graph.run(
                np.array(tokens)[:, None], mask, lengths[:, None], np.zeros(1, np.int64), past
            )
            logits, past = step.logits[:, 0], step.past
            lengths = lengths + 1


def start_of(special: Mapping[str, int | None]) -> list[int]:
    """What every sequence begins with, so that even its first word has a context."""
    anchor = special["bos"] if special["bos"] is not None else special["eos"]
    return [] if anchor is None else [anchor]


class _Row:
    """One prompt of a batch while it is being completed."""

    def __init__(self, model: TextModel, ids: list[int], how: Generation, index: int) -> None:
        self.ids = ids
        self.reason = ""
        self._model = model
        self._how = how
        self._new: list[int] = []
        self._rng = np.random.default_rng([how.sampling.seed, index])
        self._text = ""

    def advance(self, logits: Array) -> int:
        """Choose the next token; a finished row feeds its last token on."""
        if self.reason:
            return self.ids[-1]
        token = choose(logits, [*self.ids, *self._new], self._how.sampling, self._rng)
        if token == self._model._eos:
            self.reason = "eos"
            return token
        self._new.append(token)
        self._text = self._model.decode(self._new)
        if any(stop in self._text for stop in self._how.stop):
            self.reason = "stop"
        elif len(self._new) >= self._how.max_tokens:
            self.reason = "length"
        return token

    def stable_text(self) -> str:
        """The text that later tokens cannot change: no half character, no possible stop string."""
        text = self._cut()
        if self.reason:
            return text
        text = text.rstrip("\ufffd")  # byte-fallback tokenizers write one for every byte
        held = max((len(stop) for stop in self._how.stop), default=1) - 1
        return text[: max(0, len(text) - held)]

    def completion(self) -> Completion:
        return Completion(self._cut(), len(self._new), self.reason)

    def _cut(self) -> str:
        ends = [at for stop in self._how.stop if (at := self._text.find(stop)) >= 0]
        return self._text[: min(ends)] if ends else self._text


def _right_padded(
    sequences: Sequence[Sequence[int]],
) -> tuple[np.ndarray[tuple[int, int], np.dtype[np.int64]], ...]:
    longest = max(map(len, sequences))
    ids = np.zeros((len(sequences), longest), np.int64)
    mask = np.zeros_like(ids)
    for i, sequence in enumerate(sequences):
        ids[i, : len(sequence)] = sequence
        mask[i, : len(sequence)] = 1
    return ids, mask, np.tile(np.arange(longest), (len(sequences), 1))


def _padding_first(past: Past, mask: _Ints, lengths: _Ints) -> tuple[Past, _Ints]:
    """Move every row's padding from the end of the cache ``(B, H, P, D)`` to its front."""
    longest = mask.shape[1]
    order = (np.arange(longest) + lengths[:, None]) % longest  # (B, P)
    if not order[:, 0].any():
        return past, mask
    moved = {
        name: OrtValue.ortvalue_from_numpy(
            np.take_along_axis(value.numpy(), order[:, None, :, None], axis=2)
        )
        for name, value in past.items()
    }
    return moved, np.take_along_axis(mask, order, axis=1)


def _token_losses(logits: Array, target: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Array:
    rows = logits[: len(target)]
    peak = rows.max(axis=1, keepdims=True)
    total = np.log(np.exp(rows - peak).sum(axis=1)) + peak[:, 0]
    losses: Array = total - rows[np.arange(len(target)), target]
    return losses
