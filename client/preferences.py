"""Which of two answers to the same request a person liked better, from their own records.

An answer is a :class:`~locavore.shared.contexts.UserBehavior` whose medium, a picture or a text,
answers its ``item``: a caption or a request. It is judged by a word, its action ``liked`` or
``disliked``, or by a rating. A rating says something beside another rating of the same person
only, because nobody said how far the scale goes; words and ratings are not compared.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from ..shared.contexts import Context, UserBehavior

__all__ = ["Choice", "answer_of", "choices", "judged", "likes", "worth_imitating", "written"]

_WORDS = {"liked": 1.0, "disliked": -1.0}


class Choice(NamedTuple):
    """Two answers to one request."""

    liked: UserBehavior
    disliked: UserBehavior


class _Verdict(NamedTuple):
    by: str
    value: float


def judged(record: Context) -> bool:
    """Whether a record is an answer with a verdict."""
    return _verdict(record) is not None


def choices(fresh: Sequence[Context], before: Iterable[Context] = ()) -> list[Choice]:
    """Every two answers of one modality to one request of which one was liked better.

    Args:
        fresh: records of which each choice holds at least one.
        before: records that may be the other one.
    """
    new = {record.id for record in fresh}
    groups = defaultdict[tuple[str, str, str], list[tuple[float, UserBehavior]]](list)
    for record in (*before, *fresh):
        verdict = _verdict(record)
        if verdict is not None and isinstance(record, UserBehavior):
            key = (record.item.strip(), record.modality, verdict.by)
            groups[key].append((verdict.value, record))
    return [
        Choice(better, worse)
        for group in groups.values()
        for high, better in group
        for low, worse in group
        if high > low and not new.isdisjoint((better.id, worse.id))
    ]


def likes(records: Iterable[Context]) -> list[Context]:
    """The answers that were liked in so many words."""
    return [record for record in records if _verdict(record) == ("liked", _WORDS["liked"])]


def worth_imitating(record: Context) -> bool:
    """Whether a model may be trained to say the like: all but answers that were not liked.

    What a rating says of a single answer is not known, so answers with a rating alone are not.
    """
    return not judged(record) or bool(likes([record]))


def answer_of(record: UserBehavior) -> str:
    """The text of a medium that is a text, as it goes on from the request."""
    text = record.media.decode("utf-8", "replace").rstrip()
    apart = text[:1].isspace() or record.item[-1:].isspace()
    return text if apart else f" {text}"


def written(record: Context) -> str:
    """What a language model is trained on: a request with its answer, or the record's text."""
    if judged(record) and isinstance(record, UserBehavior) and record.modality == "text":
        return record.item + answer_of(record)
    return record.text


def _verdict(record: Context) -> _Verdict | None:
    if not (isinstance(record, UserBehavior) and record.media):
        return None
    if record.action in _WORDS:
        return _Verdict("liked", _WORDS[record.action])
    return None if record.rating is None else _Verdict("rating", record.rating)
