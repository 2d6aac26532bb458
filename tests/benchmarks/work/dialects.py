"""A small language model and many speakers: what ``policies`` federates.

A *language* says for every word which few words may follow. The base has read texts in several
public languages. Every speaker mixes a language that all speakers share, and that the base has
never read, with a language of their own: the first is to be learned together, the second alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

__all__ = ["Speakers", "Text", "base", "held_out_loss", "public_speakers", "sites"]

WORDS, LENGTH, FOLLOWERS, PUBLIC = 64, 24, 3, 6
OWN = 0.5  # how much of a speaker's text is in the language of their own

Text = list[int]
Language = npt.NDArray[np.float64]


def _language(seed: tuple[int, ...]) -> Language:
    """Followers of every word ``(words, words)``, rows summing to one."""
    rng = np.random.default_rng(seed)
    table = np.full((WORDS, WORDS), 0.1 / WORDS)
    for row in table:
        row[rng.permutation(WORDS)[:FOLLOWERS]] += 0.9 * rng.dirichlet(np.ones(FOLLOWERS))
    normed: Language = table / table.sum(1, keepdims=True)
    return normed


def _texts(language: Language, count: int, rng: np.random.Generator) -> list[Text]:
    cumulative = language.cumsum(1)
    words = rng.integers(WORDS, size=count)
    columns = [words]
    for draw in rng.random((LENGTH - 1, count)):
        words = np.minimum((cumulative[words] < draw[:, None]).sum(1), WORDS - 1)
        columns.append(words)
    return [[int(w) for w in text] for text in np.stack(columns, 1)]


def public_texts(count: int, seed: int) -> list[Text]:
    """Texts in the public languages, as many in each."""
    rng = np.random.default_rng((seed, 7))
    each = -(-count // PUBLIC)
    texts = [t for i in range(PUBLIC) for t in _texts(_language((0, i)), each, rng)]
    return [texts[i] for i in rng.permutation(len(texts))[:count]]


def public_speakers(count: int, seed: int) -> list[Text]:
    """Texts of people outside the federation, who use its common language now and then."""
    rng = np.random.default_rng((seed, 8))
    common = _language((1, seed))
    return [
        text
        for speaker in range(8)
        for text in _texts(
            0.25 * common + 0.75 * _language((4, seed, speaker)), -(-count // 8), rng
        )
    ]


@dataclass(frozen=True)
class Speakers:
    """Everybody's texts to learn from, and later ones to be judged by."""

    train: tuple[list[Text], ...]
    later: tuple[list[Text], ...]

    @classmethod
    def draw(cls, count: int, texts: int, later: int, seed: int) -> Speakers:
        """Speakers of a federation; another seed is another common language."""
        common = _language((1, seed))
        train, kept = [], []
        for speaker in range(count):
            own = _language((2, seed, speaker))
            mixed = (1 - OWN) * common + OWN * own
            rng = np.random.default_rng((3, seed, speaker))
            train.append(_texts(mixed, texts, rng))
            kept.append(_texts(mixed, later, rng))
        return cls(tuple(train), tuple(kept))


@cache
def base(steps: int) -> Any:
    """The base after so many steps on public texts; always the same weights."""
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = LlamaForCausalLM(
            LlamaConfig(
                vocab_size=WORDS,
                hidden_size=64,
                intermediate_size=128,
                num_hidden_layers=2,
                num_attention_heads=4,
                num_key_value_heads=4,
                max_position_embeddings=64,
                tie_word_embeddings=True,
            )
        )
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        for step in range(steps):
            ids = torch.tensor(public_texts(48, step))
            optimizer.zero_grad()
            model(input_ids=ids, labels=ids, use_cache=False).loss.backward()
            optimizer.step()
    return model.requires_grad_(False).eval()


def sites(model: Any) -> list[str]:
    """The layers that carry adapters."""
    names = [n for n, m in model.named_modules() if isinstance(m, torch.nn.Linear)]
    return [name for name in names if name != "lm_head"]


def held_out_loss(model: Any, texts: list[Text]) -> float:
    """Mean loss of a word."""
    ids = torch.tensor(texts)
    with torch.no_grad():
        return float(model(input_ids=ids, labels=ids, use_cache=False).loss)
