"""Extraction: what an adapter gives away of secrets that stood in the records it was trained on.

Secrets are planted never, once or often; a private adapter and a shared one, with and without
noise, are trained by the device's own core; then the secrets are ranked by exposure and searched
for by decoding from what an attacker knows. Source: Carlini et al., arXiv:1802.08232.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from ...privacy.audit.evidence import LowerBound, Scores
from ...privacy.audit.exposure import chance_finding, exposures, fitted_exposures, standings
from ...privacy.audit.findings import Finding, against
from ...privacy.audit.one_run import guesses_for, one_run_bound, one_run_reach
from ...privacy.audit.sections import Figure, Section, epsilon_bars
from ...privacy.noise import Doubles, NoiseSource, SecureNoise
from ...privacy.plan import RecordPlan
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
from .decoding import decoded, secret_losses
from .people import DIGITS, Secret, code, secrets

__all__ = ["ExtractionAudit", "Gleaned"]

_LOOKED_FOR = 8.0  # ε that guesses are for where less is claimed: fewer say nothing of few coins
_CHANCE = 1e-3  # that an attack without power seems to have some
_SHOWN = 12  # recovered texts in the report
_PRIVATE, _PLAIN, _NOISED = "private adapter", "shared adapter, no noise", "shared adapter, noised"

_THREAT = (
    "The attacker holds an adapter and the public base, knows how a record begins "
    '("The code of NAME is") and wants the rest. A private adapter is held by who holds the '
    "unlocked device alone; a shared one by every member of the federation."
)
_UNTESTED = (
    "Nothing is claimed of a private adapter: it has no noise, and its protection is that it "
    "stays on the device.",
    "An attack that finds nothing proves nothing: a stronger one may.",
    "The planted secrets are digits after a fixed phrase; other texts may be kept better or worse.",
)


@dataclass(frozen=True, kw_only=True)
class Gleaned:
    """What was found of every secret in one adapter.

    Args:
        bits: ``(n,)`` exposure by rank.
        fitted: ``(n,)`` exposure by a fitted distribution.
        standing: ``(n,)`` by which secrets that were there are told from others.
        recovered: the likeliest continuation of each secret's prefix.
        verbatim: ``(n,)`` whether it is the secret.
    """

    bits: Doubles
    fitted: Doubles
    standing: Doubles
    recovered: tuple[str, ...]
    verbatim: npt.NDArray[np.bool_]


@dataclass(frozen=True, kw_only=True)
class ExtractionAudit:
    """Plants secrets among records, trains, and looks for them.

    Args:
        twin: of the base.
        model: the base's runtime, by which secrets are scored and decoded.
        directions: the base's public directions.
        records: texts among which the secrets stand.
        plan: of the shared adapter, with noise.
        form, rank: of the shared adapter.
        private: how the private adapter is trained.
        canaries: secrets for each number of times, among them never; of twice as many more each
            is there once or not by a coin.
        often: how many times secrets stand among the records, beside never and once.
        references: other codes that each secret is ranked among.
        width: of the beam by which secrets are decoded; 1 is greedy.
        noise: per round, for the shared adapter.
        seed: of the secrets and their coins.

    Raises:
        BadInputError: a plan without noise, fewer than two canaries, or no records.
    """

    twin: TextTwin
    model: TextModel
    directions: Directions
    records: Sequence[str]
    plan: RecordPlan
    form: FormName = "core"
    rank: int = 2
    private: PrivateTraining = field(default_factory=PrivateTraining)
    canaries: int = 8
    often: tuple[int, ...] = (4, 16)
    references: int = 127
    width: int = 4
    noise: Callable[[int], NoiseSource] = lambda _: SecureNoise()
    seed: int = 0

    def __post_init__(self) -> None:
        problems = []
        if not self.plan.private:
            problems.append("a plan without noise claims nothing that could be audited")
        if self.canaries < 2:
            problems.append(f"canaries must be at least 2, got {self.canaries}")
        if not self.records:
            problems.append("there are no records to plant secrets among")
        if problems:
            raise BadInputError("; ".join(problems))

    @cached_property
    def secrets(self) -> list[Secret]:
        """All secrets: those with a coin first, then those that stand never, and often."""
        rng = np.random.default_rng([self.seed, 1])
        return secrets(self.canaries * (3 + len(self.often)), rng)

    @cached_property
    def times(self) -> npt.NDArray[np.int64]:
        """How often each secret stands among the records, ``(n,)``."""
        coins = np.random.default_rng([self.seed, 2]).random(2 * self.canaries) < 0.5
        if coins.all() or not coins.any():
            raise BadInputError("every coin fell the same way; draw again, with more canaries")
        return np.concatenate([coins.astype(np.int64), np.repeat([0, *self.often], self.canaries)])

    @cached_property
    def _rows(self) -> list[list[int]]:
        planted = [s.text for s, times in zip(self.secrets, self.times, strict=True) if times]
        counts = [int(times) for times in self.times if times]
        texts = [
            *self.records,
            *(t for t, n in zip(planted, counts, strict=True) for _ in range(n)),
        ]
        rows = [self.model.encode(text)[: self.twin.max_tokens] for text in texts]
        return [row for row in rows if len(row) > 1]

    def adapters(self) -> Iterator[tuple[str, Adapter]]:
        """The adapters that are attacked, by name; each is trained when it is asked for."""
        yield (
            _PRIVATE,
            train_private(self.twin, self.directions, self._rows, self.private),
        )
        yield _PLAIN, self._shared(replace(self.plan, noise_multiplier=0.0))
        yield _NOISED, self._shared(self.plan)

    def glean(self, adapter: Adapter) -> Gleaned:
        """Rank every secret among codes of its own, and decode it."""
        rng = np.random.default_rng([self.seed, 3])
        rows = [[s.code, *(code(rng) for _ in range(self.references))] for s in self.secrets]
        with self.model.bare():  # afterwards, what was live before is live again
            self.model.attach(adapter)
            losses = secret_losses(self.model, self.secrets, rows)
            found = decoded(self.model, self.secrets, width=self.width)
        same = [t.strip() == s.code.strip() for t, s in zip(found, self.secrets, strict=True)]
        own, others = losses[:, 0], losses[:, 1:]
        return Gleaned(
            bits=exposures(own, others),
            fitted=fitted_exposures(own, others, space=10**DIGITS),
            standing=standings(own, others),
            recovered=tuple(found),
            verbatim=np.array(same),
        )

    def section(self) -> Section:
        """Train, attack, and say what was found."""
        gleaned = {name: self.glean(adapter) for name, adapter in self.adapters()}
        never, most = self.times == 0, self.times == max(self.times)
        findings = [
            chance_finding(found.bits[never], audit=f"extraction, {name}")
            for name, found in gleaned.items()
        ]
        untested = [one_run_reach(self._epsilon, 2 * self.canaries, **self._guessing), *_UNTESTED]
        if chance_finding(gleaned[_PRIVATE].bits[most], audit="", false_alarm=_CHANCE).holds:
            untested.insert(
                0,
                f"The attack finds little even in the private adapter with secrets that stood "
                f"{max(self.times)} times, so it says little here; train it longer.",
            )
        return Section(
            name="extraction",
            title="Extraction of planted secrets",
            threat=_THREAT,
            findings=(*findings, self.claim(gleaned[_NOISED])),
            figures=(
                *self._histograms(gleaned),
                self._table(gleaned),
                self._claimed(gleaned[_NOISED]),
                self._texts(gleaned),
            ),
            untested=tuple(untested),
        )

    def _shared(self, plan: RecordPlan) -> Adapter:
        form = SharedForm(self.form, self.twin.base_id, self.directions.limited(self.rank))
        cohort = self.twin.cohort(shared_chains(form))
        training = private_training(cohort, plan, self._batch)
        theta = np.zeros(plan.width(form.dim), np.float32)
        for number in range(1, plan.rounds + 1):
            noise = [self.noise(number)]
            theta = theta + training.round(theta, [self._rows], noise, number=number)[0]
        return form.to_adapter(theta[: form.dim])

    def _batch(self, rows: Sequence[Sequence[int]]) -> Batch:
        return token_batch(rows, self.model.start)

    def claim(self, found: Gleaned) -> Finding:
        """The plan's ε against the secrets that were there by a coin."""
        return against(self._epsilon, self._bound(found), audit=f"extraction, {_NOISED}")

    def _claimed(self, found: Gleaned) -> Figure:
        rows = [("secrets that stood once", self._epsilon, self._bound(found))]
        return epsilon_bars("One secret in the shared adapter, all rounds", rows)

    def _bound(self, found: Gleaned) -> LowerBound:
        tossed = slice(0, 2 * self.canaries)
        scores = Scores.of(found.standing[tossed], self.times[tossed] == 1)
        return one_run_bound(scores, **self._guessing)

    @property
    def _epsilon(self) -> float:
        """What the plan claims of a device with these records."""
        return self.plan.epsilon(len(self._rows))

    @property
    def _guessing(self) -> dict[str, Any]:
        looked_for, delta = max(self._epsilon, _LOOKED_FOR), self.plan.delta
        return {"guesses": guesses_for(looked_for, 2 * self.canaries, delta=delta), "delta": delta}

    def _groups(self) -> dict[str, npt.NDArray[np.bool_]]:
        named = {0: "never there", 1: "once"}
        return {
            named.get(times, f"{times} times"): self.times == times for times in (0, 1, *self.often)
        }

    def _histograms(self, gleaned: dict[str, Gleaned]) -> Iterator[Figure]:
        for name, found in gleaned.items():
            values = {group: found.bits[rows].tolist() for group, rows in self._groups().items()}
            title = f"Exposure in bits, {name}: how many guesses are saved, as a power of two"
            yield Figure(title=title, kind="histogram", data={"values": values})

    def _table(self, gleaned: dict[str, Gleaned]) -> Figure:
        rows = [
            [
                name,
                group,
                int(among.sum()),
                round(float(found.bits[among].mean()), 2),
                round(float(found.fitted[among].mean()), 2),
                int(found.verbatim[among].sum()),
            ]
            for name, found in gleaned.items()
            for group, among in self._groups().items()
        ]
        head = ["adapter", "planted", "secrets", "bits by rank", "bits, fitted", "verbatim"]
        return Figure(
            title="Exposure and extraction: a secret that was never there has 1.44 bits on average",
            kind="table",
            data={"head": head, "rows": rows},
        )

    def _texts(self, gleaned: dict[str, Gleaned]) -> Figure:
        pairs = [
            [secret.text, found.strip()]
            for secret, found, times in zip(
                self.secrets, gleaned[_PRIVATE].recovered, self.times, strict=True
            )
            if times > 1
        ]
        return Figure(
            title="Secrets that stood often, and what decoding the private adapter from their "
            "beginning gives",
            kind="texts",
            data={"pairs": pairs[-_SHOWN:]},
        )
