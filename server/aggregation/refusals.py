"""Combinations that cannot work, refused at start-up with what to take instead."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from ...privacy.plan import PrivacyPlan, RecordPlan, UserPlan
from ...shared.errors import BadInputError
from .optimizers import ServerOptimizer
from .policies import Policy
from .robust import RobustMean

__all__ = ["require_possible"]


def require_possible(
    policy: Policy,
    plan: PrivacyPlan | None,
    *,
    optimizer: ServerOptimizer | None = None,
    robust: RobustMean | None = None,
    rank: int = 0,
    ranks: Collection[int] = (),
    cohort: int | None = None,
) -> None:
    """Refuse what cannot work.

    Args:
        policy: what is shared.
        plan: the federation's; None where nothing is known of one.
        optimizer: the server's.
        robust: what takes the place of the mean.
        rank: of the form; 0 where it is not known.
        ranks: of the devices that have declared one.
        cohort: devices in a round.

    Raises:
        BadInputError: one sentence a problem, with the values and what to do instead.
    """
    how = optimizer or ServerOptimizer()
    problems = [
        *_unseen(policy, plan, robust),
        *_unbounded(policy, plan, robust),
        *_ranks(policy, plan, robust, rank, ranks),
        *_steps(policy, plan, how, robust),
        *_few(robust, cohort),
    ]
    if problems:
        raise BadInputError("; ".join(problems))


def _unseen(policy: Policy, plan: PrivacyPlan | None, robust: RobustMean | None) -> Iterator[str]:
    """What needs to see single updates, where the server sees sums alone."""
    if plan is None or plan.trust != "secure-aggregation":
        return
    if not policy.secure_sums:
        yield (
            f"policy {policy.name!r} needs every device's factors, but under 'secure-aggregation' "
            "the server sees their sum alone; take 'core', 'ffa' or 'alternate-round'"
        )
    if robust is not None:
        yield (
            f"{robust.kind!r} compares single updates, but under 'secure-aggregation' the server "
            "sees their sum alone; leave it out: what a device adds is bounded by its clipping"
        )


def _unbounded(
    policy: Policy, plan: PrivacyPlan | None, robust: RobustMean | None
) -> Iterator[str]:
    """What one device moves without a bound, where the server's noise is made for one."""
    if not isinstance(plan, UserPlan) or plan.trust != "central" or not plan.private:
        return
    if not policy.linear:
        yield (
            f"policy {policy.name!r} has no bounded sensitivity, but the plan's noise of "
            f"{plan.noise_multiplier:g} times the clipping norm is for a sum under 'central' "
            "trust; take 'core', 'ffa' or 'alternate-round', or 'local' trust"
        )
    if robust is not None:
        yield (
            f"{robust.kind!r} is no sum of clipped updates, for which the noise of "
            f"{plan.noise_multiplier:g} times the clipping norm under 'central' trust is made; "
            "leave it out, or take 'local' trust"
        )


def _ranks(
    policy: Policy,
    plan: PrivacyPlan | None,
    robust: RobustMean | None,
    rank: int,
    ranks: Collection[int],
) -> Iterator[str]:
    own = sorted(set(ranks))
    if rank and any(not 1 <= one <= rank for one in own):
        yield f"every device's rank must be 1..{rank} (the federation's), got {own}"
    if not [one for one in own if one != rank]:
        return
    if not policy.mixed_ranks:
        yield (
            f"policy {policy.name!r} needs one rank on all devices, got {own} beside {rank}; take "
            "'core', 'ffa', 'fedit', 'flora' or 'flexlora', or one rank"
        )
    if plan is not None and plan.trust == "secure-aggregation":
        yield (
            f"a secure sum is of vectors of one length, got devices of ranks {own} beside {rank}; "
            "give all devices one rank"
        )
    if robust is not None:
        yield (
            f"{robust.kind!r} would take what a device of rank {own[0]} does not train for its "
            f"opinion; give all devices the rank {rank}, or leave it out"
        )


def _steps(
    policy: Policy,
    plan: PrivacyPlan | None,
    optimizer: ServerOptimizer,
    robust: RobustMean | None,
) -> Iterator[str]:
    if not policy.linear and not optimizer.plain:
        yield (
            f"{optimizer.kind!r} with a learning rate of {optimizer.learning_rate:g} steps along a "
            f"mean of updates, which policy {policy.name!r} does not make; take 'fedavg' with 1"
        )
    if not policy.linear and robust is not None:
        yield (
            f"{robust.kind!r} averages vectors, but policy {policy.name!r} averages products of "
            "them; take 'core', 'ffa' or 'fedit'"
        )
    if isinstance(plan, UserPlan) and plan.correlation is not None:
        if optimizer.adaptive:
            yield (
                f"{optimizer.kind!r} scales every round by itself, so noise that is correlated "
                f"over the rounds ({plan.correlation.kind!r}) would not cancel; take 'fedavg' or "
                "'fedavgm', or independent noise"
            )
        if policy.turns == "round":
            yield (
                f"policy {policy.name!r} shares other numbers in every round, so noise that is "
                f"correlated over the rounds ({plan.correlation.kind!r}) would not cancel; take "
                "'core' or 'ffa', or independent noise"
            )
    inner = plan.within if isinstance(plan, UserPlan) else plan
    if policy.turns == "step" and isinstance(inner, RecordPlan) and inner.local_steps < 2:
        yield (
            f"policy {policy.name!r} takes A and B in turns within a round, which needs 2 local "
            f"steps or more, got {inner.local_steps}; take 'alternate-round'"
        )


def _few(robust: RobustMean | None, cohort: int | None) -> Iterator[str]:
    if robust is None or cohort is None:
        return
    if cohort < robust.fewest():
        yield (
            f"{robust.kind!r} with {robust.liars:g} liars needs rounds of {robust.fewest()} "
            f"devices or more, got {cohort}; take 'median', or a larger cohort"
        )
