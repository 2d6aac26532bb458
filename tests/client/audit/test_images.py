"""Audits of record-level training on a tiny video diffusion transformer."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs the extra 'train'")
pytest.importorskip("diffusers", reason="needs the extra 'dev'")

import torch

from locavore.client.audit.base import audit_base
from locavore.client.audit.images import audit_images, image_batch, image_records, random_images
from locavore.client.audit.runs import audit_input_canaries
from locavore.client.training.chains import Chain, Slot, site_module, site_shape
from locavore.client.training.cohort import Cohort
from locavore.client.training.objectives.diffusion import Diffusion
from locavore.privacy.audit.sections import AT_LEAST, CLAIMED
from locavore.privacy.noise import Doubles, NoiseSource, insecure_seeded_noise
from locavore.privacy.plan import RecordPlan
from locavore.shared.errors import BadInputError
from locavore.shared.packages import Package

from ...benchmarks.families import FAMILIES
from ...plans import record_plan

if TYPE_CHECKING:
    from locavore.export.quantize import Precision

SHAPE = (4, 2, 8, 8)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def text() -> dict[str, torch.Tensor]:
    batch = FAMILIES["wan"].batch(1, generator(5))
    return {name: batch[name] for name in batch if name not in ("clean", "noise", "time")}


def wan(*, every_layer: bool = False) -> Cohort:
    """Adapters with a public half, in the attention or in every layer."""
    family, chains = FAMILIES["wan"], {}
    model = family.model()
    for site in family.sites(model):
        if every_layer or site.endswith(("to_q", "to_v")):
            rows, columns = site_shape(site_module(model, site), site)
            public = torch.randn(rows, 2, generator=generator(1)) / rows**0.5
            chains[site] = Chain((public, Slot(f"{site}.B", (2, columns))))
    return Cohort(model, chains, Diffusion(predicts="flow"), family.batch(4, generator()))


@pytest.fixture(scope="module")
def cohort() -> Cohort:
    return wan()


def test_a_denoisers_training_holds(cohort: Cohort, text: dict[str, torch.Tensor]) -> None:
    audit = audit_images(cohort, record_plan(clip=1.0, expected_batch=8), SHAPE, text, records=30)
    section = audit.section()
    assert [finding for finding in section.findings if not finding.holds] == []
    values = section.figures[0].data["values"]
    claim, bound = values[CLAIMED][0], values[AT_LEAST][0]
    assert 0.6 * claim < bound < claim


class TooQuiet(RecordPlan):
    def add_noise(self, total: Doubles, noise: NoiseSource, entry: float = 0.0) -> Doubles:
        return total + self._scales(len(total), entry) / 2 * noise.gaussian(len(total))


class TwiceAsLong(RecordPlan):
    def clip_factors(self, norms: Any, entry: float = 0.0) -> Doubles:
        return 2 * super().clip_factors(norms, entry)


@pytest.mark.parametrize(
    ("kind", "expected"), [(TooQuiet, "noise of a step"), (TwiceAsLong, "sensitivity")]
)
def test_a_bug_is_caught(
    cohort: Cohort, text: dict[str, torch.Tensor], kind: type[RecordPlan], expected: str
) -> None:
    audit = audit_images(cohort, kind(clip=1.0, relation="zero-out"), SHAPE, text, records=30)
    assert expected in {finding.audit for finding in audit.findings() if not finding.holds}


@pytest.mark.parametrize(("multiplier", "told"), [(0.2, True), (4.0, False)])
def test_image_canaries_are_told_apart_through_little_noise(multiplier: float, told: bool) -> None:
    family, rng = FAMILIES["wan"], np.random.default_rng(0)
    given = family.batch(28, generator(5))
    texts = {"encoder_hidden_states": given["encoder_hidden_states"]}
    records = image_records(random_images(28, SHAPE, generator(1)), texts, generator(2))
    plan = record_plan(
        clip=0.4,
        noise_multiplier=multiplier,
        expected_batch=100,
        rounds=1,
        local_steps=20,
        learning_rate=1e-3,
    )
    run = audit_input_canaries(
        wan(every_layer=True),
        plan,
        image_batch,
        records[:12],
        records[12:],
        noise=insecure_seeded_noise,
        rng=rng,
    )
    assert not [finding for finding in run.findings() if not finding.holds]
    (bound,) = run.bounds
    assert (bound.epsilon > 0.7) == told  # the half that is guessed, all right, is 0.79
    assert bound.epsilon < run.claim


def test_images_are_patches_of_colours() -> None:
    images = random_images(5, (3, 16, 8), generator())
    assert images.shape == (5, 3, 16, 8)
    assert (images[..., :4, :2] == images[..., :1, :1]).all()
    assert -1 <= images.min() < -0.8 < 0.8 < images.max() <= 1
    with pytest.raises(BadInputError, match="text must be of 5 samples, got 4"):
        image_records(images, {"text": torch.zeros(4, 2)}, generator())


def test_an_image_bases_training_holds(image_packages: Callable[[Precision], Package]) -> None:
    audit = audit_base(image_packages("int8"), record_plan(clip=1.0, expected_batch=8), records=30)
    first, again = (audit.collate([audit.records[0]]) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)  # drawn once
    section = audit.section()
    assert all(finding.holds for finding in section.findings)
    found = [finding.found for finding in section.findings]
    assert any("of 4 extreme records" in said for said in found)
