"""What a device knows of its person, as guidance for any engine.

Three kinds of evidence (the survey's §3.2): a profile, what the person did, and passages of their
own that fit the request. Where there is too little of all three, nothing is personalised, and the
guidance says so.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from ..shared.contexts import Context, UserBehavior, UserProfile
from .concepts import Concept
from .retrieval import Hit

__all__ = ["Guidance", "UserModel"]

_LEAST_SHARED = 0.05  # of a request's information that a passage must hold; stop words are less
_LEAST_BEHAVIORS = 3  # fewer are chance
_FAVOURITES = 3


@dataclass(frozen=True, kw_only=True)
class Guidance:
    """What an engine is told about the person.

    Args:
        about: sentences on profile and behaviour, most telling first.
        exemplars: the person's own passages, best first.
        reason: why the request is personalised, or why not.
        tokens: what it takes of the engine's budget.
        concepts: what was learned of the things that the request names.
    """

    about: tuple[str, ...] = ()
    exemplars: tuple[Hit, ...] = ()
    reason: str = ""
    tokens: int = 0
    concepts: tuple[Concept, ...] = ()

    @property
    def personal(self) -> bool:
        """Whether there is any guidance."""
        return bool(self.about or self.exemplars)


@dataclass(frozen=True)
class UserModel:
    """A person in short.

    Args:
        profile: attributes; of several records the latest counts.
        behaviors: what was done with which item, how often, and with what mean rating.
    """

    profile: dict[str, str] = field(default_factory=dict)
    behaviors: dict[tuple[str, str], tuple[int, float | None]] = field(default_factory=dict)

    @classmethod
    def of(cls, records: Iterable[Context]) -> UserModel:
        """Sum up the records that consent to retrieval, oldest first."""
        profile: dict[str, str] = {}
        counts: Counter[tuple[str, str]] = Counter()
        ratings: dict[tuple[str, str], list[float]] = {}
        for record in records:
            if not record.consent.retrieve:
                continue
            if isinstance(record, UserProfile):
                profile |= record.attributes
            elif isinstance(record, UserBehavior):
                did = (record.action, record.item)
                counts[did] += 1
                if record.rating is not None:
                    ratings.setdefault(did, []).append(record.rating)
        means = {did: sum(given) / len(given) for did, given in ratings.items()}
        return cls(profile, {did: (n, means.get(did)) for did, n in counts.items()})

    @property
    def sentences(self) -> list[str]:
        """Profile and behaviour, most telling first."""
        said = [f"{name}: {value}" for name, value in self.profile.items()]
        if sum(count for count, _ in self.behaviors.values()) < _LEAST_BEHAVIORS:
            return said
        by_action: dict[str, list[tuple[float, int, str]]] = {}
        for (action, item), (count, rating) in self.behaviors.items():
            by_action.setdefault(action, []).append((rating or 0.0, count, item))
        for action, items in sorted(by_action.items(), key=lambda entry: -len(entry[1])):
            best = sorted(items, key=lambda entry: (-entry[0], -entry[1], entry[2]))
            named = ", ".join(
                item
                + (f" ({rating:g})" if rating else "")
                + (f" ({count} times)" if count > 1 else "")
                for rating, count, item in best[:_FAVOURITES]
            )
            rest = len(items) - min(len(items), _FAVOURITES)
            said.append(f"{action}: {named}" + (f" and {rest} more" if rest else ""))
        return said

    def guidance(
        self,
        hits: Sequence[Hit],
        *,
        budget: int,
        cost: Callable[[str], int],
        about: bool = True,
    ) -> Guidance:
        """Guidance for a request.

        Args:
            hits: what was retrieved for it, best first.
            budget: tokens that the guidance may take.
            cost: tokens of a text for the engine.
            about: whether the engine can be told sentences about the person.
        """
        close = [hit for hit in hits if hit.shared >= _LEAST_SHARED or "meaning" in hit.why]
        left, said, exemplars = budget, list[str](), list[Hit]()
        for sentence in self.sentences if about else []:
            price = cost(sentence + "\n")
            if price <= left:
                said.append(sentence)
                left -= price
        for hit in close:
            price = cost(hit.text + "\n\n")
            if price <= left:
                exemplars.append(hit)
                left -= price
        return Guidance(
            about=tuple(said),
            exemplars=tuple(exemplars),
            reason=_reason(said, exemplars, hits, close),
            tokens=budget - left,
        )


def _reason(
    about: Sequence[str],
    exemplars: Sequence[Hit],
    hits: Sequence[Hit],
    close: Sequence[Hit],
) -> str:
    if about or exemplars:
        parts = [f"{len(about)} sentences about the person"] if about else []
        parts += [f"{len(exemplars)} passages of their own"] if exemplars else []
        return "personalised by " + " and ".join(parts)
    if close:
        return "not personalised: nothing of what is known fits into the budget"
    if hits:
        return "not personalised: what was found shares only common words with the request"
    return "not personalised: nothing that is kept has to do with the request"
