"""Public directions: leading gradients, one gradient norm everywhere, nothing left behind."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnx_ir", reason="needs the extra 'export'")

import torch

from locavore.client.training.objectives.language import per_record_loss, token_batch
from locavore.client.training.text import TextTwin
from locavore.export.directions import language_loss, public_directions
from locavore.shared.errors import BadInputError

SITES = ["model.layers.0.self_attn.q_proj", "model.layers.1.mlp.down_proj"]
TEXTS = [[0, 70, 71, 300, 12], [0, 90, 301], [0, 17, 18, 19, 20, 21, 22]]


def test_they_are_the_leading_singular_vectors_of_the_public_gradient(twin: TextTwin) -> None:
    found = public_directions(twin.model, SITES, TEXTS, language_loss(twin.model), rank=2)
    for site in SITES:
        weight = twin.model.get_submodule(site).weight
        weight.requires_grad_(True)
        for text in TEXTS:
            per_record_loss(twin.model, token_batch([text])).sum().backward()  # type: ignore[no-untyped-call]
        gradient = weight.grad.T.numpy()  # (in, out)
        weight.requires_grad_(False)
        u, _, vt = np.linalg.svd(gradient)
        a, b = found.factors[site]
        for i in range(2):
            ua = a[:, i] @ u[:, i] / np.linalg.norm(a[:, i])
            vb = b[i] @ vt[i] / np.linalg.norm(b[i])
            assert abs(ua) == pytest.approx(1, abs=1e-3)
            assert abs(vb) == pytest.approx(1, abs=1e-3)
            assert ua * vb < 0  # a positive core goes downhill
        weight.grad = None


def test_the_global_generator_and_the_model_are_left_alone(twin: TextTwin) -> None:
    torch.manual_seed(4)
    expected = torch.rand(1)
    torch.manual_seed(4)
    first = public_directions(twin.model, SITES, TEXTS, language_loss(twin.model), rank=2)
    assert torch.equal(torch.rand(1), expected)
    second = public_directions(twin.model, SITES, TEXTS, language_loss(twin.model), rank=2)
    for site in SITES:
        np.testing.assert_array_equal(first.factors[site][0], second.factors[site][0])
        assert not twin.model.get_submodule(site)._forward_hooks
    assert not twin.model.get_input_embeddings()._forward_hooks


@pytest.mark.parametrize("texts", [[[0]], [[0, 1], []]])
def test_texts_without_a_next_token_are_refused(texts: list[list[int]], twin: TextTwin) -> None:
    with pytest.raises(BadInputError, match="at least two tokens"):
        public_directions(twin.model, SITES, texts, language_loss(twin.model), rank=2)


def test_no_example_is_refused(twin: TextTwin) -> None:
    with pytest.raises(BadInputError, match="at least one public example"):
        public_directions(twin.model, SITES, [], language_loss(twin.model), rank=2)
