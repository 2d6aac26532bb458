"""The device: one person's records, one base, and the adapters that make it personal."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from ..shared.adapters import Adapter
from ..shared.contexts import Context, Instruction
from ..shared.errors import BadInputError
from .prompt import Prompt, build_prompt
from .retrieval import Embedder, Hit, Retriever
from .runtime import Completion, Generation, TextModel
from .store import ContextStore, MemoryStore

__all__ = ["Content", "Device", "Trace"]

_PROMPT_SHARE = 0.75  # of the base's context that a prompt may fill at most


@dataclass(frozen=True)
class Trace:
    """What went into a generated text: records, adapters, and the size of the prompt."""

    hits: tuple[Hit, ...]
    adapters: tuple[str, ...]
    prompt_tokens: int

    @property
    def record_ids(self) -> tuple[str, ...]:
        """Ids of the records whose passages stood in the prompt."""
        return tuple(dict.fromkeys(hit.record.id for hit in self.hits))


@dataclass(frozen=True)
class Content:
    """A generated text, why it ended, and its trace."""

    text: str
    reason: str
    trace: Trace


@dataclass
class Device:
    """Ties a model to a person's store. Nothing here sends anything anywhere.

    Args:
        model: the base's runtime; may be shared between simulated devices.
        store: the person's records.
        embedder: ranks by meaning too, when given.
        shared: adapter from the federation.
        private: adapter trained here, which never leaves.
    """

    model: TextModel
    store: ContextStore = field(default_factory=MemoryStore)
    embedder: Embedder | None = None
    shared: Adapter | None = None
    private: Adapter | None = None
    _retriever: Retriever | None = None

    def remember(self, record: Context) -> str:
        """Keep a record and return its id."""
        self.store.add(record)
        self._retriever = None
        return record.id

    def forget(self, record_id: str) -> None:
        """Drop a record from the store and from retrieval.

        Adapters trained on it before still carry its influence; train them again to remove it.
        """
        self.store.remove(record_id)
        self._retriever = None

    def retrieve(self, query: str, k: int = 4) -> list[Hit]:
        """Passages of consented records that fit the query, best first."""
        if self._retriever is None:
            self._retriever = Retriever(self.store, self.embedder)
        return self._retriever.retrieve(query, k)

    def training_texts(self, *, federate: bool) -> list[str]:
        """Texts of the records that may train the private (or the shared) adapter."""
        use = "federate" if federate else "train"
        return [r.text for r in self.store if r.consent.allows(use) and r.text.strip()]  # type: ignore[arg-type]

    def prompt(self, instruction: Instruction, *, k: int = 4, budget: int | None = None) -> Prompt:
        """Retrieve and build the prompt; ``k=0`` retrieves nothing."""
        hits = self.retrieve(instruction.text, k) if k else []
        return build_prompt(
            instruction,
            hits,
            budget=int(self.model.max_tokens * _PROMPT_SHARE) if budget is None else budget,
            encode=self.model.encode,
            chat=self.model.chat_prompt,
        )

    def use_adapters(self, *names: str) -> None:
        """Make the named adapters live: any of ``shared`` and ``private``, or none.

        Raises:
            BadInputError: an unknown name, or an adapter that this device does not have.
        """
        chosen: list[Adapter] = []
        for name in names:
            if name not in ("shared", "private"):
                raise BadInputError(f"adapters are 'shared' and 'private', got {name!r}")
            adapter: Adapter | None = getattr(self, name)
            if adapter is None:
                raise BadInputError(f"this device has no {name} adapter yet")
            chosen.append(adapter)
        self.model.attach(*chosen)

    def available_adapters(self) -> tuple[str, ...]:
        """Names of the adapters that this device has."""
        return tuple(name for name in ("shared", "private") if getattr(self, name) is not None)

    def generate(
        self,
        instruction: Instruction,
        how: Generation | None = None,
        *,
        k: int = 4,
        adapters: Sequence[str] | None = None,
    ) -> Content:
        """Generate with retrieval and this device's adapters.

        Args:
            k: passages to retrieve at most; 0 for none.
            adapters: names as in :meth:`use_adapters`; every adapter of the device when not given.

        Raises:
            ContextLengthError: the instruction does not fit in the base's context.
        """
        how = how or Generation()
        names = tuple(adapters) if adapters is not None else self.available_adapters()
        prompt = self.prompt(instruction, k=k, budget=self._budget(how))
        self.use_adapters(*names)
        done: Completion = self.model.generate([prompt.full], how)[0]
        return Content(done.text, done.reason, Trace(prompt.used, names, prompt.tokens))

    def stream(
        self, instruction: Instruction, how: Generation | None = None, *, k: int = 4
    ) -> tuple[Prompt, Iterator[str]]:
        """Generate piece by piece with every adapter of the device.

        Returns:
            The prompt with the passages used, and the pieces of text as they become certain.
        """
        how = how or Generation()
        prompt = self.prompt(instruction, k=k, budget=self._budget(how))
        self.use_adapters(*self.available_adapters())
        return prompt, self.model.stream(prompt.full, how)

    def _budget(self, how: Generation) -> int:
        room = self.model.max_tokens - how.max_tokens - 1
        return min(int(self.model.max_tokens * _PROMPT_SHARE), room)
