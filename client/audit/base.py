"""An audit of a text base's private training, from its package alone."""

from __future__ import annotations

import numpy as np

from ...privacy.plan import RecordPlan
from ...shared.forms import Directions, FormName, SharedForm
from ...shared.packages import Package
from ..training.adapted import shared_chains
from ..training.text import MAX_RECORD_TOKENS, TextTwin
from .canaries import random_tokens
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
    """The audit of a plan on a base's shared adapter, with random texts for records.

    Args:
        package: a text base with public directions.
        plan: with noise.
        form, rank: of the shared adapter.
        records: how many.
        canaries: in a round; no more than half the shared numbers are taken.
        seed: of the texts.
    """
    twin = TextTwin.of(package)
    known = Directions.load(package.path("directions.safetensors")).limited(rank)
    cohort = twin.cohort(shared_chains(SharedForm(form, package.base_id, known)))
    rng = np.random.default_rng(seed)
    vocabulary = twin.model.get_input_embeddings().num_embeddings

    def texts(count: int, length: int) -> list[list[int]]:
        return random_tokens(count, length, vocabulary, rng)

    return RecordAudit(
        cohort=cohort,
        plan=plan,
        collate=twin.collate,
        records=texts(records, 12),
        extremes=[*texts(1, 2), *texts(1, MAX_RECORD_TOKENS), [7] * MAX_RECORD_TOKENS],
        canaries=min(canaries, cohort.dim // 2),
    )
