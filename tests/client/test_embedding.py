"""The embedder that costs no download."""

from __future__ import annotations

import numpy as np

from locavore.client.embedding import ModelEmbedder
from locavore.client.runtime import TextModel
from locavore.shared.forms import Directions, SharedForm

TEXTS = ["The nurse walked to the harbour.", "Two eggs, some flour.", "", "word " * 400]


def test_rows_have_norm_one(model: TextModel) -> None:
    rows = ModelEmbedder(model).embed(TEXTS)
    assert rows.shape == (4, 64)
    assert rows.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_a_text_is_closest_to_itself(model: TextModel) -> None:
    embedder = ModelEmbedder(model)
    rows = embedder.embed(TEXTS)
    (again,) = embedder.embed(TEXTS[:1])
    assert int((rows @ again).argmax()) == 0
    np.testing.assert_allclose(again, rows[0], atol=1e-5)


def test_a_live_adapter_changes_no_vector_and_stays_live(
    model: TextModel, directions: Directions
) -> None:
    embedder = ModelEmbedder(model)
    bare, ids = embedder.embed(TEXTS), model.encode("The nurse")
    form = SharedForm("core", model.base_id, directions)
    model.attach(form.to_adapter(np.full(form.dim, 0.5, np.float32)))
    adapted = model.logits(ids)
    np.testing.assert_array_equal(embedder.embed(TEXTS), bare)
    np.testing.assert_array_equal(model.logits(ids), adapted)
    model.attach()
    assert np.abs(model.logits(ids) - adapted).max() > 1e-3
