"""A deployed federation in one process for tests: a real HTTP server on loopback, real nodes."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Context
from flwr.supercore.primitives.asymmetric import public_key_to_bytes

from locavore.client.answers import Answers
from locavore.client.app import make_client_app
from locavore.client.node import EmbeddedNode, NodeConfig
from locavore.server.app import make_server_app
from locavore.server.coordinator.link import Link

from ..summing import Fleet

__all__ = ["APP", "Deployed", "serving", "settle"]

APP = "locavore/federation"
QUICK: dict[str, Any] = {
    "busy_poll_s": 0.02,
    "idle_poll_s": 0.05,
    "first_wait_s": 0.05,
    "longest_wait_s": 0.2,
}


@contextmanager
def serving(app: Any, port: int = 0, **settings: Any) -> Iterator[int]:
    """Serve an ASGI app on loopback; gives the port."""
    config = uvicorn.Config(
        app, "127.0.0.1", port, log_level="error", lifespan="off", ws="none", **settings
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    settle(lambda: server.started)
    try:
        yield server.servers[0].sockets[0].getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(10)


def settle(there: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait until something is so."""
    waiting = threading.Event()
    for _ in range(int(seconds / 0.02)):
        if there():
            return
        waiting.wait(0.02)
    raise AssertionError(f"it is not so after {seconds} s")


class Deployed:
    """A fleet whose devices are nodes of a link.

    Args:
        fleet: the devices and their plan.
        folder: of the server's state.
    """

    def __init__(self, fleet: Fleet, folder: Path) -> None:
        self.fleet, self.folder = fleet, folder
        self.link = Link()
        self.keys = [ec.generate_private_key(ec.SECP384R1()) for _ in fleet.devices]
        self.node_ids = [self.link.admit(public_key_to_bytes(k.public_key())) for k in self.keys]

    def node(self, place: int, port: int, **changes: Any) -> EmbeddedNode:
        """The node of a device."""
        device = self.fleet.devices[place]
        options = {name: changes.pop(name) for name in ("gates", "wait") if name in changes}

        def of(context: Context) -> object:
            return device

        return EmbeddedNode(
            make_client_app(of, Answers()),  # type: ignore[arg-type]
            f"127.0.0.1:{port}",
            self.keys[place],
            NodeConfig(**({"app_id": APP, **QUICK} | changes)),
            node_id=self.node_ids[place],
            insecure=True,
            **options,
        )

    def restart(self) -> None:
        """Another link, as another process would make it from the register."""
        self.link = Link()
        for key, node in zip(self.keys, self.node_ids, strict=True):
            self.link.admit(public_key_to_bytes(key.public_key()), node)

    @contextmanager
    def nodes(self, port: int, **changes: Any) -> Iterator[list[EmbeddedNode]]:
        """All nodes, running."""
        nodes = [self.node(place, port, **changes) for place in range(len(self.keys))]
        threads = [threading.Thread(target=node.run, daemon=True) for node in nodes]
        for thread in threads:
            thread.start()
        try:
            yield nodes
        finally:
            for node in nodes:
                node.stop()
            for thread in threads:
                thread.join(10)

    def run(self, **changes: Any) -> None:
        """The federation, to its end."""
        settings = {"wait_s": 20, "step_timeout_s": 20.0, "reply_timeout_s": 20.0} | changes
        config = self.fleet.config(self.folder / "checkpoints", **settings)
        self.link.run(make_server_app(config, self.fleet.reports.append), APP)
