"""The server's side of a federation: a Flower ServerApp that checkpoints and resumes.

One round, in order:

1. Sample a cohort, write it to the round's journal, and send it the shared vector.
2. Aggregate the updates that are on the wire's allow-list, noised where the plan leaves that to the
   server; or their secure sum, which is all that is seen of them.
3. Write a checkpoint: from here on the round is finished.
4. Let the devices evaluate; what they measure stays with them.
5. Hand the round's report to ``on_round``.

An interrupted round leaves the checkpoint before it, and its journal: it is asked of the same
devices again, in the very words, and of a secure sum what was heard is not asked again. A resumed
federation gives bit for bit the vector of one that was not interrupted. An evaluation that was cut
off is not repeated.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import ConfigRecord, Context
from flwr.serverapp import Grid, ServerApp

from ..privacy.distributed import WholeNumbers
from ..privacy.ledger import Ledger
from ..privacy.noise import NoiseSource, SecureNoise
from ..privacy.plan import UserPlan
from ..privacy.secagg.session import Roster, Session
from ..shared.errors import BadInputError, FederationError
from ..shared.wire import Broadcast, silence_flower
from .aggregation import Aggregation, require_possible
from .checkpoint import Checkpoint, latest
from .journal import Journal
from .secure_sum import SecurelySummed, SecureSumRound
from .strategy import FederatedStrategy, RoundReport, to_arrays

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
        aggregation: how updates become the next vector; where it has a form, ``dim`` is that of
            the form, and one more where the clipping norm adapts.
        plan: the plan for users, where the server takes part in it; its digest is ``plan_digest``.
        noise: a round's source of the server's randomness.
        ledger: of the federation; see :class:`~locavore.server.strategy.FederatedStrategy`.
        min_nodes: devices that must be connected before a round starts; None: the cohort.
        wait_s: seconds to wait for ``min_nodes``.
        reconnect_s: seconds to wait for the cohort of a round that was cut off.
        reply_timeout_s: seconds to wait for the replies of a phase.
        step_timeout_s: seconds to wait for those of a secure sum's steps after the training.
        roster: gives who may take part, asked when a round begins, where the plan has secure sums.
        key: signs checkpoints; those of others are refused then.
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
    aggregation: Aggregation = field(default_factory=Aggregation)
    plan: UserPlan | None = None
    noise: Callable[[int], NoiseSource] = lambda _: SecureNoise()
    ledger: Ledger | None = None
    min_nodes: int | None = None
    wait_s: int = 600
    reconnect_s: int = 60
    reply_timeout_s: float = 3600.0
    step_timeout_s: float = 120.0
    roster: Callable[[], Roster] | None = None
    key: Ed25519PrivateKey | None = None

    def __post_init__(self) -> None:
        problems = [*_validate_counts(self), *_validate_names(self), *_validate_form(self)]
        if problems:
            raise BadInputError("; ".join(problems))
        how = self.aggregation
        require_possible(
            how.policy,
            self.plan,
            optimizer=how.optimizer,
            robust=how.robust,
            rank=0 if how.form is None else how.form.rank,
            ranks=how.ranks.values(),
            cohort=self.cohort,
        )

    @property
    def path(self) -> str:
        """What a checkpoint must be of: the form, and how updates are aggregated."""
        return self.form + self.aggregation.name


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
    return problems


def _validate_form(config: FederationConfig) -> list[str]:
    how = config.aggregation
    form, policy = how.form, how.policy
    if form is None:
        needs = {
            f"policy {policy.name!r}": not policy.linear or policy.turns == "round",
            "devices of mixed ranks": bool(how.ranks),
            str(how.optimizer): not how.optimizer.plain,
            str(how.robust): how.robust is not None,
        }
        return [
            f"{what} cannot work on a bare vector; give the aggregation its form, policy.over()"
            for what, needed in needs.items()
            if needed
        ]
    problems = []
    if (form.name, form.turns, bool(form.carried)) != (policy.form, policy.turns, policy.carries):
        problems.append(f"the form is not that of policy {policy.name!r}; make it with its over()")
    if config.dim not in (form.dim, form.dim + 1):
        problems.append(f"dim must be the form's, {form.dim}, got {config.dim}")
    return problems


def _validate_names(config: FederationConfig) -> list[str]:
    problems = [] if config.base_id else ["base_id must not be empty"]
    hidden = config.plan is not None and config.plan.makers is not None
    if hidden != (config.roster is not None):
        problems.append(
            "a plan with secure sums needs a roster" if hidden else "a roster is for secure sums"
        )
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
        strategy.noise_state, strategy.optimizer_state = state.noise, state.optimizer
        _journal(config, state.round).delete()  # cut off before that was done
        for number in range(state.round + 1, config.rounds + 1):
            journal = _journal(config, number)
            state = _train(config, strategy, grid, state, journal)
            state.save(config.checkpoint_dir, config.key)
            journal.delete()
            _evaluate(config, strategy, grid, state)
            if on_round is not None and strategy.report is not None:
                on_round(strategy.report)

    app.main()(main)
    return app


def _strategy(config: FederationConfig) -> FederatedStrategy:
    return FederatedStrategy(
        base_id=config.base_id,
        plan_digest=config.plan_digest,
        cohort=config.cohort,
        min_replies=config.min_replies,
        seed=config.seed,
        min_nodes=config.min_nodes,
        aggregation=config.aggregation,
        evaluate=config.evaluate,
        plan=config.plan,
        noise=config.noise,
        ledger=config.ledger,
        wait_s=config.wait_s,
        reconnect_s=config.reconnect_s,
    )


def _journal(config: FederationConfig, round: int) -> Journal:
    return Journal.open(config.checkpoint_dir, round, config.plan_digest)


def _starting_point(config: FederationConfig) -> Checkpoint:
    """Zero, or the newest checkpoint of this very federation."""
    found = latest(config.checkpoint_dir, config.key.public_key() if config.key else None)
    if found is None:
        if not config.resume and _journal(config, 1).asked is not None:
            raise FederationError(
                f"{config.checkpoint_dir} holds the beginning of round 1; set resume, or use an "
                "empty folder"
            )
        zero = np.zeros(config.dim, np.float32)
        return Checkpoint(0, zero, config.base_id, config.plan_digest, config.path)
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
        base_id=config.base_id, plan_digest=config.plan_digest, form=config.path, dim=config.dim
    )
    return found


def _train(
    config: FederationConfig,
    strategy: FederatedStrategy,
    grid: Grid,
    state: Checkpoint,
    journal: Journal,
) -> Checkpoint:
    number, arrays = journal.round, to_arrays(state.theta)
    nodes = strategy.begin(number, arrays, grid, again=journal.asked)
    journal.begin(nodes, None if config.roster is None else config.roster())
    if journal.roster is not None:
        strategy.finish(number, _sum_securely(config, journal.roster, grid, state, journal))
    else:
        messages = strategy.train_messages(number)
        replies = grid.send_and_receive(messages, timeout=config.reply_timeout_s)
        strategy.aggregate_train(number, replies)
    if strategy.report is None:
        raise FederationError(f"round {number} was not aggregated")
    after = state.after(number, strategy.report.theta, strategy.report.row())
    return replace(after, noise=strategy.noise_state, optimizer=strategy.optimizer_state)


def _sum_securely(
    config: FederationConfig, roster: Roster, grid: Grid, state: Checkpoint, journal: Journal
) -> SecurelySummed:
    plan = config.plan
    assert plan is not None
    session = Session(
        plan=plan.digest,
        round=journal.round,
        dim=config.aggregation.up(journal.round, config.dim),
        fewest=plan.makers or 0,
        roster=roster.digest,
        rules=plan.secure_sum,
        nonce=journal.nonce,
    )
    numbers = WholeNumbers(plan, session.dim, session.id, plan.entry(state.theta))
    order = Broadcast(
        state.theta,
        session.round,
        plan.digest,
        config.base_id,
        session.nonce,
        roster.digest,
        session.dim,
    )
    round = SecureSumRound(
        grid, session, roster, journal, config.reply_timeout_s, config.step_timeout_s
    )
    return round.run(order, numbers.decode)


def _evaluate(
    config: FederationConfig, strategy: FederatedStrategy, grid: Grid, state: Checkpoint
) -> None:
    if not config.evaluate:
        return
    arrays = to_arrays(state.theta)
    messages = strategy.configure_evaluate(state.round, arrays, ConfigRecord(), grid)
    replies = grid.send_and_receive(messages, timeout=config.reply_timeout_s)
    strategy.aggregate_evaluate(state.round, replies)
