"""Runs a coordinator: the link for devices, the ServerApp, and the operator's page.

Killed at any point, it goes on where it was when it is started again: rounds from their checkpoint
and journal, devices from the register.
"""

from __future__ import annotations

import contextlib
import logging
import os
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import uvicorn
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from starlette.applications import Starlette
from starlette.routing import Mount

from ...privacy.ledger import Ledger
from ...privacy.plan import UserPlan
from ...privacy.terms import Terms
from ...shared.admission import REPOSITORY_PREFIX
from ...shared.errors import FederationError
from ...shared.forms import Directions
from ...shared.packages import Package
from ..aggregation import Aggregation, policy_named
from ..app import FederationConfig, RoundReport, make_server_app
from ..checkpoint import latest
from ..repository.app import repository_app
from ..repository.repository import Repository
from .admission import Admission
from .api import admission_routes
from .config import CoordinatorConfig
from .limits import Limited, Limits
from .link import Link
from .publishing import Publisher
from .status import Status, operator_app

__all__ = ["Coordinator", "Ports", "key_in", "listening"]

_log = logging.getLogger("locavore.server")
_RECONCILE_S = 5.0
_FOREVER_S = 1 << 31
_OVERHEAD_BYTES = 128 << 10  # of a request beyond the vector in it


def key_in(folder: Path, name: str) -> Ed25519PrivateKey:
    """The key of that name; made where there is none."""
    path = folder / f"{name}.key"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        handle, fresh = tempfile.mkstemp(dir=folder, prefix=f".{name}")  # for its owner only
        with os.fdopen(handle, "wb") as stream:
            stream.write(Ed25519PrivateKey.generate().private_bytes_raw())
            stream.flush()
            os.fsync(stream.fileno())
        with contextlib.suppress(FileExistsError):  # another process was first
            os.link(fresh, path)
        Path(fresh).unlink()
    return Ed25519PrivateKey.from_private_bytes(path.read_bytes())


@dataclass(frozen=True)
class Ports:
    """Where the coordinator listens."""

    devices: int
    operator: int


class Coordinator:
    """A federation as a service.

    Args:
        config: what to run.
        package: the base, verified.
    """

    def __init__(self, config: CoordinatorConfig, package: Package) -> None:
        self.config = config
        config.state.mkdir(parents=True, exist_ok=True)
        config.state.chmod(0o700)  # under central trust, what is there takes noise off
        directions = Directions.load(package.path("directions.safetensors"))
        self.policy = policy_named(config.policy)
        self.form = self.policy.over(package.base_id, directions.limited(config.rank))
        admission_key = key_in(config.state, "admission")
        self.terms = Terms(
            name=config.name,
            base_id=package.base_id,
            form=self.form.name,
            turns=self.form.turns,
            carried=self.form.carried,
            rank=config.rank,
            plan=config.plan,
            admission=admission_key.public_key().public_bytes_raw().hex(),
        )
        self.admission = Admission(config.state / "admission.db", admission_key, self.terms.digest)
        self.publisher: Publisher | None = None
        if config.repository is not None:
            repository = Repository.open(config.repository)
            adapters = config.state / "adapters"
            self.publisher = Publisher(repository, config.name, self.form, adapters)

    @property
    def repository_root(self) -> str | None:
        """The newest root of the repository, for devices to pin."""
        if self.publisher is None:
            return None
        return self.publisher.repository.root_bytes().decode()

    @property
    def checkpoints(self) -> Path:
        """Folder of the rounds' checkpoints."""
        return self.config.state / "checkpoints"

    def run(
        self,
        *,
        on_ready: Callable[[Ports], None] = lambda _: None,
        on_round: Callable[[RoundReport], None] = lambda _: None,
    ) -> None:
        """Serve until all rounds are done; whoever calls decides whether to serve on.

        Args:
            on_ready: called when devices can connect.
            on_round: called at the end of every round.

        Raises:
            FederationError: the state is another federation's, or cannot be read.
        """
        with self.serving() as (ports, status, link):
            on_ready(ports)
            self.federate(link, status, on_round)

    @contextmanager
    def serving(self) -> Iterator[tuple[Ports, Status, Link]]:
        """Listen to devices and operators within the block."""
        link = Link()
        for node, public_key in self.admission.keys().items():
            link.admit(public_key, node)
        routes = [*admission_routes(self.terms, self.admission, link)]
        if self.config.repository is not None:
            routes.append(Mount(REPOSITORY_PREFIX, repository_app(self.config.repository)))
        devices = Limited(Starlette(routes=[*routes, Mount("/", link.fleet())]), self._limits)
        before = latest(self.checkpoints, self._key.public_key())
        history = [] if before is None else [dict(row) for row in before.history]
        status = Status(self.terms, link, self.admission, history, limited=devices)
        listen = self.config.listen
        tls = {"ssl_certfile": str(listen.certificate), "ssl_keyfile": str(listen.key)}
        over = threading.Event()
        with (
            listening(devices, listen.host, listen.port, **tls) as port,
            listening(operator_app(status), "127.0.0.1", listen.operator_port) as operator_port,
        ):
            works = [partial(self._reconcile, link, over)]
            if self.publisher is not None:
                works.append(partial(self.publisher.keep_fresh, over))
            threads = [threading.Thread(target=work, daemon=True) for work in works]
            for thread in threads:
                thread.start()
            try:
                yield Ports(port, operator_port), status, link
            finally:
                over.set()
                for thread in threads:
                    thread.join()

    def federate(self, link: Link, status: Status, on_round: Callable[[RoundReport], None]) -> None:
        """Run all rounds that are left."""

        def ended(report: RoundReport) -> None:
            status.ended(report)
            if self.publisher is not None and report.applied:
                self.publisher.publish(report.round, report.theta)
            on_round(report)
            if report.round < self.config.plan.rounds and self.config.pause_s:
                status.state = f"pausing for {self.config.pause_s:.0f} s"
                time.sleep(self.config.pause_s)
            status.state = "training"

        before = latest(self.checkpoints, self._key.public_key())
        if self.publisher is not None and before is not None:
            self.publisher.publish(before.round, before.theta)
        status.state = "training"
        link.run(make_server_app(self._federation(), ended), self.terms.app_id)
        status.state = "done"

    @property
    def _limits(self) -> Limits:
        """As configured, and no more than a reply of this federation needs."""
        needed = _OVERHEAD_BYTES + 8 * self.config.plan.width(self.form.dim)
        limits = self.config.limits
        return replace(limits, request_bytes=min(limits.request_bytes, needed))

    @property
    def _key(self) -> Ed25519PrivateKey:
        return key_in(self.config.state, "coordinator")

    def _federation(self) -> FederationConfig:
        config, plan = self.config, self.config.plan
        by_user = plan if isinstance(plan, UserPlan) else None
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        ledger = Ledger(self.checkpoints / "ledger.jsonl", delta=plan.delta)
        return FederationConfig(
            base_id=self.form.base_id,
            plan_digest=plan.digest,
            form=f"{config.policy}-{config.rank}",
            dim=plan.width(self.form.dim),
            rounds=plan.rounds,
            cohort=config.devices,
            min_replies=config.min_replies,
            min_nodes=config.min_nodes,
            seed=config.seed,
            checkpoint_dir=self.checkpoints,
            resume=True,
            aggregation=Aggregation(
                policy=self.policy,
                form=self.form,
                optimizer=config.optimizer,
                robust=config.robust,
            ),
            plan=by_user,
            ledger=ledger if by_user is not None and plan.private else None,
            wait_s=_FOREVER_S,
            reconnect_s=config.reconnect_s,
            reply_timeout_s=config.reply_timeout_s,
            step_timeout_s=config.step_timeout_s,
            roster=self.admission.roster if by_user and by_user.makers else None,
            key=self._key,
        )

    def _reconcile(self, link: Link, over: threading.Event) -> None:
        """Revocations by other processes take effect."""
        while not over.wait(_RECONCILE_S):
            for node, is_in in self.admission.nodes().items():
                if not is_in:
                    link.revoke(node)


@contextmanager
def listening(app: Any, host: str, port: int, **tls: str) -> Iterator[int]:
    """Serve an ASGI app within the block; gives the port."""
    settings: dict[str, Any] = {"lifespan": "off", "ws": "none", "log_level": "error", **tls}
    server = uvicorn.Server(uvicorn.Config(app, host, port, server_header=False, **settings))
    failed: list[BaseException] = []

    def serve() -> None:
        try:
            server.run()
        except SystemExit as error:  # uvicorn's way to say that it cannot listen
            failed.append(error)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    while not server.started:
        if failed or not thread.is_alive():
            raise FederationError(f"{host}:{port} cannot be listened at: is it in use?")
        time.sleep(0.02)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(10)
