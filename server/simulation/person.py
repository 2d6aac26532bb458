"""A simulated person: a device with records, and later writing of theirs to be judged by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ...client.device import Device
from ...client.federated import MIN_RECORDS
from ...client.retrieval import Hit
from ...client.runtime import Generation, TextModel
from ...shared.adapters import Adapter, Array
from ...shared.contexts import Instruction
from .config import REFERENCE, SimulationConfig
from .corpus import Person

__all__ = ["Passage", "SimulatedPerson", "Written"]

_PROMPT_BUDGET = 320  # tokens of retrieved passages and prompt together


@dataclass(frozen=True)
class Passage:
    """A held-out passage: the beginning is given, the rest is to be predicted."""

    prompt: str
    prompt_ids: tuple[int, ...]
    target_ids: tuple[int, ...]


@dataclass(frozen=True)
class Written:
    """A continuation and the passages that stood in its prompt."""

    text: str
    hits: tuple[Hit, ...]


@dataclass
class SimulatedPerson:
    """One device of a simulation.

    Args:
        name: of the person.
        device: with the records before the split.
        held_out: the later writing.
        folder: the device's own folder: ledger, private adapter, measurements.
        reference: the shared adapter trained without privacy, for comparison.
    """

    name: str
    device: Device
    held_out: tuple[Passage, ...]
    folder: Path
    reference: Adapter | None = None
    round_losses: dict[int, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls, person: Person, model: TextModel, config: SimulationConfig, folder: Path
    ) -> SimulatedPerson:
        """Put a person's records on a device and cut their held-out writing."""
        folder.mkdir(parents=True, exist_ok=True)
        device = Device(model)
        for record in person.train:
            device.remember(record)
        passages = (_cut(model, doc.text, config.prompt_tokens) for doc in person.held_out)
        return cls(person.name, device, tuple(p for p in passages if p), folder)

    @property
    def records(self) -> int:
        """How many records may be federated."""
        return len(self.device.training_texts(federate=True))

    @property
    def trains(self) -> bool:
        """Whether there is enough to train on; otherwise the device only retrieves."""
        return self.records >= MIN_RECORDS

    def adapters_of(self, arm: str) -> list[Adapter] | None:
        """The adapters that are live in an arm; None where the arm does not exist here."""
        wanted = {
            "shared": [self.device.shared],
            "shared + private": [self.device.shared, self.device.private],
            "shared + private + retrieval": [self.device.shared, self.device.private],
            REFERENCE: [self.reference],
        }.get(arm, [])
        present = [adapter for adapter in wanted if adapter is not None]
        return present if len(present) == len(wanted) else None

    def losses(self, adapters: Sequence[Adapter], *, passages: int) -> list[Array]:
        """Per-token loss of every held-out passage, with up to ``passages`` retrieved ones."""
        model = self.device.model
        model.attach(*adapters)
        contexts = []
        for passage in self.held_out:
            prompt = self._prompt(passage, passages)
            contexts.append([*model.encode(prompt.context), *passage.prompt_ids])
        return model.score_ids(contexts, [p.target_ids for p in self.held_out])

    def write(
        self, adapters: Sequence[Adapter], how: Generation, *, passages: int, count: int
    ) -> list[Written]:
        """Continue the first ``count`` held-out passages."""
        model = self.device.model
        model.attach(*adapters)
        prompts = [self._prompt(p, passages) for p in self.held_out[:count]]
        done = model.generate([prompt.full for prompt in prompts], how)
        return [
            Written(completion.text, prompt.used)
            for completion, prompt in zip(done, prompts, strict=True)
        ]

    def truths(self, count: int, tokens: int) -> list[str]:
        """How the first ``count`` held-out passages really went on, cut to ``tokens``."""
        model = self.device.model
        return [model.decode(p.target_ids[:tokens]) for p in self.held_out[:count]]

    def measure_shared(self, adapter: Adapter, round: int) -> None:
        """Keep the held-out loss under a round's shared adapter; it stays on the device."""
        losses = self.losses([adapter], passages=0)
        self.round_losses[round] = float(np.concatenate(losses).mean())

    def _prompt(self, passage: Passage, passages: int):  # type: ignore[no-untyped-def]
        return self.device.prompt(
            Instruction(text=passage.prompt), k=passages, budget=_PROMPT_BUDGET
        )


def _cut(model: TextModel, text: str, prompt_tokens: int) -> Passage | None:
    """None when too little is left to predict."""
    ids = model.encode(text)
    if len(ids) < prompt_tokens + 8:
        return None
    head = ids[:prompt_tokens]
    return Passage(model.decode(head), tuple(head), tuple(ids[prompt_tokens:]))
