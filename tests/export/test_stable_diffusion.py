"""A pipeline in Stable Diffusion's layout draws on the device what diffusers draws."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

pytest.importorskip("onnx_ir", reason="needs the extra 'export'")
pytest.importorskip("diffusers", reason="needs the extra 'export'")

import torch

from locavore.client.image_model import Drawing, ImageModel
from locavore.export.build_images import ImagePlan, build_image_base
from locavore.export.image_sources import load_image_source
from locavore.export.quantize import Precision
from locavore.shared.adapters import Adapter, compose, load_adapter, to_diffusers
from locavore.shared.errors import AdapterError, BadInputError, PackageNotFoundError
from locavore.shared.packages import Package
from locavore.shared.pictures import Picture

from ..plans import record_plan
from ..tiny_images import public_pictures, tiny_artist, write_stable_diffusion

PROMPTS = ["red box", "a bar, blue"]
Build = Callable[[Path, Precision], Package]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny text-to-image pipeline."""
    made = tmp_path_factory.mktemp("hub") / "Tiny-SD"
    write_stable_diffusion(made)
    return made


@pytest.fixture(scope="module")
def build(tmp_path_factory: pytest.TempPathFactory, key: Ed25519PrivateKey) -> Build:
    made = tmp_path_factory.mktemp("packages")

    def built(folder: Path, precision: Precision) -> Package:
        plan = ImagePlan(precision=precision, direction_rank=1, public=public_pictures())
        source = load_image_source(str(folder))
        return build_image_base(source, made / f"{folder.name}-{precision}", plan, key)[0]

    return built


@pytest.fixture(scope="module")
def model(folder: Path, build: Build) -> ImageModel:
    """It on the device, in float32."""
    return ImageModel(build(folder, "float32"), threads=1)


def noise(seed: int, count: int) -> torch.Tensor:
    rows = [np.random.default_rng([seed, i]).standard_normal((4, 8, 8), np.float32)
            for i in range(count)]  # fmt: skip
    return torch.from_numpy(np.stack(rows))


def drawn_by_diffusers(pipeline: Any, **given: Any) -> Any:
    """Pictures ``(B, H, W, 3)`` in levels of 0..255."""
    pipeline.set_progress_bar_config(disable=True)
    found = pipeline(PROMPTS, num_inference_steps=6, guidance_scale=3.0, output_type="np", **given)
    return found.images * 255


def distance(found: list[Picture], expected: Any) -> tuple[float, float]:
    """Mean and greatest distance in levels."""
    apart = np.abs(np.stack([picture.pixels for picture in found]) - expected)
    return float(apart.mean()), float(apart.max())


def require_equal(found: list[Picture], expected: Any) -> None:
    """But for rounding to whole levels, a quarter on average."""
    mean, most = distance(found, expected)
    assert mean < 0.3
    assert most < 1


def test_pictures_adapters_and_precisions(
    folder: Path, model: ImageModel, build: Build, tmp_path: Path
) -> None:
    from diffusers import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    how = Drawing(steps=6, guidance=3.0, seed=5, negative="blue", guide="adapted")
    given = {"negative_prompt": ["blue"] * 2, "latents": noise(5, 2)}
    bare = drawn_by_diffusers(pipeline, **given)
    assert bare.std() > 20
    require_equal(model.generate(PROMPTS, how), bare)

    adapter = random_adapter(model)
    model.attach(adapter)
    to_diffusers(adapter, tmp_path)
    pipeline.load_lora_weights(tmp_path)
    adapted = drawn_by_diffusers(pipeline, **given)
    assert np.abs(adapted - bare).mean() > 1
    require_equal(model.generate(PROMPTS, how), adapted)
    model.attach()

    small = ImageModel(build(folder, "int8"), threads=1)
    assert small.package.nbytes < 0.75 * model.package.nbytes  # its graphs are as large as weights
    assert distance(small.generate(PROMPTS, how), bare)[0] < 1.0


def test_what_a_simulation_trains_is_drawn_by_diffusers(
    folder: Path, model: ImageModel, build: Build, tmp_path: Path
) -> None:
    pytest.importorskip("flwr", reason="needs the extra 'simulate'")
    from diffusers import StableDiffusionPipeline

    from locavore.client.training.private import PrivateTraining
    from locavore.server.simulation.config import SimulationConfig
    from locavore.server.simulation.gallery import Gallery
    from locavore.server.simulation.picturing import PictureStudy
    from locavore.server.simulation.run import run_simulation

    people = (tiny_artist("night", 40, 1), tiny_artist("day", 250, 2))
    study = PictureStudy(
        gallery=Gallery(name="shapes", kind="synthetic", artists=people),
        most=3,
        how=Drawing(steps=2),
        draws=4,
    )
    config = SimulationConfig(
        plan=record_plan(rounds=1, expected_batch=8, learning_rate=0.01),
        private=PrivateTraining(rank=1, steps=20, batch=4, learning_rate=0.02),
        rank=1,
        made=1,
        reference=False,
    )
    result = run_simulation(build(folder, "float32"), study, config, tmp_path / "run")
    losses = {arm: result["summary"][arm]["loss"] for arm in study.arms}
    assert losses["shared + private"] < losses["base"]

    trained = compose(
        load_adapter(tmp_path / "run" / "shared"),
        load_adapter(tmp_path / "run" / "devices" / "night" / "private"),
    )
    how = Drawing(steps=6, guidance=3.0, seed=5, guide="adapted")
    bare = np.stack([picture.pixels for picture in model.generate(PROMPTS, how)]).astype(float)
    model.attach(trained)
    drawn = model.generate(PROMPTS, how)
    model.attach()
    pipeline = StableDiffusionPipeline.from_pretrained(folder)
    to_diffusers(trained, tmp_path)
    pipeline.load_lora_weights(tmp_path)
    adapted = drawn_by_diffusers(pipeline, latents=noise(5, 2))
    assert np.abs(adapted - bare).mean() > 1
    require_equal(drawn, adapted)


def random_adapter(model: ImageModel) -> Adapter:
    rng = np.random.default_rng(2)
    factors = {}
    for i, (site, (width_in, width_out)) in enumerate(model.sites.items()):
        rank = 1 + i % 2
        a = rng.standard_normal((width_in, rank)).astype(np.float32)
        b = rng.standard_normal((rank, width_out)).astype(np.float32)
        factors[site] = (a, b * np.float32(0.3))
    return Adapter(model.base_id, factors)


def test_in_painting_is_diffusers_own(
    tmp_path: Path, build: Build, monkeypatch: pytest.MonkeyPatch
) -> None:
    from diffusers import StableDiffusionInpaintPipeline
    from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution

    # Diffusers draws the known part's latents from the encoder's spread; we take their middle.
    monkeypatch.setattr(DiagonalGaussianDistribution, "sample", lambda self, _: self.mode())
    folder = tmp_path / "painting"
    write_stable_diffusion(folder, channels=9, prediction="v_prediction")
    model = ImageModel(build(folder, "float32"), threads=1)
    assert model.package.manifest.details["sampler"]["prediction"] == "v"
    rng = np.random.default_rng(0)
    start = Picture(rng.integers(0, 256, (16, 16, 3), dtype=np.uint8))
    mask = np.zeros((16, 16), np.bool_)
    mask[4:12, 6:] = True
    found = model.generate(
        PROMPTS, Drawing(steps=6, guidance=3.0, seed=5, start=start, strength=1.0, mask=mask)
    )
    expected = drawn_by_diffusers(
        StableDiffusionInpaintPipeline.from_pretrained(folder),
        image=torch.from_numpy(start.signal)[None] / 2 + 0.5,
        mask_image=torch.from_numpy(mask)[None, None].float(),
        latents=noise(5, 2),
        height=16,
        width=16,
    )
    inside = np.abs(np.stack([p.pixels for p in found]) - expected)[:, mask]
    assert inside.mean() < 0.3
    assert inside.max() < 1
    for picture in found:
        assert (picture.pixels[~mask] == start.pixels[~mask]).all()


def test_other_pipelines_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(PackageNotFoundError, match="no image base 'no-such-base'"):
        load_image_source("no-such-base")
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    index = (other / "model_index.json").read_text()
    (other / "model_index.json").write_text(index.replace("UNet2DConditionModel", "UNet1DModel"))
    with pytest.raises(BadInputError, match="unet UNet1DModel; supported are"):
        load_image_source(str(other))


def test_an_adapter_of_another_modality_is_not_for_diffusers(tmp_path: Path) -> None:
    factors = {"model.layers.0.q": (np.ones((2, 1), np.float32), np.ones((1, 2), np.float32))}
    with pytest.raises(AdapterError, match="only an image base's adapter"):
        to_diffusers(Adapter("b", factors), tmp_path)
