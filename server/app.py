"""The server's side of a federation: a Flower ServerApp that checkpoints and resumes.

One round, in order:

1. Sample a cohort and send it the shared vector.
2. Add the equal-weight mean of the updates that are on the wire's allow-list, noised where the
   plan leaves that to the server.
3. Write a checkpoint: from here on the round is finished.
4. Let the devices evaluate; what they measure stays with them.
5. Hand the round's report to ``on_round``.

An interrupted round leaves the checkpoint before it. A resumed federation gives bit for bit the
vector of one that was not interrupted. An evaluation that was cut off is not repeated.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from flwr.app import ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp

from ..privacy.ledger import Ledger
from ..privacy.noise import NoiseSource, SecureNoise
from ..privacy.plan import UserPlan
from ..shared.errors import BadInputError, FederationError
from ..shared.wire import silence_flower
from .checkpoint import Checkpoint, latest
from .strategy import FederatedMean, RoundReport, to_arrays

__all__ = ["FederationConfig", "RoundReport", "make_server_app"]


@dataclass(frozen=True, kw_only=True)
class FederationConfig:
    """Everything that a federation needs to know.

    Args:
        base_id: identity of the base model's weights.
        plan_digest: SHA-256 (hex) of the public training plan.
        form: how the shared vector becomes an adapter; stored with every checkpoint.
        dim: length of the shared vector.
        rounds: rounds in all, those before a resume included.
        cohort: devices sampled in a round.
        min_replies: good replies below which a round is skipped, 1..cohort.
        seed: of the cohort sampling, from 0.
        checkpoint_dir: folder of this federation's checkpoints.
        resume: go on from the newest checkpoint; without one, start from zero.
        evaluate: whether all connected devices measure the new vector after a round.
        learning_rate: the server's step along the mean update.
        plan: the plan for users, where the server takes part in it; its digest is ``plan_digest``.
        noise: a round's source of the server's randomness.
        ledger: of the federation; see :class:`~locavore.server.strategy.FederatedMean`.
        min_nodes: devices that must be connected before a round starts; None: the cohort.
        wait_s: seconds to wait for ``min_nodes``.
        reply_timeout_s: seconds to wait for the replies of a phase.
    """

    base_id: str
    plan_digest: str
    form: str
    dim: int
    rounds: int
    cohort: int
    min_replies: int
    seed: int
    checkpoint_dir: Path
    resume: bool = False
    evaluate: bool = True
    learning_rate: float = 1.0
    plan: UserPlan | None = None
    noise: Callable[[int], NoiseSource] = lambda _: SecureNoise()
    ledger: Ledger | None = None
    min_nodes: int | None = None
    wait_s: int = 600
    reply_timeout_s: float = 3600.0

    def __post_init__(self) -> None:
        problems = [*_validate_counts(self), *_validate_names(self)]
        if problems:
            raise BadInputError("; ".join(problems))


def _validate_counts(config: FederationConfig) -> list[str]:
    problems = [
        f"{name} must be at least 1, got {getattr(config, name)}"
        for name in ("dim", "rounds", "cohort")
        if getattr(config, name) < 1
    ]
    if not 1 <= config.min_replies <= max(1, config.cohort):
        problems.append(f"min_replies must be 1..{config.cohort}, got {config.min_replies}")
    if config.min_nodes is not None and config.min_nodes < config.min_replies:
        problems.append(f"min_nodes must be at least min_replies, got {config.min_nodes}")
    if config.seed < 0:
        problems.append(f"seed must be at least 0, got {config.seed}")
    if not 0 < config.learning_rate < float("inf"):
        problems.append(f"learning_rate must be above 0, got {config.learning_rate}")
    return problems


def _validate_names(config: FederationConfig) -> list[str]:
    problems = [] if config.base_id else ["base_id must not be empty"]
    if config.plan is not None and config.plan.digest != config.plan_digest:
        problems.append(f"plan_digest must be the plan's, {config.plan.digest}")
    if not re.fullmatch(r"[0-9a-f]{64}", config.plan_digest):
        problems.append(f"plan_digest must be 64 lower-case hex digits, got {config.plan_digest!r}")
    return problems


def make_server_app(
    config: FederationConfig, on_round: Callable[[RoundReport], None] | None = None
) -> ServerApp:
    """Build the Flower app of a federation's server.

    Args:
        config: what to train, with whom, and where the checkpoints are.
        on_round: called at the end of every round with its report.

    The app's main function raises ``FederationError`` when the folder holds checkpoints that it
    may not use, or when too few devices connect. The result is the newest checkpoint, see
    :func:`locavore.server.checkpoint.latest`.
    """
    silence_flower()
    app = ServerApp()

    def main(grid: Grid, context: Context) -> None:
        strategy = _strategy(config)
        state = _starting_point(config)
        strategy.noise_state = state.noise
        for number in range(state.round + 1, config.rounds + 1):
            state = _train(config, strategy, grid, state, number)
            state.save(config.checkpoint_dir)
            _evaluate(config, strategy, grid, state)
            if on_round is not None and strategy.report is not None:
                on_round(strategy.report)

    app.main()(main)
    return app


def _strategy(config: FederationConfig) -> FederatedMean:
    return FederatedMean(
        base_id=config.base_id,
        plan_digest=config.plan_digest,
        cohort=config.cohort,
        min_replies=config.min_replies,
        seed=config.seed,
        min_nodes=config.min_nodes,
        learning_rate=config.learning_rate,
        evaluate=config.evaluate,
        plan=config.plan,
        noise=config.noise,
        ledger=config.ledger,
        wait_s=config.wait_s,
    )


def _starting_point(config: FederationConfig) -> Checkpoint:
    """Zero, or the newest checkpoint of this very federation."""
    found = latest(config.checkpoint_dir)
    if found is None:
        zero = np.zeros(config.dim, np.float32)
        return Checkpoint(0, zero, config.base_id, config.plan_digest, config.form)
    if not config.resume:
        raise FederationError(
            f"{config.checkpoint_dir} already holds checkpoints up to round {found.round}; "
            "set resume, or use an empty folder"
        )
    newest = max(config.checkpoint_dir.glob("round-*.safetensors")).name
    if config.plan is not None and newest != found.file:
        raise FederationError(
            f"{config.checkpoint_dir / newest} cannot be read, but its round was shown to the "
            "devices already: with noise of its own again it would cost twice. Restore that file"
        )
    found.require(
        base_id=config.base_id, plan_digest=config.plan_digest, form=config.form, dim=config.dim
    )
    return found


def _train(
    config: FederationConfig,
    strategy: FederatedMean,
    grid: Grid,
    state: Checkpoint,
    number: int,
) -> Checkpoint:
    arrays = to_arrays(state.theta)
    messages = strategy.configure_train(number, arrays, ConfigRecord(), grid)
    replies = grid.send_and_receive(messages, timeout=config.reply_timeout_s)
    strategy.aggregate_train(number, replies)
    if strategy.report is None:
        raise FederationError(f"round {number} was not aggregated")
    after = state.after(number, strategy.report.theta, strategy.report.row())
    return replace(after, noise=strategy.noise_state)


def _evaluate(
    config: FederationConfig, strategy: FederatedMean, grid: Grid, state: Checkpoint
) -> None:
    if not config.evaluate:
        return
    arrays = to_arrays(state.theta)
    messages = strategy.configure_evaluate(state.round, arrays, ConfigRecord(), grid)
    replies = grid.send_and_receive(messages, timeout=config.reply_timeout_s)
    strategy.aggregate_evaluate(state.round, replies)
