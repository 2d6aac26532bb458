"""locavore: federated on-device personalization of generative models.

The rooms are subpackages: :mod:`locavore.client` (the device), :mod:`locavore.server`
(the federation), :mod:`locavore.export` (base-model packages), :mod:`locavore.privacy`
(mechanisms and accounting) and :mod:`locavore.shared` (the language they speak).
"""

from importlib.metadata import version

__all__ = ["__version__"]

__version__ = version("locavore")
