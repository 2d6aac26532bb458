"""What audits say of a claim, in one shape: what was claimed, what was found, whether it holds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from .evidence import LowerBound

__all__ = ["Finding", "against", "verdict"]


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One claim that was audited.

    Args:
        audit: what was looked at, such as ``noise``.
        claim: the sentence that was put to the test.
        found: what was measured.
        holds: False where the claim is refuted. True never proves it.
    """

    audit: str
    claim: str
    found: str
    holds: bool

    def __str__(self) -> str:
        return f"{'holds' if self.holds else 'REFUTED'}: {self.audit}: {self.claim}; {self.found}"


def against(claim: float, bound: LowerBound, *, audit: str) -> Finding:
    """A claimed ε against a lower bound at the same δ."""
    return Finding(
        audit=audit,
        claim=f"ε is at most {claim:.4g} at δ = {bound.delta:g}",
        found=str(bound),
        holds=not bound.refutes(claim),
    )


def verdict(findings: Sequence[Finding]) -> str:
    """One line."""
    broken = [finding for finding in findings if not finding.holds]
    if not broken:
        return f"no claim refuted in {len(findings)} audits"
    more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
    return f"REFUTED {len(broken)} of {len(findings)}: {broken[0].claim}; {broken[0].found}{more}"
