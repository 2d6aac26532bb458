"""The audit of noise that is correlated over the rounds, by all rounds of a federation together.

Each round's noise takes back part of the noise before, so that a single round looks as if it had
little and says nothing by itself. The claim is about the whole: with the public matrix ``C`` of the
correlation, ``C`` times all releases is ``C`` times what devices sent plus *independent* noise
(Denisov et al., arXiv:2202.08312, Theorem 2.1). The attacker knows ``C`` and does that:

- *sensitivity*: what a device adds to all releases, found exactly, after ``C``.
- *noise*: what is released where no device changes anything, after ``C``: enough, everywhere, and
  new in every round.
- *canaries*: devices that send the same long change in every round, against directions of which the
  releases know nothing; weighted by how loud each round is after ``C``.
- *accounting*: all rounds are charged once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from ...client.app import FederatedDevice
from ...client.audit.canaries import QuietNoise, directions
from ...privacy.accounting import epsilon_of_gaussian
from ...privacy.audit.accounts import account_findings
from ...privacy.audit.evidence import LowerBound
from ...privacy.audit.findings import Finding, against
from ...privacy.audit.gaussian import reference_bound
from ...privacy.audit.noises import noise_findings
from ...privacy.audit.promises import promised_norm
from ...privacy.audit.sections import Section, epsilon_bars, histogram
from ...privacy.noise import Doubles, NoiseSource, SecureNoise
from ...privacy.plan import UserPlan
from ...shared.errors import BadInputError
from .audited_federation import AuditedFederation, CanaryDevice

__all__ = ["CorrelatedAudit"]

_LONG = 100.0  # times the clipping norm: what a canary device's change measures
_SLACK = 1e-3  # of float32 releases


@dataclass(frozen=True, kw_only=True)
class CorrelatedAudit:
    """What is audited, and how thoroughly.

    Args:
        plan: with correlated noise; its rounds are all run.
        dim: numbers that are shared, 200 at least.
        device: makes a device of a federation.
        server_noise: the server's source of a round, as it has it.
        repeats: federations with canary devices, and without any change.
        confidence: of the bound on ε.
        rng: of the audit itself.

    Raises:
        BadInputError: a plan without such noise, or that keeps a device's rounds apart.
    """

    plan: UserPlan
    dim: int = 256
    device: Callable[..., FederatedDevice] = CanaryDevice
    server_noise: Callable[[int], NoiseSource] = lambda _: SecureNoise()
    repeats: int = 8
    confidence: float = 1 - 1e-7
    rng: np.random.Generator = field(default_factory=np.random.default_rng)

    def __post_init__(self) -> None:
        problems = []
        if self.plan.correlation is None or not self.plan.private:
            problems.append("a plan without correlated noise is audited by UserAudit")
        if self.plan.separation > 1:
            problems.append("a plan that keeps devices apart is not audited; set separation to 1")
        if self.dim < 200 or self.dim < 2 * self.plan.cohort:
            problems.append(f"dim must be at least 200 and twice the devices, got {self.dim}")
        if problems:
            raise BadInputError("; ".join(problems))

    @property
    def claim(self) -> float:
        """ε of a device that is in all rounds."""
        return epsilon_of_gaussian(
            noise_multiplier=self.plan.noise_multiplier, steps=1, delta=self.plan.delta
        )

    def findings(self) -> list[Finding]:
        """All audits, in the order of the module's docstring."""
        return self._findings(self._bound(*self._scores()))

    def section(self) -> Section:
        """All audits, with what canaries showed."""
        there, away = self._scores()
        bound = self._bound(there, away)
        return Section(
            name="mechanism",
            title="User-level privacy over all rounds, with correlated noise",
            threat="Somebody sees every shared vector that the server releases, knows how its "
            "noise is correlated, and decides what all devices but one send, and what that one "
            "sends if it takes part. They ask whether it does. The server is trusted: it sees "
            "single updates without noise.",
            findings=self._findings(bound),
            figures=(
                epsilon_bars(
                    f"All {self.plan.rounds} rounds (δ = {self.plan.delta:g})",
                    [("known null", self.claim, bound)],
                ),
                histogram(
                    "How much of each canary device is in all releases, in its greatest length",
                    {
                        "devices that took part": there,
                        "directions that no device took": away,
                    },
                ),
            ),
            untested=(
                "Plans that keep a device's rounds apart.",
                "Devices that are in some of the rounds: one that is in all of them is louder.",
                "Randomness that an attacker can predict: noise was tested for its size and for "
                "repeating, not for how its seed was drawn.",
            ),
        )

    def _findings(self, bound: LowerBound) -> list[Finding]:
        return [
            self.sensitivity(),
            *self.noises(),
            against(self.claim, bound, audit="canary devices"),
            *self.accounting(),
        ]

    def sensitivity(self) -> Finding:
        """What one device adds to all releases: no more than the noise was made for."""
        long = directions(1, self.dim, self.rng) * _LONG * self._norm
        seed = int(self.rng.integers(2**31))
        without, added = (
            self._whitened(own, server_noise=lambda _: QuietNoise(seed))
            for own in (np.zeros_like(long), long)
        )
        most = float(np.linalg.norm(added - without)) / self._reach
        return Finding(
            audit="sensitivity",
            claim="no device adds more to all releases than the noise was made for",
            found=f"{most:.4f} times as much, of a change of {_LONG:g} norms in every round",
            holds=most <= 1 + _SLACK,
        )

    def noises(self) -> list[Finding]:
        """What is released where no device changes anything, in units of what is promised."""
        silent = [self._whitened(np.zeros((1, self.dim))) for _ in range(self.repeats)]
        rows = np.concatenate(silent) / (self.plan.noise_multiplier * self._reach)
        return noise_findings(rows, np.full(self.dim, 1 - _SLACK), what="a release after C")

    def accounting(self) -> list[Finding]:
        """What the ledger holds after a federation, against its plan."""
        _, ledger = self._audited.run(lambda *_: np.zeros(self.dim), self.plan.rounds)
        return account_findings(
            [charge for charge in ledger.charges if charge.unit == "user"],
            self.plan.epsilon(1),
            delta=self.plan.delta,
            relation=self.plan.relation,
            noise_multiplier=self.plan.noise_multiplier,
            steps=1,  # all rounds are one release of the matrix mechanism
        )

    def _bound(self, there: Doubles, away: Doubles) -> LowerBound:
        return reference_bound(there, away, delta=self.plan.delta, confidence=self.confidence)

    def _scores(self) -> tuple[Doubles, Doubles]:
        """Of canary devices in all rounds, and of unused directions; ``(repeats cohort,)`` each."""
        loud = self._loudness / np.linalg.norm(self._loudness)
        count, there, away = self.plan.cohort, [], []
        for _ in range(self.repeats):
            drawn = directions(2 * count, self.dim, self.rng)
            rows = self._whitened(drawn[:count] * _LONG * self._norm)
            found = drawn @ (loud @ rows) / self._reach
            there.append(found[:count])
            away.append(found[count:])
        return np.concatenate(there), np.concatenate(away)

    def _whitened(
        self, sent: Doubles, *, server_noise: Callable[[int], NoiseSource] | None = None
    ) -> Doubles:
        """``C`` times the sums that a federation releases, ``(rounds, dim)``.

        Args:
            sent: ``(n, dim)``, what the first n devices send in every round; others send zeros.
            server_noise: instead of the server's.
        """

        def change(device: int, _: int) -> Doubles:
            own: Doubles = sent[device] if device < len(sent) else np.zeros(self.dim)
            return own

        thetas, _ = self._audited.run(change, self.plan.rounds, server_noise=server_noise)
        whitened: Doubles = self._matrix @ (np.diff(thetas, axis=0) * self.plan.cohort)
        return whitened

    @property
    def _matrix(self) -> Doubles:
        """``C``, ``(rounds, rounds)``."""
        assert self.plan.correlation is not None
        column = self.plan.correlation.coefficients(self.plan.participation)
        steps = np.arange(len(column))
        back = steps[:, None] - steps
        return np.where(back >= 0, column[np.maximum(back, 0)], 0.0)

    @property
    def _loudness(self) -> Doubles:
        """What a device that sends the same in every round is in each of them after ``C``."""
        loudness: Doubles = self._matrix.sum(1)
        return loudness

    @property
    def _reach(self) -> float:
        """The greatest length of a device's changes after ``C``: the same one in every round, as
        ``C`` has no negative numbers (arXiv:2408.08868, Theorem 2).
        """
        return float(np.linalg.norm(self._loudness)) * self._norm

    @property
    def _norm(self) -> float:
        return promised_norm(self.plan.clip, 0.0)

    @property
    def _audited(self) -> AuditedFederation:
        return AuditedFederation(
            plan=self.plan,
            dim=self.dim,
            device=self.device,
            server_noise=self.server_noise,
            device_noise=lambda _, __: SecureNoise(),
        )
