"""Fetching signed packages onto the device. Imports no torch, no flwr, and no HTTP server.

:class:`PackageUpdater` does the whole of it; :class:`Limits` bounds what a server may cost it.
"""

from .limits import Limits
from .updater import PackageUpdater, Update

__all__ = ["Limits", "PackageUpdater", "Update"]
