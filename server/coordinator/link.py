"""Flower's SuperLink within this process: devices over HTTP, the ServerApp beside them.

A stock SuperLink serves three APIs at one port, and whoever reaches the port may start an app that
stock nodes then execute. Here there is the Fleet API alone, which devices need, and nobody is
registered but by :meth:`Link.admit`. The ServerApp reads and writes the link's state directly, so
that no process is started for a round and no message waits for a poll of three seconds.

The one module of the server that leans on Flower's internals (written for flwr 1.41).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from fastapi import FastAPI
from flwr.app import Context, Message, RecordDict
from flwr.app.message.message import remove_content_from_message
from flwr.common.constant import (
    NOOP_ACCOUNT_NAME,
    NOOP_FLWR_AID,
    SUPERLINK_NODE_ID,
    SubStatus,
)
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.constant import FLWR_IN_MEMORY_DB_NAME, NOOP_FEDERATION_ID, NodeStatus, TaskType
from flwr.supercore.error import http_error_translator
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.protobuf.translation import ProtobufTranslationMiddleware
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.config_loader import get_objectstore_linkstate_factories
from flwr.superlink.federation import NoOpFederationManager
from flwr.superlink.routers.fleet.node_auth import NodeAuthMiddleware
from flwr.superlink.routers.fleet.router import router as fleet_router
from starlette.middleware import Middleware
from starlette.middleware.base import BaseHTTPMiddleware

from ...shared.errors import FederationError, WireError
from ...shared.wire import silence_flower

__all__ = ["Link", "LinkGrid"]

_log = logging.getLogger("locavore.server")
_MOST_PARTS = 256  # objects of a reply; one of ours has about ten
_HEARTBEAT_S = 10.0  # Flower declares a ServerApp dead that is silent for a minute


class Link:
    """The state of a SuperLink, and the two sides on which it is spoken to.

    It lives in memory, which keeps a hundred nodes' polls off a database. What must survive is not
    here: devices are in the register, rounds in checkpoints and journals, and what a round has not
    heard when the process dies is asked again.
    """

    def __init__(self) -> None:
        silence_flower()
        manager = NoOpFederationManager(simulation=False)
        _, self._factory = get_objectstore_linkstate_factories(FLWR_IN_MEMORY_DB_NAME, manager)
        self.state = self._factory.state()
        self._run_id: int | None = None

    def fleet(self) -> FastAPI:
        """The ASGI app for devices: Flower's Fleet API, for registered nodes only."""
        app = FastAPI(
            docs_url=None,
            redoc_url=None,
            openapi_url=None,
            middleware=[
                Middleware(BaseHTTPMiddleware, dispatch=http_error_translator),
                Middleware(ProtobufTranslationMiddleware),
                Middleware(NodeAuthMiddleware),
            ],
        )
        app.state.linkstate_factory = self._factory
        app.state.enable_supernode_auth = True
        app.include_router(fleet_router)
        return app

    def admit(self, public_key: bytes, node: int | None = None) -> int:
        """Register a node by its EC public key (PEM); returns its id.

        Args:
            public_key: of the node.
            node: the id that it had in another process; a new one is drawn when not given.

        Raises:
            FederationError: the key or the id is registered already.
        """
        state = self.state
        with state.lock:
            if node in state.nodes:
                raise FederationError(f"node {node} is registered already")
            try:
                drawn: int = state.create_node(NOOP_FLWR_AID, NOOP_ACCOUNT_NAME, public_key, 0)
            except ValueError as error:
                raise FederationError(f"the node's key cannot be registered: {error}") from None
            if node is None:
                return drawn
            info = state.nodes.pop(drawn)
            info.node_id = node
            state.nodes[node] = info
            state.node_public_key_to_node_id[public_key] = node
            owned = state.owner_to_node_ids[NOOP_FLWR_AID]
            owned.remove(drawn)
            owned.add(node)
            return node

    def revoke(self, node: int) -> None:
        """Let a node in no more; nothing where it is not registered."""
        known = self.state.get_node_info(node_ids=[node])
        if known and known[0].status != NodeStatus.UNREGISTERED:
            self.state.delete_node(NOOP_FLWR_AID, node)

    def online(self) -> int:
        """Number of nodes that are connected."""
        return len(self.state.get_node_info(statuses=[NodeStatus.ONLINE]))

    def traffic(self) -> tuple[int, int]:
        """Bytes from devices and bytes to them, in the run that is under way."""
        if self._run_id is None:
            return 0, 0
        run = self.state.get_run_info(run_ids=[self._run_id])[0]
        return run.bytes_recv, run.bytes_sent

    def run(self, server_app: ServerApp, app_id: str) -> None:
        """Run a ServerApp to its end, as the one run of this link; raises what it raises.

        Args:
            server_app: the app.
            app_id: what devices pin: they answer no other app.
        """
        with self._running(app_id) as run:
            context = Context(run.run_id, SUPERLINK_NODE_ID, {}, RecordDict(), {})
            server_app(LinkGrid(self.state, run), context)

    @contextmanager
    def _running(self, app_id: str) -> Iterator[Run]:
        """A run that Flower takes for running."""
        state = self.state
        run_id = state.create_run(
            app_id, "1", "", {}, NOOP_FEDERATION_ID, None, NOOP_FLWR_AID, TaskType.SERVER_APP
        )
        run = state.get_run_info(run_ids=[run_id])[0]
        task = run.primary_task_id
        if not (state.claim_task(task) and state.activate_task(task)):
            raise FederationError("Flower's state does not let the run begin; see its log")
        self._run_id = run_id
        TaskIdentity.task_id, TaskIdentity.run_id = task, run_id
        TaskIdentity.node_id = SUPERLINK_NODE_ID
        over = threading.Event()
        beat = threading.Thread(target=_beat, args=(state, task, over), daemon=True)
        beat.start()
        how = SubStatus.FAILED
        try:
            yield run
            how = SubStatus.COMPLETED
        finally:
            over.set()
            beat.join()
            state.finish_task(task, how, "")


def _address(message: Message) -> tuple[object, ...]:
    """Who says what to whom: Flower has checked the head's, the sender wrote the message's."""
    said = message.metadata
    return (
        said.run_id,
        said.src_node_id,
        said.dst_node_id,
        said.reply_to_message_id,
        said.message_type,
    )


def _beat(state: Any, task: int, over: threading.Event) -> None:
    while not over.wait(_HEARTBEAT_S):
        state.acknowledge_task_heartbeat(task)


class LinkGrid(Grid):  # type: ignore[misc]  # Flower is not typed here
    """Carries a ServerApp's messages to and from the link's state.

    Args:
        state: of the link.
        run: whose messages these are.
        poll_s: seconds between two looks for replies.
        sleep: waits that many seconds; tests replace it.
    """

    def __init__(
        self,
        state: Any,
        run: Run,
        poll_s: float = 0.05,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._state, self._run = state, run
        self._poll_s, self._sleep = poll_s, sleep
        self._arriving: list[Message] = []
        self._gone: set[str] = set()

    def set_run(self, run: Run) -> None:
        """Set Flower's run information."""
        self._run = run

    @property
    def run(self) -> Run:
        """Flower's run information."""
        return self._run

    def create_message(
        self,
        content: RecordDict,
        message_type: str,
        dst_node_id: int,
        group_id: str,
        ttl: float | None = None,
    ) -> Message:
        """Make a message to a node."""
        return Message(content, dst_node_id, message_type, ttl=ttl, group_id=group_id)

    def get_node_ids(self) -> list[int]:
        """The nodes that are connected."""
        return sorted(self._state.get_nodes(self._run.run_id))

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Lay messages out for their nodes; returns their ids.

        A message to a node that is unknown or revoked gets no id.
        """
        pushed = []
        run_id = self._run.run_id
        with no_object_id_recompute():
            for message in messages:
                session = self._state.start_session(run_id)  # ends with the message's last part
                message.metadata.__dict__["_message_id"] = message.object_id
                objects, tree = get_all_nested_objects(message), get_object_tree(message)
                bare = remove_content_from_message(message)
                stored, missing = self._state.store_message_and_object_tree(bare, tree, session)
                if not stored:
                    continue
                for name in missing:
                    self._state.store_object(run_id, session, name, objects[name].deflate())
                pushed.append(message.metadata.message_id)
        return pushed

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Hand out the replies to these messages that are there with all of their parts.

        What Flower says in the place of a node that is gone is no reply: the node is silent.
        """
        run_id = self._run.run_id
        found = self._state.get_message_res(message_ids=set(message_ids), run_id=run_id)
        self._gone = set()
        self._state.delete_messages(
            message_ins_ids={message.metadata.reply_to_message_id for message in found}
        )
        whole: list[Message] = []
        arriving: list[Message] = []
        for message in [*self._arriving, *found]:
            try:
                complete = self._inflated(message)
            except Exception as error:  # whatever a node has pushed ends in its silence
                node = message.metadata.src_node_id
                _log.warning("node %d has sent what is no reply: %s", node, type(error).__name__)
                self._drop(message)
                continue
            (arriving if complete is None else whole).append(complete or message)
        self._arriving = arriving
        for message in [*whole]:
            if message.metadata.src_node_id == SUPERLINK_NODE_ID:
                self._gone.add(message.metadata.reply_to_message_id)
                whole.remove(message)
        return whole

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Push messages and wait for the replies, at most ``timeout`` seconds."""
        waiting = set(self.push_messages(messages))
        self._arriving = []
        replies: list[Message] = []
        end = time.monotonic() + (float("inf") if timeout is None else timeout)
        while waiting or self._arriving:
            came = self.pull_messages(waiting)
            replies += came
            waiting -= {message.metadata.reply_to_message_id for message in came} | self._gone
            waiting -= {message.metadata.reply_to_message_id for message in self._arriving}
            if time.monotonic() >= end:
                break
            if waiting or self._arriving:
                self._sleep(self._poll_s)
        self._state.delete_messages(message_ins_ids=waiting)  # nobody is to answer them later
        for message in self._arriving:
            self._drop(message)
        self._arriving = []
        return replies

    def _inflated(self, message: Message) -> Message | None:
        """The whole message; None where parts are still on their way."""
        store, name = self._state.object_store, message.metadata.message_id
        contents: dict[str, bytes] = {}
        for tree in iterate_object_tree(store.get_object_tree(name)):
            if len(contents) >= _MOST_PARTS:
                raise WireError(f"a reply has at most {_MOST_PARTS} parts")
            content = self._state.get_object(self._run.run_id, tree.object_id)
            if not content:
                return None
            contents[tree.object_id] = content
        whole = inflate_object_from_contents(name, contents)
        if not isinstance(whole, Message) or _address(whole) != _address(message):
            raise WireError("the reply is addressed otherwise than its head says")
        store.delete(name)
        whole.metadata.__dict__["_message_id"] = name
        return whole

    def _drop(self, message: Message) -> None:
        """Let go of a reply that is none."""
        self._gone.add(message.metadata.reply_to_message_id)
        self._state.object_store.delete(message.metadata.message_id)
