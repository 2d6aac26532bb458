"""A node that lives in the application: it keeps the base loaded and runs no code of a server's.

Rules:

1. It asks for messages only while every gate is open: consent, charging, an unmetered network, ...
2. A message of another app than the pinned one, of an unknown type, or larger than allowed is
   refused before its parts are fetched. Apps that a server offers are never fetched.
3. Whatever an answer or an error says went through :mod:`locavore.client.app`.
4. A connection that fails is tried again, ever less often; a node that was let in no more stops.

The one module of the device that leans on Flower's internals (written for flwr 1.41): the Fleet
API's client, which speaks protobuf over HTTP with requests signed by the node's EC key, and the
tree of content-addressed objects in which messages travel.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import httpx
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Context, Error, Message, RecordDict
from flwr.app.message.message import remove_content_from_message
from flwr.clientapp import ClientApp
from flwr.common.constant import ErrorCode
from flwr.common.serde import message_from_proto, message_to_proto, run_from_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import (
    ConfirmMessageReceivedRequest,
    ObjectTree,
    PullObjectRequest,
    PushObjectRequest,
)
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_tree,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.primitives.asymmetric import public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from ..shared.errors import (
    BadInputError,
    LocavoreError,
    PrivacyError,
    RevokedError,
    WireError,
)
from ..shared.wire import MESSAGE_TYPES, silence_flower
from .secured import secured

__all__ = ["EmbeddedNode", "NodeConfig"]

_log = logging.getLogger("locavore.client")
_ENVELOPE_BYTES = 1 << 16  # that protobuf puts around a message's parts
_FAILURES = (httpx.HTTPError, WireError, ValueError, IndexError)  # also no answer of Flower's
_OBJECT_TRIES = 5  # for a part that its sender has not laid out yet
_SERVER_ERRORS = 5  # over one message: a server that was killed knows it no more


@dataclass(frozen=True, kw_only=True)
class NodeConfig:
    """How a node behaves.

    Args:
        app_id: the app that it answers; it refuses every other.
        busy_poll_s: seconds between two questions for messages while a round is on.
        idle_poll_s: seconds between two questions otherwise; a phone takes minutes.
        linger_s: seconds after a message in which a round counts as being on.
        heartbeat_s: seconds between two signs of life, 10..1800; a server takes twice that for
            the node's death.
        first_wait_s, longest_wait_s: seconds before a failed connection is tried again: at first,
            and at most. They double, and are drawn between half and the whole.
        timeout_s: seconds that one request may take.
        max_message_bytes: of the parts of a message together.
    """

    app_id: str
    busy_poll_s: float = 0.2
    idle_poll_s: float = 5.0
    linger_s: float = 30.0
    heartbeat_s: float = 30.0
    first_wait_s: float = 1.0
    longest_wait_s: float = 300.0
    timeout_s: float = 30.0
    max_message_bytes: int = 64 << 20

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be above 0, got {value}"
            for name, value in vars(self).items()
            if name != "app_id" and not value > 0
        ]
        if not 10 <= self.heartbeat_s <= 1800:
            problems.append(f"heartbeat_s must be 10..1800, got {self.heartbeat_s}")
        if not self.app_id:
            problems.append("app_id must name the app that the node answers")
        if problems:
            raise BadInputError("; ".join(problems))


@dataclass
class _Pending:
    """A message that was handed out and is not answered yet."""

    head: Message
    tree: ObjectTree
    reply: Message | None = None
    errors: int = 0  # that the server answered with


class EmbeddedNode:
    """Connects a ClientApp with a federation's server.

    Args:
        app: answers the messages.
        address: ``host:port`` of the server.
        key: the node's EC key (P-384), which the server has registered.
        config: how it behaves.
        certificates: PEM of the authorities that the server's certificate must be signed by;
            None: those that this system trusts. ``insecure`` speaks without TLS: for tests.
        node_id: as the server gave it at registration. Without it the node is activated by its
            key, which a server refuses as long as it takes the node for connected.
        node_config: for the app's Flower context.
        gates: by name: what must be true for the node to take part.
        insecure: no TLS.
        wait: waits that many seconds or until told to stop; tests replace it.
    """

    def __init__(
        self,
        app: ClientApp,
        address: str,
        key: ec.EllipticCurvePrivateKey,
        config: NodeConfig,
        *,
        certificates: str | None = None,
        node_id: int | None = None,
        node_config: Mapping[str, bool | float | int | str] | None = None,
        gates: Mapping[str, Callable[[], bool]] | None = None,
        insecure: bool = False,
        wait: Callable[[float], object] | None = None,
    ) -> None:
        silence_flower()
        self.config = config
        self.node_id = node_id
        self.closed_by: str | None = None
        """The gate that keeps the node from taking part; None where all are open."""
        self.answered = 0
        """Messages answered so far."""
        self._app, self._key = app, key
        self._node_config = dict(node_config or {})
        self._gates = dict(gates or {})
        self._stopped = threading.Event()
        self._wait = wait or self._stopped.wait
        self._contexts: dict[int, Context] = {}
        self._connected = False
        self._pending: _Pending | None = None
        self._fleet = FleetHttpClient(
            f"{'http' if insecure else 'https'}://{address}",
            interceptors=[NodeAuthHttpInterceptor(key, key.public_key())],
        )
        self._fleet.close()
        self._fleet._client = secured(
            certificates,
            most=config.max_message_bytes + _ENVELOPE_BYTES,
            timeout_s=config.timeout_s,
        )

    def stop(self) -> None:
        """End :meth:`run` after the message that is being answered; from any thread."""
        self._stopped.set()

    def run(self) -> None:
        """Take part until :meth:`stop` is called.

        Raises:
            RevokedError: the server does not let the node in.
        """
        beat = threading.Thread(target=self._beat, daemon=True)
        beat.start()
        wait_s, active = self.config.first_wait_s, -math.inf
        try:
            while not self._stopped.is_set():
                try:
                    if self._open() and self._turn():
                        active = time.monotonic()
                        continue
                    wait_s = self.config.first_wait_s
                    busy = time.monotonic() - active < self.config.linger_s
                    self._wait(self.config.busy_poll_s if busy else self.config.idle_poll_s)
                except _FAILURES as error:
                    self._connected = False
                    _require_admitted(error)
                    _log.info("no connection (%s); trying again in %.0f s", error, wait_s)
                    self._wait(wait_s * random.uniform(0.5, 1.0))  # noqa: S311  # not a secret
                    wait_s = min(2 * wait_s, self.config.longest_wait_s)
        finally:
            self._stopped.set()
            self._leave()
            beat.join()
            self._fleet.close()

    def _open(self) -> bool:
        """Whether all gates are open."""
        closed = next((name for name, gate in self._gates.items() if not _is_open(gate)), None)
        if closed != self.closed_by:
            _log.info("gates are %s", "open" if closed is None else f"closed: {closed}")
        self.closed_by = closed
        if closed is not None and self._connected:
            self._leave()
        return closed is None

    def _turn(self) -> bool:
        """Answer one message, if there is one.

        Flower hands a message out once: where the connection fails before it is answered, it is
        kept and gone on with. Where the server itself fails at it again and again, it is given up:
        one that was killed and is back has lost what it had not sent yet.
        """
        node = self._node()
        if self._pending is None:
            response = self._fleet.PullMessages(PullMessagesRequest(node=node))
            if not response.messages_list:
                return False
            head = message_from_proto(response.messages_list[0])
            self._pending = _Pending(head, response.message_object_trees[0])
        head = self._pending.head
        try:
            if self._pending.reply is None:
                self._pending.reply = self._answer(node, head, self._pending.tree)
            self._push(node, self._pending.reply)
            self.answered += 1
        except httpx.HTTPStatusError as error:
            if error.response.status_code == httpx.codes.INTERNAL_SERVER_ERROR:
                self._pending.errors += 1
                if self._pending.errors < _SERVER_ERRORS:
                    raise
                _log.warning("run %d: a message is given up: %s", head.metadata.run_id, error)
            elif error.response.status_code == httpx.codes.FORBIDDEN:
                _log.info("run %d is over: nothing is answered in it", head.metadata.run_id)
            else:
                raise
        self._pending = None
        return True

    def _node(self) -> Node:
        """This node, connected."""
        if self.node_id is None:
            public = public_key_to_bytes(self._key.public_key())
            request = ActivateNodeRequest(
                public_key=public, heartbeat_interval=self.config.heartbeat_s
            )
            self.node_id = self._fleet.ActivateNode(request).node_id
        elif not self._connected:
            self._sign_of_life(self.node_id)
        self._connected = True
        return Node(node_id=self.node_id)

    def _answer(self, node: Node, head: Message, tree: ObjectTree) -> Message:
        """What the app says to a message, or why it is not asked."""
        run_id = head.metadata.run_id
        head.metadata.__dict__["_message_id"] = tree.object_id
        try:
            context = self._context(node, run_id)
            kind = head.metadata.message_type
            if kind not in MESSAGE_TYPES.values():
                raise WireError(f"messages of type {kind[:50]!r} are not on the allow-list")
            message = self._fetch(node, run_id, tree)
            return self._app(message, context)
        except httpx.HTTPError:
            raise
        except Exception as error:
            said = str(error) if isinstance(error, LocavoreError) else "see the device's own log"
            reason = f"{type(error)}:<'{said}'>"
            _log.warning("refused a message of run %d: %s", run_id, error)
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=head)

    def _context(self, node: Node, run_id: int) -> Context:
        """The app's context in a run, if that is of the pinned app."""
        if run_id not in self._contexts:
            response = self._fleet.GetRun(GetRunRequest(node=node, run_id=run_id))
            run = run_from_proto(response.run)
            if run.fab_id != self.config.app_id:
                raise PrivacyError(
                    f"this device answers the app {self.config.app_id!r}, not {run.fab_id[:50]!r}"
                )
            self._contexts = {
                run_id: Context(
                    run_id,
                    node.node_id,
                    dict(self._node_config),
                    RecordDict(),
                    dict(run.override_config),
                )
            }
        return self._contexts[run_id]

    def _fetch(self, node: Node, run_id: int, tree: ObjectTree) -> Message:
        """The whole message; its parts are named by their SHA-256, which is checked."""
        contents: dict[str, bytes] = {}
        left = self.config.max_message_bytes
        for part in iterate_object_tree(tree):
            content = self._part(node, run_id, part.object_id)
            left -= len(content)
            if left < 0:
                raise WireError(
                    f"the message has more than {self.config.max_message_bytes} bytes; raise "
                    "max_message_bytes if that is meant"
                )
            contents[part.object_id] = content
        self._fleet.ConfirmMessageReceived(
            ConfirmMessageReceivedRequest(
                node=node, run_id=run_id, message_object_id=tree.object_id
            )
        )
        message: Message = inflate_object_from_contents(tree.object_id, contents)
        if message.metadata.message_type not in MESSAGE_TYPES.values():
            raise WireError("the message is of another type than its head says")
        message.metadata.__dict__["_message_id"] = tree.object_id
        return message

    def _part(self, node: Node, run_id: int, name: str) -> bytes:
        request = PullObjectRequest(node=node, run_id=run_id, object_id=name)
        for _ in range(_OBJECT_TRIES):
            response = self._fleet.PullObject(request)
            if response.object_available:
                content: bytes = response.object_content
                return content
            self._wait(self.config.busy_poll_s)
        raise WireError(f"part {name[:16]} of the message is not there")

    def _push(self, node: Node, reply: Message) -> None:
        with no_object_id_recompute():
            reply.metadata.__dict__["_message_id"] = reply.object_id
            objects, tree = get_all_nested_objects(reply), get_object_tree(reply)
            bare = remove_content_from_message(reply) if reply.has_content() else reply
            response = self._fleet.PushMessages(
                PushMessagesRequest(
                    node=node,
                    messages_list=[message_to_proto(bare)],
                    message_object_trees=[tree],
                )
            )
            for name in response.objects_to_push:
                self._fleet.PushObject(
                    PushObjectRequest(
                        node=node,
                        run_id=reply.metadata.run_id,
                        session_id=response.session_id,
                        object_id=name,
                        object_content=objects[name].deflate(),
                    )
                )

    def _beat(self) -> None:
        """Give signs of life, also while the app works."""
        while not self._stopped.wait(0.8 * self.config.heartbeat_s):
            if self._connected and self.node_id is not None and self.closed_by is None:
                try:
                    self._sign_of_life(self.node_id)
                except _FAILURES as error:
                    _log.info("no sign of life could be given: %s", error)

    def _sign_of_life(self, node_id: int) -> None:
        self._fleet.SendNodeHeartbeat(
            SendNodeHeartbeatRequest(
                node=Node(node_id=node_id), heartbeat_interval=self.config.heartbeat_s
            )
        )

    def _leave(self) -> None:
        """Tell the server that the node is gone for now; it finds out by itself otherwise."""
        if self._connected and self.node_id is not None:
            self._connected = False
            try:
                self._fleet.DeactivateNode(DeactivateNodeRequest(node_id=self.node_id))
            except _FAILURES as error:
                _log.info("the server could not be told that this node goes: %s", error)


def _is_open(gate: Callable[[], bool]) -> bool:
    """A gate that cannot tell is closed."""
    try:
        return gate()
    except Exception as error:
        _log.warning("a gate cannot tell whether it is open: %s", error)
        return False


def _require_admitted(error: Exception) -> None:
    if not isinstance(error, httpx.HTTPStatusError):
        return
    if error.response.status_code == httpx.codes.UNAUTHORIZED:
        raise RevokedError(
            "the federation does not let this node in: it was revoked or never registered, or "
            "this device's clock is minutes off"
        )
