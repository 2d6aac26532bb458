"""Chains at work: forward hooks that add ``x A ... B`` to a frozen layer's output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from .chains import Chain, Slot, require_fit, site_kind, site_module, site_shape
from .layout import BLOCKED, Layout, Rows
from .products import ConvProduct, LookupProduct, RowProduct, conv_out, row_product

__all__ = ["Pass", "attached"]


@dataclass
class Pass:
    """One forward and backward pass: the trained values, and the gradients that it leaves.

    Args:
        values: slot name to ``(K, m, n)`` float32.
        samples: of the batch, owner-major; 0 where no gradient is wanted per group.
        groups: gradients that are kept of each slot.
        layouts: of the sites; samples come first where none is given.
        active: slots whose gradients are wanted.
    """

    values: Mapping[str, torch.Tensor] = field(default_factory=dict)
    samples: int = 0
    groups: int = 0
    layouts: Mapping[str, Layout] = field(default_factory=dict)
    active: frozenset[str] = frozenset()
    found: dict[str, torch.Tensor] = field(default_factory=dict)

    def rows(self, site: str) -> Rows:
        """How the rows of a site are cut."""
        return Rows(self.layouts.get(site, BLOCKED), self.samples, self.groups)

    def keep(self, slot: str, gradient: torch.Tensor) -> None:
        """Add up the gradients of a slot that is used more than once."""
        self.found[slot] = self.found[slot] + gradient if slot in self.found else gradient


@contextmanager
def attached(model: nn.Module, chains: Mapping[str, Chain], work: Pass) -> Iterator[None]:
    """Put chains beside their layers for the duration of the block.

    Raises:
        AdapterError: a site does not exist or a chain does not fit it; nothing is attached then.
    """
    branches = {s: _Branch(s, site_module(model, s), chain, work) for s, chain in chains.items()}
    with ExitStack() as stack:
        for site, branch in branches.items():
            for handle in branch.hook(site_module(model, site)):
                stack.callback(handle.remove)
        yield


class _Branch:
    """One chain beside one layer."""

    def __init__(self, site: str, module: nn.Module, chain: Chain, work: Pass) -> None:
        require_fit(chain, site_shape(module, site), site)
        self.site, self.chain, self.work = site, chain, work
        self.kind = site_kind(module)
        self._rows: list[torch.Tensor] = []

    def hook(self, module: nn.Module) -> list[Any]:
        handles = [module.register_forward_hook(self._add, with_kwargs=True)]
        if self.chain.tokens:
            handles.append(module.register_forward_pre_hook(self._swap_tokens, with_kwargs=True))
        return handles

    def _add(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], out: torch.Tensor
    ) -> torch.Tensor:
        x: torch.Tensor = args[0] if args else next(iter(kwargs.values()))
        if self.work.samples:
            self._require_rows(x)
        value = self._first(module, x, out.dtype)
        for link in self.chain.links[1:]:
            last = link is self.chain.links[-1]
            # Wide products run in the base's precision, the few numbers between in float32.
            value = self._product(value.to(out.dtype) if last else value.float(), link)
        if self.kind == "conv":
            value = value.movedim(-1, 1)
        if self.kind == "embedding":  # Gemma and Bart scale what they look up
            value = value * getattr(module, "embed_scale", 1.0)
        return out + value.to(out.dtype)

    def _require_rows(self, x: torch.Tensor) -> None:
        if self.kind == "conv":
            count = len(x)
        else:
            count = x.numel() // (x.shape[-1] if self.kind == "linear" else 1)
        self.work.rows(self.site).require(count, self.site)

    def _first(self, module: nn.Module, x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        link, rows = self.chain.links[0], self.work.rows(self.site)
        if self.kind == "linear":
            return self._product(x, link)
        weight, live = self._value(link)
        if self.kind == "embedding":
            ids = self._rows.pop() if self.chain.tokens else x
            sink = self._sink(link) if live else _forget
            found: torch.Tensor = LookupProduct.apply(ids, weight, rows, sink)  # type: ignore[no-untyped-call]
            return found
        if live or len(weight) > 1:
            sink = self._sink(link) if live else _forget
            y = ConvProduct.apply(x, weight, rows, sink, module)  # type: ignore[no-untyped-call]
        else:
            y = conv_out(x, weight[0], module)
        moved: torch.Tensor = y.movedim(1, -1)
        return moved

    def _product(self, value: torch.Tensor, link: torch.Tensor | Slot) -> torch.Tensor:
        weight, live = self._value(link)
        rows = self.work.rows(self.site)
        if not live:
            return row_product(value, weight, rows)
        product: torch.Tensor = RowProduct.apply(value, weight, rows, self._sink(link))  # type: ignore[no-untyped-call]
        return product

    def _value(self, link: torch.Tensor | Slot) -> tuple[torch.Tensor, bool]:
        if isinstance(link, Slot):
            return self.work.values[link.name], link.name in self.work.active
        return link[None], False

    def _sink(self, link: torch.Tensor | Slot) -> Any:
        assert isinstance(link, Slot)
        return lambda gradient: self.work.keep(link.name, gradient)

    def _swap_tokens(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Give the layer the tokens that trained ones start from; remember which are trained."""
        ids: torch.Tensor = args[0] if args else next(iter(kwargs.values()))
        known, rows = ids.clone(), torch.full_like(ids, -1)
        for row, (token, start) in enumerate(self.chain.tokens.items()):
            known[ids == token], rows[ids == token] = start, row
        self._rows.append(rows)
        if args:
            return (known, *args[1:]), kwargs
        return (), {**kwargs, next(iter(kwargs)): known}


def _forget(_: torch.Tensor) -> None:
    """Take a gradient that nobody wants."""
