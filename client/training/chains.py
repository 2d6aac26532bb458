"""What stands beside a frozen layer: a chain of small matrices, some trained, some public.

``A B`` is a LoRA, ``A R B`` with a trained ``R`` in public directions is a core (LoRA-XS), a
single matrix looked up by token is a textual inversion or a soft prompt.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from ...shared.errors import AdapterError, BadInputError

__all__ = [
    "Chain",
    "Kind",
    "Slot",
    "lora",
    "require_fit",
    "site_kind",
    "site_module",
    "site_shape",
    "token_rows",
]

Kind = Literal["linear", "conv", "embedding"]


@dataclass(frozen=True)
class Slot:
    """A trained matrix: its name in the adapter, its shape, and how it starts."""

    name: str
    shape: tuple[int, int]
    start: Literal["zero", "uniform"] = "zero"


@dataclass(frozen=True)
class Chain:
    """The matrices that a layer's input meets, in order.

    Args:
        links: trained slots and frozen ``(m, n)`` tensors.
        tokens: of a single-link chain beside an embedding: trained token to the token whose
            embedding it starts from. A trained token may lie beyond the vocabulary.
    """

    links: tuple[torch.Tensor | Slot, ...]
    tokens: Mapping[int, int] = field(default_factory=dict)

    @property
    def slots(self) -> tuple[Slot, ...]:
        """The trained links."""
        return tuple(link for link in self.links if isinstance(link, Slot))


def lora(model: nn.Module, sites: Sequence[str], rank: int) -> dict[str, Chain]:
    """A LoRA of ``rank`` at every site, with ``A`` and ``B`` trained (arXiv:2106.09685).

    The slots are called ``SITE.A`` ``(in, rank)`` and ``SITE.B`` ``(rank, out)``. A convolution's
    ``in`` counts channels times kernel positions; an embedding's is the vocabulary.

    Raises:
        AdapterError: a site does not exist or cannot carry a LoRA.
        BadInputError: the rank is not between 1 and the layer's width.
    """
    chains = {}
    for site in sites:
        rows, columns = site_shape(site_module(model, site), site)
        if not 1 <= rank <= min(rows, columns):
            raise BadInputError(
                f"rank must be 1..{min(rows, columns)} at site {site!r} ({rows} x {columns}), "
                f"got {rank}"
            )
        down = Slot(f"{site}.A", (rows, rank), "uniform")
        chains[site] = Chain((down, Slot(f"{site}.B", (rank, columns))))
    return chains


def token_rows(model: nn.Module, site: str, tokens: Mapping[int, int]) -> dict[str, Chain]:
    """Trained embeddings of single tokens: textual inversion (arXiv:2208.01618), soft prompts.

    Args:
        site: name of the embedding.
        tokens: trained token to the token whose embedding it starts from. A soft prompt of n
            vectors is n tokens beyond the vocabulary in front of the text (arXiv:2104.08691).

    Raises:
        AdapterError: the site is no embedding.
        BadInputError: there are no tokens, or a start lies outside the vocabulary.
    """
    module = site_module(model, site)
    if site_kind(module) != "embedding":
        raise AdapterError(f"token rows need an embedding, {site!r} is {type(module).__name__}")
    size, width = site_shape(module, site)
    outside = [start for start in tokens.values() if not 0 <= start < size]
    if not tokens or outside or min(tokens) < 0:
        raise BadInputError(
            f"tokens must be at least one, not negative, and start within 0..{size - 1}, "
            f"got {dict(tokens)}"
        )
    return {site: Chain((Slot(f"{site}.rows", (len(tokens), width)),), dict(tokens))}


def site_module(model: nn.Module, site: str) -> nn.Module:
    """The layer called ``site``.

    Raises:
        AdapterError: there is none.
    """
    try:
        return model.get_submodule(site)
    except AttributeError:
        raise AdapterError(f"{type(model).__name__} has no layer {site!r}") from None


def site_kind(module: nn.Module) -> Kind | None:
    """How a layer meets its input; None where it cannot carry a chain."""
    if isinstance(module, nn.Linear | Conv1D):
        return "linear"
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return "conv"
    return "embedding" if isinstance(module, nn.Embedding) else None


def site_shape(module: nn.Module, site: str) -> tuple[int, int]:
    """``(in, out)`` of a layer.

    Raises:
        AdapterError: the layer is of a kind that cannot carry a chain.
    """
    if isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        _require_plain(module, site)
        return module.in_channels * math.prod(module.kernel_size), module.out_channels
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if isinstance(module, Conv1D):
        return int(module.weight.shape[0]), int(module.weight.shape[1])
    if isinstance(module, nn.Embedding):
        return module.num_embeddings, module.embedding_dim
    raise AdapterError(
        f"site {site!r} is {type(module).__name__}; adapters go beside Linear, Conv1D, Conv1d, "
        "Conv2d, Conv3d and Embedding layers"
    )


def require_fit(chain: Chain, shape: tuple[int, int], site: str) -> None:
    """Refuse a chain that does not lead from a layer's input to its output.

    Raises:
        AdapterError: naming the site and both shapes.
    """
    matrices = [tuple(link.shape) for link in chain.links]
    given = [len(chain.tokens) or shape[0], *(columns for _, columns in matrices)]
    taken = [*(rows for rows, _ in matrices), shape[1]]
    if given != taken:
        raise AdapterError(
            f"site {site!r} is {shape[0]} x {shape[1]}; the matrices {matrices} do not lead from "
            "one to the other"
        )


def _require_plain(module: nn.Conv1d | nn.Conv2d | nn.Conv3d, site: str) -> None:
    if module.groups != 1:
        raise AdapterError(f"site {site!r} is a convolution in {module.groups} groups, need 1")
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        raise AdapterError(
            f"site {site!r} pads with {module.padding_mode!r} and {module.padding!r}; a "
            "convolution needs zeros and numbers"
        )
