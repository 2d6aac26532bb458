"""What a simulated run does: one frozen configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ...client.training.local import LocalTraining
from ...client.training.memory import parse_bytes
from ...client.training.private import PrivateTraining
from ...privacy.plan import PrivacyPlan, RecordPlan
from ...shared.errors import BadInputError
from ..aggregation import POLICIES, RobustMean, ServerOptimizer, require_possible
from ..aggregation.policies import CARRIED

__all__ = ["BASE", "PRIVATE", "REFERENCE", "RETRIEVAL", "SHARED", "SimulationConfig"]

# Arms are named by what is in them, joined by " + ".
BASE, SHARED, PRIVATE, RETRIEVAL = "base", "shared", "private", "retrieval"
REFERENCE = "shared without DP"  # what privacy costs; it is offered to nobody


@dataclass(frozen=True, kw_only=True)
class SimulationConfig:
    """A federation of devices, and how its result is judged.

    Args:
        plan: the shared adapter's private training, for records or for users.
        locally: how devices train where a plan for users leaves that open.
        policy: what of the shared adapter travels and how it is aggregated, one of
            :data:`~locavore.server.aggregation.POLICIES`.
        rank: public directions that the shared adapter uses per site.
        ranks: of the devices in their order, each 1..rank; all have ``rank`` when not given.
        carried: rank of the public adapter that some policies send down beside it.
        optimizer: the server's.
        robust: what takes the place of the mean; None: nothing does.
        private: training of the private adapters.
        cohort: devices per round; all of them when not given.
        made: held-out items per device for which is generated.
        reference: whether the shared adapter is also trained without privacy, to show its price.
        engine: what trains a round's devices: ``cohort``, together in this process, or ``ray``, in
            slices on Ray workers, each of which holds the base.
        ray_address: of a running Ray cluster; a local one is started when not given.
        workers: of Ray; as many as processors here when not given.
        memory_budget: bytes, or like ``600MB``, that a training pass may take beyond the base.
        record: whether all messages of the private federation are kept in the run's folder, for
            audits. They grow with what travels, and under central trust hold updates without noise.
        seed: of cohort, sampling and noise. Seeded noise is for public data only.
    """

    plan: PrivacyPlan = field(default_factory=lambda: RecordPlan(relation="add-or-remove-one"))
    locally: LocalTraining = field(default_factory=LocalTraining)
    policy: str = "core"
    rank: int = 2
    ranks: tuple[int, ...] = ()
    carried: int = CARRIED
    optimizer: ServerOptimizer = field(default_factory=ServerOptimizer)
    robust: RobustMean | None = None
    private: PrivateTraining = field(default_factory=PrivateTraining)
    cohort: int | None = None
    made: int = 6
    reference: bool = True
    engine: Literal["cohort", "ray"] = "cohort"
    ray_address: str | None = None
    workers: int | None = None
    memory_budget: int | str | None = None
    record: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be at least 1, got {getattr(self, name)}"
            for name in ("rank", "carried", "made")
            if getattr(self, name) < 1
        ]
        if self.cohort is not None and self.cohort < 1:
            problems.append(f"cohort must be at least 1, got {self.cohort}")
        if self.engine not in ("cohort", "ray"):
            problems.append(f"engine must be 'cohort' or 'ray', got {self.engine!r}")
        if self.engine != "ray" and (self.ray_address or self.workers):
            problems.append("ray_address and workers need the engine 'ray'")
        if self.workers is not None and self.workers < 1:
            problems.append(f"workers must be at least 1, got {self.workers}")
        if self.policy not in POLICIES:
            problems.append(f"policy must be one of {', '.join(POLICIES)}, got {self.policy!r}")
        elif self.engine == "ray" and (self.ranks or POLICIES[self.policy].keeps):
            problems.append(
                "mixed ranks, and policies that keep a half on the device, need the engine "
                "'cohort', got 'ray'"
            )
        if problems:
            raise BadInputError("; ".join(problems))
        require_possible(
            POLICIES[self.policy],
            self.plan,
            optimizer=self.optimizer,
            robust=self.robust,
            rank=self.rank,
            ranks=self.ranks,
            cohort=self.cohort,
        )
        if self.memory_budget is not None:
            parse_bytes(self.memory_budget)
