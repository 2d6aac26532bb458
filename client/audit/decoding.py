"""What a model makes of the rest of texts whose beginnings are known: scored, and searched for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from ...privacy.noise import Doubles
from ...shared.adapters import Array
from ...shared.errors import BadInputError
from ..continued import Continued, continuation_losses
from ..runtime import TextModel
from .people import Secret

__all__ = ["decoded", "secret_losses"]

_AT_ONCE = 256  # texts that go on together

Rows = Sequence[Sequence[str]]


def secret_losses(model: TextModel, secrets: Sequence[Secret], codes: Rows) -> Doubles:
    """Log-perplexity (nats) of codes after their secrets' prefixes, under the live adapter.

    Args:
        model: the runtime.
        secrets: n of them; their own codes are not looked at.
        codes: n rows of m.

    Returns:
        ``(n, m)``.
    """
    found = np.empty((len(secrets), len(codes[0])))
    together = zip(secrets, codes, strict=True)
    rows = [[_split(model, one.prefix, text) for text in own] for one, own in together]
    for places in _alike([(own[0][0], len(own[0][1])) for own in rows], _AT_ONCE // len(codes[0])):
        begun = model.continued([rows[place][0][0] for place in places])
        rest = [[ids for _, ids in rows[place]] for place in places]
        found[places] = continuation_losses(begun, rest)
    return found


def decoded(model: TextModel, secrets: Sequence[Secret], *, width: int) -> list[str]:
    """The likeliest text of each secret's length after its prefix, by beam search.

    Args:
        model: the runtime, with what is attacked live on it.
        secrets: only their prefixes and their lengths are used.
        width: texts that are kept at every step; 1 is greedy decoding.
    """
    found = [""] * len(secrets)
    cut = [_split(model, secret.prefix, secret.code) for secret in secrets]
    for places in _alike([(known, len(rest)) for known, rest in cut], _AT_ONCE // width):
        begun = model.continued([cut[place][0] for place in places])
        for place, ids in zip(places, _beams(begun, len(cut[places[0]][1]), width), strict=True):
            found[place] = model.decode(ids)
    return found


def _beams(begun: Continued, length: int, width: int) -> list[list[int]]:
    """The likeliest continuation of each text that a beam of ``width`` finds."""
    count = len(begun.log_probs)
    scores = np.zeros((count, 1), np.float32)
    written = np.zeros((count, 1, 0), np.int64)
    rows = np.arange(count)[:, None]
    for left in range(length - 1, -1, -1):
        ahead = begun.log_probs.reshape(count, scores.shape[1], -1)
        total = (scores[..., None] + ahead).reshape(count, -1)  # (n, W V)
        best = _top(total, width)
        kept, tokens = best // ahead.shape[2], best % ahead.shape[2]
        scores = np.take_along_axis(total, best, 1)
        written = np.concatenate([written[rows, kept], tokens[..., None]], 2)
        if left:
            begun = begun.then((rows * ahead.shape[1] + kept).ravel(), tokens.ravel())
    likeliest: list[list[int]] = written[:, 0].tolist()
    return likeliest


def _top(scores: Array, count: int) -> npt.NDArray[np.int64]:
    """Columns of the highest scores of every row, the highest first."""
    among = np.argpartition(-scores, count - 1, axis=1)[:, :count]
    order = np.argsort(-np.take_along_axis(scores, among, 1), axis=1, kind="stable")
    found: npt.NDArray[np.int64] = np.take_along_axis(among, order, 1)
    return found


def _alike(cut: Sequence[tuple[Sequence[int], int]], most: int) -> Iterator[list[int]]:
    """Places of prefixes of one length that go on for as many tokens, a few at a time."""
    groups: dict[tuple[int, int], list[int]] = {}
    for place, (known, rest) in enumerate(cut):
        groups.setdefault((len(known), rest), []).append(place)
    for places in groups.values():
        for at in range(0, len(places), max(1, most)):
            yield places[at : at + max(1, most)]


def _split(model: TextModel, prefix: str, rest: str) -> tuple[list[int], list[int]]:
    """Tokens of a text: its prefix's, and those that follow."""
    ids, known = model.encode(prefix + rest), model.encode(prefix)
    if ids[: len(known)] != known:
        raise BadInputError(f"the base's tokenizer does not cut {prefix + rest!r} after {prefix!r}")
    return known, ids[len(known) :]
