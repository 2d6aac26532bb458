"""Adapters: exact sums, PEFT's files in both directions, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from locavore.client.training.text import TextTwin
from locavore.shared.adapters import Adapter, Array, compose, load_adapter, save_adapter
from locavore.shared.errors import AdapterError
from locavore.shared.packages import Package

BASE = "tiny-float32-0123"
CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
KEY = "base_model.model.model.layers.0.self_attn.q_proj.lora_{}.weight"


def make(ranks: Mapping[str, int], seed: int = 0, base: str = BASE) -> Adapter:
    rng = np.random.default_rng(seed)
    return Adapter(
        base,
        {
            site: (
                rng.standard_normal((6, rank)).astype(np.float32),
                rng.standard_normal((rank, 5)).astype(np.float32),
            )
            for site, rank in ranks.items()
        },
    )


def product(adapter: Adapter, site: str) -> Array:
    a, b = adapter.factors[site]
    return a.astype(np.float64) @ b.astype(np.float64)  # type: ignore[return-value]


@given(st.lists(st.integers(0, 5), min_size=1, max_size=4))
def test_compose_is_the_exact_sum(ranks: list[int]) -> None:
    parts = [make({"x": rank}, seed) for seed, rank in enumerate(ranks)]
    whole = compose(*parts)
    assert whole.factors["x"][0].shape == (6, sum(ranks))
    np.testing.assert_allclose(
        product(whole, "x"), sum(product(part, "x") for part in parts), atol=1e-12
    )


def test_compose_keeps_sites_that_only_one_adapter_has() -> None:
    whole = compose(make({"x": 1}), make({"y": 2}, 1))
    assert set(whole.factors) == {"x", "y"}
    np.testing.assert_array_equal(product(whole, "y"), product(make({"y": 2}, 1), "y"))


def test_compose_refuses_nothing_and_two_bases() -> None:
    with pytest.raises(AdapterError, match="at least one"):
        compose()
    with pytest.raises(AdapterError, match="belongs to base 'other'"):
        compose(make({"x": 1}), make({"x": 1}, base="other"))


@pytest.mark.parametrize(
    ("a", "b", "reason"),
    [
        (np.zeros((6, 2), np.float32), np.zeros((3, 5), np.float32), "do not make a product"),
        (np.zeros(6, np.float32), np.zeros((3, 5), np.float32), "do not make a product"),
        (np.full((6, 2), np.nan, np.float32), np.zeros((2, 5), np.float32), "not finite"),
        (np.zeros((6, 2), np.float32), np.full((2, 5), np.inf, np.float32), "not finite"),
        (np.zeros((6, 2), np.float64), np.zeros((2, 5), np.float32), "must be float32"),
    ],
)
def test_bad_factors_are_refused(a: Array, b: Array, reason: str) -> None:
    with pytest.raises(AdapterError, match=reason):
        Adapter(BASE, {"x": (a, b)})


def test_size() -> None:
    assert make({"x": 2, "y": 1}).nbytes == 4 * (6 + 5) * 3


def test_a_saved_adapter_reads_back(tmp_path: Path) -> None:
    adapter = make({"model.layers.0.mlp.up_proj": 3, "model.layers.1.mlp.up_proj": 1})
    save_adapter(adapter, tmp_path / "new" / "folder")
    back = load_adapter(tmp_path / "new" / "folder")
    assert back.base_id == BASE
    assert back.factors.keys() == adapter.factors.keys()
    for site in adapter.factors:
        for found, expected in zip(back.factors[site], adapter.factors[site], strict=True):
            np.testing.assert_array_equal(found, expected)


# --- with the real peft ---------------------------------------------------------------------


def trained_like(package: Package, ranks: tuple[int, int] = (4, 4)) -> Adapter:
    rng = np.random.default_rng(5)

    def pair(width_in: int, rank: int, width_out: int) -> tuple[Array, Array]:
        return (
            rng.standard_normal((width_in, rank)).astype(np.float32) / np.float32(8),
            rng.standard_normal((rank, width_out)).astype(np.float32) / np.float32(8),
        )

    return Adapter(
        package.base_id,
        {
            "model.layers.0.self_attn.q_proj": pair(64, ranks[0], 64),
            "model.layers.1.mlp.down_proj": pair(128, ranks[1], 64),
        },
    )


def twin_logits(twin: TextTwin, adapter: Adapter) -> Array:
    import torch

    with torch.no_grad(), twin.adapted(adapter):
        logits: Array = twin.model(input_ids=torch.tensor([[0, 70, 71, 300]])).logits[0].numpy()
    return logits


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("ranks", [(4, 4), (4, 1), (2, 7)])
def test_peft_opens_what_we_save(
    ranks: tuple[int, int], package: Package, tiny_folder: Path, twin: TextTwin, tmp_path: Path
) -> None:
    import torch
    from transformers import LlamaForCausalLM

    peft = pytest.importorskip("peft")
    adapter = trained_like(package, ranks)
    save_adapter(adapter, tmp_path)
    base = LlamaForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    ids = torch.tensor([[0, 70, 71, 300]])
    with torch.no_grad():
        bare = base(input_ids=ids).logits[0].numpy()
        found = peft.PeftModel.from_pretrained(base, tmp_path)(input_ids=ids).logits[0].numpy()
    np.testing.assert_allclose(found, twin_logits(twin, adapter), atol=1e-5)
    assert np.abs(found - bare).max() > 0.01


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize(
    "settings",
    [
        {"r": 4, "lora_alpha": 32},
        {"r": 4, "lora_alpha": 8, "use_rslora": True},
        {"r": 4, "lora_alpha": 8, "rank_pattern": {"q_proj": 2}},
        {"r": 4, "lora_alpha": 8, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 16}},
        {"r": 2, "lora_alpha": 8, "alpha_pattern": {r"layers\.\d+\.self_attn\.q_proj": 3}},
        {"r": 2, "lora_alpha": 8, "alpha_pattern": {"0.self_attn.q_proj": 3}},
    ],
)
@pytest.mark.parametrize("half", [False, True])
def test_we_open_what_peft_saves(
    settings: dict[str, Any], half: bool, tiny_folder: Path, tmp_path: Path
) -> None:
    import torch
    from transformers import LlamaForCausalLM

    peft = pytest.importorskip("peft")
    base = LlamaForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    config = peft.LoraConfig(
        target_modules=["q_proj", "down_proj"], init_lora_weights=False, **settings
    )
    model = peft.get_peft_model(base, config)
    if half:
        for parameter in model.parameters():
            parameter.data = parameter.data.to(torch.bfloat16)
    model.save_pretrained(tmp_path)
    ours = load_adapter(tmp_path)
    assert len(ours.factors) == 4
    for site in ours.factors:
        delta = base.get_submodule(site).get_delta_weight("default").detach().float().T.numpy()
        tolerance = 0.02 if half else 1e-6
        np.testing.assert_allclose(
            product(ours, site), delta, atol=tolerance * float(np.abs(delta).max())
        )


# --- what is refused ------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_adapter(make({"model.layers.0.self_attn.q_proj": 2}), tmp_path)
    return tmp_path


def edit_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / CONFIG).read_text())
    (folder / CONFIG).write_text(json.dumps(config | changes))


def test_another_base_is_refused(saved: Path) -> None:
    with pytest.raises(AdapterError, match="not to 'other-int8-9'"):
        load_adapter(saved).require_base("other-int8-9")


@pytest.mark.parametrize("rank", [0, 257])
def test_a_rank_out_of_bounds_is_refused(rank: int, saved: Path) -> None:
    save_file(
        {
            KEY.format("A"): np.zeros((rank, 6), np.float32),
            KEY.format("B"): np.zeros((5, rank), np.float32),
        },
        saved / WEIGHTS,
    )
    with pytest.raises(AdapterError, match=rf"rank must be 1\.\.256, got {rank}"):
        load_adapter(saved)


def test_the_largest_rank_is_accepted(saved: Path) -> None:
    save_file(
        {
            KEY.format("A"): np.zeros((256, 6), np.float32),
            KEY.format("B"): np.zeros((5, 256), np.float32),
        },
        saved / WEIGHTS,
    )
    assert load_adapter(saved).factors


@pytest.mark.parametrize(
    "changes",
    [
        {"use_dora": True},
        {"bias": "all"},
        {"lora_bias": True},
        {"modules_to_save": ["lm_head"]},
        {"trainable_token_indices": [1]},
        {"fan_in_fan_out": True},
        {"alora_invocation_tokens": [1]},
        {"peft_type": "IA3"},
    ],
)
def test_what_is_no_plain_lora_is_refused(changes: dict[str, object], saved: Path) -> None:
    edit_config(saved, **changes)
    with pytest.raises(AdapterError, match=f"{next(iter(changes))}|IA3|biases"):
        load_adapter(saved)


@pytest.mark.parametrize(
    "changes", [{"lora_alpha": "many"}, {"lora_alpha": None}, {"alpha_pattern": {"(": 3}}]
)
def test_an_unreadable_scale_is_refused(changes: dict[str, object], saved: Path) -> None:
    edit_config(saved, **changes)
    with pytest.raises(AdapterError, match="alpha at 'model"):
        load_adapter(saved)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_a_missing_file_is_refused(name: str, saved: Path) -> None:
    (saved / name).unlink()
    with pytest.raises(AdapterError, match="no readable PEFT adapter"):
        load_adapter(saved)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
@pytest.mark.parametrize("kept", [0, 5, 0.5, 0.99])
def test_a_truncated_file_is_refused(name: str, kept: float, saved: Path) -> None:
    raw = (saved / name).read_bytes()
    (saved / name).write_bytes(raw[: int(kept * len(raw)) if kept < 1 else int(kept)])
    with pytest.raises(AdapterError):
        load_adapter(saved)


@pytest.mark.parametrize("text", ["[]", "3", "null", '"LORA"'])
def test_a_config_that_is_no_object_is_refused(text: str, saved: Path) -> None:
    (saved / CONFIG).write_text(text)
    with pytest.raises(AdapterError):
        load_adapter(saved)


def test_nan_in_a_file_is_refused(saved: Path) -> None:
    tensors = load_file(saved / WEIGHTS)
    tensors[KEY.format("B")][0, 0] = np.nan
    save_file(tensors, saved / WEIGHTS)
    with pytest.raises(AdapterError, match="not finite"):
        load_adapter(saved)


@pytest.mark.parametrize(
    "change",
    [
        {KEY.format("A"): None},
        {KEY.format("B"): None},
        {KEY.format("A"): np.zeros(6, np.float32)},
        {KEY.format("B"): np.zeros((5, 3), np.float32)},
        {KEY.format("A"): np.zeros((2, 6), np.int64)},
        {"base_model.model.lm_head.weight": np.zeros((5, 6), np.float32)},
        {KEY.format("A"): None, KEY.format("B"): None},
    ],
)
def test_tensors_that_make_no_lora_are_refused(change: dict[str, Array], saved: Path) -> None:
    tensors = load_file(saved / WEIGHTS) | change
    save_file({name: t for name, t in tensors.items() if t is not None}, saved / WEIGHTS)
    with pytest.raises(AdapterError):
        load_adapter(saved)
