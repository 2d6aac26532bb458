"""From prompts to token ids, with a device's own words beyond the vocabulary."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from tokenizers import Tokenizer

from .errors import BadInputError
from .packages import Package

__all__ = ["Prompts"]


@dataclass(frozen=True, kw_only=True)
class Prompts:
    """How an image base reads prompts.

    Args:
        tokenizer: of the base.
        tokens: of every prompt; longer ones are cut, shorter ones padded.
        vocabulary: number of the base's own tokens.
        special: ids of ``bos`` and ``eos`` (or none), and of ``pad``.
        own: words of a device's own, and how many rows of embeddings each has. Their ids follow the
            vocabulary, in this order.
    """

    tokenizer: Tokenizer
    tokens: int
    vocabulary: int
    special: Mapping[str, int | None]
    own: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for word, rows in self.own.items():
            if not word or word != word.strip() or self.tokenizer.token_to_id(word) is not None:
                raise BadInputError(
                    f"{word!r} cannot be a word of one's own: it is empty, or the base knows it; "
                    "choose one such as '<my-cat>'"
                )
            if rows < 1:
                raise BadInputError(f"{word!r} must have at least one row, got {rows}")

    @classmethod
    def of(cls, package: Package, own: Mapping[str, int] | None = None) -> Prompts:
        """Those of a verified image package."""
        details = package.manifest.details
        return cls(
            tokenizer=Tokenizer.from_file(str(package.path("tokenizer.json"))),
            tokens=details["tokens"],
            vocabulary=details["vocabulary"],
            special=details["special"],
            own=own or {},
        )

    def ids(self, prompts: Sequence[str]) -> npt.NDArray[np.int64]:
        """Token ids ``(B, T)``; ``""`` is the empty prompt."""
        bos, eos, pad = (self.special[role] for role in ("bos", "eos", "pad"))
        first, last = ([] if end is None else [end] for end in (bos, eos))
        room = self.tokens - len(first) - len(last)
        rows = [[*first, *self.spelled(prompt)[:room], *last] for prompt in prompts]
        found = np.full((len(rows), self.tokens), 0 if pad is None else pad, np.int64)
        for i, row in enumerate(rows):
            found[i, : len(row)] = row
        return found

    def count(self, prompt: str) -> int:
        """Tokens of a prompt that are read, without special ones."""
        return min(len(self.spelled(prompt)), self.tokens)

    def spelled(self, prompt: str) -> list[int]:
        """Token ids of a prompt, however long it is, without special ones."""
        if not self.own:
            return self._encoded(prompt)
        starts = np.cumsum([self.vocabulary, *self.own.values()]).tolist()
        ids = {
            word: list(range(start, start + rows))
            for (word, rows), start in zip(self.own.items(), starts, strict=False)
        }
        words = sorted(map(re.escape, ids), key=len, reverse=True)
        pieces = re.split(f"({'|'.join(words)})", prompt)
        return [t for piece in pieces for t in ids.get(piece) or self._encoded(piece)]

    def _encoded(self, text: str) -> list[int]:
        found: list[int] = self.tokenizer.encode(text, add_special_tokens=False).ids
        return found
