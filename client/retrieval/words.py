"""Words as retrieval counts them, in any script."""

from __future__ import annotations

import re
import unicodedata

__all__ = ["words"]

# Combining marks are no \w to Python, but part of the words of Indic, Thai and Arabic scripts.
_WORD = re.compile(
    r"[\w\u0300-\u036f\u0610-\u061a\u064b-\u065f\u0900-\u0963\u0966-\u0df3"
    r"\u0e31\u0e34-\u0e3a\u0e47-\u0e4e\u0eb1-\u0ebc\u0ec8-\u0ece\u0f71-\u0f84"
    r"\u102b-\u103e\u17b4-\u17d3]+"
)


def words(text: str) -> list[str]:
    """Case-folded words; scripts written without spaces are cut into character pairs."""
    found: list[str] = []
    for word in _WORD.findall(unicodedata.normalize("NFKC", text).casefold()):
        if len(word) > 1 and _unspaced(word):
            found.extend(word[i : i + 2] for i in range(len(word) - 1))
        else:
            found.append(word)
    return found


def _unspaced(word: str) -> bool:
    """Whether most letters are of a script without spaces (Han, Kana, Thai, Lao, Khmer)."""
    count = sum(
        "\u3040" <= c <= "\u30ff"
        or "\u3400" <= c <= "\u9fff"
        or "\u0e00" <= c <= "\u0eff"
        or "\u1780" <= c <= "\u17ff"
        for c in word
    )
    return count * 2 > len(word)
