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
from ...shared.adapters import Adapter, Array
from ...shared.errors import BadInputError
from ...shared.forms import Directions, FormName, SharedForm
from ..continued import Continued, continuation_losses
from ..runtime import TextModel
from ..training.adapted import shared_chains
from ..training.cohort import Batch
from ..training.objectives.language import token_batch
from ..training.private import PrivateTraining, train_private
from ..training.shared import private_training
from ..training.text import TextTwin
from .people import DIGITS, Secret, code, secrets

__all__ = ["ExtractionAudit", "Gleaned", "decoded", "secret_losses"]

_AT_ONCE = 256  # texts that go on together
_CHANCE = 1e-3  # that an attack without power seems to have some
_SHOWN = 12  # recovered texts in the report
Rows = Sequence[Sequence[str]]

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
        delta = self.plan.delta
        return {
            "guesses": guesses_for(self._epsilon, 2 * self.canaries, delta=delta),
            "delta": delta,
        }

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
            [secret.text, secret.prefix + found]
            for secret, found, times in zip(
                self.secrets, gleaned[_PRIVATE].recovered, self.times, strict=True
            )
            if times > 1
        ]
        return Figure(
            title="Secrets that stood often, and what decoding the private adapter makes of them",
            kind="texts",
            data={"pairs": pairs[-_SHOWN:]},
        )


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
