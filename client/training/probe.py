"""Find which rows of every site belong to which sample, by changing one sample at a time.

Sample i is replaced by another one; the rows of a site's input that change are sample i's. Three
things end the attempt, each by name: a row that two samples change (batch normalization, routing,
attention across samples), rows that no cut into samples explains, and a loss that another sample
changes (a mean over the batch).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ...shared.errors import BadInputError, TrainingError
from .chains import site_kind, site_module
from .layout import Layout

if TYPE_CHECKING:
    from .cohort import Batch, Objective

__all__ = ["probe_layouts"]

_Seen = dict[str, list[torch.Tensor]]


def probe_layouts(
    model: nn.Module, sites: Iterable[str], objective: Objective, batch: Batch
) -> dict[str, Layout]:
    """The layout of every site.

    Args:
        batch: three or more samples that differ everywhere; the last one stands in for others.

    Raises:
        BadInputError: fewer than three samples, or two of them are the same.
        TrainingError: samples mix, naming the site or the loss.
    """
    names = list(sites)
    _require_eval_norms(model)
    count = len(next(iter(batch.values()))) - 1
    if count < 2:
        raise BadInputError(f"a probe needs at least 3 samples, got {count + 1}")
    order = torch.arange(count, device=next(iter(batch.values())).device)
    losses, seen = _look(model, names, objective, batch, order)
    again, seen_again = _look(model, names, objective, batch, order)
    quiet = not any(call.any() for s in names for call in _moved(seen, seen_again, s))
    if not (quiet and _same(losses, again)):
        raise TrainingError(
            "two passes over the same batch differ: switch dropout off with model.eval() and "
            "draw noise beforehand, so that it stands in the batch"
        )
    moved: dict[str, list[list[torch.Tensor]]] = {site: [] for site in names}
    others = []
    for i in range(count):
        swapped = order.clone()
        swapped[i] = count
        other, found = _look(model, names, objective, batch, swapped)
        others.append(other)
        for site in names:
            moved[site].append(_moved(seen, found, site))
    layouts = {site: _layout(site, rows, count) for site, rows in moved.items()}
    for i, other in enumerate(others):
        _require_own_loss(losses, other, i)
    return layouts


def _look(
    model: nn.Module, sites: list[str], objective: Objective, batch: Batch, order: torch.Tensor
) -> tuple[torch.Tensor, _Seen]:
    with _inputs(model, sites) as seen:
        losses = objective(model, {name: value[order] for name, value in batch.items()})
    if losses.shape != order.shape:
        raise TrainingError(
            f"the objective must give one loss a sample, {tuple(order.shape)}, got "
            f"{tuple(losses.shape)}"
        )
    unused = [site for site in sites if site not in seen]
    if unused:
        raise TrainingError(
            f"site {unused[0]!r} took no part in the forward pass: the model bypasses that layer"
        )
    return losses.detach(), seen


@contextmanager
def _inputs(model: nn.Module, sites: list[str]) -> Iterator[_Seen]:
    """Collect each site's input as rows ``(N, ...)``, once a call."""
    seen: _Seen = {}
    with ExitStack() as stack:
        for site in sites:
            module = site_module(model, site)

            def keep(
                module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], site: str = site
            ) -> None:
                x: torch.Tensor = args[0] if args else next(iter(kwargs.values()))
                seen.setdefault(site, []).append(_as_rows(x.detach(), module).clone())

            handle = module.register_forward_pre_hook(keep, with_kwargs=True)
            stack.callback(handle.remove)
        yield seen


def _as_rows(x: torch.Tensor, module: nn.Module) -> torch.Tensor:
    kind = site_kind(module)
    if kind == "conv":
        return x.flatten(1)
    return x.reshape(-1, 1) if kind == "embedding" else x.reshape(-1, x.shape[-1])


def _moved(before: _Seen, after: _Seen, site: str) -> list[torch.Tensor]:
    """Which rows differ in each call of a site, ``(N,)`` bool."""
    if [len(x) for x in before[site]] != [len(x) for x in after[site]]:
        raise TrainingError(
            f"site {site!r} sees rows that depend on the data (as an expert in a mixture does); "
            "its gradients cannot be told apart by sample"
        )
    return [~_equal(x, y).all(1) for x, y in zip(before[site], after[site], strict=True)]


def _equal(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    return (x == y) | (x.isnan() & y.isnan()) if x.is_floating_point() else x == y


def _same(x: torch.Tensor, y: torch.Tensor) -> bool:
    return bool(_equal(x, y).all())


def _require_own_loss(losses: torch.Tensor, other: torch.Tensor, i: int) -> None:
    changed = ~_equal(losses, other)
    if not changed[i]:
        raise BadInputError(f"sample {i} of the probe and its stand-in give the same loss")
    changed[i] = False
    if changed.any():
        raise TrainingError(
            f"the loss of sample {int(changed.nonzero()[0])} changes with sample {i}: samples mix "
            "in the model, or the loss is a mean over the batch instead of one per sample"
        )


def _layout(site: str, moved: list[list[torch.Tensor]], samples: int) -> Layout:
    """From the rows that each sample moved in each call of the site."""
    calls = [_layout_of_call(site, torch.stack(call), samples) for call in zip(*moved, strict=True)]
    if len({call.outer for call in calls}) > 1 or (len(set(calls)) > 1 and not calls[0].blocked):
        raise TrainingError(f"site {site!r} is called several times with rows in different orders")
    return calls[0]


def _layout_of_call(site: str, moved: torch.Tensor, samples: int) -> Layout:
    shared = (moved.sum(0) > 1).nonzero()
    if len(shared):
        raise TrainingError(
            f"site {site!r} mixes samples: its row {int(shared[0])} changes with more than one"
        )
    rows = moved.shape[1]
    known = moved.any(0)
    owner = moved.int().argmax(0)
    fits = [] if rows % samples or not moved.any(1).all() else _fits(owner, known, samples)
    if len(fits) != 1:
        raise TrainingError(
            f"site {site!r} has {rows} rows for {samples} samples, of which {int(known.sum())} "
            f"follow a sample: {'more than one cut' if fits else 'no cut'} into samples explains "
            "them; probe with samples that differ in every input, or leave the site out"
        )
    return Layout(fits[0], rows // samples)


def _fits(owner: torch.Tensor, known: torch.Tensor, samples: int) -> list[int]:
    """Every ``outer`` for which rows lie as ``(outer, samples, inner)``."""
    per_sample = len(owner) // samples
    row = torch.arange(len(owner), device=owner.device)
    return [
        outer
        for outer in range(1, per_sample + 1)
        if per_sample % outer == 0
        and bool(((row // (per_sample // outer) % samples) == owner)[known].all())
    ]


def _require_eval_norms(model: nn.Module) -> None:
    """Refuse batch normalization that would learn from the probe, before it does."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.training:
            raise TrainingError(
                f"{name!r} ({type(module).__name__}) mixes samples; call model.eval() or use a "
                "model with another normalization"
            )
