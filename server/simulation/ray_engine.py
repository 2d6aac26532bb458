"""A cohort spread over Ray workers, for when one machine is outgrown.

Every worker builds the training core once, with the base in it, and trains a slice of each
round's cohort. A slice whose worker dies is given to a new one. Updates are those of one process
up to rounding, because every device brings its own records and its own noise.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Sequence
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np

from ...client.training.shared import SharedTraining
from ...privacy.noise import NoiseSource
from ...shared.adapters import Array
from ...shared.errors import BadInputError, FederationError, MissingExtraError

__all__ = ["RayEngine"]

_log = logging.getLogger("locavore.server")
_ATTEMPTS = 3
_REACH_S = 10.0

Build = Callable[[], SharedTraining[Any]]
Noise = Callable[[int, int], NoiseSource]
_Order = tuple[Array, int, Sequence[int], Sequence[Sequence[Any]]]


class RayEngine:
    """Trains rounds on Ray workers; a context manager that ends them.

    Args:
        build: makes the training core; sent to every worker and called there once.
        noise: ``(member, round)`` to the member's source of sampling and noise.
        workers: how many.
        address: of a running Ray cluster; a local one is started when not given.
        cpus: processors, and torch threads, of one worker.

    Raises:
        MissingExtraError: Ray is not installed.
        BadInputError: fewer than one worker or processor.
        FederationError: no Ray cluster answers at ``address``.
    """

    def __init__(
        self, build: Build, noise: Noise, *, workers: int, address: str | None = None, cpus: int = 1
    ) -> None:
        try:
            import ray
        except ImportError:
            raise MissingExtraError("ray", "spreading a simulation over machines") from None
        if workers < 1 or cpus < 1:
            raise BadInputError(f"workers and cpus must be at least 1, got {workers} and {cpus}")
        self._ray = ray
        self._started = not ray.is_initialized()
        if self._started:
            _start(ray, address)
        self._hire = partial(_hire, ray, build, noise, cpus)
        self._workers = [self._hire() for _ in range(workers)]

    def __enter__(self) -> RayEngine:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for worker in self._workers:
            self._ray.kill(worker)
        if self._started:
            self._ray.shutdown()

    def train(
        self, theta: Array, number: int, members: Sequence[int], records: Sequence[Sequence[Any]]
    ) -> Array:
        """One round's updates ``(members, dim)``; see :data:`.cohort.TrainRound`.

        Raises:
            FederationError: a slice failed on three workers in a row.
        """
        slices = [s for s in np.array_split(np.arange(len(members)), len(self._workers)) if len(s)]
        orders = [
            self._ray.put((theta, number, [members[i] for i in part], [records[i] for i in part]))
            for part in slices
        ]
        pending = [w.train.remote(o) for w, o in zip(self._workers, orders, strict=False)]
        parts = [
            self._collect(i, *work) for i, work in enumerate(zip(pending, orders, strict=True))
        ]
        updates: Array = np.concatenate(parts)
        return updates

    def _collect(self, index: int, pending: Any, order: Any) -> Array:
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                update: Array = self._ray.get(pending)
                return update
            except self._ray.exceptions.RayActorError as error:
                _log.warning("worker %d died in attempt %d: %s", index, attempt, error)
                self._workers[index] = self._hire()
                pending = self._workers[index].train.remote(order)
        raise FederationError(
            f"a slice of the cohort failed on {_ATTEMPTS} workers in a row; give each more memory "
            "or fewer devices a round"
        )


class _Worker:
    """Lives in a Ray worker process."""

    def __init__(self, build: Build, noise: Noise, threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self._training, self._noise = build(), noise

    def train(self, order: _Order) -> Array:
        theta, number, members, records = order
        noise = [self._noise(member, number) for member in members]
        return self._training.round(theta, records, noise, number=number)


def _hire(ray: Any, build: Build, noise: Noise, cpus: int) -> Any:
    return ray.remote(_Worker).options(num_cpus=cpus).remote(build, noise, cpus)


def _start(ray: Any, address: str | None) -> None:
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    try:
        if host:  # Ray itself would try for minutes
            socket.create_connection((host, int(port)), timeout=_REACH_S).close()
        ray.init(
            address=address,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            **({} if address else {"_node_ip_address": "127.0.0.1"}),
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise FederationError(f"Ray cannot start or be reached at {address!r}: {error}") from None
