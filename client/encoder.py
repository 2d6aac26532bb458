"""A trained sentence encoder as an embedder: a signed ONNX package, run without torch."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer

from ..shared.adapters import Array
from ..shared.errors import BadInputError
from ..shared.packages import Package, open_package

__all__ = ["SentenceEncoder"]

_AT_ONCE = 16


class SentenceEncoder:
    """Embeds texts as a package of modality ``text-encoder`` does.

    Args:
        package: a verified package.
        threads: of ONNX Runtime; as many as it likes when not given.

    Raises:
        BadInputError: the package is of another modality.
    """

    def __init__(self, package: Package, *, threads: int | None = None) -> None:
        if package.manifest.modality != "text-encoder":
            raise BadInputError(
                f"{package.base_id} is a base for {package.manifest.modality}, no text encoder"
            )
        options = onnxruntime.SessionOptions()
        if threads is not None:
            options.intra_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(
            str(package.path("model.onnx")), options, providers=["CPUExecutionProvider"]
        )
        self._tokenizer = Tokenizer.from_file(str(package.path("tokenizer.json")))
        self._tokenizer.enable_truncation(int(str(package.manifest.details["max_tokens"])))
        self._tokenizer.enable_padding()
        self._name = package.base_id

    @classmethod
    def open(cls, folder: Path, *, trusted: Iterable[bytes]) -> SentenceEncoder:
        """Verify and open a package. Raises as ``open_package``."""
        return cls(open_package(folder, trusted=trusted))

    @property
    def name(self) -> str:
        """Names the space by the weights."""
        return self._name

    def embed(self, texts: Sequence[str]) -> Array:
        """``(n, d)`` float32 rows of norm one; longer texts are cut to the encoder's length."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # alike lengths together
        rows: dict[int, Array] = {}
        for first in range(0, len(order), _AT_ONCE):
            batch = order[first : first + _AT_ONCE]
            encoded = self._tokenizer.encode_batch([texts[i] for i in batch])
            feeds = {
                "input_ids": np.array([e.ids for e in encoded], np.int64),
                "attention_mask": np.array([e.attention_mask for e in encoded], np.int64),
            }
            rows |= dict(zip(batch, self._session.run(None, feeds)[0], strict=True))
        stacked: Array = np.stack([rows[i] for i in range(len(texts))])
        return stacked
