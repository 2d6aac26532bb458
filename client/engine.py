"""What a device asks of an engine's runtime: to prepare a request, and to fulfil it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, TypeVar

from ..shared.adapters import Adapter, Array
from ..shared.contexts import Instruction
from ..shared.packages import Package
from .retrieval import Hit
from .user_model import Guidance

__all__ = ["Guide", "Model", "Request"]

How = TypeVar("How", contravariant=True)
Output_ = TypeVar("Output_", covariant=True)


class Guide(Protocol):
    """What is known about the person for a request, asked for by the engine that will use it."""

    def __call__(self, *, budget: int, cost: Callable[[str], int], about: bool = True) -> Guidance:
        """Guidance within a budget; see :meth:`~.user_model.UserModel.guidance`."""
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
