"""Audits of user-level privacy: canary devices through the real apps of both sides.

A canary device takes part like any other; only its change of the shared vector is whatever the
auditor wants. It is clipped and sealed by the device's code, travels in Flower's messages, through
a secure sum where the plan has one, and is summed, noised and released by the server's code.

- *sensitivity*: what one device adds to a release, found exactly: two federations without noise.
- *noise*: what is released where no device changes anything.
- *canaries*: canary devices against directions of which the release knows nothing, and by their
  cosines with the closed-form null (Andrew et al., arXiv:2302.03098).
- *sampling*: who is asked in which round, where the plan claims that devices are sampled.
- *accounting*: what the federation's ledger holds afterwards.

Noise that is correlated over the rounds has an audit of its own: :mod:`.correlated_audit`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from flwr.app import Message

from ...client.app import FederatedDevice
from ...client.audit.canaries import QuietNoise, directions
from ...privacy.accounting import epsilon_of_gaussian
from ...privacy.audit.accounts import account_findings
from ...privacy.audit.evidence import Estimate, LowerBound
from ...privacy.audit.findings import Finding, against
from ...privacy.audit.gaussian import cosine_bound, cosine_estimate, reference_bound
from ...privacy.audit.noises import noise_findings
from ...privacy.audit.openings import opening_findings
from ...privacy.audit.promises import promised_deviations, promised_norm, silent_vote
from ...privacy.audit.sampling import sampling_findings
from ...privacy.audit.sections import Section, epsilon_bars, histogram
from ...privacy.noise import Doubles, NoiseSource, SecureNoise
from ...privacy.plan import Trust, UserPlan
from ...shared.errors import BadInputError
from .audited_federation import AuditedFederation, CanaryDevice
from .grid import Direction

__all__ = ["UserAudit"]

_LONG = 100.0  # times the clipping norm: what a canary device's change measures
_SLACK = 1e-3  # of float32 releases
_ROUNDED = 0.02  # of sums of whole numbers

_RELEASED = (
    "Somebody sees every shared vector that the server releases, and decides what all devices but "
    "one send, and what that one sends if it takes part. They ask whether it does. "
)
_THREATS: Mapping[Trust, str] = {
    "local": f"{_RELEASED}The server may be the attacker: it sees updates that are noised already.",
    "secure-aggregation": f"{_RELEASED}The server may be the attacker and lie in the protocol of "
    "the secure sum; enough devices are honest.",
    "central": f"{_RELEASED}The server is trusted: it sees single updates without noise.",
}
_UNTESTED = (
    "Plans that keep a device's rounds apart.",
    "The ε of all rounds together by attack: the bound is for one round, and sampling and "
    "composition were tested each by itself.",
    "Randomness that an attacker can predict: noise was tested for its size and for repeating, not "
    "for how its seed was drawn.",
    "Time: how long a device or the server takes to answer.",
)


@dataclass(frozen=True, kw_only=True)
class UserAudit:
    """What is audited, and how thoroughly.

    Args:
        plan: the mechanism and its claim; with noise.
        dim: numbers that are shared, 200 at least.
        device: makes a device of a federation.
        server_noise: the server's source of a round, as it has it.
        device_noise: a device's source of a round, ``(device, round)``.
        rounds: of a federation.
        sampled_rounds: whose sampling is watched, where sampling is claimed.
        confidence: of the bounds on ε.
        rng: of the audit itself.
    """

    plan: UserPlan
    dim: int = 256
    device: Callable[..., FederatedDevice] = CanaryDevice
    server_noise: Callable[[int], NoiseSource] = lambda _: SecureNoise()
    device_noise: Callable[[int, int], NoiseSource] = lambda _, __: SecureNoise()
    rounds: int = 16
    sampled_rounds: int = 40
    confidence: float = 1 - 1e-7
    rng: np.random.Generator = field(default_factory=np.random.default_rng)

    def __post_init__(self) -> None:
        problems = []
        if not self.plan.private:
            problems.append("a plan without noise claims nothing that could be audited")
        if self.plan.correlation is not None:
            problems.append(
                "noise that is correlated over the rounds is audited by CorrelatedAudit"
            )
        if self.plan.separation > 1:
            problems.append("a plan that keeps devices apart is not audited; set separation to 1")
        if self.dim < 200 or self.dim < 2 * self.devices:
            problems.append(f"dim must be at least 200 and twice the devices, got {self.dim}")
        if problems:
            raise BadInputError("; ".join(problems))

    @property
    def devices(self) -> int:
        """That take part."""
        return self._audited.devices

    @property
    def _audited(self) -> AuditedFederation:
        return AuditedFederation(
            plan=self.plan,
            dim=self.dim,
            device=self.device,
            server_noise=self.server_noise,
            device_noise=self.device_noise,
        )

    @property
    def claim_of_a_round(self) -> float:
        """ε of one round with everybody, as the plan's noise multiplier claims it."""
        return epsilon_of_gaussian(
            noise_multiplier=self.plan.noise_multiplier, steps=1, delta=self.plan.delta
        )

    def findings(self) -> list[Finding]:
        """All audits, in the order of the module's docstring."""
        return self._findings(self.bounds())

    def section(self) -> Section:
        """All audits with what canaries showed, and under secure aggregation a lying server's."""
        plan, scores = self.plan, self._scores()
        claim, bounds = self.claim_of_a_round, self._bounds(*scores)
        return Section(
            name="mechanism",
            title="User-level privacy through both sides' apps",
            threat=_THREATS[plan.trust],
            findings=(
                *self._findings(bounds),
                *(() if plan.makers is None else opening_findings()),
            ),
            figures=(
                epsilon_bars(
                    f"One round with every device in it (δ = {plan.delta:g})",
                    [
                        (name, claim, bound)
                        for name, bound in zip(("known null", "cosines"), bounds, strict=True)
                    ],
                ),
                histogram(
                    "How much of each canary device is in a release, in clipping norms",
                    {
                        "devices that took part": scores[0],
                        "directions that no device took": scores[1],
                    },
                ),
            ),
            untested=_UNTESTED,
        )

    def _findings(self, bounds: Sequence[LowerBound]) -> list[Finding]:
        return [
            *self.sensitivity(),
            *self.noises(),
            *(against(self.claim_of_a_round, one, audit="canary devices") for one in bounds),
            *self.sampling(),
            *self.accounting(),
        ]

    def sensitivity(self) -> list[Finding]:
        """What one device adds to a release: no more than the clipping norm."""
        long = directions(1, self.dim, self.rng)[0] * _LONG * self._norm(0.0)
        cases = [long, np.where(np.arange(self.dim) == 0, np.inf, long)]
        seed = int(self.rng.integers(2**31))
        without, broken = self._one_release(seed, np.zeros(self.dim))
        most = 0.0
        for change in cases:
            found, lost = self._one_release(seed, change)
            broken = broken or lost
            added = (found - without)[: self.dim] / self._norm(0.0)
            most = max(most, float(np.linalg.norm(added)))
        whole = _ROUNDED if self.plan.makers else _SLACK
        return [
            Finding(
                audit="sensitivity",
                claim="no device adds more than the clipping norm to a release",
                found=f"{most:.4f} times the norm, of {len(cases)} made-up changes"
                + (", and a round was lost" if broken else ""),
                holds=most <= 1 + whole and not broken,
            )
        ]

    def noises(self) -> list[Finding]:
        """What is released where no device changes anything, in units of what is promised."""
        thetas, _ = self._audited.run(lambda *_: np.zeros(self.dim), self.rounds)
        released = np.diff(thetas, axis=0) * self.plan.cohort
        released[:, self.dim :] -= self.devices * silent_vote(self.plan.clip)
        width = released.shape[1]
        for row, before in zip(released, thetas[:-1], strict=True):
            row /= promised_deviations(self.plan, width, self._entry(before))
        return noise_findings(released, np.full(width, 1 - _SLACK), what="a release")

    def bounds(self) -> list[LowerBound]:
        """ε that canary devices show of one round with everybody."""
        return self._bounds(*self._scores())

    def _bounds(self, there: Doubles, away: Doubles, cosines: Doubles) -> list[LowerBound]:
        delta, confidence = self.plan.delta, self.confidence
        return [
            reference_bound(there, away, delta=delta, confidence=confidence),
            cosine_bound(cosines, self.dim, delta=delta, confidence=confidence),
        ]

    def estimate(self) -> Estimate:
        """Andrew et al.'s estimate of the same."""
        found = self._scores(orthogonal=False)[2]
        return cosine_estimate(found, self.dim, delta=self.plan.delta)

    def sampling(self) -> list[Finding]:
        """Who is asked in which round."""
        if self.plan.population is None:
            return []
        asked: list[tuple[int, int]] = []

        def tap(message: Message, way: Direction) -> None:
            if way == "down":
                asked.append((int(message.metadata.group_id) - 1, message.metadata.dst_node_id))

        def silent(*_: int) -> Doubles:
            return np.zeros(self.dim)

        self._audited.run(silent, self.sampled_rounds, tap=tap, everybody=False)
        entered = np.zeros((self.sampled_rounds, self.devices), bool)
        for round, node in asked:
            entered[round, node] = True
        rate = max(charge.sampling_rate for charge in self.plan.charges(1, 1))
        return sampling_findings(entered, rate)

    def accounting(self) -> list[Finding]:
        """What the ledger holds after a federation, against its plan."""
        plan = self._audited.lasting(min(3, self.rounds))
        _, ledger = self._audited.run(lambda *_: np.zeros(self.dim), plan.rounds)
        charges = [charge for charge in ledger.charges if charge.unit == "user"]
        return account_findings(
            charges,
            plan.epsilon(1),
            delta=plan.delta,
            relation=plan.relation,
            noise_multiplier=plan.noise_multiplier,
            steps=plan.rounds,
        )

    def _scores(self, *, orthogonal: bool = True) -> tuple[Doubles, Doubles, Doubles]:
        """Of canaries, of unused directions, and the canaries' cosines."""
        count = self.devices
        drawn = [
            directions(2 * count, self.dim, self.rng, orthogonal=orthogonal)
            for _ in range(self.rounds)
        ]

        def change(device: int, round: int) -> Doubles:
            long: Doubles = drawn[round - 1][device] * _LONG * self._norm(10.0)
            return long

        thetas, _ = self._audited.run(change, self.rounds)
        there, away, cosines = [], [], []
        for before, after, used in zip(thetas[:-1], thetas[1:], drawn, strict=True):
            released = (after - before)[: self.dim] * self.plan.cohort
            found = used @ released / self._norm(self._entry(before))
            there.append(found[:count])
            away.append(found[count:])
            cosines.append(used[:count] @ released / np.linalg.norm(released))
        return np.concatenate(there), np.concatenate(away), np.concatenate(cosines)

    def _one_release(self, seed: int, change: Doubles) -> tuple[Doubles, bool]:
        """The first release where the last device makes this change, and whether it was lost."""
        last = self.devices - 1
        thetas, _ = self._audited.run(
            lambda device, _: change if device == last else np.zeros(self.dim),
            1,
            server_noise=lambda _: QuietNoise(seed),
            device_noise=lambda device, _: QuietNoise(seed + device),
        )
        released: Doubles = (thetas[-1] - thetas[0]) * self.plan.cohort
        return released, len(thetas) != 2

    def _norm(self, entry: float) -> float:
        return promised_norm(self.plan.clip, entry)

    def _entry(self, theta: Doubles) -> float:
        return float(theta[-1]) if len(theta) > self.dim else 0.0
