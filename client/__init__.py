"""The device: records, retrieval, the on-device runtime. Imports neither torch nor flwr.

Names are looked up when they are first used: who only trains loads no runtime, and saves 20 MB.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .device import Content, Device, Explanation, Trace
    from .distribution import PackageUpdater
    from .embedding import ModelEmbedder
    from .encoder import SentenceEncoder
    from .prompt import Prompt
    from .retrieval import Embedder, Hit, Retriever, Where
    from .runtime import Completion, Generation, TextModel
    from .sampling import Sampling
    from .user_model import Guidance, UserModel
    from .vault.certificate import Certificate
    from .vault.vault import Vault

__all__ = [
    "Certificate",
    "Completion",
    "Content",
    "Device",
    "Embedder",
    "Explanation",
    "Generation",
    "Guidance",
    "Hit",
    "ModelEmbedder",
    "PackageUpdater",
    "Prompt",
    "Retriever",
    "Sampling",
    "SentenceEncoder",
    "TextModel",
    "Trace",
    "UserModel",
    "Vault",
    "Where",
]

_MODULES = (
    "device",
    "embedding",
    "encoder",
    "prompt",
    "retrieval",
    "runtime",
    "sampling",
    "user_model",
    "vault.certificate",
    "vault.vault",
    "distribution",
)


def __getattr__(name: str) -> Any:
    if name in __all__:
        for module in _MODULES:
            found = import_module(f".{module}", __name__)
            if name in found.__all__:
                return getattr(found, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
