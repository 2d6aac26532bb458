"""Choices between two answers as examples: the base's twin, asked which one it would rather give.

A pair is one sample. What the adapted model says is held to what it says without the adapter in
training: the bare base, with the shared adapter where there is one.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import nn

from ...shared.adapters import Array
from ...shared.contexts import Context, UserBehavior
from ..captioned import Seen
from ..preferences import Choice, answer_of, choices, judged
from .adapted import AdaptedTwin
from .cohort import Batch
from .image import ImageTwin
from .objectives.diffusion import DiffusionDPO
from .objectives.preference import DPO, likelihoods, preference_batch
from .text import TextTwin

__all__ = ["Answer", "Pairs", "PicturePairs", "TextPairs"]

_PROBED = 4  # pairs
Example = TypeVar("Example")


class Pairs(AdaptedTwin[tuple[Example, Example]], Generic[Example]):
    """A twin whose examples are pairs of a liked and a disliked answer to one request.

    Args:
        twin: of the base; shared, its weights never change.
        beta: how strongly the model is held to the one without the adapter.
    """

    usual_beta: float

    def __init__(self, twin: AdaptedTwin[Any], beta: float | None = None) -> None:
        super().__init__(twin.model, twin.base_id)
        self.modality = twin.modality  # type: ignore[misc]  # the class's own is not known
        self.beta = self.usual_beta if beta is None else beta

    @abstractmethod
    def answer(self, record: UserBehavior) -> Example:
        """One answer, with the request."""

    @abstractmethod
    def batch(self, rows: Sequence[tuple[Example, Example]]) -> Batch:
        """Pairs as tensors ``(B, 2, ...)``."""

    @abstractmethod
    def said(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """What the model says about both of every pair, ``(B, 2)``: what is compared."""

    @abstractmethod
    def made_up(self, count: int) -> list[Example]:
        """Public answers that differ everywhere."""

    def takes(self, record: Context) -> bool:
        """Whether it is an answer with a verdict, in this base's modality."""
        return record.modality == self.modality and judged(record)

    def examples(self, records: Sequence[Context]) -> list[tuple[Example, Example]]:
        """Every choice among the records."""
        return self.chosen(choices(records))

    def chosen(self, given: Sequence[Choice]) -> list[tuple[Example, Example]]:
        """Choices as examples; an answer in several of them is encoded once."""
        answers = {record.id: record for record in chain(*given)}
        known = {name: self.answer(record) for name, record in answers.items()}
        return [(known[liked.id], known[disliked.id]) for liked, disliked in given]

    def collate(self, rows: Sequence[tuple[Example, Example]]) -> Batch:
        """What :meth:`batch` says, and ``reference (B, 2)`` by the model as it is now."""
        device = next(self.model.parameters()).device
        batch = {name: value.to(device) for name, value in self.batch(rows).items()}
        with torch.no_grad():
            return {**batch, "reference": self.said(self.model, batch)}

    def probe(self) -> Batch:
        """Made-up pairs. True references would make all losses equal, so these are off a little."""
        rows = self.made_up(2 * _PROBED)
        batch = self.collate(list(zip(rows[::2], rows[1::2], strict=True)))
        off = torch.tensor([[i / self.beta, 0.0] for i in range(_PROBED)])
        return {**batch, "reference": batch["reference"] + off.to(batch["reference"])}


class PicturePairs(Pairs[Seen]):
    """Pairs of pictures, for Diffusion-DPO; see :class:`~.objectives.diffusion.DiffusionDPO`."""

    usual_beta = 2500.0

    def __init__(self, twin: ImageTwin, beta: float | None = None) -> None:
        super().__init__(twin, beta)
        self.twin = twin
        self.objective = DiffusionDPO(diffusion=twin.losses, beta=self.beta)

    def answer(self, record: UserBehavior) -> Seen:
        """The picture, with its caption."""
        (seen,) = self.twin.examples([record])
        return seen

    def batch(self, rows: Sequence[tuple[Seen, Seen]]) -> Batch:
        """As the twin's, with the liked one's caption, times and noise for both."""
        liked = self.twin.collate([one for one, _ in rows])
        others = torch.from_numpy(np.stack([other.latents for _, other in rows]))
        clean = others[:, None].expand(liked["clean"].shape)
        return {
            name: torch.stack([value, clean if name == "clean" else value], 1)
            for name, value in liked.items()
        }

    def said(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Denoising errors."""
        return self.objective.errors(model, batch)

    def losses(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Of Diffusion-DPO."""
        return self.objective(model, batch)

    def outputs(self, example: tuple[Seen, Seen]) -> Array:
        """The twin's, of the liked one."""
        return self.twin.outputs(example[0])

    def longest(self) -> tuple[Seen, Seen]:
        """Any."""
        return self.twin.longest(), self.twin.longest()

    def made_up(self, count: int) -> list[Seen]:
        """Pictures of noise."""
        return self.twin.made_up(count)

    def reseed(self, seed: int) -> None:
        """The twin's draws."""
        self.twin.reseed(seed)


@dataclass(frozen=True)
class Answer:
    """Token ids of a request and of its answer."""

    request: list[int]
    answer: list[int]

    @property
    def ids(self) -> list[int]:
        """Both."""
        return [*self.request, *self.answer]


class TextPairs(Pairs[Answer]):
    """Pairs of texts, for DPO; see :class:`~.objectives.preference.DPO`."""

    usual_beta = 0.1

    def __init__(self, twin: TextTwin, beta: float | None = None) -> None:
        super().__init__(twin, beta)
        self.twin = twin
        self.objective = DPO(beta=self.beta)

    def answer(self, record: UserBehavior) -> Answer:
        """Of a long request the end, in half the room, and of the answer what fits."""
        request, answer = self.twin.encoded(record.item), self.twin.encoded(answer_of(record))
        request = request[-(self.twin.max_tokens // 2) :]
        return Answer(request, answer[: self.twin.max_tokens - len(request)])

    def batch(self, rows: Sequence[tuple[Answer, Answer]]) -> Batch:
        """See :func:`~.objectives.preference.preference_batch`."""
        return preference_batch(
            [liked.ids for liked, _ in rows],
            [disliked.ids for _, disliked in rows],
            self.twin.start,
            [len(liked.request) for liked, _ in rows],
        )

    def said(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Log-likelihoods of the answers, in nats."""
        return likelihoods(self.twin.model, batch)

    def losses(self, model: nn.Module, batch: Batch) -> torch.Tensor:
        """Of DPO."""
        return self.objective(self.twin.model, batch)

    def outputs(self, example: tuple[Answer, Answer]) -> Array:
        """The twin's, of the liked one."""
        return self.twin.outputs(example[0].ids)

    def length(self, example: tuple[Answer, Answer]) -> int:
        """Tokens of the longer one."""
        return max(len(one.ids) for one in example)

    def longest(self) -> tuple[Answer, Answer]:
        """As many tokens as there is room for."""
        one = Answer([1], self.twin.longest()[1:])
        return one, one

    def made_up(self, count: int) -> list[Answer]:
        """Token sequences, each with a request of two."""
        return [Answer(row[:2], row[2:]) for row in self.twin.made_up(count)]
