"""One engine of private training: ``python -m tests.benchmarks.work.dp_step ENGINE SIZES``.

Every engine adapts the same random Llama at every linear layer of its blocks from the same start
and takes the same clipped step on the same batch, by the loss of every record. ``SIZES`` is a
JSON object, see :class:`Sizes`. A request ``{"step": true}`` is answered with the seconds of a
forward and backward pass and the clipped sum; ``{"save": PATH}`` writes that sum.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

__all__ = ["ENGINES", "Sizes"]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Of the model and the batch."""

    hidden: int = 512
    layers: int = 8
    inner: int = 1376
    vocabulary: int = 4096
    rank: int = 8
    batch: int = 16
    tokens: int = 128
    clip: float = 1.0


def _model(sizes: Sizes) -> nn.Module:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=sizes.vocabulary,
        hidden_size=sizes.hidden,
        intermediate_size=sizes.inner,
        num_hidden_layers=sizes.layers,
        num_attention_heads=8,
        num_key_value_heads=8,
        max_position_embeddings=sizes.tokens,
    )
    model: nn.Module = LlamaForCausalLM(config)
    return model.requires_grad_(False).eval()


def _sites(model: nn.Module) -> list[str]:
    return [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and "layers" in n]


def _start(model: nn.Module, rank: int) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Both factors of every site, neither of them zero."""
    generator = torch.Generator().manual_seed(1)
    found = {}
    for site in _sites(model):
        layer = model.get_submodule(site)
        assert isinstance(layer, nn.Linear)
        a = torch.randn(layer.in_features, rank, generator=generator) / layer.in_features**0.5
        b = torch.randn(rank, layer.out_features, generator=generator) * 0.01
        found[site] = (a, b)
    return found


def _ids(sizes: Sizes) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    shape = (sizes.batch, sizes.tokens)
    return torch.randint(sizes.vocabulary, shape, generator=generator)


def _losses(model: nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """Each record's own mean loss, ``(B,)``."""
    logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    token = nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
    return token.mean(1)


class _Peft:
    """What every engine but ours stands on: PEFT's layers with the common start."""

    def __init__(self, sizes: Sizes) -> None:
        from peft import LoraConfig, get_peft_model

        base = _model(sizes)
        start = _start(base, sizes.rank)
        config = LoraConfig(
            r=sizes.rank, lora_alpha=sizes.rank, lora_dropout=0.0, target_modules=_sites(base)
        )
        self.model: nn.Module = get_peft_model(base, config)
        self.model.eval()
        parameters = dict(self.model.named_parameters())
        self.trained = []
        for site, pair in start.items():
            for letter, value in zip("AB", pair, strict=True):
                found = parameters[f"base_model.model.{site}.lora_{letter}.default.weight"]
                found.data.copy_(value.T)
                self.trained.append(found)
        self.sizes, self.ids = sizes, _ids(sizes)

    def flat(self, parts: list[torch.Tensor]) -> np.ndarray[Any, Any]:
        """Parts shaped like PEFT's parameters, in the order of all engines."""
        return torch.cat([part.T.flatten() for part in parts]).double().numpy()


class NonPrivate(_Peft):
    """The floor: a plain step, nothing per record and nothing clipped."""

    def step(self) -> np.ndarray[Any, Any]:
        """The plain sum of the gradients."""
        for value in self.trained:
            value.grad = None
        _losses(self.model, self.ids).sum().backward()  # type: ignore[no-untyped-call]
        return self.flat([value.grad for value in self.trained if value.grad is not None])


class OpacusHooks(_Peft):
    """Opacus' per-sample gradients from hooks."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        from opacus.grad_sample import GradSampleModule

        self.model = GradSampleModule(self.model, loss_reduction="sum").train()

    def step(self) -> np.ndarray[Any, Any]:
        """Clip what Opacus left at every parameter."""
        for value in self.trained:
            value.grad = value.grad_sample = None
        _losses(self.model, self.ids).sum().backward()  # type: ignore[no-untyped-call]
        samples: list[torch.Tensor] = [value.grad_sample for value in self.trained]
        norms = torch.stack([s.flatten(1).norm(dim=1) for s in samples]).norm(dim=0)
        factors = (self.sizes.clip / norms).clamp(max=1.0)
        return self.flat([torch.einsum("b,b...->...", factors, s) for s in samples])


class OpacusGhost(_Peft):
    """Opacus' ghost clipping: norms in a first backward pass, gradients in a second."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__(sizes)
        from opacus.grad_sample import GradSampleModuleFastGradientClipping

        self.model = GradSampleModuleFastGradientClipping(
            self.model, loss_reduction="sum", max_grad_norm=sizes.clip, use_ghost_clipping=True
        ).train()

    def step(self) -> np.ndarray[Any, Any]:
        """Two backward passes through one forward pass."""
        for value in self.trained:
            value.grad = None
        losses = _losses(self.model, self.ids)
        losses.sum().backward(retain_graph=True)  # type: ignore[no-untyped-call]
        factors = self.model.get_clipping_coef()  # type: ignore[operator]
        for value in self.trained:
            value.grad = None
        self.model.disable_hooks()  # type: ignore[operator]
        (factors * losses).sum().backward()
        self.model.enable_hooks()  # type: ignore[operator]
        return self.flat([value.grad for value in self.trained if value.grad is not None])


class Ours:
    """The training core, with as many records at once as given."""

    at_once = 0

    def __init__(self, sizes: Sizes) -> None:
        from locavore.client.training.chains import lora
        from locavore.client.training.cohort import Cohort

        model = _model(sizes)
        start = _start(model, sizes.rank)
        probe = {"ids": torch.arange(4 * 8).view(4, 8)}
        self.cohort = Cohort(
            model,
            lora(model, _sites(model), sizes.rank),
            lambda model, batch: _losses(model, batch["ids"]),
            probe,
        )
        self.theta = torch.cat([x.flatten() for pair in start.values() for x in pair])[None]
        self.sizes, self.ids = sizes, _ids(sizes)

    def step(self) -> np.ndarray[Any, Any]:
        """Clip and add up, part by part."""
        total = torch.zeros(1, self.cohort.dim, dtype=torch.float64)
        for ids in self.ids.split(self.at_once or len(self.ids)):  # type: ignore[no-untyped-call]
            gradients = self.cohort.gradients(self.theta, {"ids": ids})
            factors = (self.sizes.clip / gradients.norms()).clamp(max=1.0)
            total += gradients.sums(factors, 1)
            del gradients  # or they would live on beside the next part's activations
        return total[0].numpy()


class OursMicro(Ours):
    """Ours, four records at once."""

    at_once = 4


ENGINES: dict[str, Any] = {
    "non-private": NonPrivate,
    "ours": Ours,
    "ours, 4 at once": OursMicro,
    "opacus hooks": OpacusHooks,
    "opacus ghost": OpacusGhost,
}


def main(name: str, sizes: Sizes) -> None:
    """Answer requests until there are no more."""
    torch.set_num_threads(1)
    engine = ENGINES[name](sizes)
    update = np.zeros(0)
    print(json.dumps({"engine": name}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        begun = time.perf_counter()
        if request.get("step"):
            update = engine.step()
        seconds = time.perf_counter() - begun
        if "save" in request:
            np.save(request["save"], update)
        print(json.dumps({"seconds": seconds}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Sizes(**json.loads(sys.argv[2])))
