"""A package that was built does what the model does, in every precision."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

pytest.importorskip("onnx_ir", reason="needs the extra 'export'")
pytest.importorskip("torch", reason="needs the extra 'export'")

import torch

from locavore.client.runtime import TextModel
from locavore.client.training.text import TextTwin
from locavore.export import trace
from locavore.export.build import BuildPlan, build_text_base
from locavore.export.check import TOLERANCE
from locavore.export.quantize import PRECISIONS, Precision
from locavore.export.sources import Source
from locavore.shared.adapters import Adapter, Array
from locavore.shared.causal_graph import CausalGraph
from locavore.shared.errors import AdapterError, BadInputError
from locavore.shared.forms import Directions
from locavore.shared.packages import Package, open_package
from locavore.shared.quantized import WeightTable

LINEARS = (
    "self_attn.q_proj",
    "self_attn.k_proj",
    "self_attn.v_proj",
    "self_attn.o_proj",
    "mlp.gate_proj",
    "mlp.up_proj",
    "mlp.down_proj",
)
SITES = {f"model.layers.{layer}.{name}" for layer in range(2) for name in LINEARS}
IDS = [0, 70, 71, 300, 12, 5, 44, 260]


def random_adapter(graph: CausalGraph, rank: int, scale: float = 0.05) -> Adapter:
    rng = np.random.default_rng(rank)
    factors = {
        site: (
            rng.standard_normal((width_in, rank)).astype(np.float32),
            rng.standard_normal((rank, width_out)).astype(np.float32) * np.float32(scale),
        )
        for site, (width_in, width_out) in graph.sites.items()
    }
    return Adapter(graph.base_id, factors)


def logits(graph: CausalGraph, ids: list[int] = IDS) -> Array:
    new = np.array([ids])
    positions = np.arange(len(ids))[None]
    step = graph.run(new, np.ones_like(new), positions, positions[0], graph.empty_past(1))
    found: Array = step.logits[0]
    return found


def twin_logits(twin: TextTwin, adapter: Adapter | None = None) -> Array:
    with torch.no_grad(), twin.adapted(*([adapter] if adapter else [])):
        found: Array = twin.model(input_ids=torch.tensor([IDS])).logits[0].numpy()
    return found


def rel(found: Array, expected: Array) -> float:
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


@pytest.fixture(params=PRECISIONS)
def built(request: pytest.FixtureRequest, packages: Callable[[Precision], Package]) -> Package:
    return packages(request.param)


def test_every_precision_passes_its_own_check(built: Package) -> None:
    check = built.manifest.details["check"]
    precision = built.manifest.precision
    assert check["tolerance"] == TOLERANCE[precision]  # type: ignore[index]
    assert max(check["rel_base"], check["rel_adapter"]) <= check["tolerance"]
    assert check["nll_graph"] == pytest.approx(check["nll_float"], abs=0.2)
    assert "tolerance" in built.path("CARD.md").read_text()


def test_every_attention_and_mlp_projection_has_a_port(built: Package) -> None:
    sites = CausalGraph(built).sites
    assert set(sites) == SITES
    assert sites["model.layers.0.self_attn.k_proj"] == (64, 32)
    assert sites["model.layers.1.mlp.down_proj"] == (128, 64)


def test_a_lora_acts_in_the_graph_as_in_the_twin(built: Package) -> None:
    graph, twin = CausalGraph(built), TextTwin.of(built)
    bare = logits(graph)
    adapter = random_adapter(graph, rank=3)
    graph.attach(adapter)
    adapted = logits(graph)
    tolerance = TOLERANCE[built.manifest.precision]  # type: ignore[index]
    assert rel(adapted, bare) > 3 * tolerance
    assert rel(bare, twin_logits(twin)) <= tolerance
    assert rel(adapted, twin_logits(twin, adapter)) <= tolerance
    graph.attach(None)
    np.testing.assert_array_equal(logits(graph), bare)


def test_rank_zero_and_a_zero_b_are_the_bare_base(package: Package) -> None:
    graph = CausalGraph(package)
    bare = logits(graph)
    graph.attach(random_adapter(graph, rank=0))
    np.testing.assert_array_equal(logits(graph), bare)
    graph.attach(random_adapter(graph, rank=2, scale=0))
    np.testing.assert_array_equal(logits(graph), bare)


@pytest.mark.parametrize("site", sorted(SITES))
def test_every_single_port_is_wired_to_its_own_layer(
    site: str, package: Package, twin: TextTwin, model: TextModel
) -> None:
    graph = CausalGraph(package)
    whole = random_adapter(graph, rank=2, scale=0.3)
    adapter = Adapter(package.base_id, {site: whole.factors[site]})
    bare = logits(graph)
    graph.attach(adapter)
    # The last layer's keys and queries move little: require an effect, and the same one.
    assert rel(logits(graph), bare) > 1e-4
    np.testing.assert_allclose(logits(graph), twin_logits(twin, adapter), atol=2e-4)


@pytest.mark.parametrize(
    ("site", "shape"),
    [
        ("model.layers.9.mlp.up_proj", (64, 128)),
        ("lm_head", (64, 512)),
        ("model.layers.0.mlp.up_proj", (63, 128)),
        ("model.layers.0.mlp.up_proj", (64, 127)),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused(
    site: str, shape: tuple[int, int], package: Package
) -> None:
    graph = CausalGraph(package)
    bare = logits(graph)
    a, b = np.ones((shape[0], 1), np.float32), np.ones((1, shape[1]), np.float32)
    with pytest.raises(AdapterError):
        graph.attach(Adapter(package.base_id, {site: (a, b)}))
    with pytest.raises(AdapterError, match="belongs to base 'other'"):
        graph.attach(Adapter("other", {}))
    np.testing.assert_array_equal(logits(graph), bare)


def test_the_cache_gives_what_the_whole_gives(built: Package) -> None:
    """Prefill two rows of different lengths, decode one by one, compare with whole rows."""
    graph = CausalGraph(built, threads=1)
    graph.attach(random_adapter(graph, rank=2))
    rows = [[0, 70, 71, 300, 12], [0, 90, 301]]
    tails = [[5, 44, 260], [7, 8, 310]]
    ids = np.array([rows[0], [*rows[1], 2, 2]])
    mask = np.array([[1] * 5, [1, 1, 1, 0, 0]])
    lengths = np.array([5, 3])
    step = graph.run(
        ids, mask, np.tile(np.arange(5), (2, 1)), np.array([2, 4]), graph.empty_past(2)
    )
    found = [[step.logits[0, 1]], [step.logits[1, 0]]]
    for tokens in np.array(tails).T:
        mask = np.concatenate([mask, np.ones((2, 1), np.int64)], axis=1)
        step = graph.run(tokens[:, None], mask, lengths[:, None], np.zeros(1, np.int64), step.past)
        lengths = lengths + 1
        for i in range(2):
            found[i].append(step.logits[i, 0])
    dynamic = built.manifest.precision == "int8-dynamic"  # one activation scale for a whole run
    for i in range(2):
        expected = logits(graph, rows[i] + tails[i])[len(rows[i]) - 1 :]
        if dynamic:
            assert rel(np.array(found[i]), expected) < TOLERANCE["int8-dynamic"]
        else:
            np.testing.assert_allclose(np.array(found[i]), expected, atol=2e-3)


def test_the_table_holds_what_the_graph_computes_with(built: Package) -> None:
    table = WeightTable.load(built.path("weights.json"), built.path("model.onnx.data"))
    kinds = {name: entry.kind for name, entry in table.entries.items()}
    linear = {"float32": "float32", "int4": "int4"}.get(built.manifest.precision, "int8")
    assert {kinds[f"{site}.weight"] for site in SITES} == {linear}
    head = "float32" if built.manifest.precision == "float32" else "int8"
    tied = kinds.keys() & {"model.embed_tokens.weight", "lm_head.weight"}  # stored once
    assert [kinds[name] for name in tied] == [head]
    assert kinds["model.norm.weight"] == "float32"


def test_quantized_packages_are_smaller(packages: Callable[[Precision], Package]) -> None:
    sizes = {p: packages(p).path("model.onnx.data").stat().st_size for p in PRECISIONS}
    assert sizes["int4"] < sizes["int8"] < 0.5 * sizes["float32"]


def test_attention_is_fused_where_the_operator_exists(package: Package) -> None:
    details = package.manifest.details
    assert details["opset"] == 23
    assert details["rewrites"] == {
        "attentions": 2,
        "flat": 2,
        "linears": 15,
        "merged": 10,
    }


def test_the_older_opset_works_too(
    tiny_source: Source,
    public_texts: tuple[str, ...],
    key: Ed25519PrivateKey,
    package: Package,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(trace, "OPSETS", (20,))
    plan = BuildPlan(precision="float32", public_texts=public_texts)
    older, _ = build_text_base(tiny_source, tmp_path / "older", plan, key)
    assert older.manifest.details["rewrites"]["attentions"] == 0
    assert older.manifest.details["opset"] == 20
    np.testing.assert_allclose(logits(CausalGraph(older)), logits(CausalGraph(package)), atol=1e-4)


def test_the_package_tells_the_runtime_what_it_needs(package: Package) -> None:
    details = package.manifest.details
    assert details["special"] == {"bos": 0, "eos": 1, "pad": 2}
    assert details["chat"] == ["<|start|>user\n", "<|end|>\n<|start|>assistant\n"]
    assert details["max_tokens"] == 256
    assert package.manifest.name == "tiny-llama"


@pytest.mark.parametrize("leaves", [("q_proj", "v_proj"), ("k_proj",), ("up_proj", "o_proj")])
def test_layers_that_share_a_port_may_be_adapted_alone_and_at_different_ranks(
    package: Package, leaves: tuple[str, ...]
) -> None:
    graph, twin = CausalGraph(package), TextTwin.of(package)
    wide, narrow = random_adapter(graph, rank=3), random_adapter(graph, rank=1)
    factors = {
        site: (narrow if site.endswith("v_proj") else wide).factors[site]
        for site in graph.sites
        if site.endswith(leaves)
    }
    adapter = Adapter(package.base_id, factors)
    graph.attach(adapter)
    assert rel(logits(graph), twin_logits(twin)) > 1e-3
    assert rel(logits(graph), twin_logits(twin, adapter)) <= TOLERANCE["float32"]


def test_directions_fit_every_port(package: Package, directions: Directions) -> None:
    sites = CausalGraph(package).sites
    assert set(directions.factors) == set(sites)
    for site, (a, b) in directions.factors.items():
        assert (a.shape, b.shape) == ((sites[site][0], 4), (4, sites[site][1]))


# --- plans and folders ----------------------------------------------------------------------


def test_a_plan_tells_all_its_problems() -> None:
    with pytest.raises(BadInputError) as caught:
        BuildPlan(precision="int2", direction_rank=0, public_texts=("one",))  # type: ignore[arg-type]
    for problem in ("precision must be one of", "got 'int2'", "direction_rank must be", "got 1"):
        assert problem in str(caught.value)


@pytest.mark.parametrize("rank", [-1, 0, 65])
def test_a_direction_rank_out_of_bounds_is_refused(rank: int) -> None:
    with pytest.raises(BadInputError, match=rf"direction_rank must be 1\.\.64, got {rank}"):
        BuildPlan(precision="int8", direction_rank=rank, public_texts=("a",) * 4)


def test_a_failed_build_leaves_the_older_package_alone(
    tiny_source: Source, package: Package, tmp_path: Path, key: Ed25519PrivateKey, trusted: Any
) -> None:
    folder = tmp_path / "base"
    shutil.copytree(package.folder, folder)
    broken = replace(tiny_source, tokenizer_json="{}")
    plan = BuildPlan(precision="float32", public_texts=("a b",) * 4)
    with pytest.raises(Exception):  # noqa: B017, PT011
        build_text_base(broken, folder, plan, key)
    assert open_package(folder, trusted=trusted).base_id == package.base_id
    assert [p.name for p in tmp_path.iterdir()] == ["base"]


def test_a_folder_that_is_no_package_is_never_replaced(
    tiny_source: Source, tmp_path: Path, key: Ed25519PrivateKey
) -> None:
    (tmp_path / "diary.txt").write_text("mine")
    plan = BuildPlan(precision="float32", public_texts=("a b",) * 4)
    with pytest.raises(BadInputError, match="is no base-model package"):
        build_text_base(tiny_source, tmp_path, plan, key)
    assert (tmp_path / "diary.txt").read_text() == "mine"
