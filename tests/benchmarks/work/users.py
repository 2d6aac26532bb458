"""A thousand users of a frozen model: what every engine of ``simulation`` trains alike.

Needs torch, and transformers for the Llama; nothing of locavore, so that peers in environments of
their own can import it.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

__all__ = ["BATCH", "LEARNING_RATE", "MODELS", "QUICK", "Sizes", "adapt", "frozen", "samples"]

LEARNING_RATE, BATCH = 0.1, 10


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Of a federation."""

    users: int = 1000
    cohort: int = 50
    samples: int = 50
    rounds: int = 4
    rank: int = 8


QUICK = Sizes(users=12, cohort=4, samples=20, rounds=2, rank=2)

Batch = Mapping[str, torch.Tensor]


def _perceptron(quick: bool) -> nn.Module:
    widths = (20, 16, 10) if quick else (784, 560, 560, 200, 10)
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def _perceptron_data(model: nn.Module, count: int, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first = next(model.children())
    assert isinstance(first, nn.Linear)
    return {
        "x": torch.randn(count, first.in_features, generator=generator),
        "y": torch.randint(10, (count,), generator=generator),
    }


def _perceptron_losses(model: nn.Module, batch: Batch) -> torch.Tensor:
    return nn.functional.cross_entropy(model(batch["x"]), batch["y"], reduction="none")


def _llama(quick: bool) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    width = 16 if quick else 64
    made: nn.Module = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=512,
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
        )
    )
    return made


def _llama_data(model: nn.Module, count: int, seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {"ids": torch.randint(512, (count, 16), generator=generator)}


def _llama_losses(model: nn.Module, batch: Batch) -> torch.Tensor:
    logits = model(input_ids=batch["ids"], use_cache=False).logits[:, :-1]
    token = nn.functional.cross_entropy(logits.mT, batch["ids"][:, 1:], reduction="none")
    return token.mean(1)


@dataclass(frozen=True)
class Kind:
    """A model, its users' data and its loss per sample."""

    build: Callable[[bool], nn.Module]
    data: Callable[[nn.Module, int, int], dict[str, torch.Tensor]]
    losses: Callable[[Any, Batch], torch.Tensor]


MODELS = {
    "perceptron": Kind(_perceptron, _perceptron_data, _perceptron_losses),
    "llama": Kind(_llama, _llama_data, _llama_losses),
}


def frozen(name: str, quick: bool) -> tuple[nn.Module, list[str]]:
    """The model, always with the same weights, and the layers that carry adapters."""
    torch.manual_seed(0)
    model = MODELS[name].build(quick).requires_grad_(False).eval()
    sites = [n for n, m in model.named_modules() if isinstance(m, nn.Linear)]
    return model, [site for site in sites if site != "lm_head"]


def samples(name: str, model: nn.Module, user: int, count: int) -> dict[str, torch.Tensor]:
    """A user's samples."""
    return MODELS[name].data(model, count, 1000 + user)


def adapt(model: nn.Module, factors: Mapping[str, tuple[torch.Tensor, torch.Tensor]]) -> list[Any]:
    """Add ``x A B`` at every site, as anybody would write it; returns the hooks to remove."""
    return [
        model.get_submodule(site).register_forward_hook(functools.partial(_add, a, b))
        for site, (a, b) in factors.items()
    ]


def _add(a: torch.Tensor, b: torch.Tensor, module: nn.Module, args: Any, out: Any) -> Any:
    return out + args[0] @ a @ b
