"""What an operator sees: numbers for Prometheus, and a page that follows the rounds.

Nothing in it comes from a single device.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Gauge, generate_latest
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from ...privacy.plan import PrivacyPlan
from ...privacy.terms import Terms
from ..strategy import RoundReport
from .admission import Admission
from .limits import Limited
from .link import Link

__all__ = ["Status", "operator_app"]

_SHOWN = 200  # rounds on the page


@dataclass
class Status:
    """Follows a federation.

    Args:
        terms: of the federation.
        link: where nodes are connected.
        admission: who is let in.
        history: figures of the rounds before this process began.
        clock: seconds since the epoch.
    """

    terms: Terms
    link: Link
    admission: Admission
    history: list[dict[str, Any]] = field(default_factory=list)
    clock: Callable[[], float] = time.time
    limited: Limited | None = None
    state: str = "waiting for devices"

    def __post_init__(self) -> None:
        self._began = self._last = self.clock()
        self._lock = threading.Lock()
        self._epsilon: dict[int, float | None] = {}
        self._registry = CollectorRegistry()
        one = self._registry
        self._rounds = Counter("locavore_rounds", "Rounds", ["outcome"], registry=one)
        self._updates = Counter("locavore_updates", "Answers", ["outcome"], registry=one)
        self._gauges = {
            name: Gauge(f"locavore_{name}", said, registry=one)
            for name, said in {
                "round": "Round that ended last",
                "devices_connected": "Nodes that are connected",
                "devices_admitted": "Devices that are let in",
                "epsilon": "Epsilon that a unit has spent at most so far",
                "round_seconds": "Seconds from the end of the round before to the end of the last",
                "bytes_received": "Bytes from devices in this process",
                "bytes_sent": "Bytes to devices in this process",
                "requests_refused": "Requests over the limits",
            }.items()
        }

    def ended(self, report: RoundReport) -> None:
        """A round has ended."""
        now = self.clock()
        with self._lock:
            row = report.row() | {"evaluated": report.evaluated, "seconds": now - self._last}
            self.history.append(row)
            self._last = now
        self._rounds.labels("applied" if report.applied else "skipped").inc()
        for outcome in ("averaged", "failed", "refused", "silent"):
            self._updates.labels(outcome).inc(getattr(report, outcome))
        self._gauges["round_seconds"].set(float(row["seconds"]))

    def snapshot(self) -> dict[str, Any]:
        """Everything that the page shows."""
        with self._lock:
            history = list(self.history)
        received, sent = self.link.traffic()
        round = int(history[-1]["round"]) if history else 0
        plan = self.terms.plan
        return {
            "name": self.terms.name,
            "base": self.terms.base_id,
            "state": self.state,
            "round": round,
            "rounds": plan.rounds,
            "unit": plan.unit,
            "trust": plan.trust,
            "delta": plan.delta,
            "epsilon": self._spent(plan, round),
            "epsilon_in_all": self._spent(plan, plan.rounds),
            "connected": self.link.online(),
            "admitted": sum(self.admission.nodes().values()),
            "bytes_received": received,
            "bytes_sent": sent,
            "refused": 0 if self.limited is None else self.limited.refused,
            "uptime_s": self.clock() - self._began,
            "history": history[-_SHOWN:],
        }

    def metrics(self) -> bytes:
        """In Prometheus' text format."""
        now = self.snapshot()
        for gauge, value in {
            "round": now["round"],
            "devices_connected": now["connected"],
            "devices_admitted": now["admitted"],
            "epsilon": math.inf if now["epsilon"] is None else now["epsilon"],
            "bytes_received": now["bytes_received"],
            "bytes_sent": now["bytes_sent"],
            "requests_refused": now["refused"],
        }.items():
            self._gauges[gauge].set(value)
        return generate_latest(self._registry)

    def _spent(self, plan: PrivacyPlan, rounds: int) -> float | None:
        """ε of who was in every round, with as few records as cost most; None: infinite."""
        if rounds not in self._epsilon:
            epsilon = plan.epsilon(1, rounds) if rounds else 0.0
            self._epsilon[rounds] = epsilon if math.isfinite(epsilon) else None
        return self._epsilon[rounds]


def operator_app(status: Status) -> Starlette:
    """The ASGI app for operators: ``/`` (page), ``/status.json``, ``/metrics``, ``/healthz``."""
    page = files("locavore.server.coordinator").joinpath("operator.html").read_text()

    def metrics(_: Request) -> Response:
        return Response(status.metrics(), media_type=CONTENT_TYPE_LATEST)

    return Starlette(
        routes=[
            Route("/", lambda _: HTMLResponse(page)),
            Route("/status.json", lambda _: JSONResponse(status.snapshot())),
            Route("/metrics", metrics),
            Route("/healthz", lambda _: PlainTextResponse("ok\n")),
        ]
    )
