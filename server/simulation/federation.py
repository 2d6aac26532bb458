"""The shared adapter: a federation of simulated devices through the real Flower apps."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from flwr.app import Message

from ...client.app import make_client_app
from ...client.engines import open_trainer
from ...client.federated import MIN_RECORDS, FederatedLearner, form_training
from ...client.kept import KeptHalf
from ...client.secure_sum import SecureSums
from ...client.training.adapted import AdaptedTwin
from ...client.training.shared import SharedTraining
from ...privacy.ledger import Ledger
from ...privacy.noise import NoiseSource, insecure_seeded_noise
from ...privacy.plan import PrivacyPlan, UserPlan
from ...privacy.secagg.session import Roster
from ...shared.adapters import Adapter, Array
from ...shared.errors import FederationError
from ...shared.files import write_whole
from ...shared.forms import SharedForm
from ...shared.packages import Package
from ..aggregation import POLICIES, Aggregation
from ..app import FederationConfig, make_server_app
from ..checkpoint import latest
from .cohort import TrainRound, TrainsTogether
from .config import SimulationConfig
from .grid import Direction, draw_ids, run_in_process
from .person import SimulatedPerson
from .ray_engine import RayEngine

__all__ = ["SharedRun", "Traffic", "train_shared"]

_STREAMS_PER_ROUND = 1_000_000  # noise streams: one per device and round
_SERVER = _STREAMS_PER_ROUND - 1  # and one of the server's


@dataclass(frozen=True)
class Traffic:
    """Bytes of one device's messages, in the rounds since the last start or resume."""

    down: int
    up: int


@dataclass(frozen=True)
class SharedRun:
    """What came of it.

    Args:
        theta: the shared vector ``(dim,)``.
        adapters: what it is on each device, by name; with the half that stays there, if any.
        traffic: of each device, by name.
        rounds: a row each.
    """

    theta: Array
    adapters: dict[str, Adapter]
    traffic: dict[str, Traffic]
    rounds: Sequence[Mapping[str, Any]]


def train_shared(
    people: Sequence[SimulatedPerson],
    twin: AdaptedTwin[Any],
    form: SharedForm,
    config: SimulationConfig,
    *,
    checkpoints: Path,
    resume: bool = False,
    private: bool = True,
    on_update: Callable[[], None] = lambda: None,
    tap: Callable[[Message, Direction], None] | None = None,
) -> SharedRun:
    """Train the shared vector over the devices that have enough records.

    Args:
        private: False trains the reference without noise; nothing is charged or measured then.
        on_update: called as often as devices have trained or measured, while they do.
        tap: sees every message.

    Raises:
        FederationError: no device has enough records, or no round succeeded.
    """
    members = [person for person in people if person.trains]
    if not members:
        most = max((person.records for person in people), default=0)
        raise FederationError(
            f"no device has enough records to train the shared adapter: {most} at most; a plan "
            f"for records needs {MIN_RECORDS}, one for users (--unit user) less"
        )
    plan = config.plan if private else replace(config.plan, noise_multiplier=0.0)
    cohort = min(config.cohort or len(members), len(members))
    by_user = plan if isinstance(plan, UserPlan) else None
    roster, sums = _secure_sums(by_user, len(members), config)
    ids = draw_ids(len(members), config.seed)
    ranks = _ranks(config, len(members))
    smaller = {rank: form.limited(rank) for rank in set(ranks) if rank != form.rank}
    devices = [
        _device(
            i,
            person,
            twin,
            smaller.get(ranks[i], form),
            plan,
            config,
            on_update,
            sums[i] if sums else None,
        )
        for i, person in enumerate(members)
    ]
    server = make_server_app(
        FederationConfig(
            base_id=form.base_id,
            plan_digest=plan.digest,
            form=f"{config.policy}-{config.rank}",
            dim=plan.width(form.dim),
            aggregation=Aggregation(
                policy=POLICIES[config.policy],
                form=form,
                optimizer=config.optimizer,
                robust=config.robust,
                ranks=dict(zip(ids, ranks, strict=True)),
            ),
            rounds=plan.rounds,
            cohort=cohort,
            min_replies=max(1, cohort // 2),
            seed=config.seed,
            checkpoint_dir=checkpoints,
            resume=resume,
            evaluate=private,
            plan=by_user,
            noise=partial(_noise, config.seed, _SERVER),
            ledger=_federation_ledger(checkpoints, plan) if by_user and private else None,
            roster=None if roster is None else lambda: roster,
        )
    )
    with _engine(devices, config, on_update) as train:
        together = TrainsTogether(devices, train)
        grid = run_in_process(
            server,
            make_client_app(lambda at: together.device(int(at.node_config["partition-id"]))),
            len(members),
            node_ids=ids,
            expect=together.expect,
            tap=tap,
        )
    final = latest(checkpoints)
    if final is None or not any(row["applied"] for row in final.history):
        raise FederationError("no round of the federation succeeded; see the log for the devices'")
    traffic = {
        person.name: Traffic(grid.bytes_down[node], grid.bytes_up[node])
        for person, node in zip(members, grid.get_node_ids(), strict=True)
    }
    adapters = {
        person.name: device.adapter(_own(final.theta, form, device.form))
        for person, device in zip(members, devices, strict=True)
    }
    return SharedRun(final.theta[: form.dim], adapters, traffic, final.history)


def _own(theta: Array, form: SharedForm, smaller: SharedForm) -> Array:
    """What a device is sent of the vector."""
    whole = theta[: form.dim]
    return whole if smaller is form else whole[form.prefix(smaller.rank)]


def _ranks(config: SimulationConfig, devices: int) -> list[int]:
    """Directions of every device; those that are not named have the form's."""
    return [*config.ranks, *[config.rank] * devices][:devices]


@contextmanager
def _engine(
    devices: Sequence[FederatedLearner[Any]],
    config: SimulationConfig,
    on_update: Callable[[], None],
) -> Iterator[TrainRound]:
    """What trains the devices of a round; see :class:`SimulationConfig`."""
    first = devices[0]
    noise = partial(_noise, config.seed)
    if config.engine == "cohort":
        yield partial(_together, devices, noise, on_update)
        return
    package = first.device.model.package
    how = {"locally": config.locally, "memory_budget": config.memory_budget}
    build = partial(_build_training, package, first.form, first.plan, how)
    workers = config.workers or os.cpu_count() or 1
    with RayEngine(build, noise, workers=workers, address=config.ray_address) as engine:
        yield partial(_counted, engine.train, on_update)


def _together(
    devices: Sequence[FederatedLearner[Any]],
    noise: Callable[[int, int], NoiseSource],
    on_update: Callable[[], None],
    theta: Array,
    number: int,
    members: Sequence[int],
    records: Sequence[Sequence[Any]],
) -> Array:
    told = 0

    def progress(share: float) -> None:
        nonlocal told
        while told < int(share * len(members) + 1e-9):
            told += 1
            on_update()

    sources = [noise(member, number) for member in members]
    held = [half for member in members if (half := devices[member].kept) is not None]
    kept = np.stack([half.before(number) for half in held]) if held else None  # sensitive
    training = devices[members[0]].training  # the same for all of one length
    updates = training.round(theta, records, sources, number=number, progress=progress, kept=kept)
    for half, values in zip(held, () if kept is None else kept, strict=True):
        half.after(number, values)
    return updates


def _counted(
    train: TrainRound,
    on_update: Callable[[], None],
    theta: Array,
    number: int,
    members: Sequence[int],
    records: Sequence[Sequence[Any]],
) -> Array:
    updates = train(theta, number, members, records)
    for _ in members:
        on_update()
    return updates


def _build_training(
    package: Package, form: SharedForm, plan: PrivacyPlan, how: Mapping[str, Any]
) -> SharedTraining[Any]:
    """In a Ray worker: the base, once, and the private steps on it."""
    return form_training(open_trainer(package, fast=True), form, plan, **how)


def _federation_ledger(checkpoints: Path, plan: PrivacyPlan) -> Ledger:
    return Ledger(checkpoints / "ledger.jsonl", delta=plan.delta)


def _noise(seed: int, member: int, round: int) -> NoiseSource:
    # The data are public and runs must be repeatable: a real device never seeds its noise.
    return insecure_seeded_noise(seed, round * _STREAMS_PER_ROUND + member)


def _secure_sums(
    plan: UserPlan | None, devices: int, config: SimulationConfig
) -> tuple[Roster | None, list[SecureSums]]:
    """Who may take part in secure sums, and every device's part; none where the plan has none."""
    if plan is None or plan.makers is None:
        return None, []
    keys = [Ed25519PrivateKey.generate() for _ in range(devices)]
    roster = Roster(key.public_key().public_bytes_raw() for key in keys)
    return roster, [
        SecureSums(
            plan, key, roster.named, noise=partial(_noise, config.seed, i), random=os.urandom
        )
        for i, key in enumerate(keys)
    ]


def _device(
    index: int,
    person: SimulatedPerson,
    twin: AdaptedTwin[Any],
    form: SharedForm,
    plan: PrivacyPlan,
    config: SimulationConfig,
    on_update: Callable[[], None],
    sums: SecureSums | None,
) -> FederatedLearner[Any]:
    def evaluate(theta: Array, round: int) -> None:
        person.measure_shared(device.adapter(theta), round)
        on_update()

    device = FederatedLearner(
        device=person.device,
        twin=twin,
        form=form,
        plan=plan,
        noise=partial(_noise, config.seed, index),
        locally=config.locally,
        memory_budget=config.memory_budget,
        evaluate=evaluate,
        ledger=person.ledger(plan.delta) if plan.private else None,
        sums=sums,
        kept=_kept(person, plan, form) if form.kept_dim else None,
    )
    return device


def _kept(person: SimulatedPerson, plan: PrivacyPlan, form: SharedForm) -> KeptHalf:
    """In a file of the run: a simulated person's vault does not outlive the process."""
    path = person.folder / f"kept-{plan.digest[:8]}.safetensors"

    def read() -> bytes:
        return path.read_bytes() if path.exists() else b""

    def write(raw: bytes) -> None:
        write_whole(path, raw)

    return KeptHalf(plan.digest, form.kept_dim, read, write)
