"""A simulated person: a device with records, and later writing of theirs to be judged by."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...client.device import Device
from ...client.federated import MIN_RECORDS
from ...client.prompt import Prompt
from ...client.retrieval import Hit
from ...client.runtime import Generation, TextModel
from ...privacy.ledger import Ledger
from ...shared.adapters import Adapter, Array
from ...shared.contexts import Instruction
from .config import REFERENCE, SimulationConfig
from .corpus import Person

__all__ = ["Passage", "SimulatedPerson", "Written"]

_ROUNDS = "rounds.jsonl"
_PASSAGE_TOKENS = 128  # of a held-out passage that are judged at most
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

    def ledger(self, delta: float) -> Ledger:
        """What the device's records have paid."""
        return Ledger(self.folder / "ledger.jsonl", delta=delta)

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
        if not self.held_out:
            return
        losses = self.losses([adapter], passages=0)
        row = {"round": round, "nll": float(np.concatenate(losses).mean())}
        with (self.folder / _ROUNDS).open("a") as stream:
            stream.write(json.dumps(row) + "\n")

    def round_losses(self) -> dict[int, float]:
        """What :meth:`measure_shared` kept, by round."""
        kept = self.folder / _ROUNDS
        rows = [json.loads(line) for line in kept.read_text().splitlines()] if kept.exists() else []
        return {row["round"]: row["nll"] for row in rows}

    def _prompt(self, passage: Passage, passages: int) -> Prompt:
        room = self.device.model.max_tokens - _PASSAGE_TOKENS
        return self.device.prompt(
            Instruction(text=passage.prompt), k=passages, budget=min(_PROMPT_BUDGET, room)
        )


def _cut(model: TextModel, text: str, prompt_tokens: int) -> Passage | None:
    """None when too little is left to predict."""
    ids = model.encode(text)[:_PASSAGE_TOKENS]
    if len(ids) < prompt_tokens + 8:
        return None
    head = ids[:prompt_tokens]
    return Passage(model.decode(head), tuple(head), tuple(ids[prompt_tokens:]))
