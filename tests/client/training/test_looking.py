"""Training what looks at pictures: an image adapter, without a record that sees another."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'train'")
pytest.importorskip("diffusers", reason="needs the extra 'train'")
pytest.importorskip("onnx_ir", reason="needs the extra 'export'")

import torch

from locavore.client.captioned import picture_record
from locavore.client.device import Device
from locavore.client.federated import FederatedLearner
from locavore.client.training.image import Draws, ImageTwin
from locavore.client.training.private import PrivateTraining, train_private
from locavore.privacy.plan import PrivacyPlan
from locavore.shared.contexts import Consent
from locavore.shared.forms import Directions, SharedForm
from locavore.shared.packages import Package

from ...plans import record_plan, user_plan
from ...tiny_images import public_pictures

ADDED = [f"denoiser.blocks.{i}.attn2.add_{part}_proj" for i in range(2) for part in "kv"]


@pytest.fixture
def twin(looking_package: Package) -> ImageTwin:
    made = ImageTwin.of(looking_package)
    made.draws = Draws(looking=True)
    return made


@pytest.fixture(scope="module")
def directions(looking_package: Package) -> Directions:
    return Directions.load(looking_package.path("directions.safetensors"))


def records() -> list[Any]:
    return [
        picture_record(picture, caption, id=str(i), consent=Consent.full())
        for i, (picture, caption) in enumerate(public_pictures())
    ]


def test_an_example_looks_at_itself_or_at_others(twin: ImageTwin) -> None:
    examples = twin.examples(records())
    own = np.concatenate([example.looks for example in examples if example.looks is not None])
    assert own.shape == (6, 64)
    for i, example in enumerate(twin.together(examples)):
        assert example.looks is not None
        seen = {int(np.flatnonzero((own == token).all(1))[0]) for token in example.looks}
        assert len(seen) == 4
        assert i not in seen
    twin.draws = Draws()
    assert all(example.looks is None for example in twin.examples(records()))


@pytest.mark.parametrize(
    ("plan", "count"),
    [(record_plan(expected_batch=4), 1), (user_plan(), 4)],
    ids=["records", "users"],
)
def test_records_see_each_other_only_where_users_are_protected(
    twin: ImageTwin, directions: Directions, plan: PrivacyPlan, count: int
) -> None:
    device = Device()
    device.remember_all(records())
    form = SharedForm("core", twin.base_id, directions)
    learner = FederatedLearner(device=device, twin=twin, form=form, plan=plan)
    assert {len(example.looks) for example in learner.records() if example.looks is not None} == {
        count
    }


def test_a_batch_leaves_pictures_out_of_some_draws(twin: ImageTwin) -> None:
    twin.draws = Draws(each=50, untold=0.3, looking=True)
    looks = twin.collate(twin.examples(records()))["image_tokens"]
    assert looks.shape == (6, 50, 12, 64)
    share = float(looks.flatten(2).any(2).float().mean())
    assert 0.6 < share < 0.8
    blind = twin.collate([replace(e, looks=None) for e in twin.examples(records())])
    assert not blind["image_tokens"].any()


def test_an_image_adapter_is_trained_like_any_other(
    twin: ImageTwin, directions: Directions
) -> None:
    examples = twin.together(twin.examples(records()))
    added = Directions({site: directions.factors[site] for site in ADDED})

    def errors(*adapters: Any) -> float:
        twin.draws = Draws(each=16, untold=0.0, looking=True, seed=5)
        with torch.no_grad(), twin.adapted(*adapters):
            return float(twin.losses(twin.model, twin.collate(examples)).mean())

    how = PrivateTraining(rank=2, steps=30, batch=6, learning_rate=0.05)
    adapter = train_private(twin, added, examples, how)
    assert set(adapter.factors) == set(ADDED)
    assert errors(adapter) < 0.97 * errors()
    seen = twin.outputs(examples[0])
    with twin.adapted(adapter):
        assert np.allclose(twin.outputs(examples[0]), seen, atol=1e-5)  # it acts on pictures alone
