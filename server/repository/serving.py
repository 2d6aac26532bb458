"""Serves a repository from its own process, and keeps its timestamp fresh meanwhile."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import uvicorn
from starlette.applications import Starlette
from starlette.routing import Mount

from ...shared.errors import BadInputError, DistributionError
from .app import repository_app
from .repository import Repository

__all__ = ["refreshing", "serve_repository"]

_EVERY = 3600.0  # seconds; a timestamp is good for a day at least
_log = logging.getLogger("locavore.server")


async def refreshing(repository: Repository, every: float = _EVERY) -> None:
    """Renew a repository's timestamp until cancelled; what fails is logged and tried again.

    Args:
        every: seconds between two renewals.
    """
    while True:
        try:
            ends = await asyncio.to_thread(repository.refresh, datetime.now(UTC))
            soonest = min(ends, key=lambda role: ends[role])
            _log.info("timestamp renewed; %s expires first, %s", soonest, ends[soonest])
        except (DistributionError, OSError) as error:
            _log.warning("the timestamp was not renewed: %s", error)
        await asyncio.sleep(every)


def serve_repository(
    repository: Repository, host: str, port: int, say: Callable[[str], None]
) -> None:
    """Serve until interrupted.

    Raises:
        BadInputError: the address cannot be listened on.
    """

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        task = asyncio.create_task(refreshing(repository))
        yield
        task.cancel()

    files = repository_app(repository.folder)
    app = Starlette(routes=[Mount("/", files)], lifespan=lifespan)
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
        except OSError as error:
            raise BadInputError(f"{host}:{port} cannot be listened on: {error.strerror}") from None
        say(f"serving {repository.public} on http://{host}:{listener.getsockname()[1]}")
        config = uvicorn.Config(app, log_level="warning", ws="none")
        uvicorn.Server(config).run(sockets=[listener])
