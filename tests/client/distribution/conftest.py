"""Worlds whose servers are closed after a test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .world import World, Worlds


@pytest.fixture
def worlds(tmp_path: Path) -> Iterator[Worlds]:
    """Makes worlds."""
    made: list[World] = []

    def make(**how: Any) -> World:
        made.append(World(tmp_path / f"world-{len(made)}", **how))
        return made[-1]

    yield make
    for world in made:
        world.close()


@pytest.fixture
def world(worlds: Worlds) -> World:
    """A world in which version 1 is published."""
    world = worlds()
    world.release("1")
    return world
