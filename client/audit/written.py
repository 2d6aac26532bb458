"""Texts that adapted models write, for attackers who see nothing else."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from ...privacy.audit.ngrams import NgramModel
from ...privacy.noise import Doubles
from ...shared.errors import BadInputError
from ..training.branches import Pass, attached
from ..training.cohort import Cohort

__all__ = ["affinities", "write_texts"]


def write_texts(
    cohort: Cohort,
    theta: torch.Tensor,
    prompts: Sequence[Sequence[int]],
    *,
    tokens: int,
    generator: torch.Generator,
) -> list[list[list[int]]]:
    """What each adapter writes after every prompt, sampled at temperature 1, without the prompt.

    Args:
        cohort: of a causal language model.
        theta: ``(K, dim)``.
        prompts: token ids, all of one length.
        tokens: to be written.
        generator: of the samples.

    Raises:
        BadInputError: prompts of several lengths, or empty.
    """
    if len({len(prompt) for prompt in prompts}) != 1 or not prompts[0]:
        raise BadInputError("prompts must be of one length and not empty")
    return [
        _written(cohort, row[None], torch.tensor([*prompts]), tokens, generator) for row in theta
    ]


def _written(
    cohort: Cohort, theta: torch.Tensor, ids: torch.Tensor, tokens: int, generator: torch.Generator
) -> list[list[int]]:
    values = {name: part.to(cohort.device) for name, part in cohort.unpack(theta).items()}
    work = Pass(values, len(ids), 1, cohort.layouts)
    written: list[torch.Tensor] = []
    step, past = ids.to(cohort.device), None
    with torch.no_grad(), attached(cohort.model, cohort.chains, work):
        for _ in range(tokens):
            out = cohort.model(input_ids=step, past_key_values=past, use_cache=True)
            past = out.past_key_values
            chances = torch.softmax(out.logits[:, -1].float().cpu(), -1)
            step = torch.multinomial(chances, 1, generator=generator).to(cohort.device)
            written.append(step.cpu())
    rows: list[list[int]] = torch.cat(written, 1).tolist()
    return rows


def affinities(
    written: Sequence[Sequence[Sequence[int]]],
    candidates: Sequence[Sequence[int]],
    there: npt.NDArray[np.bool_],
    vocabulary: int,
) -> Doubles:
    """How much better a candidate fits what a model wrote than what others did who never saw it.

    Texts are modelled by their n-grams alone; no likelihood of the attacked model is used.

    Args:
        written: texts of the attacked model, and of each shadow after it.
        candidates: token ids that may have been trained on.
        there: ``(S, n)`` whether a shadow was trained on a candidate; each is out of at least one.
        vocabulary: of the tokenizer.

    Returns:
        ``(n,)``, nats per token.
    """
    models = [NgramModel(texts, vocabulary) for texts in written]
    fits = np.array([[m.log_likelihood(text) for text in candidates] for m in models])
    without: Doubles = (fits[1:] * ~there).sum(0) / (~there).sum(0)
    above: Doubles = fits[0] - without
    return above
