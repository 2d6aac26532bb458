"""Figures about what was generated, a module for each modality, and the statistics of them all.

:mod:`.images` is exact; what :mod:`.local` computes depends on a :mod:`tower <.towers>`, whose name
it carries.
"""

from .statistics import (
    BootstrapInterval,
    CalibratedScore,
    MeanAndWorst,
    mean_and_worst,
    paired_bootstrap,
)
from .text import perplexity, rouge_l

__all__ = [
    "BootstrapInterval",
    "CalibratedScore",
    "MeanAndWorst",
    "mean_and_worst",
    "paired_bootstrap",
    "perplexity",
    "rouge_l",
]
