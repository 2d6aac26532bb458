"""Aggregation policies side by side in one federation, without privacy and at equal ε.

python -m tests.benchmarks policies [--quick]

Speakers share one language that the base has not read and have one of their own each. Every policy
federates them through the real Flower apps, with a learning rate of its own, chosen on other
speakers. Then every speaker trains a private adapter on top. Losses are of later texts. A policy
that the house recommends for a setting must be the best there of those that share one adapter, or
within two standard errors of it.
"""

from __future__ import annotations

import math
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from locavore.client.app import make_client_app
from locavore.client.kept import KeptHalf
from locavore.client.training.adapted import shared_chains
from locavore.client.training.exchange import Exchange
from locavore.client.training.local import LocalTraining
from locavore.client.training.objectives.language import token_batch
from locavore.client.training.optimizers import Optimizer
from locavore.client.training.private import PrivateTraining, train_private
from locavore.client.training.shared import private_training
from locavore.client.training.text import TextTwin
from locavore.export.directions import language_loss, public_directions
from locavore.privacy.noise import NoiseSource, insecure_seeded_noise
from locavore.privacy.plan import PrivacyPlan, RecordPlan, UserPlan
from locavore.server.aggregation import POLICIES, Aggregation, Policy, Upload, require_possible
from locavore.server.app import FederationConfig, make_server_app
from locavore.server.checkpoint import latest
from locavore.server.simulation.cohort import TrainsTogether
from locavore.server.simulation.grid import run_in_process
from locavore.shared.adapters import Adapter, Array
from locavore.shared.errors import BadInputError
from locavore.shared.forms import Directions, SharedForm

from .report import Goal, Options, Report, machine_line
from .work.dialects import Speakers, Text, base, held_out_loss, public_speakers, sites

__all__ = ["RECOMMENDED", "run"]

EPSILON, DELTA = 8.0, 1e-5
RANK, CARRIED, STEPS, BATCH = 4, 64, 4, 16
RATES: Mapping[str, tuple[float, ...]] = {
    "free": (0.01, 0.03, 0.1),
    "records": (0.6, 1.5),
    "users": (0.01, 0.03),
}
_AT_ONCE = 512  # texts in a pass
_EXACT = Goal(name="error of exact means", bound=1e-5, at_most=True)
TUNING = 100  # the seed on which learning rates are chosen

RECOMMENDED: Mapping[str, str] = {
    "no DP": "fedex",
    "records": "fedit",
    "users, few": "core",
    "users, many": "core",
}
"""What the documentation says to take in a setting, of the policies that share one adapter; held to
the measurement. Halves that stay have had more steps of their own than a private adapter on top."""


@dataclass(frozen=True)
class Setting:
    """What is protected, and by how many devices."""

    name: str
    kind: str
    devices: int
    rounds: int


def _settings(quick: bool) -> list[Setting]:
    if quick:
        return [Setting("no DP", "free", 8, 2), Setting("records", "records", 8, 2)]
    return [
        Setting("no DP", "free", 12, 6),
        Setting("records", "records", 12, 6),
        Setting("users, few", "users", 12, 6),
        Setting("users, many", "users", 48, 6),
    ]


@cache
def _multiplier(kind: str, records: int, rounds: int) -> float:
    """Noise over the clipping norm, for :data:`EPSILON`."""
    low, high = 0.5, 8.0
    for _ in range(9):
        middle = math.sqrt(low * high)
        plan = _plan(kind, 8, rounds, middle, clip=1.0, rate=1.0)
        low, high = (middle, high) if plan.epsilon(records) > EPSILON else (low, middle)
    return high


def _plan(
    kind: str, devices: int, rounds: int, noise: float, *, clip: float, rate: float
) -> PrivacyPlan:
    common: dict[str, Any] = {
        "relation": "add-or-remove-one",
        "noise_multiplier": noise,
        "rounds": rounds,
        "delta": DELTA,
        "clip": clip,
    }
    if kind == "records":
        return RecordPlan(expected_batch=BATCH, local_steps=STEPS, learning_rate=rate, **common)
    return UserPlan(trust="central", cohort=devices, **common)


class World:
    """The base, and one seed's speakers."""

    def __init__(self, seed: int, devices: int, quick: bool) -> None:
        self.seed, self.quick = seed, quick
        self.twin = TextTwin(base(20 if quick else 300), "dialects")
        texts = public_speakers(96, seed)
        names = sites(self.twin.model)
        found = public_directions(
            self.twin.model, names, texts, language_loss(self.twin.model), rank=RANK
        )
        self.directions: Directions = found
        self.public = texts[:32]
        self.speakers = Speakers.draw(devices, 48, 8 if quick else 24, seed)

    def clip(self, form: SharedForm) -> float:
        """Median length of a public text's gradient, for plans for records."""
        cohort = self.twin.cohort(shared_chains(form))
        begin = torch.from_numpy(form.start())[None]
        return float(cohort.gradients(begin, token_batch(self.public)).norms().median())


@dataclass
class Speaker:
    """A device of the federation."""

    world: World
    number: int
    form: SharedForm
    plan: PrivacyPlan
    kept: KeptHalf | None = None
    base_id: str = "dialects"
    sums: None = None

    @property
    def plan_digest(self) -> str:
        """Of the plan."""
        return self.plan.digest

    @property
    def width(self) -> int:
        """Length of the vector."""
        return self.plan.width(self.form.dim)

    def begin(self, round: int) -> list[Text]:
        """The texts to train on."""
        return self.world.speakers.train[self.number]

    def train_shared(self, theta: Array, *, round: int) -> Array:
        """Speakers train together."""
        raise NotImplementedError

    def evaluate_shared(self, theta: Array, *, round: int) -> None:
        """Measured at the end."""

    def adapter(self, theta: Array) -> Adapter:
        """What the vector is here."""
        own = None if self.kept is None else self.kept.latest()
        return self.form.to_adapter(theta[: self.form.dim], own)


def _noise(seed: int, member: int, round: int) -> NoiseSource:
    return insecure_seeded_noise(seed, round * 100_000 + member)


def _remember(plan: PrivacyPlan, form: SharedForm) -> KeptHalf | None:
    memory = [b""]
    write = partial(memory.__setitem__, 0)
    return KeptHalf(plan.digest, form.kept_dim, lambda: memory[0], write) if form.kept_dim else None


@dataclass(frozen=True)
class Federated:
    """What came of a federation."""

    speakers: list[Speaker]
    theta: Array
    up: int
    error: float
    signal: float


def _federate(world: World, policy: Policy, setting: Setting, rate: float) -> Federated:
    """A federation through the real apps."""
    form = policy.over("dialects", world.directions, carried=CARRIED)
    plan, how = _how(world, form, setting, rate)
    speakers = [
        Speaker(world, i, form, plan, _remember(plan, form)) for i in range(setting.devices)
    ]
    training = private_training(
        world.twin.cohort(shared_chains(form)),
        plan,
        token_batch,
        at_once=_AT_ONCE,
        locally=how,
        exchange=None if form.plain else Exchange(form, world.twin),
    )
    aggregation = Aggregation(policy=policy, form=form)
    last: list[tuple[Array, int, Array]] = []

    def train(theta: Array, number: int, members: Sequence[int], records: Any) -> Array:
        held = [speakers[m].kept for m in members]
        kept = np.stack([h.before(number) for h in held if h]) if form.kept_dim else None
        sources = [_noise(world.seed, m, number) for m in members]
        updates = training.round(theta, records, sources, number=number, kept=kept)
        for half, values in zip(held, () if kept is None else kept, strict=False):
            if half is not None:
                half.after(number, values)
        last[:] = [(theta, number, updates)]
        return updates

    together = TrainsTogether(speakers, train)
    with tempfile.TemporaryDirectory(prefix="locavore-") as folder:
        server = make_server_app(
            FederationConfig(
                base_id="dialects",
                plan_digest=plan.digest,
                form=policy.name,
                dim=plan.width(form.dim),
                rounds=setting.rounds,
                cohort=setting.devices,
                min_replies=setting.devices,
                seed=world.seed,
                checkpoint_dir=Path(folder),
                evaluate=False,
                aggregation=aggregation,
                plan=plan if isinstance(plan, UserPlan) else None,
                noise=partial(_noise, world.seed, 99_999),
            )
        )
        app = make_client_app(lambda at: together.device(int(at.node_config["partition-id"])))
        grid = run_in_process(server, app, setting.devices, expect=together.expect)
        final = latest(Path(folder))
    assert final is not None
    up = sum(grid.bytes_up.values()) // (setting.rounds * setting.devices)
    sent = len(form.leaves(1))
    signal = plan.signal_to_noise(sent, setting.devices) if plan.private else math.inf
    return Federated(speakers, final.theta, up, _error(aggregation, *last[0]), signal)


def _how(
    world: World, form: SharedForm, setting: Setting, rate: float
) -> tuple[PrivacyPlan, LocalTraining]:
    how = LocalTraining(
        steps=STEPS, batch=BATCH, optimizer=Optimizer(kind="adam", learning_rate=rate)
    )
    if setting.kind == "records":
        noise = _multiplier("records", 48, setting.rounds)
        clip = world.clip(form)
        return _plan("records", setting.devices, setting.rounds, noise, clip=clip, rate=rate), how
    # Adam moves every number by about its rate: half of the longest way in a round.
    clip = 0.5 * rate * STEPS * math.sqrt(len(form.leaves(1)))
    noise = _multiplier("users", 1, setting.rounds) if setting.kind == "users" else 0.0
    clip = clip if noise else 1e6
    return _plan("users", setting.devices, setting.rounds, noise, clip=clip, rate=rate), how


def _error(aggregation: Aggregation, theta: Array, number: int, updates: Array) -> float:
    """Of one round: how far the new adapter is from the mean of the devices' adapters."""
    form = aggregation.form
    assert form is not None
    theta = theta[: form.dim]
    uploads = [Upload(update[: len(form.leaves(number))], form.rank) for update in updates]
    if aggregation.policy.linear:
        change = aggregation.average(theta, uploads, number)
        new, _ = aggregation.stepped(theta, change, number, {})
    else:
        new = aggregation.combined(theta, uploads, number)
    rng = np.random.default_rng(0)
    kept = rng.standard_normal(form.kept_dim).astype(np.float32) * 0.1
    found = _products(form, new, kept)
    total = {site: np.zeros(product.shape) for site, product in found.items()}
    for upload in uploads:
        own = theta.copy()
        own[form.leaves(number)] += upload.change
        for site, product in _products(form, own, kept).items():
            total[site] += product / len(uploads)
    off = math.sqrt(sum(float(np.square(found[s] - total[s]).sum()) for s in total))
    return off / math.sqrt(sum(float(np.square(mean).sum()) for mean in total.values()))


def _products(form: SharedForm, theta: Array, kept: Array) -> dict[str, Any]:
    factors = form.to_adapter(theta, kept).factors
    return {s: a.astype(np.float64) @ b.astype(np.float64) for s, (a, b) in factors.items()}


def _shared_loss(done: Federated, count: int) -> float:
    """Mean over speakers of the loss with the shared adapter alone."""
    losses = []
    for speaker in done.speakers[:count]:
        with speaker.world.twin.adapted(speaker.adapter(done.theta)):
            losses.append(
                held_out_loss(
                    speaker.world.twin.model, speaker.world.speakers.later[speaker.number]
                )
            )
    return float(np.mean(losses))


def _both_loss(done: Federated, count: int, steps: int) -> float:
    """Mean over speakers of the loss with a private adapter on top."""
    how = PrivateTraining(rank=RANK, steps=steps, learning_rate=0.02)
    losses = []
    for speaker in done.speakers[:count]:
        world, shared = speaker.world, speaker.adapter(done.theta)
        texts = world.speakers.train[speaker.number]
        private = train_private(world.twin, world.directions, texts, how, shared=shared)
        with world.twin.adapted(shared, private):
            losses.append(held_out_loss(world.twin.model, world.speakers.later[speaker.number]))
    return float(np.mean(losses))


@dataclass(frozen=True)
class Row:
    """A policy in a setting: figures by seed, and what is the same for all."""

    setting: str
    policy: str
    rate: float
    up: int
    error: float
    signal: float
    shared: tuple[float, ...]
    both: tuple[float, ...]

    def cells(self) -> list[str]:
        """For the table."""
        return [
            f"{self.setting}: {self.policy}",
            f"{self.rate:g}",
            f"{self.up / 1000:.1f}",
            f"{self.error:.0e}",
            "-" if math.isinf(self.signal) else f"{self.signal:.2f}",
            _spread(self.shared),
            _spread(self.both),
        ]


def _spread(values: Sequence[float]) -> str:
    return f"{np.mean(values):.3f} ±{_standard_error(values):.3f}"


def _standard_error(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0


def _rate(setting: Setting, policy: Policy, world: World, quick: bool) -> float:
    """The learning rate that is best for speakers who are not measured later."""
    rates = RATES[setting.kind]
    if quick:
        return rates[1]
    how = _private(quick)
    tried = {r: _both_loss(_federate(world, policy, setting, r), *how) for r in rates}
    return min(tried, key=lambda rate: tried[rate])


def _measure(
    setting: Setting, policy: Policy, worlds: Mapping[int, World], quick: bool
) -> Row | str:
    """A row, or the sentence with which the combination is refused."""
    count = 3 if quick else 12
    form = policy.over("dialects", worlds[TUNING].directions, carried=CARRIED)
    try:
        require_possible(policy, _how(worlds[TUNING], form, setting, 1.0)[0])
    except BadInputError as error:
        return str(error)
    rate = _rate(setting, policy, worlds[TUNING], quick)
    shared, both, errors = [], [], []
    for seed in (s for s in worlds if s != TUNING):
        done = _federate(worlds[seed], policy, setting, rate)
        shared.append(_shared_loss(done, count))
        both.append(_both_loss(done, *_private(quick)))
        errors.append(done.error)
    return Row(
        setting.name,
        policy.name,
        rate,
        done.up,
        max(errors),
        done.signal,
        tuple(shared),
        tuple(both),
    )


def _private(quick: bool) -> tuple[int, int]:
    """Speakers that train a private adapter, and for how many steps."""
    return (2, 4) if quick else (6, 20)


def _behind(rows: Sequence[Row], recommended: str) -> float:
    """How far behind the best the recommended policy is, in standard errors of the difference."""
    common = {row.policy: row for row in rows if not POLICIES[row.policy].keeps}
    mine = common[recommended]
    best = min(common.values(), key=lambda row: float(np.mean(row.both)))
    if best is mine:
        return 0.0
    gaps = np.subtract(mine.both, best.both)
    return float(gaps.mean() / max(_standard_error(tuple(gaps)), 1e-4))


def run(options: Options) -> Report:
    """Measure; ``--quick`` asserts only that everything runs and that exact means are exact."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # matrices this small only lose by threads
    try:
        return _run(options.quick)
    finally:
        torch.set_num_threads(threads)


def _run(quick: bool) -> Report:
    settings = _settings(quick)
    worlds = _worlds(settings, quick)
    found = [
        (setting, policy, _measure(setting, policy, worlds, quick))
        for setting in settings
        for policy in POLICIES.values()
    ]
    rows = [row for _, _, row in found if isinstance(row, Row)]
    refused = [
        f"{setting.name}, {policy.name}: refused: {said}"
        for setting, policy, said in found
        if isinstance(said, str)
    ]
    return _report(rows, [*_bare(worlds, quick), *refused], quick)


def _worlds(settings: Sequence[Setting], quick: bool) -> dict[int, World]:
    most = max(setting.devices for setting in settings)
    return {seed: World(seed, most, quick) for seed in (TUNING, 1, *(() if quick else (2, 3)))}


def _report(rows: Sequence[Row], lines: Sequence[str], quick: bool) -> Report:
    exact = [
        row
        for row in rows
        if POLICIES[row.policy].exact in ("always", "in a turn", "within the carried rank")
    ]
    ratios = {_EXACT.name: max(row.error for row in exact)}
    goals = [_EXACT]
    for setting, recommended in () if quick else RECOMMENDED.items():
        own = [row for row in rows if row.setting == setting]
        name = f"{setting}: {recommended} behind the best, in standard errors"
        ratios[name] = _behind(own, recommended)
        goals.append(Goal(name=name, bound=2.0, at_most=True))
    sizes = ", ".join(
        f"{setting.name} {setting.devices} devices in {setting.rounds} rounds"
        for setting in _settings(quick)
    )
    return Report(
        benchmark="policies",
        lines=[
            machine_line(),
            f"{sizes}; {len(rows[0].shared)} seeds; rank {RANK}, {STEPS} local steps of {BATCH} "
            f"texts; ε {EPSILON:g} at δ {DELTA:g}, users under central trust",
            *lines,
        ],
        columns=("policy", "rate", "kB up", "error", "S/N", "shared", "shared + private"),
        rows=[row.cells() for row in rows],
        ratios=ratios,
        goals=goals,
    )


def _bare(worlds: Mapping[int, World], quick: bool) -> list[str]:
    """The losses without anything shared, for scale."""
    bare, alone, longer = [], [], []
    for seed, world in worlds.items():
        if seed == TUNING:
            continue
        form = POLICIES["core"].over("dialects", world.directions)
        plan = _plan("users", 1, 1, 0.0, clip=1.0, rate=1.0)
        nobody = [Speaker(world, i, form, plan) for i in range(3 if quick else 12)]
        done = Federated(nobody, form.zero(), 0, 0.0, math.inf)
        bare.append(_shared_loss(done, len(nobody)))
        count, steps = _private(quick)
        alone.append(_both_loss(done, count, steps))
        more = steps + STEPS * _settings(quick)[0].rounds
        longer.append(_both_loss(done, count, more))
    return [
        f"base alone {_spread(bare)}, private adapters alone {_spread(alone)}; {_spread(longer)} "
        f"with {more} steps, as many as a half that stays and the adapter on top have together"
    ]
