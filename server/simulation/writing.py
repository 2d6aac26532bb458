"""The study of writing: does a base go on as the author did?

People are authors; what is held out is their later writing. A base is told the beginning of a
passage, and judged by how little the rest surprises it and by what it writes itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from ...client.device import Device
from ...client.prompt import Prompt
from ...client.retrieval import Hit
from ...client.runtime import Generation, TextModel
from ...client.sampling import Sampling
from ...shared.adapters import Adapter, Array
from ...shared.contexts import Instruction
from ...shared.errors import BadInputError
from ...shared.metrics import perplexity, rouge_l
from ...shared.packages import Package
from .authorship import AuthorshipScorer
from .config import BASE, PRIVATE, RETRIEVAL, SHARED, SimulationConfig
from .corpus import Corpus, Person, load_folder, load_sotu
from .person import SimulatedPerson
from .study import Made, Metric, Study

__all__ = ["Author", "Passage", "WritingStudy", "writing_study"]

_PASSAGE_TOKENS = 128  # of a held-out passage that are judged at most
_PROMPT_BUDGET = 320  # tokens of retrieved passages and prompt together


@dataclass(frozen=True)
class Passage:
    """A held-out passage: the beginning is given, the rest is to be predicted."""

    prompt: str
    prompt_ids: tuple[int, ...]
    target_ids: tuple[int, ...]


@dataclass(kw_only=True)
class Author(SimulatedPerson):
    """Somebody who writes.

    Args:
        passages: the later writing.
        retrieved: passages in a prompt at most.
        how: continuations are generated.
    """

    passages: tuple[Passage, ...]
    retrieved: int
    how: Generation

    @property
    def held_out(self) -> tuple[Passage, ...]:
        """The later writing."""
        return self.passages

    @property
    def model(self) -> TextModel:
        """The base's runtime."""
        model = self.device.model
        assert isinstance(model, TextModel)
        return model

    def losses(self, adapters: Sequence[Adapter], *, retrieval: bool = False) -> list[Array]:
        """Per-token loss of every held-out passage."""
        self.model.attach(*adapters)
        contexts = []
        for passage in self.passages:
            prompt = self._prompt(passage, retrieval)
            contexts.append([*self.model.encode(prompt.context), *passage.prompt_ids])
        return self.model.score_ids(contexts, [p.target_ids for p in self.passages])

    def make(
        self, adapters: Sequence[Adapter], count: int, *, retrieval: bool = False
    ) -> list[Made]:
        """Continue the first ``count`` held-out passages."""
        self.model.attach(*adapters)
        prompts = [self._prompt(p, retrieval) for p in self.passages[:count]]
        done = self.model.generate([prompt.full for prompt in prompts], self.how)
        return [
            Made(completion.text, prompt.used)
            for completion, prompt in zip(done, prompts, strict=True)
        ]

    def truths(self, count: int) -> list[str]:
        """How the first ``count`` held-out passages really went on, as far as is generated."""
        most = self.how.max_tokens
        return [self.model.decode(p.target_ids[:most]) for p in self.passages[:count]]

    def _prompt(self, passage: Passage, retrieval: bool) -> Prompt:
        guide = partial(self.device.guide, passage.prompt, k=self.retrieved if retrieval else 0)
        budget = min(_PROMPT_BUDGET, self.model.max_tokens - _PASSAGE_TOKENS)
        return self.model.prompt(Instruction(text=passage.prompt), guide, budget)


@dataclass(kw_only=True)
class WritingStudy(Study):
    """Authors, and public writing of others.

    Args:
        corpus: people and public texts.
        data_name: of the corpus.
        passages: retrieved passages in a prompt at most.
        prompt_tokens: how much of a held-out passage is given; the rest is predicted.
        tokens: of each continuation.
        seed: of the writing.
    """

    corpus: Corpus
    data_name: str = "State of the Union addresses"
    passages: int = 2
    prompt_tokens: int = 24
    tokens: int = 32
    seed: int = 0
    _truths: dict[str, list[str]] = field(default_factory=dict, repr=False)

    loss: ClassVar = Metric(
        "loss",
        "nats per token",
        "The mean negative log-likelihood, in nats per token, that a model gives to an author's "
        "real texts that it has not seen: how surprised it is. Lower is better.",
        3,
    )
    metrics: ClassVar = (
        Metric(
            "perplexity",
            "Perplexity",
            "The loss's exponential: among how many equally likely next tokens the model seems to "
            "choose.",
            1,
            perplexity,
        ),
        Metric(
            "rouge_l",
            "ROUGE-L",
            "The longest sequence of words that a generated and the real text have in common, as "
            "F1, from 0 to 1. Free writing scores low however good it is: compare arms, and do not "
            "read the figure alone.",
        ),
        Metric(
            "authorship",
            "Author P",
            "P = (s - floor) / (ceiling - floor). s is the similarity in style of the generated "
            "texts to the author's; floor is that of other authors' real texts, ceiling that of "
            "the author's own unseen ones. 0 reads like anybody, 1 like the author; it can be "
            "outside. A dash: the measure cannot tell these authors apart.",
        ),
    )
    held_out: ClassVar = "writing"
    arms: ClassVar = (
        BASE,
        f"{BASE} + {RETRIEVAL}",
        SHARED,
        f"{SHARED} + {PRIVATE}",
        f"{SHARED} + {PRIVATE} + {RETRIEVAL}",
    )
    notes: ClassVar = (
        "Every held-out passage is later than all records on its author's device.",
        "Losses and texts come from the ONNX runtime; adapters were trained on its torch twin.",
    )
    glossary: ClassVar = {
        RETRIEVAL: "The author's own passages are put into the prompt.",
    }

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be at least 1, got {getattr(self, name)}"
            for name in ("passages", "prompt_tokens", "tokens")
            if getattr(self, name) < 1
        ]
        if problems:
            raise BadInputError("; ".join(problems))

    @property
    def devices(self) -> int:  # type: ignore[override]  # nobody sets it
        """Number of authors."""
        return len(self.corpus.people)

    @cached_property
    def scorer(self) -> AuthorshipScorer:
        """Learned from the public authors."""
        return AuthorshipScorer.fit(self.corpus.public, self.seed)

    def people(self, package: Package, config: SimulationConfig, folder: Path) -> list[Author]:
        """A device for every author."""
        model = TextModel(package)
        people = [
            self._author(person, model, folder / person.name) for person in self.corpus.people
        ]
        self._truths = {author.name: author.truths(config.made) for author in people}
        return people

    def _author(self, person: Person, model: TextModel, folder: Path) -> Author:
        folder.mkdir(parents=True, exist_ok=True)
        device = Device(model)
        for record in person.train:
            device.remember(record)
        cut = (_cut(model, document.text, self.prompt_tokens) for document in person.held_out)
        sampling = Sampling(temperature=0.7, top_p=0.9, seed=self.seed)
        return Author(
            name=person.name,
            device=device,
            folder=folder,
            passages=tuple(passage for passage in cut if passage),
            retrieved=self.passages,
            how=Generation(max_tokens=self.tokens, sampling=sampling),
        )

    def judge(
        self, person: SimulatedPerson, made: Sequence[Made], everybody: Sequence[SimulatedPerson]
    ) -> dict[str, float | None]:
        """ROUGE-L against the real texts, and authorship."""
        texts = [one.output or "." for one in made]
        own = self._truths[person.name]
        rouge = [rouge_l(text, truth) for text, truth in zip(texts, own, strict=True)]
        others = {n: texts for n, texts in self._truths.items() if n != person.name and texts}
        reference = [record.text for record in person.device.training_records("train")]
        score = None
        if others and reference:
            score = self.scorer.calibrated(texts, reference, own, others).score
        return {"rouge_l": float(np.mean(rouge)), "authorship": score}

    def cost(self, config: SimulationConfig) -> tuple[float, float, float]:
        """In tokens of a forward and backward pass."""
        return 75.0, 8 * 150 * 0.45, config.made * (80 + self.tokens) * 0.8

    def sample(self, person: SimulatedPerson, made: Mapping[str, Sequence[Made]]) -> dict[str, Any]:
        """The first continuation in every arm."""
        return {
            "prompt": person.held_out[0].prompt,
            "truth": self._truths[person.name][0],
            "arms": {arm: rows[0].output for arm, rows in made.items()},
            "trace": [_traced(hit) for hit in list(made.values())[-1][0].hits],
        }


def _traced(hit: Hit) -> dict[str, str]:
    return {
        "source": hit.record.provenance.source,
        "uri": hit.record.provenance.uri,
        "text": hit.text[:160],
    }


def _cut(model: TextModel, text: str, prompt_tokens: int) -> Passage | None:
    """None when too little is left to predict."""
    ids = model.encode(text)[:_PASSAGE_TOKENS]
    if len(ids) < prompt_tokens + 8:
        return None
    head = ids[:prompt_tokens]
    return Passage(model.decode(head), tuple(head), tuple(ids[prompt_tokens:]))


def writing_study(data: Path | None, devices: int, *, quick: bool, seed: int) -> WritingStudy:
    """Presidents, or the authors of a folder with one subfolder of .txt/.md files for each."""
    held_out = 2 if quick else 8
    tokens = 12 if quick else 32
    if data is not None:
        corpus = load_folder(data, held_out=held_out)
        return WritingStudy(corpus=corpus, data_name=data.name, tokens=tokens, seed=seed)
    corpus = load_sotu(min(devices, 3) if quick else min(devices, 8), held_out=held_out)
    return WritingStudy(corpus=corpus, tokens=tokens, seed=seed)
