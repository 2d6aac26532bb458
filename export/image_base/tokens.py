"""The base's vocabulary: words of its captions, and pieces, so that any caption has tokens.

A word that captions use often is one token. Any other is cut, longest piece first, into pieces of
up to four letters, of which the commonest are tokens, and at worst into single characters; what is
not a letter or a digit is dropped. Style tokens such as ``<noto>`` may stand in front.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from tokenizers import Tokenizer
from tokenizers.models import WordPiece
from tokenizers.normalizers import NFD, Lowercase, Replace, StripAccents
from tokenizers.normalizers import Sequence as Normalizers
from tokenizers.pre_tokenizers import Digits, WhitespaceSplit
from tokenizers.pre_tokenizers import Sequence as PreTokenizers

__all__ = ["PAD_ID", "build_tokenizer", "style_token"]

PAD_ID = 0
_PAD = "[PAD]"
_UNKNOWN = "[UNK]"
_CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
_LONGEST_PIECE = 4
_CONTINUED = "##"


def style_token(style: str) -> str:
    """How a style is asked for in a caption; all clip art is one style."""
    return f"<{'clip-art' if style.startswith('clip art/') else style}>"


def build_tokenizer(captions: Mapping[str, int], styles: Sequence[str], size: int) -> Tokenizer:
    """A tokenizer with at most ``size`` tokens.

    Args:
        captions: public ones, and how often each is used.
        styles: that have a token.
        size: of the vocabulary; nine tenths of what characters leave are words.
    """
    counts: Counter[str] = Counter()
    normalizer = _normalizer()
    for caption, times in captions.items():
        for word in normalizer.normalize_str(caption).split():
            counts[word] += times
    fixed = [_PAD, _UNKNOWN, *map(style_token, styles)]
    fixed += [*_CHARACTERS, *(f"{_CONTINUED}{c}" for c in _CHARACTERS)]
    room = size - len(fixed)
    ranked = [w for w, n in _ranked(counts) if n > 1 and len(w) > 1 and not w.isdigit()]
    words = ranked[: room * 9 // 10]
    rest = {word: n for word, n in counts.items() if word not in set(words)}
    pieces = [p for p, n in _ranked(_pieces(rest)) if n > 1][: room - len(words)]
    vocabulary = dict.fromkeys([*fixed, *words, *pieces])
    tokenizer = Tokenizer(
        WordPiece(
            {token: i for i, token in enumerate(vocabulary)},
            unk_token=_UNKNOWN,
            continuing_subword_prefix=_CONTINUED,
        )
    )
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = PreTokenizers([WhitespaceSplit(), Digits(individual_digits=True)])
    tokenizer.add_special_tokens([_PAD, *map(style_token, styles)])
    return tokenizer


def _normalizer() -> Normalizers:
    from tokenizers import Regex

    return Normalizers(
        [NFD(), Lowercase(), StripAccents(), Replace("'", ""), Replace(Regex("[^a-z0-9]+"), " ")]
    )


def _pieces(words: Mapping[str, int]) -> Counter[str]:
    """Starts and continuations of words, counted by how many letters they would cover."""
    counts: Counter[str] = Counter()
    for word, times in words.items():
        for start in range(len(word)):
            for length in range(2, _LONGEST_PIECE + 1):
                piece = word[start : start + length]
                if len(piece) == length and not any(c.isdigit() for c in piece):
                    counts[piece if start == 0 else _CONTINUED + piece] += times * length
    return counts


def _ranked(counts: Mapping[str, int]) -> Iterable[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))
