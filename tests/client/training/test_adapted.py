"""Branches beside frozen layers."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'train'")

import torch

from locavore.client.training.adapted import AdaptedTwin, Branch, PerRecordProduct
from locavore.shared.adapters import Adapter, compose
from locavore.shared.errors import AdapterError

SITE = "model.layers.0.self_attn.q_proj"
IDS = torch.tensor([[0, 70, 71, 300]])


def adapter(base_id: str, seed: int) -> Adapter:
    rng = np.random.default_rng(seed)
    pair = (
        rng.standard_normal((64, 2)).astype(np.float32),
        rng.standard_normal((2, 64)).astype(np.float32) * np.float32(0.2),
    )
    return Adapter(base_id, {SITE: pair})


def test_the_product_and_both_gradients() -> None:
    generator = torch.Generator().manual_seed(0)
    u = torch.randn(3, 5, 4, generator=generator, requires_grad=True)
    weight = torch.randn(4, 2, generator=generator, requires_grad=True)
    up = torch.randn(3, 5, 2, generator=generator)
    sink: list[torch.Tensor] = []
    y = PerRecordProduct.apply(u, weight.detach(), sink)  # type: ignore[no-untyped-call]
    (found_u,) = torch.autograd.grad((y * up).sum(), u)
    expected_u, expected_w = torch.autograd.grad(((u @ weight) * up).sum(), (u, weight))
    torch.testing.assert_close(y, u @ weight)
    torch.testing.assert_close(found_u, expected_u)
    assert sink[0].shape == (3, 4, 2)
    torch.testing.assert_close(sink[0].sum(0), expected_w)
    alone = torch.autograd.grad(((u[1:2] @ weight) * up[1:2]).sum(), weight)[0]
    torch.testing.assert_close(sink[0][1], alone)


def test_nested_branches_add_up_like_composed_adapters(twin: AdaptedTwin) -> None:
    one, two = adapter(twin.base_id, 1), adapter(twin.base_id, 2)
    with torch.no_grad():
        with twin.branches(twin.frozen(one)), twin.branches(twin.frozen(two)):
            nested = twin.model(input_ids=IDS).logits
        with twin.branches(twin.frozen(compose(one, two))):
            composed = twin.model(input_ids=IDS).logits
        bare = twin.model(input_ids=IDS).logits
    torch.testing.assert_close(nested, composed, atol=1e-4, rtol=1e-4)
    assert (nested - bare).abs().max() > 0.01


def test_the_inner_branch_goes_and_the_outer_stays(twin: AdaptedTwin) -> None:
    one, two = adapter(twin.base_id, 1), adapter(twin.base_id, 2)
    with torch.no_grad(), twin.branches(twin.frozen(one)):
        before = twin.model(input_ids=IDS).logits
        with twin.branches(twin.frozen(two)):
            pass
        assert torch.equal(twin.model(input_ids=IDS).logits, before)


@pytest.mark.parametrize("site", ["model.norm", "model.layers.7.mlp.up_proj", "nowhere"])
def test_only_linear_layers_take_branches(site: str, twin: AdaptedTwin) -> None:
    branch = Branch(torch.zeros(64, 1), torch.zeros(1, 64))
    with (
        pytest.raises(AdapterError, match=f"no linear layer at '{site}'"),
        twin.branches({site: branch}),
    ):
        pass


def test_another_base_is_refused(twin: AdaptedTwin) -> None:
    with pytest.raises(AdapterError, match="belongs to base 'other'"):
        twin.frozen(adapter("other", 1))


def test_branches_compute_in_float32_beside_half_weights(twin: AdaptedTwin) -> None:
    from locavore.shared.twin import cast_weights

    cast_weights(twin.model, torch.bfloat16)
    branch = Branch(torch.full((64, 1), 1e-3), torch.full((1, 64), 1e-3))
    with torch.no_grad(), twin.branches({SITE: branch}):
        found = twin.site(SITE)(torch.ones(1, 1, 64, dtype=torch.bfloat16))
    assert found.dtype == torch.bfloat16
