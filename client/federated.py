"""A text device as the federation sees it: trains the shared vector, keeps everything else.

Needs the ``train`` extra.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from ..privacy.ledger import Charge, Ledger
from ..privacy.noise import NoiseSource, SecureNoise
from ..privacy.plan import PrivacyPlan
from ..shared.adapters import Array
from ..shared.errors import PrivacyError, TooLittleDataError
from ..shared.forms import SharedForm
from .device import Device
from .training.adapted import AdaptedTwin, shared_chains
from .training.loss import token_batch
from .training.shared import CohortTraining

__all__ = ["MAX_RECORD_TOKENS", "MIN_RECORDS", "FederatedTextDevice", "text_training"]

MIN_RECORDS = 32  # fewer records can only take part at a sampling rate that hides nothing
MAX_RECORD_TOKENS = 96


@dataclass
class FederatedTextDevice:
    """Implements the ``FederatedDevice`` protocol of :mod:`locavore.client.app`.

    Args:
        device: whose consented records are trained on.
        twin: the torch twin of the device's base.
        form: the shared form that the federation trains.
        plan: the federation's privacy plan.
        noise: per round, where sampling and noise come from; the default is a fresh
            cryptographic source.
        evaluate: called with the shared vector after each round; its result stays here.
        ledger: to which every round's cost is written before it is trained.
    """

    device: Device
    twin: AdaptedTwin
    form: SharedForm
    plan: PrivacyPlan
    noise: Callable[[int], NoiseSource] = lambda _: SecureNoise()
    evaluate: Callable[[Array, int], None] = lambda _theta, _round: None
    ledger: Ledger | None = None

    @property
    def base_id(self) -> str:
        """The base that the shared vector belongs to."""
        return self.device.model.base_id

    @property
    def plan_digest(self) -> str:
        """Identifies the plan that this device agreed to."""
        return self.plan.digest

    def records(self) -> list[list[int]]:
        """Token ids of the records that may be federated, one a record, cut to the maximum."""
        texts = self.device.training_texts(federate=True)
        encoded = (self.device.model.encode(text)[:MAX_RECORD_TOKENS] for text in texts)
        return [ids for ids in encoded if len(ids) > 1]

    def begin(self, round: int) -> list[list[int]]:
        """Agree to a round and charge it; returns the records to train on.

        Raises:
            PrivacyError: the plan has no such round, or the ledger's budget would be exceeded.
            TooLittleDataError: fewer than :data:`MIN_RECORDS` records may be federated.
        """
        if not 1 <= round <= self.plan.rounds:
            raise PrivacyError(f"round must be 1..{self.plan.rounds} as in the plan, got {round}")
        records = self.records()
        if len(records) < MIN_RECORDS:
            raise TooLittleDataError(
                f"{len(records)} records may be federated, at least {MIN_RECORDS} are needed; "
                "this device personalises by retrieval only"
            )
        self._charge(round, len(records))
        return records

    def train_shared(self, theta: Array, *, round: int) -> Array:
        """One round of private training; returns the noised change of ``theta``.

        Raises:
            PrivacyError, TooLittleDataError: as :meth:`begin`.
        """
        records = self.begin(round)
        noise = self.noise(round)
        delta: Array = self.training.round(theta, [records], [noise], number=round)[0]
        return delta

    @cached_property
    def training(self) -> CohortTraining[list[int]]:
        """The private steps; the same for every device with this twin, form and plan."""
        return text_training(self.twin, self.form, self.plan, self.device.model.start)

    def evaluate_shared(self, theta: Array, *, round: int) -> None:
        """Let the device measure the new shared adapter for itself; nothing is returned."""
        self.evaluate(theta, round)

    def _charge(self, round: int, records: int) -> None:
        """Write down what the round costs before a single record is looked at."""
        if self.ledger is None:
            return
        self.ledger.charge(
            Charge(
                purpose=f"text {self.plan.digest}",
                round=round,
                unit=self.plan.unit,
                relation=self.plan.relation,
                noise_multiplier=self.plan.noise_multiplier,
                sampling_rate=self.plan.sampling_rate(records),
                steps=self.plan.local_steps,
            )
        )


def text_training(
    twin: AdaptedTwin, form: SharedForm, plan: PrivacyPlan, start: Sequence[int]
) -> CohortTraining[list[int]]:
    """Private steps of a shared form on token records; ``start`` stands in front of each."""
    return CohortTraining(
        cohort=twin.cohort(shared_chains(form)),
        plan=plan,
        collate=lambda rows: token_batch(rows, start),
        length=len,
    )
