"""What a device asks of an engine's runtime: to prepare a request, and to fulfil it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Protocol, Self, TypeVar

from ..shared.adapters import Adapter, Array, compose
from ..shared.contexts import Instruction
from ..shared.packages import Package, open_package
from .retrieval import Hit
from .user_model import Guidance

__all__ = ["Adaptable", "Guide", "Model", "Request"]

How = TypeVar("How", contravariant=True)
Output_ = TypeVar("Output_", covariant=True)


class Guide(Protocol):
    """What is known about the person for a request, asked for by the engine that will use it."""

    def __call__(
        self, *, budget: int, cost: Callable[[str], int], about: bool = True, newest: int = 0
    ) -> Guidance:
        """Guidance within a budget; see :meth:`~.device.Device.guide`."""
        ...


class Request(Protocol[Output_]):
    """A request that is ready to be fulfilled, with the person's guidance in it."""

    @property
    def used(self) -> tuple[Hit, ...]:
        """What of the person's went into it."""
        ...

    @property
    def tokens(self) -> int:
        """Its size."""
        ...

    @property
    def reason(self) -> str:
        """Why it is personalised, or why not."""
        ...

    @property
    def adapters(self) -> tuple[Adapter, ...]:
        """Adapters that belong to it alone, of things that it names."""
        ...

    def fulfil(self) -> tuple[Output_, str]:
        """What is generated, and why it ended."""
        ...


class Model(Protocol[How, Output_]):
    """A base on the device, with at most one live adapter."""

    package: Package

    @property
    def base_id(self) -> str:
        """The base that adapters must belong to."""
        ...

    def attach(self, *adapters: Adapter) -> None:
        """Make the sum of ``adapters`` live; none gives the bare base."""
        ...

    def outputs(self, example: Any) -> Array:
        """What the twin's ``outputs`` gives too."""
        ...

    def request(
        self, instruction: Instruction, guide: Guide, how: How | None = None
    ) -> Request[Output_]:
        """Prepare a request."""
        ...


class Ported(Protocol):
    """A base's graphs, with at most one live adapter."""

    @property
    def base_id(self) -> str:
        """The base that adapters must belong to."""
        ...

    @property
    def sites(self) -> Mapping[str, tuple[int, int]]:
        """Site name to ``(in, out)``."""
        ...

    @property
    def adapter(self) -> Adapter | None:
        """The live one."""
        ...

    def attach(self, adapter: Adapter | None) -> None:
        """Swap the live adapter."""
        ...


class Adaptable:
    """What all runtimes share: a verified base, and adapters that are swapped while it runs.

    Args:
        package: a verified base.
        graph: its graphs.
    """

    def __init__(self, package: Package, graph: Ported) -> None:
        self.package = package
        self._ported = graph

    @classmethod
    def open(cls, folder: Path, *, trusted: Iterable[bytes], threads: int = 0) -> Self:
        """Verify a package and load it; see :func:`locavore.shared.packages.open_package`."""
        package = open_package(folder, trusted=trusted)
        return cls(package, threads=threads)  # type: ignore[call-arg]  # a runtime's own

    @property
    def base_id(self) -> str:
        """The base that adapters must belong to."""
        return self._ported.base_id

    @property
    def sites(self) -> Mapping[str, tuple[int, int]]:
        """Site name to ``(in, out)`` of every layer that takes an adapter."""
        return self._ported.sites

    def attach(self, *adapters: Adapter) -> None:
        """Make the sum of ``adapters`` live; none gives the bare base.

        Raises:
            AdapterError: an adapter belongs to another base or does not fit.
        """
        self._ported.attach(compose(*adapters) if adapters else None)

    @contextmanager
    def bare(self) -> Iterator[None]:
        """The base without an adapter for the duration of the block."""
        live = self._ported.adapter
        self._ported.attach(None)
        try:
            yield
        finally:
            self._ported.attach(live)
