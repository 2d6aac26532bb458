"""Audits: what can be learned from what is released, against what is claimed of it."""

from .evidence import Estimate, LowerBound, Scores
from .gaussian import (
    cosine_bound,
    cosine_estimate,
    epsilon_of_mu,
    epsilon_of_two_gaussians,
    gaussian_bound,
    gaussian_estimate,
    mu_of_epsilon,
    reference_bound,
)
from .many_runs import rates_bound, threshold_bound
from .one_run import (
    guesses_for,
    guesses_for_gaussian,
    one_run_bound,
    one_run_gaussian_bound,
)

__all__ = [
    "Estimate",
    "LowerBound",
    "Scores",
    "cosine_bound",
    "cosine_estimate",
    "epsilon_of_mu",
    "epsilon_of_two_gaussians",
    "gaussian_bound",
    "gaussian_estimate",
    "guesses_for",
    "guesses_for_gaussian",
    "mu_of_epsilon",
    "one_run_bound",
    "one_run_gaussian_bound",
    "rates_bound",
    "reference_bound",
    "threshold_bound",
]
