"""``simulation``: what one user costs in a federation of a thousand.

A thousand users with fifty samples each, fifty of them a round, one local epoch of plain steps on
a LoRA of rank 8 over a frozen model. Ours goes through the real Flower apps and trains a round's
users as one cohort; beside it a bare loop over the users with plain autograd and no federation at
all, the same loop in Flower's own simulation on Ray, and pfl-research's simulation in one process.
The first round is not counted.
"""

from __future__ import annotations

import functools
import gc
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from locavore.client.app import make_client_app
from locavore.client.training.chains import lora
from locavore.client.training.cohort import Batch, Cohort, Objective
from locavore.client.training.local import LocalTraining, train_locally
from locavore.client.training.objectives.language import per_record_loss
from locavore.client.training.optimizers import Optimizer
from locavore.server.app import FederationConfig, RoundReport, make_server_app
from locavore.server.simulation.cohort import TrainsTogether
from locavore.server.simulation.grid import run_in_process
from locavore.shared.adapters import Array

from .report import Goal, Options, Report, machine_line
from .work.users import BATCH, LEARNING_RATE, MODELS, QUICK, Sizes, adapt, frozen, samples
from .workers import ROOT, Worker

__all__ = ["run"]

_BASE, _PLAN = "benchmark-0000", "00" * 32
_HOW = LocalTraining(epochs=1, batch=BATCH, optimizer=Optimizer(learning_rate=LEARNING_RATE))
_OURS, _LOOP, _RAY, _PFL = "locavore, Flower apps", "bare loop", "Flower, Ray", "pfl-research"
_RAY_DEFAULT = "Flower, Ray, as it comes"  # two processors a user; above, one
_PFL_PYTHON = ROOT / ".venv-bench" / "pfl" / "bin" / "python"


def _our_losses(name: str) -> Objective:
    """For language models the objective that devices train with; it never holds all logits."""
    if name != "llama":
        return MODELS[name].losses

    def losses(model: Any, batch: Batch) -> torch.Tensor:
        ids = batch["ids"]
        whole = torch.ones_like(ids)
        return per_record_loss(model, {"ids": ids, "mask": whole, "target": whole.bool()})

    return losses


# --- a federation of users ----------------------------------------------------------------------


class World:
    """A frozen model, its adapters, and every user's samples."""

    def __init__(self, name: str, quick: bool) -> None:
        self.name, self.losses = name, MODELS[name].losses
        self.sizes = QUICK if quick else Sizes()
        self.model, sites = frozen(name, quick)
        chains = lora(self.model, sites, self.sizes.rank)
        probe = MODELS[name].data(self.model, 4, 0)
        self.cohort = Cohort(self.model, chains, _our_losses(name), probe)
        self.start = self.cohort.start(1, torch.Generator().manual_seed(1))[0].numpy()

    def samples(self, user: int) -> list[dict[str, torch.Tensor]]:
        """A user's samples, one by one."""
        whole = samples(self.name, self.model, user, self.sizes.samples)
        rows = zip(*(value.unbind() for value in whole.values()), strict=True)
        return [dict(zip(whole, row, strict=True)) for row in rows]

    def train_alone(self, theta: Array, samples: Sequence[dict[str, torch.Tensor]]) -> Array:
        """What anybody would write: hooks, autograd and torch's SGD, one user at a time."""
        begin = torch.from_numpy(self.start + theta)[None]
        parts = {n: v[0].clone().requires_grad_() for n, v in self.cohort.unpack(begin).items()}
        sites = self.cohort.chains
        hooks = adapt(self.model, {s: (parts[f"{s}.A"], parts[f"{s}.B"]) for s in sites})
        optimizer = torch.optim.SGD(parts.values(), lr=LEARNING_RATE)
        for rows in _HOW.order(len(samples)):
            optimizer.zero_grad()
            batch = _collate([samples[i] for i in rows])
            self.losses(self.model, batch).mean().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        for hook in hooks:
            hook.remove()
        after = torch.cat([part.detach().flatten() for part in parts.values()])
        return (after - begin[0]).numpy()

    def train_together(
        self, theta: Array, number: int, members: Sequence[int], records: Sequence[Any]
    ) -> Array:
        """A round's users as one cohort."""
        begin = torch.from_numpy(self.start + theta).expand(len(members), -1)
        after = train_locally(self.cohort, begin, records, _HOW, _collate, round=number)
        return (after - begin).numpy()


def _collate(samples: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    return {name: torch.stack([sample[name] for sample in samples]) for name in samples[0]}


@functools.cache
def _world(name: str, quick: bool) -> World:
    return World(name, quick)


@dataclass
class User:
    """A device of the federation."""

    world: World
    number: int
    base_id: str = _BASE
    plan_digest: str = _PLAN
    sums: None = None

    @property
    def width(self) -> int:
        """Length of the vector."""
        return self.world.cohort.dim

    def begin(self, round: int) -> list[dict[str, torch.Tensor]]:
        """The samples to train on."""
        return self.world.samples(self.number)

    def train_shared(self, theta: Array, *, round: int) -> Array:
        """Train alone."""
        return self.world.train_alone(theta, self.begin(round))

    def evaluate_shared(self, theta: Array, *, round: int) -> None:
        """Nothing is measured here."""


def _server(world: World, folder: Path, on_round: Callable[[RoundReport], None]) -> Any:
    sizes = world.sizes
    config = FederationConfig(
        base_id=_BASE,
        plan_digest=_PLAN,
        form="lora",
        dim=world.cohort.dim,
        rounds=sizes.rounds,
        cohort=sizes.cohort,
        min_replies=sizes.cohort,
        min_nodes=sizes.users,
        seed=0,
        checkpoint_dir=folder,
        evaluate=False,
    )
    return make_server_app(config, on_round)


def _federate(world: World, drive: Callable[[Any], None]) -> float:
    """Seconds of a round after the first."""
    stamps: list[float] = []
    with tempfile.TemporaryDirectory(prefix="locavore-") as folder:
        drive(_server(world, Path(folder), lambda _: stamps.append(time.perf_counter())))
    return (stamps[-1] - stamps[0]) / (len(stamps) - 1)


def _ours(name: str, quick: bool) -> float:
    world = _world(name, quick)
    users = [User(world, number) for number in range(world.sizes.users)]
    group = TrainsTogether(users, world.train_together)
    app = make_client_app(lambda at: group.device(int(at.node_config["partition-id"])))

    def drive(server: Any) -> None:
        run_in_process(server, app, len(users), expect=group.expect)

    return _federate(world, drive)


def _gap(name: str, quick: bool) -> float:
    """Greatest difference between updates of a cohort and of its users alone."""
    world = _world(name, quick)
    theta = np.zeros(world.cohort.dim, np.float32)
    members = range(world.sizes.cohort)
    samples = [world.samples(user) for user in members]
    together = world.train_together(theta, 1, members, samples)
    alone = np.stack([world.train_alone(theta, own) for own in samples])
    return float(np.abs(together - alone).max() / np.abs(alone).max())


def _loop(name: str, quick: bool) -> float:
    """Seconds of a round's users one after the other, without a federation."""
    world = _world(name, quick)
    theta = np.zeros(world.cohort.dim, np.float32)
    stamps = [time.perf_counter()]
    for number in range(world.sizes.rounds):
        users = range(number * world.sizes.cohort, (number + 1) * world.sizes.cohort)
        updates = [world.train_alone(theta, world.samples(u % world.sizes.users)) for u in users]
        theta = theta + np.mean(updates, axis=0, dtype=np.float32)
        stamps.append(time.perf_counter())
    return (stamps[-1] - stamps[1]) / (len(stamps) - 2)


def _flower_ray(name: str, quick: bool, processors: int) -> float | None:
    """Seconds of a round in Flower's own simulation; None where Ray is not installed."""
    try:
        import ray
        from flwr.simulation import run_simulation
    except ImportError:
        return None
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    world = _world(name, quick)

    def user(context: Any) -> User:
        return User(_world(name, quick), int(context.node_config["partition-id"]))

    def drive(server: Any) -> None:
        run_simulation(
            server,
            make_client_app(user),
            world.sizes.users,
            backend_config={
                "client_resources": {"num_cpus": processors, "num_gpus": 0.0},
                "init_args": {"_node_ip_address": "127.0.0.1", "num_cpus": os.cpu_count()},
            },
        )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Ray's and Flower's own
        seconds = _federate(world, drive)
        gc.collect()
    return seconds


def _pfl(name: str) -> float | None:
    """Seconds of a round in pfl-research; None where it is not installed."""
    if not _PFL_PYTHON.exists():
        return None
    command = [str(_PFL_PYTHON), "-m", "tests.benchmarks.work.pfl_rounds", name]
    with Worker(command) as worker:
        return float(worker.ask({})["seconds"])


def run(options: Options) -> Report:
    """Measure both models; ``--quick`` asserts only that cohort and loop agree."""
    rows, ratios, failures = [], {}, []
    for name in MODELS:
        world = _world(name, options.quick)
        ours = _ours(name, options.quick)
        seconds = {_OURS: ours, _LOOP: _loop(name, options.quick)}
        if (gap := _gap(name, options.quick)) > 1e-5:
            failures.append(f"{name}: the cohort's updates differ from the loop's by {gap:.1e}")
        for kind, processors in ((_RAY, 1), (_RAY_DEFAULT, 2)):
            if options.quick or (spread := _flower_ray(name, options.quick, processors)) is None:
                continue
            seconds[kind] = spread
        if not options.quick and (other := _pfl(name)) is not None:
            seconds[_PFL] = other
        for kind, value in seconds.items():
            per_user = 1e3 * value / world.sizes.cohort
            rows.append([name, kind, f"{per_user:.2f}", f"{value / ours:.2f}"])
            if kind != _OURS:
                ratios[f"{name}, ours / {kind}"] = ours / value
    return Report(
        benchmark="simulation",
        lines=[
            machine_line(),
            f"{world.sizes.users} users of {world.sizes.samples} samples, {world.sizes.cohort} a "
            f"round, one local epoch in batches of {_HOW.batch}, rank {world.sizes.rank}",
            *([] if _PFL_PYTHON.exists() else ["pfl-research is not here: make bench-env"]),
        ],
        columns=["model", "engine", "ms / user", "/ ours"],
        rows=rows,
        ratios=ratios,
        goals=()
        if options.quick
        else [
            Goal(name=f"{name}, ours / {kind}", bound=bound, at_most=True)
            for kind, bound in ((_PFL, 0.5), (_RAY, 0.1))
            for name in MODELS
            if f"{name}, ours / {kind}" in ratios
        ],
        failures=failures,
    )
