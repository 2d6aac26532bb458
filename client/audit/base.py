"""An audit of a base's private training, from its package alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from ...privacy.plan import RecordPlan
from ...shared.forms import Directions, FormName, SharedForm
from ...shared.packages import Package
from ...shared.pictures import Picture
from ..captioned import Seen
from ..training.adapted import AdaptedTwin, shared_chains
from ..training.cohort import Batch
from ..training.image import ImageTwin
from ..training.text import MAX_RECORD_TOKENS, TextTwin
from .canaries import random_tokens
from .images import image_batch, random_images
from .records import RecordAudit

__all__ = ["audit_base"]


def audit_base(
    package: Package,
    plan: RecordPlan,
    *,
    form: FormName = "core",
    rank: int = 2,
    records: int = 200,
    canaries: int = 50,
    seed: int = 0,
) -> RecordAudit:
    """The audit of a plan on a base's shared adapter, with random texts or pictures for records.

    A picture's times and noise are drawn once; see :mod:`.images`.

    Args:
        package: a text or an image base with public directions.
        plan: with noise.
        form, rank: of the shared adapter.
        records: how many.
        canaries: in a round; no more than half the shared numbers are taken.
        seed: of the texts or pictures.
    """
    twin: AdaptedTwin[Any]
    collate: Callable[[Sequence[Any]], Batch]
    if package.manifest.modality == "image":
        images = ImageTwin.of(package)
        twin, collate = images, image_batch
        made, extremes = _pictures(images, records, seed)
    else:
        texts = TextTwin.of(package)
        twin, collate = texts, texts.collate
        made, extremes = _texts(texts, records, seed)
    known = Directions.load(package.path("directions.safetensors")).limited(rank)
    cohort = twin.cohort(shared_chains(SharedForm(form, package.base_id, known)))
    return RecordAudit(
        cohort=cohort,
        plan=plan,
        collate=collate,
        records=made,
        extremes=extremes,
        canaries=min(canaries, cohort.dim // 2),
    )


def _texts(twin: TextTwin, count: int, seed: int) -> tuple[list[Any], list[Any]]:
    """Random tokens; and the shortest, the longest, and one token again and again."""
    rng = np.random.default_rng(seed)
    vocabulary = twin.model.get_input_embeddings().num_embeddings

    def texts(count: int, length: int) -> list[list[int]]:
        return random_tokens(count, length, vocabulary, rng)

    extremes = [*texts(1, 2), *texts(1, MAX_RECORD_TOKENS), [7] * MAX_RECORD_TOKENS]
    return texts(count, 12), extremes


def _pictures(twin: ImageTwin, count: int, seed: int) -> tuple[list[Any], list[Any]]:
    """Random patches with a word each; and black, white, grey, and nothing but noise."""
    generator = torch.Generator().manual_seed(seed)
    shape = (3, *twin.size)
    flat = torch.stack([torch.full(shape, level) for level in (-1.0, 1.0, 0.0)])
    noise = torch.randn(1, *shape, generator=generator)
    words = sorted(twin.prompts.tokenizer.get_vocab())

    def records(signals: torch.Tensor) -> list[Batch]:
        pictures = [Picture.of_signal(signal.numpy()) for signal in signals]
        captions = [words[place % len(words)] for place in range(len(pictures))]
        seen: list[Seen] = twin.seen(list(zip(pictures, captions, strict=True)))
        return [twin.collate([one]) for one in seen]

    return records(random_images(count, shape, generator)), records(torch.cat([flat, noise]))
