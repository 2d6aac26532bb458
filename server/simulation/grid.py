"""A Flower Grid in one process: the real ServerApp and ClientApp, no Ray and no sockets.

Every message is serialized and rebuilt on its way, so that neither side sees the other's objects
and the counted bytes are those that would travel. An exception in the ClientApp becomes an error
reply, as in Flower's own runtimes; a KeyboardInterrupt ends the run.

This is the one module that leans on Flower's internals (written for flwr 1.41): ``TaskIdentity``,
``Run``, the proto codec, and a message's id, which only the server side may set.
"""

from __future__ import annotations

import gc
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Literal

import numpy as np
from flwr.app import Context, Error, Message, MessageType, RecordDict, UserConfigValue
from flwr.clientapp import ClientApp
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.serverapp import Grid, ServerApp
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

from ...shared.errors import BadInputError
from ...shared.wire import silence_flower

__all__ = [
    "Direction",
    "LocalGrid",
    "flower_identity",
    "from_bytes",
    "run_in_process",
    "to_bytes",
]

Direction = Literal["down", "up"]
_RUN_ID = 1


class LocalGrid(Grid):  # type: ignore[misc]  # Flower is not typed here
    """Carries messages between a ServerApp and ``num_nodes`` nodes of one ClientApp.

    Args:
        client_app: answers the messages; each node has a Flower context of its own.
        num_nodes: number of nodes.
        seed: of the node ids.
        node_ids: the ids themselves, by partition; None: drawn from ``seed``.
        run_config: Flower's run configuration.
        drop: tells of a message to a node whether the node never answers it.
        tap: sees every message in the form in which its receiver gets it.
        expect: told, before any node answers, which partitions are about to train.
    """

    def __init__(
        self,
        client_app: ClientApp,
        num_nodes: int,
        *,
        seed: int = 0,
        node_ids: Sequence[int] | None = None,
        run_config: Mapping[str, UserConfigValue] | None = None,
        drop: Callable[[Message], bool] | None = None,
        tap: Callable[[Message, Direction], None] | None = None,
        expect: Callable[[Sequence[int]], None] | None = None,
    ) -> None:
        silence_flower()
        ids = draw_ids(num_nodes, seed) if node_ids is None else list(node_ids)
        if num_nodes < 1 or len(set(ids)) != num_nodes:
            raise BadInputError(f"num_nodes must be at least 1 with one id each, got {num_nodes}")
        self.contexts: dict[int, Context] = {
            node: Context(
                run_id=_RUN_ID,
                node_id=node,
                node_config={"partition-id": partition, "num-partitions": num_nodes},
                state=RecordDict(),
                run_config=dict(run_config or {}),
            )
            for partition, node in enumerate(ids)
        }
        """Flower's context of every node, by node id."""
        self.bytes_down: Counter[int] = Counter()
        """Serialized size of the records that each node received, in bytes."""
        self.bytes_up: Counter[int] = Counter()
        """Serialized size of the records or errors that each node sent, in bytes."""
        self._client_app = client_app
        self._drop = drop
        self._tap = tap
        self._expect = expect
        self._run = Run.create_empty(_RUN_ID)
        self._replies: dict[str, Message] = {}
        self._message_ids = count(1)

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
        """All nodes; they are always connected."""
        return list(self.contexts)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Let the nodes answer, one after the other; returns the ids to pull replies with."""
        orders = []
        pushed = []
        for message in messages:
            self._name(message)
            pushed.append(message.metadata.message_id)
            order = self._carry(message, message.metadata.dst_node_id, "down")
            if self._drop is None or not self._drop(order):
                orders.append(order)
        if self._expect is not None:
            self._expect([self._partition(o) for o in orders if _is_training(o)])
        for order in orders:
            node = order.metadata.dst_node_id
            reply = self._answer(order, self.contexts[node])
            self._name(reply)
            self._replies[order.metadata.message_id] = self._carry(reply, node, "up")
        return pushed

    def _partition(self, order: Message) -> int:
        return int(self.contexts[order.metadata.dst_node_id].node_config["partition-id"])

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Hand out the replies to these messages, each once."""
        return [self._replies.pop(key) for key in message_ids if key in self._replies]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> list[Message]:
        """Push messages and pull their replies; nothing here takes time to wait for."""
        return self.pull_messages(self.push_messages(messages))

    def _answer(self, order: Message, context: Context) -> Message:
        try:
            return self._client_app(order, context)
        except Exception as error:  # Flower's runtimes report the type and the text, too
            reason = f"{type(error)}:<'{error}'>"
            return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=order)

    def _carry(self, message: Message, node: int, direction: Direction) -> Message:
        """What the other side makes of the bytes of ``message``."""
        proto = message_to_proto(message)
        payload = proto.error if message.has_error() else proto.content
        (self.bytes_down if direction == "down" else self.bytes_up)[node] += payload.ByteSize()
        arrived = from_bytes(proto.SerializeToString())
        if self._tap is not None:
            self._tap(arrived, direction)
        return arrived

    def _name(self, message: Message) -> None:
        message.metadata.__dict__["_message_id"] = f"message-{next(self._message_ids)}"


def to_bytes(message: Message) -> bytes:
    """A message as it travels."""
    raw: bytes = message_to_proto(message).SerializeToString()
    return raw


def from_bytes(raw: bytes) -> Message:
    """The message that travelled as these bytes."""
    message: Message = message_from_proto(ProtoMessage.FromString(raw))
    return message


def run_in_process(
    server_app: ServerApp,
    client_app: ClientApp,
    num_nodes: int,
    *,
    seed: int = 0,
    node_ids: Sequence[int] | None = None,
    run_config: Mapping[str, UserConfigValue] | None = None,
    drop: Callable[[Message], bool] | None = None,
    tap: Callable[[Message, Direction], None] | None = None,
    expect: Callable[[Sequence[int]], None] | None = None,
) -> LocalGrid:
    """Run a federation to its end in this process and return its grid.

    Arguments are those of :class:`LocalGrid`. What the ServerApp raises is raised here. One run
    at a time: Flower keeps the identity of the running task in a global.
    """
    grid = LocalGrid(
        client_app,
        num_nodes,
        seed=seed,
        node_ids=node_ids,
        run_config=run_config,
        drop=drop,
        tap=tap,
        expect=expect,
    )
    context = Context(
        run_id=_RUN_ID,
        node_id=SUPERLINK_NODE_ID,
        node_config={},
        state=RecordDict(),
        run_config=dict(run_config or {}),
    )
    with flower_identity(), _settled():
        server_app(grid, context)
    return grid


@contextmanager
def _settled() -> Iterator[None]:
    """What is alive already is not searched for garbage again while many messages are made."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def _is_training(order: Message) -> bool:
    return bool(order.metadata.message_type.split(".")[0] == MessageType.TRAIN)


@contextmanager
def flower_identity() -> Iterator[None]:
    """Be the server's task while messages are made; Flower refuses to make any without."""
    names = ("_task_id", "_run_id", "_node_id")
    before = {name: getattr(TaskIdentity, name) for name in names}
    try:
        for name, value in zip(names, (1, _RUN_ID, SUPERLINK_NODE_ID), strict=True):
            setattr(TaskIdentity, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(TaskIdentity, name, value)


def draw_ids(num_nodes: int, seed: int) -> list[int]:
    """The ids that a grid gives its nodes, by partition."""
    generator = np.random.default_rng(seed)
    return [int(node) for node in generator.integers(1 << 32, 1 << 63, size=max(0, num_nodes))]
