"""One byte a weight, one half step of error at most, and none the second time."""

from __future__ import annotations

import torch

from locavore.export.image_base.packing import packed, unpacked


def test_a_weight_is_at_most_half_a_step_off() -> None:
    generator = torch.Generator().manual_seed(0)
    kernel = torch.randn(16, 8, 3, 3, generator=generator) * torch.logspace(-3, 1, 16).view(
        16, 1, 1, 1
    )
    saved = packed({"kernel": kernel})
    assert saved["kernel"].dtype == torch.int8
    steps = kernel.flatten(1).abs().amax(1) / 127
    error = (unpacked(saved)["kernel"] - kernel).flatten(1).abs().amax(1)
    assert (error <= steps * 0.501).all()


def test_storing_again_changes_nothing() -> None:
    tensors = {
        "matrix": torch.randn(32, 32, generator=torch.Generator().manual_seed(1)),
        "vector": torch.linspace(0, 1, 600),
        "code.basis": torch.linspace(0, 1, 1200).view(30, 40),
        "zeros": torch.zeros(32, 32),
    }
    once = unpacked(packed(tensors))
    again = unpacked(packed(once))
    assert set(once) == set(tensors)
    for name, value in once.items():
        assert torch.allclose(again[name], value, rtol=1e-6, atol=0), name


def test_a_row_of_zeros_stays_one() -> None:
    assert not unpacked(packed({"zeros": torch.zeros(32, 32)}))["zeros"].any()


def test_what_is_small_is_kept_in_half_precision() -> None:
    saved = packed({"vector": torch.rand(600), "small": torch.rand(4, 4)})
    assert {v.dtype for v in saved.values()} == {torch.float16}
    assert set(saved) == {"vector", "small"}
