"""Were records sampled as they are accounted: each on its own, by Poisson's rule, at that rate?

Shuffled batches are no Poisson sample: their sizes do not vary, and nobody is in two batches of a
pass. Accounted as one, ε is under-reported by 1.4 to 20 times (Chua et al., arXiv:2403.17673).
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from ...shared.errors import BadInputError
from .findings import Finding
from .noises import WRONG

__all__ = ["sampling_findings"]


def sampling_findings(
    entered: npt.NDArray[np.bool_], rate: float, *, wrong: float = WRONG
) -> list[Finding]:
    """Test who entered which step.

    Args:
        entered: ``(steps, records)``, observed.
        rate: what was charged for.
        wrong: probability with which a true claim is called refuted, of each test.

    Raises:
        BadInputError: fewer than ten steps or records.
    """
    if entered.ndim != 2 or min(entered.shape) < 10:
        raise BadInputError(f"at least ten steps and records are needed, got {entered.shape}")
    if rate >= 1:
        return []  # nothing is claimed of the sampling
    return [
        _seldom(entered, rate, wrong),
        _alone(entered, rate, wrong),
        _anew(entered, rate, wrong),
    ]


def _seldom(entered: npt.NDArray[np.bool_], rate: float, wrong: float) -> Finding:
    from scipy.special import bdtrc

    count = int(entered.sum())
    chance = float(bdtrc(count - 1, entered.size, rate)) if count else 1.0
    return Finding(
        audit="sampling",
        claim=f"a record enters a step with probability {rate:.4g} at most",
        found=f"{count / entered.size:.4g} in {entered.size} cases (chance {chance:.1e})",
        holds=chance > wrong,
    )


def _alone(entered: npt.NDArray[np.bool_], rate: float, wrong: float) -> Finding:
    """The sizes of the batches vary as sums of independent coins do."""
    from scipy.special import chdtr

    steps, records = entered.shape
    sizes = entered.sum(1)
    spread = float(np.square(sizes - records * rate).sum()) / (records * rate * (1 - rate))
    chance = float(chdtr(steps, spread))
    return Finding(
        audit="sampling",
        claim="records enter independently of each other (Poisson sampling)",
        found=f"batches of {sizes.min()} to {sizes.max()} records vary {spread / steps:.3g} times "
        f"as independent ones (chance {chance:.1e})",
        holds=chance > wrong,
    )


def _anew(entered: npt.NDArray[np.bool_], rate: float, wrong: float) -> Finding:
    """Who was in a step is as likely as others to be in the next; for shuffled passes, less."""
    from scipy.special import ndtr

    again = int((entered[1:] & entered[:-1]).sum())
    # Given the batches' sizes, the overlap of independent samples is hypergeometric.
    sizes, records = entered.sum(1).astype(float), entered.shape[1]
    means = sizes[1:] * sizes[:-1] / records
    variances = means * (1 - sizes[1:] / records) * (1 - sizes[:-1] / records)
    variances *= records / max(1, records - 1)
    apart = (again - means.sum()) / math.sqrt(max(1e-9, float(variances.sum())))
    chance = 2 * float(ndtr(-abs(apart)))
    return Finding(
        audit="sampling",
        claim="every step samples anew",
        found=f"{again} records were in the step before, {means.sum():.1f} by chance "
        f"(chance {chance:.1e})",
        holds=chance > wrong,
    )
