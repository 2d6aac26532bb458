"""Whether our runtime writes what its torch twin would write."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from locavore.client.runtime import TextModel
from locavore.shared.adapters import Adapter, Array
from locavore.shared.packages import Package

from .work.ours import random_adapter

__all__ = ["Equality", "compare_with_twin", "judge"]

# A winner is clear when it is ahead by this many logits: more than what rounding activations
# turns around. One 8-bit scale for a whole activation rounds three times as much as the blocks
# of the weight-only precisions (see the tolerances in locavore/export/check.py).
CLEAR = 1.0
_CLEAR_DYNAMIC = 3.0
_STRENGTH = 10.0  # of the adapter: it must turn nearly every next token into another
_STEPS = 8  # tokens that are read one by one, through the cache


@dataclass(frozen=True)
class Equality:
    """Of ``positions`` next tokens, ``clear`` had a clear winner; ``wrong`` tells which differ."""

    positions: int
    clear: int
    wrong: tuple[str, ...]

    def sentence(self) -> str:
        """One line for people."""
        return (
            f"greedy next token equals the twin's at {self.clear - len(self.wrong)} of "
            f"{self.clear} clear positions ({self.positions} in all, bare and with adapter)"
        )


def compare_with_twin(package: Package, text: Sequence[int], rank: int) -> Equality:
    """Compare bare and with a random adapter, the last few tokens through the cache."""
    from locavore.client.training.text import TextTwin

    model = TextModel(package)
    twin = TextTwin.of(package)
    adapter = random_adapter(package.base_id, model.sites, rank, seed=0, strength=_STRENGTH)
    ahead = _CLEAR_DYNAMIC if package.manifest.precision == "int8-dynamic" else CLEAR
    expected, changed = _twin_logits(twin, text, None), _twin_logits(twin, text, adapter)
    bare = judge(expected, _our_tokens(model, text), "bare", ahead)
    model.attach(adapter)
    live = judge(changed, _our_tokens(model, text), "with adapter", ahead)
    wrong = (*bare.wrong, *live.wrong)
    turned = changed.argmax(axis=1) != expected.argmax(axis=1)
    if not 2 * (_clear(changed, ahead) & turned).sum() > live.clear:
        wrong += ("the adapter turned too few clear tokens: its branch was not checked",)
    return Equality(bare.positions + live.positions, bare.clear + live.clear, wrong)


def judge(expected: Array, found: Sequence[int], how: str, ahead: float = CLEAR) -> Equality:
    """Compare tokens with logits ``(len(found), V)`` where the best is ``ahead`` logits ahead."""
    clear = _clear(expected, ahead)
    wanted = expected.argmax(axis=1)
    wrong = [
        f"{how}, position {i}: token {found[i]}, the twin's is {wanted[i]}"
        for i in np.flatnonzero(clear).tolist()
        if found[i] != wanted[i]
    ]
    return Equality(len(found), int(clear.sum()), tuple(wrong))


def _clear(logits: Array, ahead: float) -> np.ndarray[Any, np.dtype[np.bool_]]:
    ordered = np.sort(logits, axis=1)
    return np.asarray(ordered[:, -1] - ordered[:, -2] >= ahead)


def _our_tokens(model: TextModel, text: Sequence[int]) -> list[int]:
    """Next token at every position: a prefill, then single steps through the cache."""
    graph, ids = model._graph, np.array([text])
    cut = len(text) - _STEPS
    past, tokens = graph.empty_past(1), []
    for begin, end in [(0, cut), *((i, i + 1) for i in range(cut, len(text)))]:
        step = graph.run(
            ids[:, begin:end],
            np.ones((1, end), np.int64),
            np.arange(begin, end)[None],
            np.arange(end - begin),
            past,
        )
        past = step.past
        tokens += [int(token) for token in step.logits[0].argmax(axis=1)]
    return tokens


def _twin_logits(twin: object, text: Sequence[int], adapter: Adapter | None) -> Array:
    import torch

    from locavore.client.training.text import TextTwin

    assert isinstance(twin, TextTwin)
    with torch.no_grad(), twin.adapted(*([] if adapter is None else [adapter])):
        out = twin.model(input_ids=torch.tensor([list(text)]), use_cache=False)
    logits: Array = out.logits[0].numpy()
    return logits
