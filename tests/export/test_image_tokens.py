"""A base that looks at pictures: graph and twin agree, and without pictures nothing changes."""

from __future__ import annotations

import numpy as np
import pytest

pytest.importorskip("onnx_ir", reason="needs the extra 'export'")
pytest.importorskip("diffusers", reason="needs the extra 'export'")

from pathlib import Path

import torch

from locavore.export.check import adapted, probe_adapter
from locavore.export.image_base.looking import looking, read_looks, write_looks
from locavore.shared.diffusion_graph import DiffusionGraph
from locavore.shared.errors import BadInputError
from locavore.shared.forms import Directions
from locavore.shared.image_tokens import ImageTower, shown
from locavore.shared.packages import Package
from locavore.shared.twin import open_image_twin

from ..tiny_images import own_tiny_base, public_pictures

ADDED = [f"denoiser.blocks.{i}.attn2.add_{part}_proj" for i in range(2) for part in "kv"]
WIDTH = 64


def asked() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Latents, times and token ids of two pictures."""
    latents = np.random.default_rng(3).standard_normal((2, 12, 4, 4), np.float32)
    return latents, np.array([900, 20], np.float32), np.array([[5, 40, 0, 0, 0, 0], [0] * 6])


def tokens(count: int, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((2, count, WIDTH), np.float32)


def distance(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def test_graph_and_twin_see_the_same_with_and_without_an_adapter(looking_package: Package) -> None:
    graph, twin = DiffusionGraph(looking_package, threads=1), open_image_twin(looking_package)
    x, times, ids = asked()
    assert set(ADDED) <= set(graph.sites)
    directions = Directions.load(looking_package.path("directions.safetensors")).factors
    assert all(np.abs(factor).max() < 1e3 for site in ADDED for factor in directions[site])
    probe = probe_adapter(graph, 5.0)
    adapter = type(probe)(probe.base_id, {site: probe.factors[site] for site in ADDED})

    def twin_says(looks: np.ndarray | None) -> np.ndarray:
        given = {} if looks is None else {"image_tokens": torch.from_numpy(looks)}
        with torch.no_grad():
            hidden = twin.embed(torch.from_numpy(ids))
            return twin.predict(
                torch.from_numpy(x), torch.from_numpy(times), hidden, **given
            ).numpy()

    hidden = graph.embed(ids)
    said = {}
    for name, looks in (("none", None), ("one", tokens(1)), ("five", tokens(5))):
        for live in (None, adapter):
            graph.attach(live)
            with adapted(twin, live) if live else torch.no_grad():
                wanted = twin_says(looks)
            found = graph.predict(x, times, hidden, looks)
            assert distance(found, wanted) < 1e-5
            said[name, live is not None] = found
    # An adapter of the added projections alone is an image adapter: it needs pictures to act.
    assert distance(said["none", True], said["none", False]) < 1e-6
    assert distance(said["five", True], said["five", False]) > 0.01
    assert distance(said["five", False], said["none", False]) > 0.01


def test_without_pictures_the_base_draws_as_before(looking_package: Package) -> None:
    x, times, ids = asked()
    graph = DiffusionGraph(looking_package, threads=1)
    before = own_tiny_base().twin().eval()
    with torch.no_grad():
        wanted = before(*map(torch.from_numpy, (x, times, ids))).numpy()
    hidden = graph.embed(ids)
    assert distance(graph.predict(x, times, hidden), wanted) < 1e-5
    zeros = np.zeros((2, 12, WIDTH), np.float32)
    assert distance(graph.predict(x, times, hidden, zeros), wanted) < 1e-5


def test_strength_scales_what_pictures_add(looking_package: Package) -> None:
    """Keys are normalized, so tokens twice as large add values twice as large."""
    twin = open_image_twin(looking_package)
    attention = twin.denoiser.blocks[0].attn2  # type: ignore[index,union-attr]
    read = torch.randn(1, 4, WIDTH)
    prompt, looks = torch.randn(1, 6, WIDTH), torch.randn(1, 3, WIDTH)
    with torch.no_grad():
        none, once, twice = (
            attention(read, torch.cat([scale * looks, prompt], 1)) for scale in (0.0, 1.0, 2.0)
        )
    torch.testing.assert_close(twice - none, 2 * (once - none), rtol=1e-3, atol=1e-4)


def test_a_picture_is_a_token_that_its_neighbours_do_not_change(looking_package: Package) -> None:
    tower = ImageTower.of(looking_package)
    assert tower is not None
    pictures = [picture for picture, _ in public_pictures()]
    pixels = np.stack([picture.pixels for picture in pictures])
    together = tower.tokens(pixels)
    assert together.shape == (6, WIDTH)
    np.testing.assert_allclose(np.square(together[:, :64]).mean(1), 1, rtol=1e-4)
    np.testing.assert_allclose(tower.tokens(pixels[2:3])[0], together[2], atol=1e-4)
    assert tower.look([]).shape == (12, WIDTH)
    assert not tower.look([]).any()


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_repeated_pictures_leave_attention_as_it_is(looking_package: Package, count: int) -> None:
    graph = DiffusionGraph(looking_package, threads=1)
    x, times, ids = asked()
    hidden, looks = graph.embed(ids), tokens(count)
    filled = np.stack([shown(row) for row in looks])
    assert filled.shape == (2, 12, WIDTH)
    found = graph.predict(x, times, hidden, filled)
    assert distance(found, graph.predict(x, times, hidden, looks)) < 1e-5


def test_more_than_four_pictures_are_refused() -> None:
    with pytest.raises(BadInputError, match="at most 4 pictures can be looked at, got 5"):
        shown(tokens(5)[0])


def test_added_projections_are_stored_in_bytes(tmp_path: Path) -> None:
    torch.manual_seed(0)
    name = "blocks.1.attn2.add_v_proj"
    factors = {name: (torch.randn(WIDTH, 32), torch.randn(32, WIDTH))}
    write_looks(factors, tmp_path / "looks.safetensors")
    found = read_looks(tmp_path / "looks.safetensors")
    base = looking(own_tiny_base(), found)
    weight = base.denoiser.get_submodule(name).get_parameter("weight").detach()
    down, up = factors[name]
    assert distance(weight.numpy(), (down @ up).T.numpy()) < 0.02
    assert base.twin().image_width == WIDTH
    assert own_tiny_base().twin().image_width == 0
