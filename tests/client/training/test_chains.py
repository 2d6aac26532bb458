"""Chains beside every kind of layer: what they are equal to, and what they refuse."""

from __future__ import annotations

import pytest

pytest.importorskip("torch", reason="needs the extra 'train'")
pytest.importorskip("diffusers", reason="the families are a development dependency")

import torch
from torch import nn

from locavore.client.training.branches import Pass, attached
from locavore.client.training.chains import Chain, lora, site_shape, token_rows
from locavore.client.training.cohort import Cohort
from locavore.shared.errors import AdapterError, BadInputError

from ...benchmarks.families import FAMILIES
from ...benchmarks.reference import sample_gradient, take

EMBEDDING = "model.embed_tokens"


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# --- a chain is a change of the layer's weight --------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (nn.Linear(6, 5), drawn(2, 3, 6)),
        (nn.Conv1d(3, 5, 3, padding=1), drawn(2, 3, 8)),
        (nn.Conv2d(3, 5, (3, 2), stride=2, dilation=(1, 2)), drawn(2, 3, 8, 9)),
        (nn.Conv3d(3, 5, (1, 3, 3), padding=(0, 1, 1)), drawn(2, 3, 2, 6, 6)),
        (nn.Embedding(7, 5), torch.tensor([[0, 3, 6], [1, 1, 2]])),
    ],
)
def test_a_lora_is_a_low_rank_change_of_the_weight(layer: nn.Module, x: torch.Tensor) -> None:
    model = nn.Sequential(layer).requires_grad_(False)
    rows, columns = site_shape(layer, "0")
    a, b = drawn(rows, 2, seed=1), drawn(2, columns, seed=2)
    with attached(model, {"0": Chain((a, b))}, Pass()):
        found = model(x)
    weight = layer.weight
    assert isinstance(weight, nn.Parameter)
    change = a @ b if isinstance(layer, nn.Embedding) else (a @ b).T
    weight.data += change.reshape(weight.shape)
    torch.testing.assert_close(found, model(x), atol=1e-5, rtol=1e-5)


def test_nothing_stays_attached() -> None:
    model, x = nn.Sequential(nn.Linear(4, 4)).requires_grad_(False), drawn(2, 4)
    before = model(x)
    with attached(model, {"0": Chain((drawn(4, 2), drawn(2, 4)))}, Pass()):
        assert not torch.equal(model(x), before)
    assert torch.equal(model(x), before)


# --- trained tokens -----------------------------------------------------------------------------


def test_a_trained_token_starts_as_another_and_moves_by_its_row() -> None:
    family = FAMILIES["llama"]
    model = family.model()
    embedding = model.get_submodule(EMBEDDING)
    assert isinstance(embedding, nn.Embedding)
    chains = token_rows(model, EMBEDDING, {96: 5, 7: 7})
    (slot,) = chains[EMBEDDING].slots
    rows = drawn(1, 2, 16)
    ids = torch.tensor([[3, 96, 7, 8]])
    with attached(model, chains, Pass({slot.name: rows})):
        found = embedding(ids)
    table = embedding.weight
    expected = torch.stack([table[3], table[5] + rows[0, 0], table[7] + rows[0, 1], table[8]])
    torch.testing.assert_close(found[0], expected)


@pytest.mark.parametrize("tokens", [{96: 5, 97: 6}, {3: 3, 4: 4, 90: 90}])
def test_gradients_of_trained_tokens_equal_a_loop(tokens: dict[int, int]) -> None:
    """A soft prompt (tokens beyond the vocabulary in front) and a textual inversion."""
    family = FAMILIES["llama"]
    model = family.model()
    chains = token_rows(model, EMBEDDING, tokens)

    def batch(count: int, seed: int) -> dict[str, torch.Tensor]:
        drawn = family.batch(count, torch.Generator().manual_seed(seed))
        prompt = torch.tensor(list(tokens)).expand(count, -1)
        return {
            "ids": torch.cat([prompt, drawn["ids"]], 1),
            "mask": torch.cat([torch.ones_like(prompt), drawn["mask"]], 1),
        }

    def losses(model: nn.Module, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """The family's, whose labels may not lie beyond the vocabulary."""
        out = model(input_ids=batch["ids"], attention_mask=batch["mask"], use_cache=False)
        labels = batch["ids"][:, 1:].clamp(max=95)
        token = nn.functional.cross_entropy(out.logits[:, :-1].mT, labels, reduction="none")
        return (token * batch["mask"][:, 1:]).mean(1)

    cohort = Cohort(model, chains, losses, batch(4, 1))  # type: ignore[arg-type]
    theta, four = 0.1 * drawn(2, cohort.dim, seed=3), batch(4, 2)
    found = cohort.gradients(theta, four)
    (part,) = found.parts.values()
    table = model.get_submodule(EMBEDDING)
    assert isinstance(table, nn.Embedding)
    for i in range(4):
        leaf = theta[i // 2].view(len(tokens), -1).clone().requires_grad_()
        one = take(four, [i])

        def swapped(
            module: nn.Module, args: object, out: object, ids: torch.Tensor, rows: torch.Tensor
        ) -> torch.Tensor:
            starts = ids.clone()
            for token, start in tokens.items():
                starts[ids == token] = start
            value = table.weight[starts]
            for row, token in enumerate(tokens):
                value = value + (ids == token)[..., None] * rows[row]
            return value

        known = {**one, "ids": one["ids"].clamp(max=95)}
        hook = table.register_forward_hook(
            lambda m, a, o, ids=one["ids"], rows=leaf: swapped(m, a, o, ids, rows)
        )
        (expected,) = torch.autograd.grad(losses(model, known).sum(), leaf)
        hook.remove()
        torch.testing.assert_close(part[i], expected, atol=1e-6, rtol=1e-4)


def test_a_core_between_public_directions_trains_alone() -> None:
    from locavore.client.training.chains import Slot

    family = FAMILIES["gpt2"]
    model = family.model()
    site = "transformer.h.1.mlp.c_fc"
    rows, columns = site_shape(model.get_submodule(site), site)
    chain = Chain((drawn(rows, 3, seed=1), Slot("core", (3, 3)), drawn(3, columns, seed=2)))
    cohort = Cohort(
        model, {site: chain}, family.losses, family.batch(4, torch.Generator().manual_seed(1))
    )
    assert cohort.dim == 9
    theta = drawn(1, 9, seed=3) * 0.1
    batch = family.batch(3, torch.Generator().manual_seed(4))
    found = cohort.gradients(theta, batch).parts["core"].flatten(1)
    for i in range(3):
        expected = sample_gradient(family, model, cohort.chains, theta[0], take(batch, [i]))
        torch.testing.assert_close(found[i], expected, atol=1e-7, rtol=1e-4)


# --- refusals -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.LayerNorm(4), "is LayerNorm; adapters go beside"),
        (nn.Conv2d(4, 4, 3, groups=2), "in 2 groups"),
        (nn.Conv2d(4, 4, 3, padding="same"), "needs zeros and numbers"),
        (nn.Conv2d(4, 4, 3, padding_mode="circular"), "needs zeros and numbers"),
    ],
)
def test_a_layer_that_cannot_carry_a_lora_is_named(layer: nn.Module, reason: str) -> None:
    with pytest.raises(AdapterError, match=f"site '0' .*{reason}"):
        lora(nn.Sequential(layer), ["0"], 2)


def test_a_layer_that_is_not_there_is_named() -> None:
    with pytest.raises(AdapterError, match=r"Sequential has no layer 'x\.y'"):
        lora(nn.Sequential(), ["x.y"], 2)


@pytest.mark.parametrize("tokens", [{}, {-1: 3}, {5: 99}, {5: -1}])
def test_tokens_without_a_place_are_refused(tokens: dict[int, int]) -> None:
    with pytest.raises(BadInputError, match=r"start within 0\.\.95"):
        token_rows(FAMILIES["llama"].model(), EMBEDDING, tokens)


def test_token_rows_need_an_embedding() -> None:
    with pytest.raises(AdapterError, match="'lm_head' is Linear"):
        token_rows(FAMILIES["llama"].model(), "lm_head", {1: 1})


def test_matrices_that_do_not_fit_are_refused() -> None:
    model = nn.Sequential(nn.Linear(4, 3))
    with (
        pytest.raises(
            AdapterError, match=r"site '0' is 4 x 3; the matrices \[\(4, 2\), \(3, 3\)\]"
        ),
        attached(model, {"0": Chain((drawn(4, 2), drawn(3, 3)))}, Pass()),
    ):
        pass
