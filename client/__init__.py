"""The device: records, retrieval, the on-device runtime. Imports neither torch nor flwr."""

from .device import Content, Device, Trace
from .embedding import ModelEmbedder
from .prompt import Prompt
from .retrieval import Embedder, Hit, Retriever
from .runtime import Completion, Generation, TextModel
from .sampling import Sampling
from .store import ContextStore, MemoryStore

__all__ = [
    "Completion",
    "Content",
    "ContextStore",
    "Device",
    "Embedder",
    "Generation",
    "Hit",
    "MemoryStore",
    "ModelEmbedder",
    "Prompt",
    "Retriever",
    "Sampling",
    "TextModel",
    "Trace",
]
