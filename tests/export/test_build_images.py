"""An image package does what its networks do, in every precision."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

pytest.importorskip("onnx_ir", reason="needs the extra 'export'")
pytest.importorskip("diffusers", reason="needs the extra 'export'")

import torch

from locavore.export.build_images import ImagePlan, build_image_base
from locavore.export.check import adapted, probe_adapter
from locavore.export.check_images import check_image_package
from locavore.export.directions import Denoising, denoising_loss, public_directions
from locavore.export.image_sources import ImageSource
from locavore.export.quantize import Precision
from locavore.shared.diffusion_graph import DiffusionGraph
from locavore.shared.errors import BadInputError, ExportMismatchError
from locavore.shared.forms import Directions
from locavore.shared.packages import Package, open_package, sign_package
from locavore.shared.sampler_config import SamplerConfig
from locavore.shared.twin import fast_dtype, fastest, open_image_twin

from ..tiny_images import public_pictures

ImagePackages = Callable[[Precision], Package]
LINEARS = [f"attn{i}.{layer}" for i in (1, 2) for layer in ("to_q", "to_k", "to_v", "to_out.0")]
LINEARS += ["ffn.net.0.proj", "ffn.net.2"]
SITES = {f"denoiser.blocks.{block}.{name}" for block in range(2) for name in LINEARS}


def latents(count: int = 2) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(3).standard_normal((count, 12, 4, 4), np.float32)


def test_every_linear_layer_of_the_blocks_takes_an_adapter(image_packages: ImagePackages) -> None:
    package = image_packages("float32")
    graph, twin = DiffusionGraph(package, threads=1), open_image_twin(package)
    assert set(graph.sites) == SITES
    for site, (width_in, width_out) in graph.sites.items():
        layer = twin.get_submodule(site)
        assert layer.get_parameter("weight").shape == (width_out, width_in)
    assert Directions.load(package.path("directions.safetensors")).factors.keys() == SITES


@pytest.mark.parametrize("precision", ["float32", "int8"])
def test_graphs_do_what_the_twin_does(precision: Precision, image_packages: ImagePackages) -> None:
    package = image_packages(precision)
    bound = {"float32": 1e-5, "int8": 0.04}[precision]
    graph, twin = DiffusionGraph(package, threads=1), open_image_twin(package)
    ids = np.array([[5, 40, 0, 0, 0, 0], [0] * 6])
    x, times = latents(), np.array([900, 20], np.float32)
    signal = np.random.default_rng(4).uniform(-1, 1, (2, 3, 32, 32)).astype(np.float32)
    adapter = probe_adapter(graph, 5.0)
    with torch.no_grad():
        hidden = twin.embed(torch.from_numpy(ids))
        given = (torch.from_numpy(x), torch.from_numpy(times), hidden)
        bare = twin.predict(*given).numpy()
        with adapted(twin, adapter):
            changed = twin.predict(*given).numpy()
        wanted = [hidden, twin.pictures(given[0]), twin.latents(torch.from_numpy(signal))]
    found = [graph.embed(ids), graph.pictures(x), graph.latents(signal)]
    for mine, its in zip(found, (tensor.numpy() for tensor in wanted), strict=True):
        assert np.linalg.norm(mine - its) <= bound * np.linalg.norm(its)
    assert np.linalg.norm(changed - bare) > 0.1 * np.linalg.norm(bare)
    for attached, its in ((None, bare), (adapter, changed), (None, bare)):
        graph.attach(attached)
        mine = graph.predict(x, times, hidden.numpy())
        assert np.linalg.norm(mine - its) <= bound * np.linalg.norm(its)


def test_quantized_weights_are_small_and_near(
    image_packages: ImagePackages, image_source: ImageSource
) -> None:
    sizes = {
        precision: sum(p.stat().st_size for p in image_packages(precision).folder.glob("*.data"))
        for precision in ("float32", "int8")
    }
    assert sizes["int8"] < 0.4 * sizes["float32"]
    own = dict(image_source.twin.named_parameters())
    kinds = set()
    for name, value in open_image_twin(image_packages("int8")).named_parameters():
        distance = float((value - own[name]).detach().norm() / own[name].detach().norm())
        assert distance < 0.02
        kinds.add(distance > 0)
    assert kinds == {True, False}


def test_rows_beyond_the_vocabulary_stand_for_their_ids(image_packages: ImagePackages) -> None:
    graph = DiffusionGraph(image_packages("float32"), threads=1)
    twin = open_image_twin(image_packages("float32"))
    table = twin.text_encoder.get_input_embeddings().weight.numpy()  # type: ignore[operator]
    vocabulary = graph.details["vocabulary"]
    known = graph.embed(np.array([[5, 41, 40, 0, 0, 0]]))
    rows = table[[40, 41]]
    own = graph.embed(np.array([[5, vocabulary + 1, vocabulary, 0, 0, 0]]), rows)
    np.testing.assert_allclose(own, known, atol=1e-6)
    assert np.abs(graph.embed(np.array([[5, vocabulary, 40, 0, 0, 0]]), rows) - known).max() > 1e-3


def test_the_fast_twin_predicts_nearly_the_same(image_packages: ImagePackages) -> None:
    package = image_packages("float32")
    twin, fast = open_image_twin(package), fastest(open_image_twin(package))
    where = next(fast.parameters())
    assert where.dtype == (torch.bfloat16 if where.is_cuda else fast_dtype())
    x, times = torch.from_numpy(latents()), torch.tensor([900.0, 20.0])
    ids = torch.tensor([[5, 40, 0, 0, 0, 0], [0] * 6])
    with torch.no_grad():
        expected = twin(x, times, ids)
        found = fast(*(given.to(where.device) for given in (x, times, ids))).float().cpu()
    assert (found - expected).norm() < 0.05 * expected.norm()


@pytest.mark.parametrize("prediction", ["epsilon", "v"])
def test_directions_come_from_the_schedules_own_loss(
    prediction: str, image_source: ImageSource
) -> None:
    from diffusers import DDPMScheduler

    sampler = SamplerConfig(kind="ddim", prediction=prediction)  # type: ignore[arg-type]
    x = torch.from_numpy(latents(3))
    ids = torch.tensor([[5, 40, 0, 0, 0, 0]])
    example = Denoising(x[0], x[1], ids[0], 0.6005)
    found = denoising_loss(image_source.twin, sampler, image_source.unknown())([example])
    make: object = DDPMScheduler
    scheduler = make()  # type: ignore[operator]
    step = torch.tensor([600])
    noisy = scheduler.add_noise(x[:1], x[1:2], step)
    wanted = x[1:2] if prediction == "epsilon" else scheduler.get_velocity(x[:1], x[1:2], step)
    error = image_source.twin(noisy, step.float(), ids) - wanted
    torch.testing.assert_close(found, error.square().mean(), rtol=1e-5, atol=1e-6)
    site = next(iter(SITES))
    directions = public_directions(
        image_source.twin,
        [site],
        [example],
        denoising_loss(image_source.twin, sampler, image_source.unknown()),
        rank=1,
    )
    a, b = directions.factors[site]
    assert np.isfinite(a).all()
    assert np.linalg.norm(b) > 0


def test_a_graph_that_is_not_its_twin_is_refused(
    image_packages: ImagePackages,
    image_source: ImageSource,
    tmp_path: Path,
    key: Ed25519PrivateKey,
    trusted: list[bytes],
) -> None:
    package = image_packages("float32")
    folder = tmp_path / "tampered"
    shutil.copytree(package.folder, folder)
    table = json.loads((folder / "denoiser.weights.json").read_text())
    names = [f"denoiser.blocks.{i}.attn1.to_out.0.weight" for i in (0, 1)]
    table[names[0]], table[names[1]] = table[names[1]], table[names[0]]
    (folder / "denoiser.weights.json").write_text(json.dumps(table))
    sign_package(
        folder,
        key=key,
        name="tampered",
        modality="image",
        precision="float32",
        details=package.manifest.details,
    )
    with pytest.raises(ExportMismatchError, match="graph vs twin"):
        check_image_package(
            open_package(folder, trusted=trusted), image_source, ["red box"], "float32"
        )


def test_plans_are_refused_with_every_reason() -> None:
    with pytest.raises(BadInputError, match=r"int8-dynamic.*direction_rank.*at least 2"):
        ImagePlan(precision="int8-dynamic", direction_rank=0, public=public_pictures()[:1])


def test_a_folder_with_something_else_is_left_alone(
    image_source: ImageSource, tmp_path: Path, key: Ed25519PrivateKey
) -> None:
    (tmp_path / "letter.txt").write_text("mine")
    with pytest.raises(BadInputError, match="choose another folder"):
        build_image_base(image_source, tmp_path, ImagePlan(public=public_pictures()), key)
    assert (tmp_path / "letter.txt").read_text() == "mine"


def test_conditions_of_a_base_ask_for_all_of_a_picture(image_source: ImageSource) -> None:
    painting = replace(image_source, conditions=(("mask", 1), ("masked_latents", 12)))
    unknown = painting.unknown()
    assert painting.sample == (25, 4, 4)
    assert unknown.shape == (13, 4, 4)
    assert (unknown[0] == 1).all()
    grey = image_source.twin.latents(torch.zeros(1, 3, 32, 32))[0]
    torch.testing.assert_close(unknown[1:], grey)
