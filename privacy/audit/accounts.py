"""Is ε what the charges cost, by other means than those that claimed it?

The claim is compared with the *optimistic* privacy loss distribution of what was observed: a figure
that the true ε is not below. Where everybody is in every step the closed form is used instead.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

from ...shared.errors import MissingExtraError
from ..accounting import Relation, epsilon_of_gaussian
from ..ledger import Charge
from .findings import Finding

__all__ = ["account_findings", "least_epsilon"]

_SLACK = 1e-3  # of either computation


def account_findings(
    charges: Sequence[Charge],
    claimed: float,
    *,
    delta: float,
    relation: Relation,
    noise_multiplier: float,
    steps: int,
) -> list[Finding]:
    """Test a claim and the charges under it.

    Args:
        charges: what the ledger was told, of one unit.
        claimed: ε of them together.
        delta, relation: at which it is claimed.
        noise_multiplier: of the noise that was observed.
        steps: times that noise was drawn for a release, as observed.
    """
    charged = sum(charge.steps for charge in charges)
    stated = max((charge.noise_multiplier for charge in charges), default=0.0)
    relations = {charge.relation for charge in charges}
    least = least_epsilon(
        tuple((noise_multiplier, charge.sampling_rate, charge.steps) for charge in charges),
        delta=delta,
        relation=relation,
    )
    return [
        Finding(
            audit="accounting",
            claim="every release is charged, and has noise of its own",
            found=f"{charged} charged, {steps} noised",
            holds=charged == steps,
        ),
        Finding(
            audit="accounting",
            claim="the charges are for the noise that is there, and for one relation",
            found=f"noise {stated:g} charged, {noise_multiplier:g} agreed; "
            f"{', '.join(sorted(relations)) or 'nothing'} charged, {relation} agreed",
            holds=stated <= noise_multiplier * (1 + 1e-9) and relations <= {relation},
        ),
        Finding(
            audit="accounting",
            claim=f"the charges cost ε = {claimed:.4g} at δ = {delta:g} ({relation})",
            found=f"they cost {least:.4g} at least",
            holds=claimed >= least - _SLACK * max(1.0, least),
        ),
    ]


@functools.lru_cache(maxsize=256)
def least_epsilon(
    mechanisms: tuple[tuple[float, float, int], ...], *, delta: float, relation: Relation
) -> float:
    """A figure that ε of Poisson-sampled Gaussians is not below.

    Args:
        mechanisms: ``(noise_multiplier, sampling_rate, steps)`` of each.
        delta, relation: of ε.
    """
    used = [one for one in mechanisms if one[2]]
    if not used:
        return 0.0
    if all(rate == 1 for _, rate, _ in used):
        squares = sum(steps / noise**2 for noise, _, steps in used)
        return epsilon_of_gaussian(
            noise_multiplier=squares**-0.5, steps=1, delta=delta, relation=relation
        )
    together: Any = None
    counts: dict[tuple[float, float], int] = {}
    for noise, rate, steps in used:
        counts[noise, rate] = counts.get((noise, rate), 0) + steps
    for (noise, rate), steps in counts.items():
        one = _distribution(noise, rate, relation).self_compose(steps)
        together = one if together is None else together.compose(one)
    return float(together.get_epsilon_for_delta(delta))


def _distribution(noise: float, rate: float, relation: Relation) -> Any:
    try:
        from dp_accounting import NeighboringRelation
        from dp_accounting.pld import privacy_loss_distribution as losses
    except ImportError:
        raise MissingExtraError("train", "auditing the accounts") from None
    replaced = relation == "replace-one"
    return losses.from_gaussian_mechanism(
        noise,
        sampling_prob=rate,
        pessimistic_estimate=False,
        use_connect_dots=False,  # it knows upper bounds only
        neighboring_relation=NeighboringRelation.REPLACE_ONE
        if replaced
        else NeighboringRelation.ADD_OR_REMOVE_ONE,
    )
