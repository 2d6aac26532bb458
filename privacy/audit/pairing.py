"""Does what was released belong to its record? Each release against every record, by permutations.

What is common to all records, such as frequent words, is found in any release. So what a release
tells of its own record is compared with what it tells of the others: under the claim that it tells
nothing, every pairing of releases and records is as likely (Fisher's permutation test).
"""

from __future__ import annotations

import math

import numpy as np

from ...shared.errors import BadInputError
from ..noise import Doubles
from .findings import Finding

__all__ = ["pairing_finding", "pairing_p_value"]


def pairing_p_value(found: Doubles, rng: np.random.Generator, draws: int = 20_000) -> float:
    """Probability that a random pairing does as well as the true one.

    Args:
        found: ``(m, m)``, what release i tells of record j.
        rng: draws the pairings.
        draws: of them; the least p-value is one over one more.

    Raises:
        BadInputError: it is not square, or smaller than 4.
    """
    if found.ndim != 2 or found.shape[0] != found.shape[1] or len(found) < 4:
        raise BadInputError(f"at least 4 releases of as many records are needed, {found.shape}")
    own = np.trace(found)
    pairings = rng.permuted(np.tile(np.arange(len(found)), (draws, 1)), axis=1)
    others = found[np.arange(len(found)), pairings].sum(1)
    return float((1 + (others >= own - 1e-12).sum()) / (1 + draws))


def pairing_finding(
    found: Doubles,
    *,
    audit: str,
    what: str,
    rng: np.random.Generator,
    level: float = 1e-3,
) -> Finding:
    """The claim that a release tells no more of its own record than of others.

    Args:
        found: ``(m, m)`` shares from 0 to 1; see :func:`pairing_p_value`.
        what: was released, such as ``a noised update``.
        level: at which the claim is refuted.

    Raises:
        BadInputError: so few releases that no pairing of them could reach the level.
    """
    if math.factorial(len(found)) * level < 2:
        raise BadInputError(f"{len(found)} releases cannot refute a claim at the level {level:g}")
    p = pairing_p_value(found, rng)
    others = found[~np.eye(len(found), dtype=bool)].mean()
    return Finding(
        audit=audit,
        claim=f"{what} gives away no more of its record's tokens than of another's",
        found=f"{100 * np.diag(found).mean():.0f} % of them against {100 * others:.0f} %, "
        f"{len(found)} records, p = {p:.2g}",
        holds=p >= level,
    )
