"""The audit of the audits: bugs planted in private training and federations, and clean runs.

python -m tests.benchmarks planted_bugs [--quick]

Every bug is switched on in a test build of the mechanism (:mod:`.bugs`) and the audits look at it
as they would look at a deployment; the same audits look at clean runs. Record level: a tiny
language model's private training, the code that devices run. User level: canary devices through the
real apps of both sides. ``--quick`` takes a few of each.
"""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from locavore.client.app import make_client_app
from locavore.client.audit.records import RecordAudit
from locavore.client.training.adapted import shared_chains
from locavore.client.training.objectives.language import token_batch
from locavore.client.training.text import TextTwin
from locavore.privacy.audit.findings import Finding
from locavore.privacy.audit.openings import opening_findings
from locavore.privacy.audit.wire import Secret, wire_findings
from locavore.privacy.clipping import AdaptiveClip
from locavore.privacy.plan import RecordPlan, UserPlan
from locavore.server.app import FederationConfig, make_server_app
from locavore.server.simulation.audit import UserAudit
from locavore.server.simulation.grid import run_in_process
from locavore.server.simulation.recording import Recorder
from locavore.shared.adapters import Array
from locavore.shared.forms import Directions, SharedForm
from locavore.shared.packages import open_package

from .bugs import RECORD_BUGS, SUM_BUGS, USER_BUGS, WIRE_BUGS
from .report import Goal, Options, Report, machine_line
from .tiny import build_tiny_bases

SEEDS = 50
_CAUGHT, _ALARMS, _SECONDS = "bugs caught, share", "false alarms in clean runs", "minutes"
GOALS = (
    Goal(name=_CAUGHT, bound=0.95),
    Goal(name=_ALARMS, bound=0, at_most=True),
    Goal(name=_SECONDS, bound=10, at_most=True),
)
_RECORD_PLANS = (
    RecordPlan(relation="add-or-remove-one", clip=1.0, rounds=3, local_steps=2),
    RecordPlan(relation="replace-one", clip=AdaptiveClip(initial=0.5, count_noise=4.0), rounds=2),
)
_USER_PLANS = (
    UserPlan(relation="add-or-remove-one", trust="central", cohort=6, clip=1.0),
    UserPlan(relation="add-or-remove-one", trust="secure-aggregation", cohort=5, clip=1.0),
    UserPlan(relation="add-or-remove-one", trust="central", cohort=6, population=20, clip=1.0),
    UserPlan(
        relation="zero-out",
        trust="central",
        cohort=6,
        clip=AdaptiveClip(initial=0.5, count_noise=2.0),
    ),
)

Audit = Callable[[], Sequence[Finding]]


def run(options: Options) -> Report:
    """Plant, audit, count."""
    began = time.monotonic()
    rows, missed, alarms, ran = [], [], [], 0
    with tempfile.TemporaryDirectory(prefix="locavore-") as folder, _quiet():
        world = tiny_world(Path(folder))
        planted = list(bugs(world))
        for name, audit in planted[:: 6 if options.quick else 1]:
            broken = refuted(audit)
            rows.append([name, broken[0] if broken else "NOT CAUGHT", str(len(broken))])
            missed += [] if broken else [name]
        for name, audit in islice(clean_runs(world), 5 if options.quick else SEEDS):
            alarms += [f"{name}: {sentence}" for sentence in refuted(audit)]
            ran += 1
    minutes = (time.monotonic() - began) / 60
    return Report(
        benchmark="planted_bugs",
        lines=[
            machine_line(),
            f"{len(rows)} bugs, each audited once; then {ran} clean runs of the same audits, with "
            f"{len(alarms)} false alarms; {minutes:.1f} minutes in all",
        ],
        columns=("bug", "refuted first", "claims refuted"),
        rows=rows,
        ratios={
            _CAUGHT: 1 - len(missed) / len(rows),
            _ALARMS: float(len(alarms)),
            _SECONDS: minutes,
        },
        goals=GOALS[:2] if options.quick else GOALS,
        failures=[*(f"not caught: {name}" for name in missed), *alarms],
    )


def refuted(audit: Audit) -> list[str]:
    """What an audit refutes, in order; a mechanism that fails under audit is refuted as well."""
    return [f"{one.audit}: {one.claim}" for one in audit() if not one.holds]


def bugs(world: Mapping[str, Any]) -> Iterator[tuple[str, Audit]]:
    """Every bug with the audit of its level."""
    for name, make in RECORD_BUGS.items():
        yield name, lambda make=make: make(world).findings()  # type: ignore[misc]
    for name, (plan, changes, on) in USER_BUGS.items():

        def users(plan: Any = plan, changes: Any = changes, on: Any = on) -> list[Finding]:
            with on():
                return UserAudit(plan=plan, **_SIZES, **changes).findings()

        yield name, users
    for name, kind in SUM_BUGS.items():
        yield name, lambda kind=kind: opening_findings(kind)  # type: ignore[misc]
    for name, on in WIRE_BUGS.items():

        def wire(on: Any = on) -> list[Finding]:
            with on():
                return wire_run()

        yield name, wire


_SIZES: Mapping[str, Any] = {"dim": 256, "rounds": 10}


def clean_runs(world: Mapping[str, Any]) -> Iterator[tuple[str, Audit]]:
    """The same audits of mechanisms without a bug, in turn and with coins of their own."""
    seed = 0
    while True:
        for record in _RECORD_PLANS * 2:
            seed += 1
            rng = np.random.default_rng(seed)
            audit = RecordAudit(**{**world, "rng": rng}, plan=record)
            yield f"clean records, {seed}", audit.findings
        for user in _USER_PLANS:
            seed += 1
            rng = np.random.default_rng(seed)
            yield f"clean users, {seed}", UserAudit(plan=user, **_SIZES, rng=rng).findings
        seed += 1
        yield f"clean messages, {seed}", lambda: [*opening_findings(), *wire_run()]


def tiny_world(folder: Path) -> dict[str, Any]:
    """What record audits look at: a tiny base, its adapters, and public records."""
    from locavore.home import signing_key

    path = Path(build_tiny_bases(folder, ["float32"])["float32"])
    package = open_package(path, trusted=[signing_key().public_key().public_bytes_raw()])
    twin = TextTwin.of(package)
    known = Directions.load(package.path("directions.safetensors"))
    form = SharedForm("ffa", package.base_id, known)
    rng = np.random.default_rng(0)

    def tokens(count: int) -> list[int]:
        drawn: list[int] = rng.integers(2, 288, count).tolist()
        return drawn

    return {
        "cohort": twin.cohort(shared_chains(form)),
        "collate": token_batch,
        "records": [tokens(int(count)) for count in rng.integers(5, 20, 100)],
        "extremes": [tokens(2), tokens(60), [7] * 40, tokens(12)],
    }


# --- messages -------------------------------------------------------------------------------

_SECRET = "Note to Kim: the kettle squeaks again, alas! Yours, Quill."
_WIDTH, _PLAN, _WIRED = 64, "a" * 64, "wired"


@dataclass
class _Keeper:
    """A device that knows a secret and fails now and then; its failure quotes a record."""

    place: int
    base_id: str = _WIRED
    plan_digest: str = _PLAN
    sums: None = None
    adapter: Array = field(
        default_factory=lambda: np.random.default_rng(9).normal(size=16).astype(np.float32)
    )

    def train_shared(self, theta: Array, *, round: int) -> Array:
        if self.place == round:
            raise ValueError(f"cannot tokenize {_SECRET!r}")
        drawn = np.random.default_rng((self.place, round)).normal(size=_WIDTH)
        return drawn.astype(np.float32)

    def evaluate_shared(self, theta: Array, *, round: int) -> None:
        """Nothing is measured."""


def wire_run() -> list[Finding]:
    """Two rounds of three devices with planted secrets; every message is recorded and audited."""
    devices, recorder = [_Keeper(place) for place in range(3)], Recorder()
    app = make_client_app(lambda at: devices[int(at.node_config["partition-id"])])
    with tempfile.TemporaryDirectory(prefix="locavore-") as folder:
        config = FederationConfig(
            base_id=_WIRED,
            plan_digest=_PLAN,
            form="audit",
            dim=_WIDTH,
            rounds=2,
            cohort=3,
            min_replies=1,
            seed=0,
            checkpoint_dir=Path(folder),
        )
        run_in_process(make_server_app(config), app, 3, tap=recorder.tap)
    secrets: dict[str, Secret] = {
        "a note": _SECRET[:24],
        "the private adapter": devices[0].adapter,
    }
    return wire_findings(recorder.messages, secrets, width=_WIDTH, plan=_PLAN)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the warnings of devices and servers that are made to fail."""
    logs = [logging.getLogger(name) for name in ("locavore.client", "locavore.server")]
    levels = [log.level for log in logs]
    for log in logs:
        log.setLevel(logging.CRITICAL)
    try:
        with np.errstate(invalid="ignore", over="ignore"):
            yield
    finally:
        for log, level in zip(logs, levels, strict=True):
            log.setLevel(level)
