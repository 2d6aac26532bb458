"""How a server makes one shared vector of the devices' updates."""

from .aggregation import Aggregation, Upload
from .optimizers import OPTIMIZERS, ServerOptimizer
from .policies import POLICIES, Policy, averaging, policy_named
from .refusals import require_possible
from .robust import ROBUST, RobustMean

__all__ = [
    "OPTIMIZERS",
    "POLICIES",
    "ROBUST",
    "Aggregation",
    "Policy",
    "RobustMean",
    "ServerOptimizer",
    "Upload",
    "averaging",
    "policy_named",
    "require_possible",
]
