"""A device in a deployed federation: its vault, its base and its membership, as one node.

Needs the extras ``train`` and ``federate``.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from flwr.clientapp import ClientApp

from ..privacy.ledger import Ledger
from ..privacy.plan import UserPlan
from ..privacy.secagg.session import Roster
from ..privacy.terms import Terms
from ..shared.adapters import Array
from ..shared.errors import AdapterError, FederationError, TooLittleDataError
from ..shared.forms import Directions
from .answers import Answers
from .app import make_client_app
from .device import Device
from .engines import open_trainer
from .federated import FederatedLearner, records_needed
from .node import EmbeddedNode, NodeConfig
from .secure_sum import SecureSums

__all__ = ["Participation", "agreed_budget"]

_REPEATED = 1.25  # of a plan's ε: rounds that a restart of this device makes it train again


def agreed_budget(device: Device, terms: Terms) -> float:
    """The ε to agree to: the plan's, a quarter more for rounds that are trained again after a
    restart, and what was spent before.

    Raises:
        TooLittleDataError: fewer records may be federated than the plan needs.
        PrivacyError: what was spent before does not compose with the plan.
    """
    plan, records = terms.plan, len(device.training_records("federate"))
    if records < (needed := records_needed(plan)):
        raise TooLittleDataError(
            f"{records} records may be federated, {terms.name!r} needs {needed}; remember or "
            "import more with '--federate' before you join"
        )
    spent = Ledger(device.store.journal, delta=plan.delta).epsilon(plan.unit)
    return spent + _REPEATED * plan.epsilon(records)


@dataclass(kw_only=True)
class Participation:
    """A device that takes part.

    Args:
        device: with its base, and a vault that is a member.
        memory_budget: bytes, or like ``600MB``, that a training pass may take beyond the base.
        on_round: called with a round's number when its shared adapter is in the vault.

    Raises:
        BadInputError: the vault is no member.
        AdapterError: the federation trains another base than the device's.
    """

    device: Device
    memory_budget: int | str | None = None
    on_round: Callable[[int], None] = lambda _: None

    def __post_init__(self) -> None:
        self.membership = self.device.store.membership
        terms = self.membership.terms
        package = self.device.model.package
        if package.base_id != terms.base_id:
            raise AdapterError(
                f"{terms.name!r} trains {terms.base_id}, this device has {package.base_id}; "
                "fetch that base"
            )
        self.form = terms.over(Directions.load(package.path("directions.safetensors")))
        self.federated = FederatedLearner(
            device=self.device,
            twin=open_trainer(package, fast=True),
            form=self.form,
            plan=terms.plan,
            memory_budget=self.memory_budget,
            evaluate=self._keep,
            ledger=self._ledger(),
            sums=self._sums(),
        )

    def app(self) -> ClientApp:
        """The Flower app that answers for this device."""
        return make_client_app(lambda _: self.federated, Answers())

    def node(
        self,
        *,
        gates: Mapping[str, Callable[[], bool]] | None = None,
        app: ClientApp | None = None,
        **behaviour: float,
    ) -> EmbeddedNode:
        """The node that connects this device; run it, and stop it from another thread.

        Args:
            gates: by name: what must be true for the device to take part.
            app: answers instead of :meth:`app`.
            behaviour: fields of :class:`~locavore.client.node.NodeConfig` other than the app's id.
        """
        member = self.membership
        return EmbeddedNode(
            app or self.app(),
            member.address,
            member.flower_key,
            NodeConfig(app_id=member.terms.app_id, **behaviour),  # type: ignore[arg-type]
            certificates=member.certificates,
            node_id=member.node_id,
            gates=gates,
        )

    def _keep(self, theta: Array, round: int) -> None:
        """The new shared adapter goes into the vault, and is used from now on."""
        last, rounds = self.membership.last_round, self.membership.terms.plan.rounds
        if not last <= round <= rounds:
            raise FederationError(
                f"the adapter of round {round} was sent, after round {last} of {rounds}: refused"
            )
        adapter, store = self.federated.adapter(theta), self.device.store
        member = replace(self.membership, last_round=round)
        with store.transaction():
            store.lineages.of(adapter.base_id).keep_shared(adapter)
            store.keep_membership(member)
        self.membership, self.device.shared = member, adapter
        self.on_round(round)

    def _ledger(self) -> Ledger:
        """In the vault, with what was agreed to as its budget."""
        plan, member = self.membership.terms.plan, self.membership
        budgets = {plan.unit: member.budget} if plan.private else {}
        return Ledger(self.device.store.journal, delta=plan.delta, budgets=budgets)

    def _sums(self) -> SecureSums | None:
        plan = self.membership.terms.plan
        if not isinstance(plan, UserPlan) or plan.makers is None:
            return None
        key = self.membership.identity_key
        return SecureSums(plan, key, self._roster, random=os.urandom)

    def _roster(self, digest: str) -> Roster:
        """The roster of a digest; what was seen of it goes into the vault first."""
        roster, member = self.membership.roster(digest)
        self.device.store.keep_membership(member)
        self.membership = member
        return roster
