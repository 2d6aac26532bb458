"""Public directions for the shared adapter, from gradients on public examples.

At every site the gradient of the loss on public examples, ``G (in, out)``, is accumulated on the
base; its leading singular vectors are the directions in which the base most wants to move, and
become ``A`` and ``B``. Under differential privacy only a handful of parameters per layer can be
trained, and random directions would spend them badly (LoRA-SB, arXiv:2411.19557, initialises
from gradients for the same reason).

Both factors are scaled so that the gradient of one public example with respect to a site's core
has a root-mean-square norm of one at every site: one clipping norm and one learning rate then
fit all layers, and no layer drowns in the noise of another. No private data is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import nn
from transformers import PreTrainedModel

from ..shared.adapters import Array
from ..shared.errors import BadInputError, TrainingError
from ..shared.forms import Directions
from ..shared.image_networks import DiffusionTwin
from ..shared.sampler_config import SamplerConfig, alphas_cumprod

__all__ = ["Denoising", "denoising_loss", "language_loss", "public_directions", "tokens_of"]

_BATCH = 8
_SCALE_EXAMPLES = 16  # enough for a root-mean-square per site


Example = TypeVar("Example")
Loss = Callable[[Sequence[Example]], torch.Tensor]
"""The sum of some examples' losses."""


def public_directions(
    model: nn.Module,
    sites: Sequence[str],
    examples: Sequence[Example],
    loss: Loss[Example],
    *,
    rank: int,
    progress: Callable[[float], None] = lambda _: None,
) -> Directions:
    """Compute directions of ``rank`` at every site.

    Args:
        model: the frozen base.
        sites: names of linear layers.
        examples: public ones.
        loss: through ``model``, such as :func:`language_loss` or :func:`denoising_loss`.
        rank: how many directions per site.
        progress: told the share that is done, 0..1.

    Raises:
        BadInputError: no example, or one that the loss refuses.
        TrainingError: a gradient is not finite.
    """
    if not examples:
        raise BadInputError("public directions need at least one public example")
    layers = {site: model.get_submodule(site) for site in sites}
    totals = {
        site: torch.zeros_like(layer.get_parameter("weight").T, dtype=torch.float32)
        for site, layer in layers.items()
    }

    def accumulate(site: str, x: torch.Tensor, grad: torch.Tensor) -> None:
        totals[site] -= (x.flatten(0, 1).T @ grad.flatten(0, 1)).float()

    _backward(layers, examples, loss, accumulate, lambda done: progress(0.75 * done))
    factors = {site: _leading(site, total, rank) for site, total in totals.items()}
    squares = dict.fromkeys(layers, 0.0)

    def measure(site: str, x: torch.Tensor, grad: torch.Tensor) -> None:
        a, b = factors[site]
        core = torch.einsum("bti,btj->bij", x.float() @ a, grad.float() @ b.T)
        squares[site] += float(core.square().sum())

    sample = examples[:_SCALE_EXAMPLES]
    _backward(layers, sample, loss, measure, lambda done: progress(0.75 + done / 4))
    return Directions(
        {site: _scaled(*factors[site], (squares[site] / len(sample)) ** 0.5) for site in layers}
    )


def _leading(site: str, total: torch.Tensor, rank: int) -> tuple[torch.Tensor, torch.Tensor]:
    if not torch.isfinite(total).all():
        raise TrainingError(f"the public gradient at {site!r} is not finite")
    generator_state = torch.random.get_rng_state()
    torch.manual_seed(0)  # svd_lowrank draws from the global generator only
    u, _, v = torch.svd_lowrank(total, q=min(rank + 6, *total.shape))
    torch.random.set_rng_state(generator_state)
    return u[:, :rank].contiguous(), v[:, :rank].T.contiguous()


def _scaled(a: torch.Tensor, b: torch.Tensor, rms: float) -> tuple[Array, Array]:
    scale = max(rms, 1e-12) ** -0.5
    return (a * scale).numpy(), (b * scale).numpy()


Visit = Callable[[str, torch.Tensor, torch.Tensor], None]


def _backward(
    layers: Mapping[str, nn.Module],
    examples: Sequence[Example],
    loss: Loss[Example],
    visit: Visit,
    progress: Callable[[float], None],
) -> None:
    """Visit every site's input and output gradient of the summed losses."""
    hooks = [layer.register_forward_hook(_hook(site, visit)) for site, layer in layers.items()]
    try:
        for start in range(0, len(examples), _BATCH):
            loss(examples[start : start + _BATCH]).backward()  # type: ignore[no-untyped-call]
            progress(min(1.0, (start + _BATCH) / len(examples)))
    finally:
        for hook in hooks:
            hook.remove()


def _hook(
    site: str, visit: Visit
) -> Callable[[nn.Module, tuple[torch.Tensor, ...], torch.Tensor], None]:
    def forward(_: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        x = inputs[0].detach()
        if not output.requires_grad:  # the weights are frozen: gradients begin at the first site
            output.requires_grad_()
        output.register_hook(lambda grad: visit(site, x, grad))  # type: ignore[no-untyped-call]

    return forward


def language_loss(model: PreTrainedModel) -> Loss[Sequence[int]]:
    """The summed mean next-token losses of texts as token ids, of two or more each."""

    def loss(texts: Sequence[Sequence[int]]) -> torch.Tensor:
        if min(map(len, texts)) < 2:
            raise BadInputError("public directions need texts of at least two tokens")
        longest = max(map(len, texts))
        ids = torch.tensor([[*t, *[0] * (longest - len(t))] for t in texts])
        mask = torch.tensor([[1] * len(t) + [0] * (longest - len(t)) for t in texts])
        logits = model(input_ids=ids, attention_mask=mask, use_cache=False).logits
        losses = nn.functional.cross_entropy(
            logits[:, :-1].float().transpose(1, 2), ids[:, 1:], reduction="none"
        )  # (B, T - 1)
        real = mask[:, 1:]
        total: torch.Tensor = ((losses * real).sum(1) / real.sum(1)).sum()
        return total

    return loss


@dataclass(frozen=True)
class Denoising:
    """A public picture with noise in it: latents and noise ``(C, H, W)``, ids ``(T,)``, 0..1.

    And image tokens ``(n, D)`` to look at, where the base takes them.
    """

    clean: torch.Tensor
    noise: torch.Tensor
    ids: torch.Tensor
    time: float
    looks: torch.Tensor | None = None


def denoising_loss(
    twin: DiffusionTwin, sampler: SamplerConfig, conditions: torch.Tensor
) -> Loss[Denoising]:
    """The summed mean squared errors of what a twin predicts.

    Sources: Ho et al., arXiv:2006.11239, Equation 14, for the noise; Salimans and Ho,
    arXiv:2202.00512, Appendix D, for ``v``; Lipman et al., arXiv:2210.02747, for flows.

    Args:
        twin: the frozen base.
        sampler: its schedule and what it predicts.
        conditions: ``(K, H, W)``, the channels behind the latents, the same for all.
    """
    flow = sampler.kind == "flow"
    kept = None if flow else torch.from_numpy(alphas_cumprod(sampler))

    def loss(examples: Sequence[Denoising]) -> torch.Tensor:
        clean, noise, ids = (
            torch.stack([getattr(e, name) for e in examples]) for name in ("clean", "noise", "ids")
        )
        time = torch.tensor([e.time for e in examples])
        if kept is None:
            alpha, sigma, told = 1 - time, time, time * sampler.train_steps
        else:
            told = (time * sampler.train_steps).long()
            alpha, sigma = kept[told].sqrt(), (1 - kept[told]).sqrt()
        alpha, sigma = (x[:, None, None, None] for x in (alpha, sigma))
        noisy = alpha * clean + sigma * noise
        given = torch.cat([noisy, conditions.expand(len(noisy), -1, -1, -1)], 1)
        looks = [e.looks for e in examples if e.looks is not None]
        shown = {"image_tokens": torch.stack(looks)} if looks else {}
        found = twin(given, told.float(), ids, **shown).float()
        wanted = {
            "flow": lambda: noise - clean,
            "v": lambda: alpha * noise - sigma * clean,
            "epsilon": lambda: noise,
        }[sampler.prediction]()
        total: torch.Tensor = (found - wanted).square().flatten(1).mean(1).sum()
        return total

    return loss


def tokens_of(encode: Callable[[str], Iterable[int]], texts: Sequence[str]) -> list[list[int]]:
    """Token ids of public texts, at most 96 tokens each."""
    return [list(encode(text))[:96] for text in texts]
