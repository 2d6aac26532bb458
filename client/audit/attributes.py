"""Attribute inference: what an adapter tells of the person whose records trained it.

Made-up people write on one of two topics, by a coin. An attacker who has adapters of people whose
topic is known trains a classifier on them, and reads the topic of others from theirs. Source:
Ateniese et al., "Hacking Smart Machines with Smarter Ones", arXiv:1306.4447 (meta-classifiers on
what was trained); Melis et al., arXiv:1805.04049 (on updates).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from ...privacy.audit.exposure import accuracy_interval
from ...privacy.audit.findings import Finding
from ...privacy.audit.sections import Figure, Section
from ...privacy.noise import Doubles, NoiseSource, SecureNoise
from ...privacy.plan import PrivacyPlan, RecordPlan, UserPlan
from ...shared.adapters import Adapter
from ...shared.errors import BadInputError
from ...shared.forms import Directions, FormName, SharedForm
from ..runtime import TextModel
from ..training.adapted import shared_chains
from ..training.cohort import Batch
from ..training.objectives.language import token_batch
from ..training.private import PrivateTraining, train_private
from ..training.shared import private_training
from ..training.text import TextTwin
from .people import TOPICS, notes

__all__ = ["AttributeAudit", "Guesses", "guessed", "most_accurate", "sketch"]

_SIDE = 6  # numbers on either side of a site's sketch
_RIDGE = 1.0  # in mean squared singular values
_FALSE_ALARM = 1e-6  # of the control
_PRIVATE, _PLAIN = "private adapter", "update, no noise"
_RECORDS, _USERS = "update, noise for records", "update, noise for users"

_THREAT = (
    "The attacker has adapters of people whose attribute is known, such as their own devices', and "
    "one adapter or update of a person whom they do not know: a stolen private adapter, or an "
    "update that a device sends where no secure sum hides it."
)
_UNTESTED = (
    "Nothing is claimed of a private adapter, nor of an update with noise for records: an "
    "attribute shows in all of a person's records, and record-level privacy hides one of them.",
    "Where a server is trusted, or a secure sum hides single updates, an attacker sees sums alone; "
    "this audit looks at single ones.",
    "The attribute is the topic of short notes; others may show more or less.",
)

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class Guesses:
    """What a classifier made of people whom it was not trained on.

    Args:
        right: of its guesses.
        tried: people.
        base_rate: share of right guesses of whoever names the commoner attribute.
    """

    right: int
    tried: int
    base_rate: float

    @property
    def accuracy(self) -> float:
        """Share of right guesses."""
        return self.right / self.tried

    @property
    def interval(self) -> tuple[float, float]:
        """Clopper and Pearson's, at 95 %."""
        return accuracy_interval(self.right, self.tried)

    def __str__(self) -> str:
        low, high = self.interval
        return (
            f"{self.right} of {self.tried} right ({self.accuracy:.2f}; 95 %: {low:.2f} to "
            f"{high:.2f}; base rate {self.base_rate:.2f})"
        )


@dataclass(frozen=True, kw_only=True)
class AttributeAudit:
    """Trains adapters of made-up people, and a classifier on half of them.

    Args:
        twin: of the base.
        model: the base's runtime, for its tokenizer.
        directions: the base's public directions.
        plan: for records, with noise.
        users: the plan for users, with local trust: what leaves a device is noised already.
        form, rank: of the shared adapter.
        private: how private adapters, and updates under the plan for users, are trained.
        people: how many; half of them train the classifier.
        each: records of every person.
        noise: per round and person.
        seed: of people and their attributes.

    Raises:
        BadInputError: fewer than 8 people, no noise, or a plan for users with other trust.
    """

    twin: TextTwin
    model: TextModel
    directions: Directions
    plan: RecordPlan
    users: UserPlan
    form: FormName = "core"
    rank: int = 2
    private: PrivateTraining = field(default_factory=PrivateTraining)
    people: int = 60
    each: int = 16
    noise: Callable[[int], NoiseSource] = lambda _: SecureNoise()
    seed: int = 0

    def __post_init__(self) -> None:
        problems = []
        if self.people < 8:
            problems.append(f"people must be at least 8, got {self.people}")
        if not (self.plan.private and self.users.private):
            problems.append("a plan without noise claims nothing that could be audited")
        if self.users.trust != "local":
            problems.append(f"the plan for users must have local trust, got {self.users.trust!r}")
        if problems:
            raise BadInputError("; ".join(problems))

    @cached_property
    def attributes(self) -> Bools:
        """Each person's, by a coin ``(n,)``.

        Raises:
            BadInputError: all people of a half are alike.
        """
        drawn = np.random.default_rng([self.seed, 1]).random(self.people) < 0.5
        half = self.people // 2
        if any(part.all() or not part.any() for part in (drawn[:half], drawn[half:])):
            raise BadInputError("all people are alike; draw again, or more of them")
        return drawn

    @cached_property
    def _records(self) -> list[list[list[int]]]:
        rng = np.random.default_rng([self.seed, 2])
        texts = [notes(self.each, rng, topic=TOPICS[int(has)]) for has in self.attributes]
        return [[self.model.encode(t)[: self.twin.max_tokens] for t in own] for own in texts]

    def adapters(self) -> Iterator[tuple[str, list[Adapter]]]:
        """Everybody's adapters, by what they are; each sort is trained when it is asked for."""
        yield (
            _PRIVATE,
            [train_private(self.twin, self.directions, own, self.private) for own in self._records],
        )
        yield _PLAIN, self.updates(replace(self.plan, noise_multiplier=0.0))
        yield _RECORDS, self.updates(self.plan)
        yield _USERS, self.updates(self.users)

    def section(self) -> Section:
        """Train, guess, and say what was found."""
        found: dict[str, Guesses] = {}
        controls: list[Finding] = []
        for name, adapters in self.adapters():
            rows = np.stack([sketch(adapter) for adapter in adapters])
            found[name] = guessed(rows, self.attributes)
            if name == _PRIVATE:
                controls.append(self._control(rows))
        return Section(
            name="attributes",
            title="Attributes of a person, read from an adapter",
            threat=_THREAT,
            findings=(*controls, self.claim(found[_USERS])),
            figures=(_bars(found), _table(found)),
            untested=(self._reach(), *_UNTESTED),
        )

    def _reach(self) -> str:
        """What the guesses could have shown at most."""
        tried, most = self.people - self.people // 2, most_accurate(self.users)
        shown = accuracy_interval(tried, tried)[0]
        said = (
            f"Had all {tried} guesses been right, an accuracy of {shown:.3f} would be shown; the "
            f"plan for users allows {most:.3f}"
        )
        return f"{said}." if shown > most else f"{said}, so this audit could not have refuted it."

    def updates(self, plan: PrivacyPlan) -> list[Adapter]:
        """What everybody's device lets out of the first round, as an adapter."""
        form = SharedForm(self.form, self.twin.base_id, self.directions.limited(self.rank))
        cohort = self.twin.cohort(shared_chains(form))
        training = private_training(cohort, plan, self._batch, locally=self.private.local)
        theta = np.zeros(plan.width(form.dim), np.float32)
        noise = [self.noise(person) for person in range(self.people)]
        moved = training.round(theta, self._records, noise)
        return [form.to_adapter(row[: form.dim]) for row in moved]

    def _batch(self, rows: Sequence[Sequence[int]]) -> Batch:
        return token_batch(rows, self.model.start)

    def _control(self, rows: Doubles) -> Finding:
        """Attributes that have nothing to do with the people cannot be read."""
        coins = np.random.default_rng([self.seed, 3]).random(self.people) < 0.5
        found = guessed(rows, coins)
        least = accuracy_interval(found.right, found.tried, 1 - 2 * _FALSE_ALARM)[0]
        return Finding(
            audit="attributes, control",
            claim="an attribute that is a coin's, not the person's, is guessed by chance alone",
            found=str(found),
            holds=least <= max(0.5, found.base_rate),
        )

    def claim(self, found: Guesses) -> Finding:
        """The plan for users against what was guessed of its updates."""
        epsilon = self.users.epsilon(self.each, 1)
        most = most_accurate(self.users)
        return Finding(
            audit=f"attributes, {_USERS}",
            claim=f"at ε = {epsilon:.3g} per round and user, no attribute of a user is guessed "
            f"with an accuracy above {most:.3f}",
            found=str(found),
            holds=found.interval[0] <= most,
        )


def sketch(adapter: Adapter, *, side: int = _SIDE) -> Doubles:
    """A summary of an adapter's products ``A B``, whatever its rank: ``(sites * side²,)``.

    Each site's product is seen from random directions that are the same for every adapter.

    Args:
        adapter: of any base.
        side: directions on either side.
    """
    parts = []
    for place, site in enumerate(sorted(adapter.factors)):
        a, b = adapter.factors[site]
        rng = np.random.default_rng([place, *a.shape[:1], *b.shape[1:]])
        left = rng.normal(size=(side, a.shape[0]))
        right = rng.normal(size=(b.shape[1], side))
        parts.append(((left @ a) @ (b @ right)).ravel())
    return np.concatenate(parts)


def guessed(rows: Doubles, has: Bools) -> Guesses:
    """Train on the first half of people, guess the others' attribute.

    A linear classifier: ridge regression on standardised features, which does well where there are
    more features than people. Attributes count as a fair coin's, however the first half fell.

    Args:
        rows: ``(n, d)`` features.
        has: ``(n,)`` attributes; both occur in the first half.
    """
    half = len(rows) // 2
    scale = np.maximum(rows[:half].std(0), 1e-12)
    x = (rows - rows[:half].mean(0)) / scale
    middle = has[:half].mean()
    gram = x[:half] @ x[:half].T
    ridge = _RIDGE * np.trace(gram) / half + 1e-12
    weights = np.linalg.solve(gram + ridge * np.eye(half), has[:half] - middle)
    scores = x @ (x[:half].T @ weights)
    known, own = scores[:half], has[:half]
    says = scores[half:] > (known[own].mean() + known[~own].mean()) / 2
    common = has[half:] == (middle > 0.5)
    right = int((says == has[half:]).sum())
    return Guesses(right=right, tried=len(rows) - half, base_rate=float(common.mean()))


def most_accurate(plan: UserPlan) -> float:
    """The greatest accuracy at guessing a fair coin of a user's, from one round's update.

    Two users that differ are neighbours where one replaces the other, else two steps apart;
    ``(e^ε + δ) / (1 + e^ε)`` is the hypothesis test's bound (Kairouz et al., arXiv:1311.0776).
    """
    epsilon, delta = plan.epsilon(1, 1), plan.delta
    if plan.relation != "replace-one":
        epsilon, delta = 2 * epsilon, delta * (1 + math.exp(min(epsilon, 50.0)))
    chance = 1 / (1 + math.exp(-epsilon))
    return min(1.0, chance + delta * (1 - chance))


def _bars(found: Mapping[str, Guesses]) -> Figure:
    return Figure(
        title="Accuracy at guessing the attribute of people who were not trained on",
        kind="bars",
        data={
            "labels": list(found),
            "values": {
                "accuracy": [round(one.accuracy, 3) for one in found.values()],
                "base rate": [round(one.base_rate, 3) for one in found.values()],
            },
        },
    )


def _table(found: Mapping[str, Guesses]) -> Figure:
    rows = [
        [name, one.right, one.tried, *(round(end, 3) for end in one.interval)]
        for name, one in found.items()
    ]
    return Figure(
        title="The same, with Clopper and Pearson's intervals at 95 %",
        kind="table",
        data={"head": ["of", "right", "people", "at least", "at most"], "rows": rows},
    )
