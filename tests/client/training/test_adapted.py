"""Branches beside frozen layers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'train'")

import torch

from locavore.client.training.text import TextTwin
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


def test_nested_branches_add_up_like_composed_adapters(twin: TextTwin) -> None:
    one, two = adapter(twin.base_id, 1), adapter(twin.base_id, 2)
    with torch.no_grad():
        with twin.adapted(one), twin.adapted(two):
            nested = twin.model(input_ids=IDS).logits
        with twin.adapted(compose(one, two)):
            composed = twin.model(input_ids=IDS).logits
        bare = twin.model(input_ids=IDS).logits
    torch.testing.assert_close(nested, composed, atol=1e-4, rtol=1e-4)
    assert (nested - bare).abs().max() > 0.01


def test_the_inner_branch_goes_and_the_outer_stays(twin: TextTwin) -> None:
    one, two = adapter(twin.base_id, 1), adapter(twin.base_id, 2)
    with torch.no_grad(), twin.adapted(one):
        before = twin.model(input_ids=IDS).logits
        with twin.adapted(two):
            pass
        assert torch.equal(twin.model(input_ids=IDS).logits, before)


@pytest.mark.parametrize(
    ("site", "reason"),
    [
        ("model.norm", "adapters go beside Linear"),
        ("model.layers.7.mlp.up_proj", "has no layer"),
        ("nowhere", "has no layer"),
        ("model.layers.0.mlp.up_proj", "do not lead from"),
    ],
)
def test_a_site_that_cannot_take_the_adapter_is_named(
    site: str, reason: str, twin: TextTwin
) -> None:
    misfit = Adapter(twin.base_id, {site: adapter(twin.base_id, 1).factors[SITE]})
    with pytest.raises(AdapterError, match=reason) as caught, twin.adapted(misfit):
        pass
    assert repr(site) in str(caught.value)


def test_another_base_is_refused(twin: TextTwin) -> None:
    with (
        pytest.raises(AdapterError, match="belongs to base 'other'"),
        twin.adapted(adapter("other", 1)),
    ):
        pass


def test_adapters_compute_in_the_precision_of_the_base(twin: TextTwin) -> None:
    from locavore.shared.twin import cast_weights

    cast_weights(twin.model, torch.bfloat16)
    x = torch.ones(1, 1, 64, dtype=torch.bfloat16)
    layer = twin.model.get_submodule(SITE)
    with torch.no_grad():
        bare = layer(x)
        with twin.adapted(adapter(twin.base_id, 1)):
            found = layer(x)
    assert found.dtype == bare.dtype == torch.bfloat16
    assert not torch.equal(found, bare)


def test_two_twins_of_one_model_add_up(twin: TextTwin) -> None:
    one, two = adapter(twin.base_id, 1), adapter(twin.base_id, 2)
    other = TextTwin(twin.model, twin.base_id)
    with torch.no_grad():
        with twin.adapted(one), other.adapted(two):
            both = twin.model(input_ids=IDS).logits
        with twin.adapted(one, two):
            together = twin.model(input_ids=IDS).logits
    assert torch.equal(both, together)


def test_a_twin_probes_its_sites_once(twin: TextTwin, monkeypatch: pytest.MonkeyPatch) -> None:
    from locavore.client.training.chains import lora
    from locavore.client.training.probe import probe_layouts

    probed: list[list[str]] = []

    def counted(model: Any, sites: Any, *rest: Any) -> Any:
        probed.append(list(sites))
        return probe_layouts(model, sites, *rest)

    monkeypatch.setattr("locavore.client.training.cohort.probe_layouts", counted)
    other = "model.layers.1.mlp.up_proj"
    one = twin.cohort(lora(twin.model, [SITE], 2))
    again = twin.cohort(lora(twin.model, [SITE], 3))
    assert probed == [[SITE]]
    assert again.layouts[SITE] == one.layouts[SITE]
    twin.cohort(lora(twin.model, [SITE, other], 2))
    assert probed == [[SITE], [SITE, other]]
