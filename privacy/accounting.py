"""What a mechanism costs: ε from Google's privacy loss distributions.

PLD is exact to about 1e-5 here. Opacus' "GDP" accountant is a central-limit approximation that
under-reports ε and is deliberately not offered.
"""

from __future__ import annotations

import functools

from ..shared.errors import MissingExtraError, PrivacyError

__all__ = ["epsilon_of_dp_sgd"]


@functools.cache
def epsilon_of_dp_sgd(
    *, noise_multiplier: float, sampling_rate: float, steps: int, delta: float
) -> float:
    """ε of DP-SGD with Poisson sampling, add-or-remove-one-record neighbours.

    Args:
        noise_multiplier: noise standard deviation over clipping norm.
        sampling_rate: probability with which each record enters a step.
        steps: number of steps.
        delta: the δ at which ε is stated.

    Raises:
        PrivacyError: a parameter for which no finite claim can be made.
        MissingExtraError: dp-accounting is not installed.
    """
    if not (noise_multiplier > 0 and 0 < sampling_rate <= 1 and steps >= 0 and 0 < delta < 1):
        raise PrivacyError(
            "no ε can be claimed for noise_multiplier="
            f"{noise_multiplier}, sampling_rate={sampling_rate}, steps={steps}, delta={delta}"
        )
    try:
        from dp_accounting import (
            GaussianDpEvent,
            NeighboringRelation,
            PoissonSampledDpEvent,
            SelfComposedDpEvent,
        )
        from dp_accounting.pld import PLDAccountant
    except ImportError:
        raise MissingExtraError("train", "privacy accounting") from None
    if steps == 0:
        return 0.0
    accountant = PLDAccountant(NeighboringRelation.ADD_OR_REMOVE_ONE)
    step = PoissonSampledDpEvent(sampling_rate, GaussianDpEvent(noise_multiplier))
    accountant.compose(SelfComposedDpEvent(step, steps))
    return float(accountant.get_epsilon(delta))
