"""How many samples fit in a memory budget.

A private step is a sum over samples, so cutting a batch into micro-batches changes nothing but
memory and a little time. What a pass holds for its backward half is counted on one and on two
samples; it grows by the same amount with each further one.
"""

from __future__ import annotations

import re

import torch

from ...shared.errors import BadInputError
from .branches import Pass, attached
from .cohort import Batch, Cohort

__all__ = ["parse_bytes", "samples_within"]

_UNITS = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "Ki": 2**10, "Mi": 2**20, "Gi": 2**30}
# Above what is held: values that live inside one layer only, and the allocator's gaps.
_HEADROOM = 1.5


def parse_bytes(size: int | str) -> int:
    """Bytes of ``600_000_000``, ``"600MB"`` or ``"1.5GiB"``.

    Raises:
        BadInputError: neither.
    """
    if isinstance(size, int) and size > 0:
        return size
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*(k|M|G|Ki|Mi|Gi|)B?\s*", str(size))
    if not found or not float(found[1]):
        raise BadInputError(f"a memory budget is bytes or like '600MB' or '2GiB', got {size!r}")
    return int(float(found[1]) * _UNITS[found[2]])


def samples_within(cohort: Cohort, longest: Batch, budget: int | str) -> int:
    """How many samples like ``longest`` a pass of the cohort can hold at once.

    Args:
        longest: one sample of the largest shape that will come.
        budget: bytes beyond the model's own, as :func:`parse_bytes` reads them.

    Raises:
        BadInputError: not even one sample fits.
    """
    allowed = parse_bytes(budget)
    one = _held(cohort, longest)
    both = _held(cohort, {name: torch.cat([value, value]) for name, value in longest.items()})
    each = both - one + 4 * cohort.dim
    fixed = max(0, 2 * one - both)
    fitting = int((allowed / _HEADROOM - fixed) // max(each, 1))
    if fitting < 1:
        raise BadInputError(
            f"memory_budget {budget} is below what one sample needs, about "
            f"{int((fixed + each) * _HEADROOM / 1e6) + 1}MB; shorten samples or raise it"
        )
    return fitting


def _held(cohort: Cohort, batch: Batch) -> int:
    """Bytes that a forward pass keeps for the backward pass, without the model's own."""
    own = {p.untyped_storage().data_ptr() for p in cohort.model.parameters()}
    held: dict[int, int] = {}

    def pack(value: torch.Tensor) -> torch.Tensor:
        storage = value.untyped_storage()
        if storage.data_ptr() not in own:
            held[storage.data_ptr()] = storage.nbytes()
        return value

    theta = cohort.start(1, torch.Generator().manual_seed(0)).to(cohort.device)
    values = {n: v.clone().requires_grad_() for n, v in cohort.unpack(theta).items()}
    batch = {name: value.to(cohort.device) for name, value in batch.items()}
    samples = len(next(iter(batch.values())))
    work = Pass(values, samples, samples, cohort.layouts, frozenset(cohort.slots))
    hooks = torch.autograd.graph.saved_tensors_hooks(pack, lambda value: value)
    with torch.enable_grad(), hooks, attached(cohort.model, cohort.chains, work):
        losses = cohort.objective(cohort.model, batch)  # kept alive: freed storages are reused
    del losses
    return sum(held.values())
