"""A device as the federation sees it: trains the shared vector, keeps everything else.

Needs the ``train`` extra.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

from ..privacy.ledger import Charge, Ledger
from ..privacy.noise import NoiseSource, SecureNoise
from ..privacy.plan import PrivacyPlan
from ..shared.adapters import Adapter, Array
from ..shared.contexts import Context
from ..shared.errors import BadInputError, TooLittleDataError
from ..shared.forms import SharedForm
from .device import Device
from .kept import KeptHalf
from .secure_sum import SecureSums
from .training.adapted import AdaptedTwin, shared_chains
from .training.exchange import Exchange
from .training.local import LocalTraining
from .training.memory import samples_within
from .training.passes import AT_ONCE
from .training.shared import SharedTraining, private_training

__all__ = ["MIN_RECORDS", "FederatedLearner", "form_training", "records_needed"]

MIN_RECORDS = 32  # with fewer, a record is sampled at a rate that hides nothing

Example = TypeVar("Example")


@dataclass
class FederatedLearner(Generic[Example]):
    """Implements the ``FederatedDevice`` protocol of :mod:`locavore.client.app`.

    Args:
        device: whose consented records are trained on.
        twin: the torch twin of the device's base.
        form: the shared form that the federation trains.
        plan: the federation's privacy plan.
        noise: per round, where sampling and noise come from; the default is a fresh
            cryptographic source.
        locally: how the device trains where a plan for users leaves that open.
        memory_budget: bytes, or like ``600MB``, that a training pass may take beyond the model;
            it decides how many records are in a pass, and changes no result.
        evaluate: called with the adapter's parameters after each round; its result stays here.
        ledger: to which every round's cost is written before it is trained.
        sums: its part in secure sums, where the plan asks for them.
        kept: the half that stays here, where the form has one; the vault's when not given.
    """

    device: Device
    twin: AdaptedTwin[Example]
    form: SharedForm
    plan: PrivacyPlan
    noise: Callable[[int], NoiseSource] = lambda _: SecureNoise()
    locally: LocalTraining | None = None
    memory_budget: int | str | None = None
    evaluate: Callable[[Array, int], None] = lambda _theta, _round: None
    ledger: Ledger | None = None
    sums: SecureSums | None = None
    kept: KeptHalf | None = None

    def __post_init__(self) -> None:
        if self.form.kept_dim and self.kept is None:
            self.kept = KeptHalf.in_vault(self.device.store, self.plan.digest, self.form.kept_dim)
        hidden = self.plan.trust == "secure-aggregation"
        if hidden != (self.sums is not None) or (self.sums and self.sums.plan != self.plan):
            raise BadInputError(
                f"a plan with {self.plan.trust!r} trust needs "
                f"{'secure sums of its own' if hidden else 'no secure sums'}"
            )

    @property
    def base_id(self) -> str:
        """The base that the shared vector belongs to."""
        return self.twin.base_id

    @property
    def plan_digest(self) -> str:
        """Identifies the plan that this device agreed to."""
        return self.plan.digest

    def records(self) -> list[Example]:
        """Examples of the records that may be federated."""
        examples = self.twin.examples(self._own())
        return examples if "record" in self.plan.units else self.twin.together(examples)

    def _own(self) -> list[Context]:
        return [r for r in self.device.training_records("federate") if self.twin.takes(r)]

    def begin(self, round: int) -> list[Example]:
        """Agree to a round and charge it; returns the records to train on.

        Raises:
            PrivacyError: the plan has no such round for this device, or a budget of the ledger
                would be exceeded.
            TooLittleDataError: fewer records may be federated than the plan needs:
                :data:`MIN_RECORDS` where single records are protected, one otherwise.
        """
        records = self.records()
        needed = records_needed(self.plan)
        if len(records) < needed:
            raise TooLittleDataError(
                f"{len(records)} records may be federated, at least {needed} are needed; "
                "this device personalises by retrieval only"
            )
        task = self.twin.modality
        taken = self.ledger.rounds(f"{task} {self.plan.digest}") if self.ledger else []
        before = [other for other in taken if other != round]  # asked again, it is paid again
        charges = self.plan.charges(round, len(records), before, task=task)
        if self.ledger is not None:
            with self.device.store.transaction():
                epsilon = self.ledger.charge(*charges)
                self._note(round, charges, epsilon, self.ledger.delta)
        return records

    def _note(self, round: int, charges: Sequence[Charge], epsilon: float, delta: float) -> None:
        """Say in the vault which records may take part, and at what ε."""
        for charge in charges[:1]:
            self.device.store.note_use(
                [record.id for record in self._own()],
                purpose=charge.purpose,
                round=round,
                unit=charge.unit,
                epsilon=epsilon,
                delta=delta,
            )

    def train_shared(self, theta: Array, *, round: int) -> Array:
        """One round of private training; returns the noised change of ``theta``.

        Raises:
            PrivacyError, TooLittleDataError: as :meth:`begin`.
        """
        records = self.begin(round)
        noise = self.noise(round)
        kept = None if self.kept is None else self.kept.before(round)[None].copy()
        delta: Array = self.training.round(theta, [records], [noise], number=round, kept=kept)[0]
        if self.kept is not None and kept is not None:
            self.kept.after(round, kept[0])
        return delta

    @property
    def width(self) -> int:
        """Length of the vector that this device is sent."""
        return self.plan.width(self.form.dim)

    def adapter(self, theta: Array) -> Adapter:
        """What a shared vector ``(dim,)`` or ``(width,)`` is on this device."""
        own = None if self.kept is None else self.kept.latest()
        return self.form.to_adapter(theta[: self.form.dim], own)

    @cached_property
    def training(self) -> SharedTraining[Example]:
        """The private steps; the same for every device with this twin, form and plan."""
        return form_training(
            self.twin,
            self.form,
            self.plan,
            locally=self.locally,
            memory_budget=self.memory_budget,
        )

    def evaluate_shared(self, theta: Array, *, round: int) -> None:
        """Let the device measure the new shared adapter for itself; nothing is returned."""
        self.evaluate(theta[: self.form.dim], round)


def records_needed(plan: PrivacyPlan) -> int:
    """Records below which a device does not train: what is sampled from few hides little."""
    return MIN_RECORDS if "record" in plan.units else 1


def form_training(
    twin: AdaptedTwin[Example],
    form: SharedForm,
    plan: PrivacyPlan,
    *,
    locally: LocalTraining | None = None,
    memory_budget: int | str | None = None,
) -> SharedTraining[Example]:
    """Training of a shared form on the examples of a twin.

    Raises:
        BadInputError: the memory budget does not hold one example.
    """
    cohort = twin.cohort(shared_chains(form))
    at_once = AT_ONCE
    if memory_budget is not None:
        at_once = samples_within(cohort, twin.collate([twin.longest()]), memory_budget)
    return private_training(
        cohort,
        plan,
        twin.collate,
        at_once=at_once,
        length=twin.length,
        locally=locally,
        exchange=None if form.plain else Exchange(form, twin),
    )
