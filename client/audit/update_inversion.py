"""Inversion of updates: how much of a record can be read off what its device sends.

The attacker knows the base, the shared vector, the plan and even the record's length. Two attacks:
tokens in the span of a gradient (:mod:`.spans`), and texts whose gradient matches
(:mod:`.matching`). What is found of a record is compared with what the updates of other records
would give of it, so that words which all records share count for nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ...privacy.audit.findings import Finding
from ...privacy.audit.pairing import pairing_finding
from ...privacy.audit.sections import Figure, Section
from ...privacy.noise import Doubles
from ...shared.errors import BadInputError
from .matching import GradientMatcher
from .spans import SpanReader
from .updates import VIEWS, Released, Releases, View

__all__ = ["UpdateInversion"]

_NAMES: Mapping[View, str] = {
    "raw": "a raw update",
    "clipped": "a clipped update",
    "noised": "a noised update",
    "summed": "a secure sum",
}
_MULTIPLIERS = (0.0, 0.001, 0.01, 0.03, 0.1, 0.3, 1.0)
_SHOWN = 4  # texts
_LEVEL = 1e-3
_AT_THE_END = 16  # times as many tokens are tried for the last one


@dataclass(frozen=True, eq=False, kw_only=True)
class _Read:
    """What was made of all updates of a view.

    Args:
        tokens: ``(m, m)``, share of record j's tokens that update i gives.
        texts: ``(m,)`` token ids, the best guess at each record.
        likeness: ``(m, m)`` cosines of update i with a step on record j.
    """

    tokens: Doubles
    texts: Sequence[Sequence[int]]
    likeness: Doubles

    def picked(self) -> float:
        """How often an update is most like its own record."""
        return float((self.likeness.argmax(1) == np.arange(len(self.likeness))).mean())


@dataclass(frozen=True, kw_only=True)
class UpdateInversion:
    """What is attacked, and how thoroughly.

    Args:
        releases: the round.
        records: token ids; each is a whole device's data: the worst case for it. 8 at least.
        crowd: public records of the other devices of a sum; at least one.
        decode: token ids to text, to show.
        changes: of single tokens, by gradient matching, to the text that spans give.
        likely: tokens that are tried at a place because the model expects them; at the last,
            which no span holds, many more.
        seed: of the permutations.

    Raises:
        BadInputError: fewer than 8 records, or one with fewer than 3 tokens; an empty crowd.
    """

    releases: Releases
    records: Sequence[Sequence[int]]
    crowd: Sequence[Sequence[int]]
    decode: Callable[[Sequence[int]], str] = str
    changes: int = 2
    likely: int = 16
    seed: int = 0

    def __post_init__(self) -> None:
        if len(self.records) < 8 or min(map(len, self.records)) < 3 or not self.crowd:
            raise BadInputError(
                "8 records of 3 tokens are needed at least, and one of another device; got "
                f"{len(self.records)} records and {len(self.crowd)} of others"
            )

    @property
    def leaves(self) -> tuple[View, ...]:
        """The views that an observer has; the others never leave the device."""
        return ("noised", "summed") if self.releases.plan.private else ("clipped", "summed")

    def findings(self) -> list[Finding]:
        """Of what leaves: does it give away more of its own record than of others?"""
        rng = np.random.default_rng(self.seed)
        return [
            pairing_finding(
                self.read[view].tokens,
                audit=f"update, {view}",
                what=self._name(view),
                rng=rng,
                level=_LEVEL,
            )
            for view in self.leaves
        ]

    @cached_property
    def read(self) -> dict[View, _Read]:
        """Every view, attacked."""
        return {view: self._read(view) for view in VIEWS}

    def found_by_noise(self) -> dict[float, tuple[float, float]]:
        """Share of tokens found of the own record and of others, by noise multiplier."""
        found = {}
        for multiplier in _MULTIPLIERS:
            bags = [self._bag(self._release("noised", i, multiplier), i) for i in self._all]
            shares = self._shares(bags)
            found[multiplier] = (float(np.diag(shares).mean()), _others(shares))
        return found

    def texts(self, view: View) -> list[tuple[str, str]]:
        """Every record's text, and what was read of it."""
        read = self.read[view].texts
        return [(self.decode(a), self.decode(b)) for a, b in zip(self.records, read, strict=True)]

    def section(self) -> Section:
        """All of it."""
        plan, form = self.releases.plan, self.releases.form
        changed = f"more than {self.changes} times" if self.changes else "after the first guess"
        noise = f"noise multiplier {plan.noise_multiplier:g}" if plan.private else "no noise"
        return Section(
            name="update",
            title="Update inversion: is a text read off what its device sends?",
            threat="A server, or somebody who listens, keeps to the protocol and reads what "
            "arrives. They know the base, the shared vector, the plan, how long the text is, and "
            "that the device has this text alone. Under secure aggregation they see a sum of "
            f"{len(self.crowd) + 1} devices. The form is {form.name!r} of rank {form.rank}, "
            f"{form.dim} numbers, with {noise}.",
            findings=self.findings(),
            figures=(self._by_view(), self._by_noise(), self._table(), *self._texts()),
            untested=(
                "Servers that choose the shared vector so that gradients show more.",
                "Attackers with pictures of the person's style, or with earlier rounds' updates.",
                f"Matching in embedding space, and texts that are changed {changed}.",
                "Which of a few known records was used: the table's last column says how often "
                "that is told; ε bounds it, and noise that hides words need not hide that.",
            ),
        )

    # --- the attacks ----------------------------------------------------------------------------

    @cached_property
    def _reader(self) -> SpanReader:
        it = self.releases
        return SpanReader(it.twin, it.form, it.theta, it.start)

    @cached_property
    def _matcher(self) -> GradientMatcher:
        it = self.releases
        return GradientMatcher(it.twin, it.form, it.theta, it.start)

    @property
    def _all(self) -> range:
        return range(len(self.records))

    def _release(self, view: View, i: int, multiplier: float | None = None) -> Released:
        devices = [[self.records[i]], *([record] for record in self.crowd)]
        return self.releases.release(view, devices, noise_multiplier=multiplier)

    def _read(self, view: View) -> _Read:
        seen = [self._release(view, i) for i in self._all]
        bags = [self._bag(one, i) for i, one in enumerate(seen)]
        return _Read(
            tokens=self._shares(bags),
            texts=[self._text(one, bags[i], len(self.records[i])) for i, one in enumerate(seen)],
            likeness=np.array([self._matcher.similarities(one, self.records) for one in seen]),
        )

    def _bag(self, seen: Released, i: int) -> list[int]:
        """As many tokens as the record has different ones, those that lie closest."""
        apart = self._reader.token_distances(self._reader.spans(seen))
        found: list[int] = np.argsort(apart, kind="stable")[
            : len(_inputs(self.records[i]))
        ].tolist()
        return found

    def _shares(self, bags: Sequence[Sequence[int]]) -> Doubles:
        truth = [_inputs(record) for record in self.records]
        return np.array([[len(there & {*bag}) / len(there) for there in truth] for bag in bags])

    def _text(self, seen: Released, bag: Sequence[int], length: int) -> list[int]:
        """Order by deeper spans, the last token by matching, then changes where they help."""
        guess = self._reader.ordered(self._reader.spans(seen), bag, length - 1)
        last = {*bag, *self._matcher.expected(guess, _AT_THE_END * self.likely)}
        ends = [[*guess, token] for token in sorted(last)]
        whole = ends[int(self._matcher.similarities(seen, ends).argmax())]
        return self._matcher.refined(seen, whole, bag, changes=self.changes, likely=self.likely)

    # --- figures --------------------------------------------------------------------------------

    def _name(self, view: View) -> str:
        many = f" of {len(self.crowd) + 1} devices" if view == "summed" else ""
        return f"{_NAMES[view]}{many}"

    def _by_view(self) -> Figure:
        shares = [self.read[view].tokens for view in VIEWS]
        return Figure(
            title="Share of a record's tokens that is read off what is seen",
            kind="bars",
            data={
                "labels": [self._name(view) for view in VIEWS],
                "values": {
                    "of its own record": [float(np.diag(one).mean()) for one in shares],
                    "of others' records": [_others(one) for one in shares],
                },
            },
        )

    def _by_noise(self) -> Figure:
        found = self.found_by_noise()
        return Figure(
            title="The same, of one device's update, by noise multiplier",
            kind="bars",
            data={
                "labels": [f"{multiplier:g}" for multiplier in found],
                "values": {
                    "of its own record": [own for own, _ in found.values()],
                    "of others' records": [others for _, others in found.values()],
                },
            },
        )

    def _table(self) -> Figure:
        rows = []
        for view in VIEWS:
            read = self.read[view]
            rows.append(
                [
                    self._name(view),
                    "yes" if view in self.leaves else "no",
                    f"{100 * float(np.diag(read.tokens).mean()):.0f} %",
                    f"{100 * _others(read.tokens):.0f} %",
                    f"{100 * self._in_place(read):.0f} %",
                    f"{100 * read.picked():.0f} %",
                ]
            )
        return Figure(
            title=f"What the attacks recover, of {len(self.records)} records",
            kind="table",
            data={
                "head": [
                    "what is seen",
                    "leaves the device",
                    "tokens found",
                    "others' tokens",
                    "tokens in their place",
                    f"its record picked out of {len(self.records)}",
                ],
                "rows": rows,
            },
        )

    def _in_place(self, read: _Read) -> float:
        right = [
            np.equal(text, record).mean()
            for text, record in zip(read.texts, self.records, strict=True)
        ]
        return float(np.mean(right))

    def _texts(self) -> list[Figure]:
        return [
            Figure(
                title=f"What was written, and what is read off {self._name(view)}",
                kind="texts",
                data={"pairs": [list(pair) for pair in self.texts(view)[:_SHOWN]]},
            )
            for view in VIEWS
        ]


def _inputs(record: Sequence[int]) -> set[int]:
    """Tokens that go into a layer whose output counts: all but the last, which is a label."""
    return set(record[:-1])


def _others(shares: Doubles) -> float:
    return float(shares[~np.eye(len(shares), dtype=bool)].mean())
