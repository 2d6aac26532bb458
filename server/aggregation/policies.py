"""Aggregation policies as data: what each shares, and what may be said of its average.

Every policy leaves a private adapter on the device, on top of what is shared.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from ...privacy.plan import UserPlan
from ...shared.errors import BadInputError
from ...shared.forms import Directions, FormName, SharedForm, Turns
from .products import Combine, average_in_carried, fit_to_ranks, mean_and_residual

__all__ = ["CARRIED", "POLICIES", "Policy", "averaging", "policy_named"]

CARRIED = 16  # rank of a carried adapter where nothing else is said

Exact = Literal["always", "in a turn", "within the carried rank", "never", "no common adapter"]
"""When the average of what is sent is the average of the devices' adapters."""


@dataclass(frozen=True, kw_only=True)
class Policy:
    """A row of the table.

    Args:
        name: as it is asked for.
        source: of the method.
        shares: what leaves a device.
        form: of the shared vector.
        exact: see :data:`Exact`.
        mixed_ranks: whether devices may hold different numbers of directions.
        sensitivity: why one device's influence on the average is bounded, or that it is not.
        turns: whether ``A`` and ``B`` learn in turns.
        combine: makes the next vector from all updates; None: their mean is added, which is a sum
            of vectors of one length.
        carries: whether a public adapter travels down beside what is trained.
    """

    name: str
    source: str
    shares: str
    form: FormName
    exact: Exact
    mixed_ranks: bool
    sensitivity: str
    turns: Turns = "never"
    combine: Combine | None = None
    carries: bool = False

    @property
    def linear(self) -> bool:
        """Whether the next vector is the last one plus a mean of vectors of one length."""
        return self.combine is None

    @property
    def secure_sums(self) -> bool:
        """Whether it works where the server sees sums alone."""
        return self.linear

    @property
    def keeps(self) -> str:
        """The trained half that stays on the device; empty where all of it is shared."""
        return {"share-a": "B", "share-b": "A"}.get(self.form, "")

    def bound(self, plan: UserPlan, entry: float = 0.0) -> float | None:
        """How far replacing one device moves the average before noise; None: there is no bound.

        ``entry`` is the shared vector's last, where the clipping norm adapts.
        """
        return 2 * plan.norm(entry) / plan.cohort if self.linear else None

    def over(self, base_id: str, directions: Directions, *, carried: int = CARRIED) -> SharedForm:
        """The form of its vector on a base.

        Args:
            base_id: identity of the base.
            directions: public; their rank is what the largest device trains.
            carried: rank of the carried adapter, if there is one.

        Raises:
            BadInputError: a carried adapter without a rank.
        """
        if self.carries and carried < 1:
            raise BadInputError(f"policy {self.name!r} carries an adapter of rank 1 or more, got 0")
        return SharedForm(
            self.form, base_id, directions, self.turns, carried if self.carries else 0
        )


_CLIPPED = "a sum of vectors, each clipped by its device: at most clip / cohort"
_NONE = "no bound: a product of two factors of every device, and a singular value decomposition"

_ROWS = (
    Policy(
        name="core",
        source="LoRA-XS, arXiv:2405.17604; Fed-SB, arXiv:2502.15436",
        shares="R (r x r)",
        form="core",
        exact="always",
        mixed_ranks=True,
        sensitivity=_CLIPPED,
    ),
    Policy(
        name="ffa",
        source="FFA-LoRA, arXiv:2403.12313",
        shares="B",
        form="ffa",
        exact="always",
        mixed_ranks=True,
        sensitivity=_CLIPPED,
    ),
    Policy(
        name="alternate-round",
        source="RoLoRA, arXiv:2409.02346",
        shares="B or A by turn",
        form="lora",
        turns="round",
        exact="in a turn",
        mixed_ranks=True,
        sensitivity=_CLIPPED,
    ),
    Policy(
        name="alternate-step",
        source="LA-LoRA's turns within a round",
        shares="A and B",
        form="lora",
        turns="step",
        exact="never",
        mixed_ranks=True,
        sensitivity=_CLIPPED,
    ),
    Policy(
        name="fedit",
        source="FedIT, arXiv:2305.05644; with mixed ranks HetLoRA's padding, arXiv:2401.06432",
        shares="A and B",
        form="lora",
        exact="never",
        mixed_ranks=True,
        sensitivity=_CLIPPED,
    ),
    Policy(
        name="share-a",
        source="FedSA-LoRA, arXiv:2410.01463",
        shares="A",
        form="share-a",
        exact="no common adapter",
        mixed_ranks=True,
        sensitivity=_CLIPPED,
    ),
    Policy(
        name="share-b",
        source="Fed-ALoRA's choice",
        shares="B",
        form="share-b",
        exact="no common adapter",
        mixed_ranks=True,
        sensitivity=_CLIPPED,
    ),
    Policy(
        name="fedex",
        source="FedEx-LoRA, arXiv:2410.09432",
        shares="A and B",
        form="lora",
        exact="within the carried rank",
        mixed_ranks=False,
        sensitivity=_NONE,
        combine=mean_and_residual,
        carries=True,
    ),
    Policy(
        name="flora",
        source="FLoRA, arXiv:2409.05976",
        shares="A and B",
        form="lora",
        exact="within the carried rank",
        mixed_ranks=True,
        sensitivity=_NONE,
        combine=average_in_carried,
        carries=True,
    ),
    Policy(
        name="flexlora",
        source="FlexLoRA, arXiv:2402.11505; HLoRA",
        shares="A and B",
        form="lora",
        exact="never",
        mixed_ranks=True,
        sensitivity=_NONE,
        combine=fit_to_ranks,
    ),
)

POLICIES: Mapping[str, Policy] = MappingProxyType({policy.name: policy for policy in _ROWS})
"""Every policy by its name."""


def policy_named(name: str) -> Policy:
    """The policy of that name.

    Raises:
        BadInputError: there is none.
    """
    if name not in POLICIES:
        names = ", ".join(map(repr, POLICIES))
        raise BadInputError(f"policy must be one of {names}, got {name!r}")
    return POLICIES[name]


def averaging(form: SharedForm) -> Policy:
    """The policy that averages the vectors of a form, all of them in every round.

    Raises:
        BadInputError: the form is trained in turns or carries an adapter.
    """
    for policy in POLICIES.values():
        same = (policy.form, policy.turns) == (form.name, form.turns)
        if policy.linear and same and not form.carried:
            return policy
    raise BadInputError(
        f"no policy averages the form {form.name!r} with turns {form.turns!r} and rank "
        f"{form.carried} carried; take one without"
    )
