"""Plans of private training: one frozen object from which mechanism and claim both follow.

A plan samples, clips and adds noise, and it says what that costs: the two cannot disagree. Its
class says what is protected: one *record* of a person, or a *user* with all of their records.
"""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import ClassVar, Literal, get_args

import numpy as np
import numpy.typing as npt

from ..shared.errors import BadInputError, PrivacyError
from .accounting import Relation, epsilon_of_charges
from .clipping import AdaptiveClip
from .ledger import Charge, Unit
from .matrix import Correlation, Participation
from .noise import Doubles, NoiseSource, length
from .secagg.session import FEWEST, SecureSum

__all__ = ["PrivacyPlan", "RecordPlan", "Trust", "UserPlan"]

_ROUNDING = 1.0001  # of a norm, in float32
_LEAST_NOISE = 0.2  # below, ε runs into the hundreds and protects nobody

Trust = Literal["local", "secure-aggregation", "central"]
"""Who must be trusted for a claim.

``local``: nobody; what leaves the device is noised already. ``secure-aggregation``: that enough
devices do not collude with the server, which sees the sum alone, with every device's share of the
noise in it; see :mod:`locavore.privacy.secagg`. ``central``: the server, which adds the noise.
"""


@dataclass(frozen=True, kw_only=True)
class PrivacyPlan(ABC):
    """What plans of either unit have in common.

    Args:
        clip: bound on the norm of one contribution, or the rule by which it adapts.
        trust: who must be trusted.
        noise_multiplier: noise standard deviation over the clipping norm. 0 switches privacy off,
            for reference runs only.
        rounds: rounds of the federation.
        delta: the δ at which ε is stated.
        relation: which neighbouring data sets it compares; must be said. Replacing one costs up to
            twice what adding one does, see :data:`~locavore.privacy.accounting.Relation`.
    """

    unit: ClassVar[Unit]
    clip: float | AdaptiveClip
    trust: Trust
    noise_multiplier: float = 1.0
    rounds: int = 3
    delta: float = 1e-5
    relation: Relation

    def __post_init__(self) -> None:
        if problems := self._problems():
            raise BadInputError("; ".join(problems))
        self._sum_noise()  # refuses votes that cost more than the whole

    @abstractmethod
    def charges(
        self, round: int, records: int, before: Sequence[int] = (), *, task: str = "training"
    ) -> list[Charge]:
        """What a round costs a person with ``records`` records.

        Args:
            round: of the federation, from 1.
            records: number of records that may be trained on.
            before: this person's earlier rounds under this plan.
            task: what it is for.

        Returns:
            One charge a unit; none where the plan claims nothing.

        Raises:
            PrivacyError: the plan has no such round, or none for a person with these earlier ones.
        """

    @abstractmethod
    def signal_to_noise(self, dim: int, devices: int) -> float:
        """Largest possible averaged update over the norm of its noise, in one step.

        Args:
            dim: numbers that are shared.
            devices: that are averaged in a round.
        """

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the plan: devices refuse messages under another one."""
        said = {"unit": self.unit, **asdict(self)}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()

    @property
    def units(self) -> frozenset[Unit]:
        """What is protected."""
        return frozenset([self.unit])

    @property
    def private(self) -> bool:
        """Whether the plan claims anything."""
        return self.noise_multiplier > 0

    def epsilon(self, records: int, rounds: int | None = None) -> float:
        """ε of a person with ``records`` records after ``rounds`` rounds (all when not given).

        Infinite when the plan has no noise. A person without records spends nothing.
        """
        if not records:
            return 0.0
        if not self.private:
            return math.inf
        spent: list[Charge] = []
        taken: list[int] = []
        for round in self._turns(self.rounds if rounds is None else rounds):
            found = self.charges(round, records, taken)
            spent += [charge for charge in found if charge.unit == self.unit]
            taken.append(round)
        return epsilon_of_charges(
            tuple(charge.mechanism for charge in spent), delta=self.delta, relation=self.relation
        )

    def width(self, dim: int) -> int:
        """Length of the shared vector for ``dim`` parameters: one more where the norm adapts."""
        return dim + isinstance(self.clip, AdaptiveClip)

    def norm(self, entry: float = 0.0) -> float:
        """The clipping norm; ``entry`` is the shared vector's last where the norm adapts."""
        return self.clip.norm(entry) if isinstance(self.clip, AdaptiveClip) else self.clip

    def entry(self, theta: npt.NDArray[np.float32]) -> float:
        """What of a shared vector stands for the clipping norm; 0 where the norm is fixed."""
        return float(theta[-1]) if isinstance(self.clip, AdaptiveClip) else 0.0

    def clip_factors(self, norms: npt.ArrayLike, entry: float = 0.0) -> Doubles:
        """What contributions of these norms ``(B,)`` are multiplied by: 0 where not finite."""
        lengths = np.asarray(norms, np.float64)
        factors = np.minimum(1.0, self.norm(entry) / np.maximum(lengths, 1e-12))
        return np.where(np.isfinite(lengths), factors, 0.0)

    def votes(self, norms: npt.ArrayLike, entry: float = 0.0) -> list[float]:
        """The last entry of a sum of contributions of these norms, if the norm adapts."""
        if not isinstance(self.clip, AdaptiveClip):
            return []
        return [self.clip.votes(norms, self.norm(entry))]

    def add_noise(self, total: Doubles, noise: NoiseSource, entry: float = 0.0) -> Doubles:
        """A sum ``(width,)`` of clipped contributions and their votes, with noise.

        Args:
            total: sensitive.
            noise: where the noise comes from.
            entry: the shared vector's last, where the norm adapts.
        """
        if not self.private:
            return total
        return total + self._scales(len(total), entry) * noise.gaussian(len(total))

    def _scales(self, width: int, entry: float) -> Doubles:
        """Standard deviation of the noise on every number of a sum."""
        scales = np.full(width, self._sum_noise() * self.norm(entry))
        if isinstance(self.clip, AdaptiveClip):
            scales[-1] = self.clip.vote_noise
        return scales

    def _sum_noise(self) -> float:
        if not self.private or not isinstance(self.clip, AdaptiveClip):
            return self.noise_multiplier
        return self.clip.noise_multiplier(self.noise_multiplier)

    def _turns(self, rounds: int) -> list[int]:
        """The rounds, of the first ``rounds``, in which one person can be."""
        return list(range(1, rounds + 1))

    def _require_round(self, round: int) -> None:
        if not 1 <= round <= self.rounds:
            raise PrivacyError(f"round must be 1..{self.rounds} as in the plan, got {round}")

    def _problems(self) -> list[str]:
        problems = []
        if not isinstance(self.clip, AdaptiveClip) and not (
            math.isfinite(self.clip) and self.clip > 0
        ):
            problems.append(f"clip must be above 0, got {self.clip}")
        if self.noise_multiplier and not _LEAST_NOISE <= self.noise_multiplier < 1e6:
            problems.append(
                f"noise_multiplier must be 0 (no privacy) or {_LEAST_NOISE}..1e6, "
                f"got {self.noise_multiplier}"
            )
        if self.rounds < 1:
            problems.append(f"rounds must be at least 1, got {self.rounds}")
        if self.relation not in get_args(Relation):
            names = ", ".join(map(repr, get_args(Relation)))
            problems.append(f"relation must be one of {names}, got {self.relation!r}")
        if self.trust not in get_args(Trust):
            names = ", ".join(map(repr, get_args(Trust)))
            problems.append(f"trust must be one of {names}, got {self.trust!r}")
        if not 0 < self.delta < 1:
            problems.append(f"delta must be between 0 and 1, got {self.delta}")
        return problems


@dataclass(frozen=True, kw_only=True)
class RecordPlan(PrivacyPlan):
    """Record-level DP-SGD on the device: hides whether any one record is there.

    Each record enters a step independently with probability ``expected_batch / records``
    (Poisson sampling); its gradient is clipped to ``clip``; Gaussian noise of standard deviation
    ``noise_multiplier * clip`` is added to the sum on the device; the sum is divided by the
    public ``expected_batch``. Source: Abadi et al., arXiv:1607.00133, Algorithm 1.

    Args:
        clip, noise_multiplier, rounds, delta, relation: see :class:`PrivacyPlan`; a contribution
            is one record's gradient. A device may take part in all rounds.
        trust: ``local``: nobody; a device's update is noised already when it leaves.
        expected_batch: records per step, on average.
        local_steps: steps a device takes in a round.
        learning_rate: length of a step whose averaged gradient has the clipping norm.
    """

    unit: ClassVar[Unit] = "record"
    clip: float | AdaptiveClip = 6.0
    trust: Trust = "local"
    expected_batch: int = 16
    local_steps: int = 1
    learning_rate: float = 0.05

    def sampling_rate(self, records: int) -> float:
        """Probability with which each of a device's ``records`` enters a step."""
        return min(1.0, self.expected_batch / records) if records else 0.0

    def sample(self, records: int, noise: NoiseSource) -> list[int]:
        """Indices of the records that enter a step, each independently (Poisson sampling)."""
        rate = self.sampling_rate(records)
        return [int(i) for i in np.flatnonzero(noise.uniform(records) < rate)]

    def charges(
        self, round: int, records: int, before: Sequence[int] = (), *, task: str = "training"
    ) -> list[Charge]:
        """The round's steps."""
        self._require_round(round)
        if not self.private:
            return []
        return [
            Charge(
                purpose=f"{task} {self.digest}",
                round=round,
                unit="record",
                relation=self.relation,
                noise_multiplier=self.noise_multiplier,
                sampling_rate=self.sampling_rate(records),
                steps=self.local_steps,
            )
        ]

    def signal_to_noise(self, dim: int, devices: int) -> float:
        """The noise of a step averaged over the devices has the norm ``noise_multiplier clip
        sqrt(dim) / (expected_batch sqrt(devices))``; the signal is at most ``clip``. Below 1 the
        shared adapter is mostly noise.
        """
        if not self.private:
            return math.inf
        noise = self._sum_noise() * math.sqrt(dim) / (self.expected_batch * math.sqrt(devices))
        return 1 / noise

    def _problems(self) -> list[str]:
        problems = super()._problems()
        if self.trust != "local":
            problems.append(f"trust must be 'local' in a plan for records, got {self.trust!r}")
        if not (math.isfinite(self.learning_rate) and self.learning_rate > 0):
            problems.append(f"learning_rate must be above 0, got {self.learning_rate}")
        for name in ("expected_batch", "local_steps"):
            if getattr(self, name) < 1:
                problems.append(f"{name} must be at least 1, got {getattr(self, name)}")
        return problems


@dataclass(frozen=True, kw_only=True)
class UserPlan(PrivacyPlan):
    """User-level privacy: hides whether a person, with all of their records, takes part.

    A device trains as it likes and clips its whole change to ``clip``. Gaussian noise of standard
    deviation ``noise_multiplier * clip`` is on the sum over the devices, which is divided by the
    public ``cohort``. Source: McMahan et al., arXiv:1710.06963, with fixed denominators.

    Args:
        clip, noise_multiplier, rounds, delta, relation: see :class:`PrivacyPlan`; a contribution
            is one device's whole change in a round. With ``correlation`` the multiplier is that of
            all rounds together.
        trust: where the noise is added; must be said.
        cohort: devices per round, on average.
        population: all devices, each of which is then sampled independently with probability
            ``cohort / population`` (Poisson). Without it no sampling is claimed; who sees the
            cohort cannot be told so, thus only under ``central`` trust.
        separation: rounds between two of a device's, at least.
        correlation: noise that is correlated over the rounds; needs ``central`` trust.
        fewest: devices whose shares of the noise make up the whole, under secure aggregation; a
            sum of fewer is not opened. More devices make more noise than is claimed, so that some
            may drop out. The noise of those that collude with the server protects nobody: leave
            them out of this number.
        secure_sum: how the sum is hidden, under secure aggregation.
        within: record-level training on the device, so that both units are protected: the device's
            change is noised for its records already when it is clipped.
    """

    unit: ClassVar[Unit] = "user"
    cohort: int
    population: int | None = None
    separation: int = 1
    correlation: Correlation | None = None
    fewest: int | None = None
    secure_sum: SecureSum = field(default_factory=SecureSum)
    within: RecordPlan | None = None

    @property
    def participation(self) -> Participation:
        """In which rounds one device can be."""
        return Participation(rounds=self.rounds, separation=self.separation)

    @property
    def units(self) -> frozenset[Unit]:
        """Users, and records where there is a plan within."""
        return frozenset(["user"] if self.within is None else ["user", "record"])

    @property
    def makers(self) -> int | None:
        """Devices that make the noise together, under secure aggregation."""
        return (self.fewest or self.cohort) if self.trust == "secure-aggregation" else None

    @property
    def least_summed(self) -> int:
        """Devices below which no sum is opened, under secure aggregation."""
        return max(FEWEST, self.makers or 0)

    @property
    def sampling_rate(self) -> float:
        """Probability with which a device is in a round, as far as it is claimed."""
        return 1.0 if self.population is None else min(1.0, self.cohort / self.population)

    def charges(
        self, round: int, records: int, before: Sequence[int] = (), *, task: str = "training"
    ) -> list[Charge]:
        """The round, or with correlated noise all rounds at the first; and its steps within."""
        self._require_round(round)
        self.participation.require(round, list(before))
        if not self.private:
            return []
        purpose = f"{task} {self.digest}"
        mine = Charge(
            purpose=purpose,
            round=round,
            unit="user",
            relation=self.relation,
            noise_multiplier=self.noise_multiplier,
            sampling_rate=self.sampling_rate,
            steps=0 if self.correlation and before else 1,
            composed=self.within is not None,
        )
        if self.within is None:
            return [mine]
        inner = self.within.charges(round, records)
        return [mine, *(replace(one, purpose=purpose, composed=True) for one in inner)]

    def seal(self, change: Doubles, entry: float, noise: NoiseSource) -> Doubles:
        """A device's contribution ``(width,)``: its change ``(dim,)`` clipped, and noised where
        the trust is local. A change that is not finite counts as nothing.

        Under secure aggregation its noise is added when it becomes whole numbers; see
        :class:`~locavore.privacy.distributed.WholeNumbers`. sensitive: unless the trust is local.
        """
        norm = length(change)
        clipped = np.nan_to_num(change, posinf=0.0, neginf=0.0) * self.clip_factors(norm, entry)
        whole = np.concatenate([clipped, self.votes([norm], entry)])
        return self.add_noise(whole, noise, entry) if self.trust == "local" else whole

    def bounded(
        self, contribution: npt.NDArray[np.float32], entry: float
    ) -> npt.NDArray[np.float32]:
        """A contribution ``(width,)`` as :meth:`seal` would have let it out, whoever made it.

        For a server that is trusted with single ones; honest ones come back as they are.
        """
        adapts = isinstance(self.clip, AdaptiveClip)
        dim = len(contribution) - adapts
        norm, most = length(contribution[:dim].astype(np.float64)), _ROUNDING * self.norm(entry)
        bounded = contribution.copy()
        if norm > most:
            bounded[:dim] *= most / norm
        if isinstance(self.clip, AdaptiveClip):
            least = self.clip.rate * (self.clip.quantile - 1)
            bounded[dim] = np.clip(bounded[dim], least, self.clip.rate * self.clip.quantile)
        return bounded

    def units_of_noise(self, width: int, entry: float = 0.0) -> Doubles:
        """Standard deviation of the noise on every number of a sum, ``(width,)``; without noise
        the clipping norm.
        """
        if self.private:
            return self._scales(width, entry)
        units = np.full(width, self.norm(entry))
        if isinstance(self.clip, AdaptiveClip):
            units[-1] = self.clip.rate
        return units

    @property
    def reach_in_units(self) -> float:
        """Length of the longest contribution in units of noise."""
        if self.private:
            return 1 / self.noise_multiplier
        return math.sqrt(2) if isinstance(self.clip, AdaptiveClip) else 1.0

    def release(
        self, total: Doubles, entry: float, noise: NoiseSource, state: Doubles | None = None
    ) -> tuple[Doubles, Doubles | None]:
        """The averaged update ``(width,)`` that the server may show, from a sum of contributions.

        Args:
            total: sensitive under central trust.
            entry: the shared vector's last, where the norm adapts.
            noise: the server's.
            state: what the round before returned; None before the first.

        Returns:
            The update, and what correlated noise must remember. secret: the state.
        """
        if self.trust != "central" or not self.private:
            return total / self.cohort, None
        if self.correlation is None:
            return self.add_noise(total, noise, entry) / self.cohort, None
        who = self.participation
        scale = self.correlation.sensitivity(who) * self._scales(len(total), entry)
        before = self.correlation.state(len(total)) if state is None else state
        drawn, after = self.correlation.next(who, scale * noise.gaussian(len(total)), before)
        return (total + drawn) / self.cohort, after

    def signal_to_noise(self, dim: int, devices: int) -> float:
        """The noise's norm is ``noise_multiplier clip sqrt(dim) / cohort``, and ``sqrt(cohort)``
        times that under local trust; the signal is at most ``clip``. With correlated noise it is
        that of independent noise with the same error in the sums over all rounds.
        """
        if not self.private:
            return math.inf
        noise = self._sum_noise() * math.sqrt(dim) / self.cohort
        if self.trust == "local":
            noise *= math.sqrt(self.cohort)
        if self.correlation is not None:
            error = self.correlation.error(self.participation)
            noise *= error / math.sqrt((self.rounds + 1) / 2)
        return 1 / noise

    def _turns(self, rounds: int) -> list[int]:
        return list(range(1, rounds + 1, self.separation))

    def _problems(self) -> list[str]:
        problems = super()._problems()
        for name in ("cohort", "separation"):
            if getattr(self, name) < 1:
                problems.append(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.population is not None and self.population < self.cohort:
            problems.append(f"population must be at least the cohort, got {self.population}")
        if self.population is not None and self.trust != "central":
            problems.append(
                f"{self.trust!r} trust lets the server see who is in a round, so no sampling can "
                "be claimed: leave population out"
            )
        if self.population is not None and self.separation > 1:
            problems.append("claim sampling from a population or a separation, not both")
        if self.fewest is not None and not 1 <= self.fewest <= self.cohort:
            problems.append(f"fewest must be 1..{self.cohort}, got {self.fewest}")
        return [*problems, *self._correlation_problems(), *self._within_problems()]

    def _correlation_problems(self) -> list[str]:
        if self.correlation is None:
            return []
        problems = []
        if self.trust != "central":
            problems.append(f"correlated noise needs central trust, got {self.trust!r}")
        if self.population is not None:
            problems.append("correlated noise claims no sampling: leave population out")
        if isinstance(self.clip, AdaptiveClip):
            problems.append(
                "correlated noise needs one clipping norm for all rounds, not an adaptive one"
            )
        return problems

    def _within_problems(self) -> list[str]:
        if self.within is None:
            return []
        problems = [
            f"within must have the same {name}, got {getattr(self.within, name)}"
            for name in ("rounds", "relation", "delta")
            if getattr(self.within, name) != getattr(self, name)
        ]
        if isinstance(self.within.clip, AdaptiveClip):
            problems.append("within needs a fixed clipping norm: the shared entry is the users'")
        return problems
