"""Conditions under which a device takes part, for Linux; applications bring those of their system.

A gate is any callable without arguments that says whether it is open.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

__all__ = ["charging", "idle"]

_SUPPLIES = Path("/sys/class/power_supply")


def charging(supplies: Path = _SUPPLIES) -> bool:
    """Whether the machine runs on mains, or has no battery at all.

    Args:
        supplies: where the kernel lists power supplies.
    """
    kinds: dict[str, list[Path]] = {}
    for supply in supplies.glob("*"):
        kind = (supply / "type").read_text().strip()
        kinds.setdefault(kind, []).append(supply)
    if "Battery" not in kinds:
        return True
    mains = [*kinds.get("Mains", []), *kinds.get("USB", [])]
    return any((supply / "online").read_text().strip() == "1" for supply in mains)


def idle(most: float = 0.5, load: Callable[[], float] = lambda: os.getloadavg()[0]) -> bool:
    """Whether the last minute's load is at most ``most`` a processor.

    Args:
        most: processes that run or wait, a processor.
        load: gives how many run or wait.
    """
    return load() <= most * (os.cpu_count() or 1)
