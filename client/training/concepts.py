"""Learning one thing of a person's from a few pictures of it. What is learned stays on the device.

Three ways, by what is trained: embeddings of a new word (textual inversion, Gal et al.,
arXiv:2208.01618); that, and the keys and values of cross-attention (Custom Diffusion, Kumari et
al., arXiv:2212.04488, §3.2); that, and every layer (DreamBooth, Ruiz et al., arXiv:2208.12242, with
LoRA). The last two keep what the base knows of the kind of thing by training on pictures of the
kind that the base itself has drawn (prior preservation).

In all three the thing is learned as ``WORD KIND``: what is trained says which cat it is, and need
not say what a cat is. A finished word stands for both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import torch

from ...shared.adapters import Adapter, Array
from ...shared.errors import BadInputError, TooLittleDataError
from ...shared.forms import Directions
from ...shared.pictures import Picture
from ..captioned import Seen
from ..concepts import Concept
from ..image_model import Drawing, ImageModel
from .chains import Chain, token_rows
from .cohort import Batch
from .image import ImageTwin
from .local import LocalTraining, train_locally
from .objectives.diffusion import PriorPreservation
from .objectives.pairs import in_pairs
from .optimizers import Optimizer
from .private import private_chains

__all__ = ["WAYS", "SubjectTraining", "Way", "learn_subject"]

Way = Literal["textual-inversion", "custom-diffusion", "dreambooth"]
WAYS: tuple[Way, ...] = get_args(Way)
"""What may be trained of a base to learn a thing."""
_KEYS_AND_VALUES = (".attn2.to_k", ".attn2.to_v")
_TEMPLATES = ("{}", "a {}", "picture of {}", "the {}", "one {}")


@dataclass(frozen=True, kw_only=True)
class SubjectTraining:
    """How a thing is learned.

    Args:
        way: what is trained: ``textual-inversion``, ``custom-diffusion`` or ``dreambooth``.
        rows: embeddings that the word stands for.
        rank: of the adapter, where there is one.
        steps: optimizer steps.
        batch: pictures per step; fewer where there are fewer.
        learning_rate: of embeddings and adapter, decaying linearly to zero.
        prior: pictures of the kind that the base draws first; 0 preserves nothing. Textual
            inversion changes nothing of the base and needs none.
        prior_weight: of such a picture beside one of the thing.
        seed: of the pictures' order, and of what the base draws.
    """

    way: Way = "dreambooth"
    rows: int = 1
    rank: int = 4
    steps: int = 150
    batch: int = 4
    learning_rate: float = 3e-3
    prior: int = 32
    prior_weight: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        problems = [
            f"{name} must be at least {least}, got {getattr(self, name)}"
            for name, least in (("rows", 1), ("rank", 1), ("prior", 0))
            if getattr(self, name) < least
        ]
        if self.way not in WAYS:
            problems.append(f"way must be one of {', '.join(WAYS)}, got {self.way!r}")
        if problems:
            raise BadInputError("; ".join(problems))
        _ = self.local  # checks the rest

    @property
    def local(self) -> LocalTraining:
        """The steps."""
        return LocalTraining(
            steps=self.steps,
            batch=self.batch,
            optimizer=Optimizer(kind="adam", learning_rate=self.learning_rate, betas=(0.9, 0.99)),
            decay=True,
            seed=self.seed,
        )

    @property
    def preserves(self) -> bool:
        """Whether the base's own pictures of the kind are trained on."""
        return self.way != "textual-inversion" and self.prior > 0


def learn_subject(
    twin: ImageTwin,
    model: ImageModel,
    directions: Directions,
    pictures: Sequence[Picture],
    word: str,
    kind: str,
    how: SubjectTraining | None = None,
    progress: Callable[[float], None] = lambda _: None,
) -> Concept:
    """Learn a thing.

    Args:
        twin: the torch twin of the base.
        model: its runtime, which draws the kind.
        directions: the base's public directions.
        pictures: of the thing, one or more.
        word: that is to stand for it, such as ``<my-cat>``.
        kind: of thing, in words that the base knows, such as ``cat``.
        how: settings.
        progress: told the share that is done, 0..1.

    Raises:
        TooLittleDataError: there are no pictures.
        BadInputError: the base does not know the kind, or the word is one that it knows.
        TrainingError: the loss is not finite.
    """
    how = how or SubjectTraining()
    if not pictures:
        raise TooLittleDataError(f"to learn {word} takes one picture of it or more, got none")
    start = twin.prompts.spelled(kind)
    if not start:
        raise BadInputError(f"the base knows no word of {kind!r}; say what kind of thing it is")
    named = twin.named({word: how.rows})
    size = named.prompts.vocabulary
    site = named.embedding_site
    chains = token_rows(named.model, site, {size + i: start[-1] for i in range(how.rows)})
    adapter, downs = _adapter_chains(how, directions)
    rows = _rows(named, pictures, word, kind, how, model)
    objective = (
        PriorPreservation(diffusion=named.losses, weight=how.prior_weight)
        if how.preserves
        else named.losses
    )
    cohort = named.cohort_of({**chains, **adapter}, objective, _probe(named, word, how))
    theta = train_locally(
        cohort,
        torch.zeros(1, cohort.dim),
        [rows],
        how.local,
        lambda chosen: _collate(named, chosen, how),
        progress=progress,
    )
    parts = {name: value[0].numpy() for name, value in cohort.unpack(theta).items()}
    moved = parts.pop(f"{site}.rows")
    table = named.model.get_submodule(site).weight
    begun = table[start].float().cpu().numpy()  # type: ignore[index]
    factors = {name: (downs[name], up) for name, up in parts.items()}
    return Concept(
        word,
        kind,
        twin.base_id,
        np.concatenate([begun[-1] + moved, begun]).astype(np.float32),
        Adapter(twin.base_id, factors) if factors else None,
    )


Row = tuple[list[Seen], list[Seen]]
"""A picture under several captions, and with a prior one that the base has drawn of the kind."""


def _rows(
    twin: ImageTwin,
    pictures: Sequence[Picture],
    word: str,
    kind: str,
    how: SubjectTraining,
    model: ImageModel,
) -> list[Row]:
    own = [picture.resized(twin.size) for picture in pictures]
    told = [[(p, t.format(f"{word} {kind}")) for t in _TEMPLATES] for p in own]
    seen = [twin.seen(pairs) for pairs in told]
    if not how.preserves:
        return [(captions, []) for captions in seen]
    with model.bare():
        # Without guidance: samples of what the base knows of the kind, which is to stay as wide.
        drawn = model.generate([kind] * how.prior, Drawing(seed=how.seed, guidance=1.0))
    known = twin.seen([(picture, kind) for picture in drawn])
    count = max(len(seen), len(known))
    return [(seen[i % len(seen)], [known[i % len(known)]]) for i in range(count)]


def _collate(twin: ImageTwin, rows: Sequence[Row], how: SubjectTraining) -> Batch:
    """One of a picture's captions, drawn anew; where there is a prior, pairs."""
    chosen = torch.randint(len(_TEMPLATES), (len(rows),), generator=twin.draws.generator).tolist()
    both = [
        seen
        for (captions, prior), i in zip(rows, chosen, strict=True)
        for seen in (captions[i], *prior)
    ]
    batch = twin.collate(both)
    return in_pairs(batch) if how.preserves else batch


def _adapter_chains(
    how: SubjectTraining, directions: Directions
) -> tuple[dict[str, Chain], dict[str, Array]]:
    if how.way == "textual-inversion":
        return {}, {}
    chains, downs = private_chains(directions, how.rank)
    if how.way == "custom-diffusion":
        chains = {s: chain for s, chain in chains.items() if s.endswith(_KEYS_AND_VALUES)}
    return chains, downs


def _probe(twin: ImageTwin, word: str, how: SubjectTraining) -> Batch:
    """Made-up pictures, each with the word and another one."""
    rows = twin.made_up(8 if how.preserves else 4, before=f"{word} ")
    return in_pairs(twin.collate(rows)) if how.preserves else twin.collate(rows)
