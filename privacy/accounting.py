"""What a mechanism costs: ε from Google's privacy loss distributions.

PLD is exact to about 1e-5 here and the default. Rényi accounting is an upper bound for
cross-checks, and Opacus' two accountants can be asked for comparison. Opacus' "GDP" accountant is a
central-limit approximation that under-reports ε and is refused.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any, Literal

from ..shared.errors import MissingExtraError, PrivacyError

__all__ = [
    "Accountant",
    "Relation",
    "epsilon_of_charges",
    "epsilon_of_dp_sgd",
    "epsilon_of_gaussian",
]

Relation = Literal["add-or-remove-one", "replace-one", "zero-out"]
"""Which data sets count as neighbours.

``zero-out`` replaces a record by one that contributes nothing: a zero gradient, and no vote on the
clipping norm. Under Poisson sampling with a public divisor it then adds to a sum what an absent one
does, so both cost the same.
"""

Accountant = Literal["pld", "rdp", "opacus-prv", "opacus-rdp"]


@functools.cache
def epsilon_of_dp_sgd(
    *,
    noise_multiplier: float,
    sampling_rate: float,
    steps: int,
    delta: float,
    relation: Relation = "add-or-remove-one",
    accountant: Accountant = "pld",
) -> float:
    """ε of DP-SGD with Poisson sampling.

    Args:
        noise_multiplier: noise standard deviation over clipping norm.
        sampling_rate: probability with which each record enters a step.
        steps: number of steps.
        delta: the δ at which ε is stated.
        relation: which neighbours are compared.
        accountant: who computes; all but ``pld`` are for comparison.

    Raises:
        PrivacyError: a parameter for which no finite claim can be made, or an accountant that
            cannot be trusted or does not know the relation.
        MissingExtraError: dp-accounting or Opacus is not installed.
    """
    if not (noise_multiplier > 0 and 0 < sampling_rate <= 1 and steps >= 0 and 0 < delta < 1):
        raise PrivacyError(
            "no ε can be claimed for noise_multiplier="
            f"{noise_multiplier}, sampling_rate={sampling_rate}, steps={steps}, delta={delta}"
        )
    compute = _accountant(accountant, relation)
    return 0.0 if steps == 0 else compute(noise_multiplier, sampling_rate, steps, delta, relation)


@functools.cache
def epsilon_of_charges(
    charges: tuple[tuple[float, float, int], ...],
    *,
    delta: float,
    relation: Relation = "add-or-remove-one",
) -> float:
    """ε of different Poisson-sampled Gaussians on the same records, by PLD.

    Args:
        charges: ``(noise_multiplier, sampling_rate, steps)`` of each.
    """
    events = _dp_accounting()
    accountant = _pld_accountant(relation)
    for plan, steps in _by_plan(charges).items():
        _compose(accountant, events, *plan, steps)
    return float(accountant.get_epsilon(delta))


def _by_plan(charges: tuple[tuple[float, float, int], ...]) -> dict[tuple[float, float], int]:
    steps: dict[tuple[float, float], int] = {}
    for sigma, rate, count in charges:
        steps[sigma, rate] = steps.get((sigma, rate), 0) + count
    return steps


def epsilon_of_gaussian(
    *, noise_multiplier: float, steps: int, delta: float, relation: Relation = "add-or-remove-one"
) -> float:
    """ε of ``steps`` Gaussian mechanisms on the whole data, in closed form.

    Balle and Wang, arXiv:1805.06530, Theorem 8; T steps of noise σ are one of noise σ/√T. Replacing
    a record moves a sum by twice the clipping norm.

    Raises:
        PrivacyError: a parameter for which no finite claim can be made.
    """
    from scipy.optimize import brentq
    from scipy.special import log_ndtr

    if not (noise_multiplier > 0 and steps >= 1 and 0 < delta < 1):
        raise PrivacyError(
            f"no ε can be claimed for noise_multiplier={noise_multiplier}, steps={steps}, "
            f"delta={delta}"
        )
    mu = math.sqrt(steps) / noise_multiplier * (2 if relation == "replace-one" else 1)

    def excess(epsilon: float) -> float:
        upper = math.exp(log_ndtr(mu / 2 - epsilon / mu))
        return upper - math.exp(epsilon + log_ndtr(-mu / 2 - epsilon / mu)) - delta

    if excess(0.0) <= 0:
        return 0.0
    return float(brentq(excess, 0.0, mu * mu / 2 + mu * 40, xtol=1e-12))


_Compute = Callable[[float, float, int, float, Relation], float]


def _accountant(name: str, relation: str) -> _Compute:
    if name == "gdp":
        raise PrivacyError(
            "the accountant 'gdp' is a central-limit approximation that under-reports ε (1.62 for "
            "1.83 at noise 1, rate 0.01 and 1000 steps); use 'pld'"
        )
    known: dict[str, _Compute] = {
        "pld": _pld,
        "rdp": _rdp,
        "opacus-prv": functools.partial(_opacus, "PRVAccountant"),
        "opacus-rdp": functools.partial(_opacus, "RDPAccountant"),
    }
    if name not in known:
        raise PrivacyError(f"accountant must be one of {', '.join(known)}, got {name!r}")
    if relation not in ("add-or-remove-one", "replace-one", "zero-out"):
        raise PrivacyError(
            f"relation must be add-or-remove-one, replace-one or zero-out, got {relation!r}"
        )
    if relation == "replace-one" and name != "pld":
        raise PrivacyError(f"the accountant {name!r} does not know the relation 'replace-one'")
    return known[name]


def _pld(sigma: float, rate: float, steps: int, delta: float, relation: Relation) -> float:
    return epsilon_of_charges(((sigma, rate, steps),), delta=delta, relation=relation)


def _pld_accountant(relation: Relation) -> Any:
    relations = _dp_accounting().NeighboringRelation
    from dp_accounting.pld import PLDAccountant

    replaced = relation == "replace-one"
    return PLDAccountant(relations.REPLACE_ONE if replaced else relations.ADD_OR_REMOVE_ONE)


def _rdp(sigma: float, rate: float, steps: int, delta: float, relation: Relation) -> float:
    events = _dp_accounting()
    from dp_accounting.rdp import RdpAccountant

    accountant = RdpAccountant()
    _compose(accountant, events, sigma, rate, steps)
    return float(accountant.get_epsilon(delta))


def _compose(accountant: Any, events: Any, sigma: float, rate: float, steps: int) -> None:
    step = events.PoissonSampledDpEvent(rate, events.GaussianDpEvent(sigma))
    accountant.compose(events.SelfComposedDpEvent(step, steps))


def _dp_accounting() -> Any:
    try:
        import dp_accounting
    except ImportError:
        raise MissingExtraError("train", "privacy accounting") from None
    return dp_accounting


def _opacus(
    kind: str, sigma: float, rate: float, steps: int, delta: float, relation: Relation
) -> float:
    try:
        from opacus import accountants
    except ImportError:
        raise MissingExtraError("dev", "comparing with Opacus' accountants") from None
    accountant = getattr(accountants, kind)()
    accountant.history = [(sigma, rate, steps)]
    return float(accountant.get_epsilon(delta))
