"""Membership inference on adapters: who was trained on, told from the adapter or from its texts.

Adapters are trained by the device's own code on records that are each there by a coin; attacks of
:mod:`locavore.privacy.audit.membership` then guess the coins. A plan's ε is held against a bound
from the guesses; where nothing is claimed, the claim that is tested is that guessing is by chance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from ...privacy.audit.evidence import LowerBound, Scores
from ...privacy.audit.findings import Finding, against
from ...privacy.audit.membership import (
    area,
    chance_finding,
    lira_offline,
    lira_online,
    rate_at,
    rmia,
    roc,
)
from ...privacy.audit.one_run import guesses_for, one_run_bound, one_run_reach
from ...privacy.audit.sections import Figure, Section, epsilon_bars
from ...privacy.noise import Doubles
from ...privacy.plan import RecordPlan
from ...shared.errors import BadInputError
from ..training.cohort import Batch, Cohort
from .shadows import Trained, Trainer, train_on_coins
from .written import affinities, write_texts

__all__ = ["MembershipAudit"]

_LOOKED_FOR = 4.0  # ε at which the number of guesses does best, whatever is claimed
_RATES = (0.01, 0.001)
_SAMPLES_ONLY = "samples only"
_ATTACKS: Mapping[str, Callable[[Any], Doubles]] = {
    "loss": lambda losses: -losses.seen,
    "LiRA, offline": lira_offline,
    "LiRA, online": lira_online,
    "RMIA": rmia,
}


@dataclass(frozen=True, kw_only=True)
class MembershipAudit:
    """What is attacked, and how thoroughly.

    Args:
        cohort: the chains that are trained beside the frozen base.
        train: how; see :func:`~.shadows.local_trainer` and :func:`~.shadows.plan_trainer`.
        collate: makes a batch of records.
        units: whose membership is guessed: lists of token records, single ones or a user's.
        public: records of nobody, for calibration and as prompts; at least one.
        plan: by which ``train`` trains, where it does.
        what: is observed, for sentences.
        targets: adapters that are attacked.
        shadows: adapters that the attacker trains; 4 at least.
        samples: texts that each adapter writes for the attack that sees nothing else; 0: none.
        sample_tokens: of each.
        confidence: that no true claim is refuted, by any of the attacks.
        seed: of coins and samples.
    """

    cohort: Cohort
    train: Trainer
    collate: Callable[[Sequence[Any]], Batch]
    units: Sequence[Sequence[Sequence[int]]]
    public: Sequence[Sequence[int]]
    plan: RecordPlan | None = None
    what: str = "the adapter"
    targets: int = 4
    shadows: int = 16
    samples: int = 0
    sample_tokens: int = 24
    confidence: float = 0.95
    seed: int = 0

    def __post_init__(self) -> None:
        if not all(self.units):
            raise BadInputError("every unit needs at least one record")

    @property
    def by_record(self) -> bool:
        """Whether single records are guessed, and not users with several."""
        return all(len(unit) == 1 for unit in self.units)

    @property
    def claim(self) -> float | None:
        """ε of one record in a target, where the plan has noise and records are guessed."""
        if self.plan is None or not self.plan.private or not self.by_record:
            return None
        fewest = int(self.trained.there[: self.targets].sum(1).min())
        return self.plan.epsilon(fewest)

    @cached_property
    def trained(self) -> Trained:
        """The adapters; trained on first use."""
        return train_on_coins(
            self.cohort,
            self.train,
            self.units,
            self.public,
            self.collate,
            targets=self.targets,
            shadows=self.shadows,
            rng=np.random.default_rng(self.seed),
        )

    @cached_property
    def scores(self) -> dict[str, Scores]:
        """Of each attack, all targets' units together."""
        sizes = [len(unit) for unit in self.units]
        starts = np.cumsum([0, *sizes[:-1]])
        there = self.trained.there[: self.targets, starts].ravel()

        def together(rows: Sequence[Doubles]) -> Scores:
            by_unit = [np.add.reduceat(row, starts) / sizes for row in rows]
            return Scores.of(np.concatenate(by_unit), there)

        seen = [self.trained.seen_by_attacker(target) for target in range(self.targets)]
        found = {name: together([attack(one) for one in seen]) for name, attack in _ATTACKS.items()}
        if self.samples:
            found[_SAMPLES_ONLY] = together(self._affinities())
        return found

    def bounds(self) -> dict[str, LowerBound]:
        """On ε of one unit, by each attack; coins of all targets count as one run's."""
        return {
            name: one_run_bound(scores, **self._guessing) for name, scores in self.scores.items()
        }

    def findings(self) -> list[Finding]:
        """The plan's ε against each attack's bound; without one, each attack against chance."""
        if (claim := self.claim) is not None:
            found = self.bounds().items()
            return [against(claim, bound, audit=f"membership, {name}") for name, bound in found]
        rng = np.random.default_rng([self.seed, 1])
        return [
            chance_finding(
                scores,
                audit=f"membership, {name}",
                observer=f"who sees {'texts of ' * (name == _SAMPLES_ONLY)}{self.what}",
                rng=rng,
                confidence=self._level,
            )
            for name, scores in self.scores.items()
        ]

    def section(self) -> Section:
        """All of it."""
        unit = "record" if self.by_record else "user"
        members = len(self.scores["loss"].included)
        curves = {name: roc(scores) for name, scores in self.scores.items()}
        return Section(
            name="membership",
            title=f"Membership inference: is a {unit} among those that were trained on?",
            threat=f"Somebody sees {self.what}, or only texts that were written with it, holds "
            f"a candidate {unit}, and wants to know whether it was trained on. They have the base, "
            f"know how training goes, and train {self.shadows} adapters of their own on records "
            "like the device's.",
            findings=self.findings(),
            figures=(
                Figure(
                    title=f"Members found against false alarms: {self.targets} adapters, "
                    f"{members} members and {len(self.scores['loss'].excluded)} others in all",
                    kind="roc",
                    data={"curves": {name: list(rates) for name, rates in curves.items()}},
                ),
                Figure(
                    title="What each attack finds (95 % intervals of Clopper and Pearson)",
                    kind="table",
                    data={"head": self._head(), "rows": self._rows()},
                ),
                *self._claimed(),
            ),
            untested=self._untested(),
        )

    # --- inside ---------------------------------------------------------------------------------

    @property
    def _level(self) -> float:
        """Confidence of one attack of those that are tried."""
        return 1 - (1 - self.confidence) / (len(_ATTACKS) + bool(self.samples))

    @property
    def _coins(self) -> int:
        return self.targets * len(self.units)

    @cached_property
    def _guessing(self) -> dict[str, Any]:
        """Of how many coins to guess, and the level of what is said then."""
        level = {"delta": 1e-5 if self.plan is None else self.plan.delta, "confidence": self._level}
        guesses = guesses_for(_LOOKED_FOR, self._coins, **level)
        return {"guesses": min(guesses, self._coins // 2), **level}

    def _affinities(self) -> list[Doubles]:
        generator = torch.Generator().manual_seed(self.seed)
        prompts = [self.public[i % len(self.public)][:1] for i in range(self.samples)]
        written = write_texts(
            self.cohort,
            self.trained.theta,
            prompts,
            tokens=self.sample_tokens,
            generator=generator,
        )
        records = [record for unit in self.units for record in unit]
        vocabulary = self.cohort.model.get_input_embeddings().num_embeddings  # type: ignore[operator]
        others = written[self.targets :]
        there = self.trained.there[self.targets :]
        return [
            affinities([texts, *others], records, there, vocabulary)
            for texts in written[: self.targets]
        ]

    def _claimed(self) -> Iterator[Figure]:
        """The plan's ε beside each attack's bound, where there is a claim."""
        if (claim := self.claim) is not None:
            rows = [(name, claim, bound) for name, bound in self.bounds().items()]
            yield epsilon_bars("One record in an attacked adapter, all rounds", rows)

    @staticmethod
    def _head() -> list[str]:
        rates = [f"found at {100 * rate:g} % false alarms" for rate in _RATES]
        return ["attack", "AUC", *rates, "ε of the coins, at least"]

    def _rows(self) -> list[list[str]]:
        bounds = self.bounds()
        return [
            [
                name,
                f"{area(scores):.3f}",
                *(_rate(scores, rate) for rate in _RATES),
                f"{bounds[name].epsilon:.2f}",
            ]
            for name, scores in self.scores.items()
        ]

    def _untested(self) -> list[str]:
        found = []
        if (claim := self.claim) is not None:
            found.append(one_run_reach(claim, self._coins, **self._guessing))
        found += [
            "Attackers who choose the records, or poison them, to make others stand out.",
            "Attackers who see the adapter change from round to round, not only its last state.",
        ]
        if not self.by_record:
            found.append("An ε for users: a plan for records does not claim one.")
        if not self.samples:
            found.append("Attackers who see generated texts alone.")
        return found


def _rate(scores: Scores, false_positives: float) -> str:
    found = rate_at(scores, false_positives)
    return f"not stated: {len(scores.excluded)} others are too few" if found is None else str(found)
