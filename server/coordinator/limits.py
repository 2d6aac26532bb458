"""How much may be sent: an ASGI layer in front of everything that devices reach.

Counted for every address, and for every node key that a request names. The table of counters is
bounded: the oldest makes way.
"""

from __future__ import annotations

import hashlib
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ...shared.admission import ADMISSION_PREFIX
from ...shared.errors import BadInputError

__all__ = ["Limited", "Limits"]

_KEY_HEADER = FLEET_HTTP_PUBLIC_KEY_HEADER.lower().encode()
_TABLE = 100_000  # counters that are kept


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What may be sent.

    Args:
        request_bytes: of one request's body; Flower sends arrays in parts of 5 MiB.
        node_requests_per_s, node_burst: of one node: steadily, and at once.
        address_requests_per_s, address_burst: of one address, behind which may be many nodes.
        admission_per_minute: requests of one address to be let in or to leave.
    """

    request_bytes: int = 8 << 20
    node_requests_per_s: float = 20.0
    node_burst: float = 400.0
    address_requests_per_s: float = 500.0
    address_burst: float = 5000.0
    admission_per_minute: float = 30.0

    def __post_init__(self) -> None:
        problems = [f"{k} must be above 0, got {v}" for k, v in vars(self).items() if not v > 0]
        if problems:
            raise BadInputError("; ".join(problems))


class Limited:
    """Lets through to ``app`` what is within the limits; answers 413 or 429 otherwise.

    Args:
        app: what is protected.
        limits: what may be sent.
        clock: seconds, from anywhere.
    """

    def __init__(
        self, app: ASGIApp, limits: Limits, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.refused = 0
        """Requests that were not let through."""
        self._app, self._limits, self._clock = app, limits, clock
        self._left: OrderedDict[tuple[str, bytes], tuple[float, float]] = OrderedDict()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        most = self._limits.request_bytes
        try:
            announced = int(headers.get(b"content-length", b"0"))
        except ValueError:
            announced = most + 1
        if not self._within_rates(scope, headers):
            await self._refuse(429, "too many requests; try again later", scope, receive, send)
        elif announced > most:
            said = f"a request has at most {most} bytes, this one {announced}"
            await self._refuse(413, said, scope, receive, send)
        else:
            await self._bounded(scope, receive, send)

    async def _bounded(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on a body, as long as it is not longer than allowed, whatever was announced."""
        left = self._limits.request_bytes

        async def counted() -> Message:
            nonlocal left
            message = await receive()
            left -= len(message.get("body", b""))
            if left < 0:
                self.refused += 1
                return {"type": "http.disconnect"}
            return message

        await self._app(scope, counted, send)

    def _within_rates(self, scope: Scope, headers: dict[bytes, bytes]) -> bool:
        limits = self._limits
        address = str((scope.get("client") or ("",))[0]).encode()
        within = self._take("address", address, limits.address_requests_per_s, limits.address_burst)
        if (key := headers.get(_KEY_HEADER)) is not None:
            name = hashlib.sha256(key).digest()
            within &= self._take("node", name, limits.node_requests_per_s, limits.node_burst)
        if scope["path"].startswith(ADMISSION_PREFIX) and scope["method"] == "POST":
            per_minute = limits.admission_per_minute
            within &= self._take("admission", address, per_minute / 60, per_minute)
        return within

    def _take(self, kind: str, who: bytes, per_s: float, burst: float) -> bool:
        """Take one request from a counter that fills up steadily."""
        now = self._clock()
        left, since = self._left.pop((kind, who), (burst, now))
        left = min(burst, left + per_s * (now - since))
        self._left[kind, who] = (max(0.0, left - 1), now)
        if len(self._left) > _TABLE:
            self._left.popitem(last=False)
        return left >= 1

    async def _refuse(
        self, status: int, why: str, scope: Scope, receive: Receive, send: Send
    ) -> None:
        self.refused += 1
        await JSONResponse({"error": why}, status)(scope, receive, send)
