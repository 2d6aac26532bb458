"""The text engine's side of training: records as token ids, losses of a causal language model."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from tokenizers import Tokenizer
from transformers import PreTrainedModel

from ...shared.adapters import Array
from ...shared.contexts import Context
from ...shared.packages import Package
from ...shared.twin import fast_twin, open_twin
from ..preferences import worth_imitating, written
from ..runtime import TOKENIZER, start_of
from .adapted import AdaptedTwin
from .cohort import Batch
from .objectives.language import per_record_loss, token_batch

__all__ = ["MAX_RECORD_TOKENS", "TextTwin"]

MAX_RECORD_TOKENS = 96
_PROBE_TOKENS = 8


class TextTwin(AdaptedTwin[list[int]]):
    """A causal language model; an example is a record's token ids.

    Args:
        model: the frozen base.
        base_id: of the base.
        encode: the base's tokenizer; not needed where examples are made elsewhere.
        start: token ids in front of each record.
        max_tokens: of a record, which is cut to so many.
    """

    modality = "text"
    model: PreTrainedModel

    def __init__(
        self,
        model: PreTrainedModel,
        base_id: str,
        *,
        encode: Callable[[str], Sequence[int]] | None = None,
        start: Sequence[int] = (),
        max_tokens: int = MAX_RECORD_TOKENS,
    ) -> None:
        super().__init__(model, base_id)
        self.start, self.max_tokens = tuple(start), max_tokens
        self._encode = encode

    @classmethod
    def of(cls, package: Package, *, fast: bool = False) -> TextTwin:
        """The twin of an installed base.

        Args:
            package: a verified text base.
            fast: where and in the precision in which this machine trains fastest, instead of
                float32 on the processor.
        """
        tokenizer = Tokenizer.from_file(str(package.path(TOKENIZER)))
        details = package.manifest.details
        start = start_of(details["special"])
        return cls(
            fast_twin(package) if fast else open_twin(package),
            package.base_id,
            encode=lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
            start=start,
            max_tokens=min(MAX_RECORD_TOKENS, details["max_tokens"] - len(start)),
        )

    def takes(self, record: Context) -> bool:
        """Whether it says anything, and nothing that the person did not like."""
        return bool(record.text.strip()) and worth_imitating(record)

    def examples(self, records: Sequence[Context]) -> list[list[int]]:
        """Token ids of every record that has two or more."""
        encoded = (self.encoded(written(record))[: self.max_tokens] for record in records)
        return [ids for ids in encoded if len(ids) > 1]

    def encoded(self, text: str) -> list[int]:
        """Token ids of a text, all of them."""
        assert self._encode is not None, "this twin was made without a tokenizer"
        return list(self._encode(text))

    def collate(self, rows: Sequence[list[int]]) -> Batch:
        """See :func:`~.objectives.language.token_batch`."""
        return token_batch(rows, self.start)

    def losses(self, model: torch.nn.Module, batch: Batch) -> torch.Tensor:
        """Mean negative log-likelihood of each record, in nats per token."""
        return per_record_loss(model, batch)

    def outputs(self, example: list[int]) -> Array:
        """Logits ``(T, V)`` at every token, the start's included."""
        with torch.no_grad():
            ids = torch.tensor([[*self.start, *example]], device=self.model.device)
            out = self.model(input_ids=ids, use_cache=False)
        logits: Array = out.logits[0].float().cpu().numpy()
        return logits

    def length(self, example: list[int]) -> int:
        """Number of tokens."""
        return len(example)

    def longest(self) -> list[int]:
        """As many tokens as a record may have."""
        return list(range(1, self.max_tokens + 1))

    def probe(self) -> Batch:
        """Four token sequences."""
        return token_batch(self.made_up(4))

    def made_up(self, count: int) -> list[list[int]]:
        """Token sequences that differ everywhere, where the vocabulary is large enough."""
        vocabulary = self.model.get_input_embeddings().num_embeddings
        generator = torch.Generator().manual_seed(0)
        tokens = count * _PROBE_TOKENS
        if vocabulary >= tokens:
            ids = torch.randperm(vocabulary, generator=generator)[:tokens]
        else:
            ids = torch.randint(vocabulary, (tokens,), generator=generator)
        found: list[list[int]] = ids.view(count, _PROBE_TOKENS).tolist()
        return found
