"""The shared adapter of every round, as a signed artefact for devices that take no part."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from ...shared.adapters import Array, save_adapter
from ...shared.errors import BadInputError, LocavoreError
from ...shared.forms import SharedForm
from ..repository.repository import Repository
from ..repository.roles import ADAPTERS
from ..repository.sources import adapter_source

__all__ = ["Publisher"]

_log = logging.getLogger("locavore.server")
_KEPT = 3  # rounds that are offered
_REFRESH_S = 3600.0


class Publisher:
    """Publishes adapters in a repository whose adapters are the server's to sign.

    What fails is logged: a federation does not end because a disk is full.

    Args:
        repository: where to.
        name: under which devices find the adapter.
        form: how a shared vector becomes an adapter.
        folder: for the adapter's files.
        now: gives the time, UTC.
    """

    def __init__(
        self,
        repository: Repository,
        name: str,
        form: SharedForm,
        folder: Path,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.repository, self.name = repository, name
        self._form, self._folder, self._now = form, folder, now
        self._turn = threading.Lock()  # the repository refuses two writers, and we are two threads
        states = {state.role for state in repository.states()}
        self.online = ADAPTERS in states

    def publish(self, round: int, theta: Array) -> bool:
        """Offer the adapter of a round, and no longer those of long ago; whether it was done."""
        if not self.online:
            return False
        folder = self._folder / f"round-{round:06d}"
        try:
            with self._turn:
                self._offer(round, theta, folder)
        except (LocavoreError, OSError) as error:
            _log.warning("the adapter of round %d was not published: %s", round, error)
            return False
        return True

    def _offer(self, round: int, theta: Array, folder: Path) -> None:
        if f"{ADAPTERS}/{self.name}/{round}.json" in self.repository.targets():
            self.repository.publish(self._now())  # where it was added and then cut off
            return
        save_adapter(self._form.to_adapter(theta[: self._form.dim]), folder)
        self.repository.add(adapter_source(folder), self.name, str(round), self._now())
        if round > _KEPT:
            self._withdraw(round - _KEPT)
        self.repository.publish(self._now())

    def _withdraw(self, round: int) -> None:
        try:
            self.repository.withdraw(ADAPTERS, self.name, str(round), self._now())
        except BadInputError:
            return  # that round was skipped

    def keep_fresh(self, over: threading.Event) -> None:
        """Renew what the server signs until the event is set."""
        while True:
            try:
                with self._turn:
                    self.repository.refresh(self._now())
            except (LocavoreError, OSError) as error:
                _log.warning("the repository's timestamp was not renewed: %s", error)
            if over.wait(_REFRESH_S):
                return
