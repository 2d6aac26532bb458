"""What a caption is to the denoiser, and that weights survive being written."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from locavore.export.image_base.model import ImageBase
from locavore.shared.errors import BadInputError
from locavore.shared.image_networks import TextEncoder


def test_padding_says_nothing(untrained: ImageBase) -> None:
    short, padded = untrained.ids(["red box"])[:, :2], untrained.ids(["red box"])
    told = untrained.text_encoder(input_ids=padded)[0]
    assert torch.allclose(told[:, :2], untrained.text_encoder(input_ids=short)[0], atol=1e-6)
    assert not told[:, 2:].any()


def test_the_empty_caption_is_zeros_and_has_gradients(untrained: ImageBase) -> None:
    found = untrained.text_encoder(input_ids=untrained.ids(["", "red box"]))[0]
    assert not found[0].any()
    found.sum().backward()
    assert all(
        p.grad is not None and p.grad.isfinite().all() for p in untrained.text_encoder.parameters()
    )


def test_words_know_their_place() -> None:
    torch.manual_seed(0)
    encoder = TextEncoder(20, 4, 32, 1)
    one, other = encoder(input_ids=torch.tensor([[5, 6, 0, 0], [6, 5, 0, 0]]))[0]
    assert not torch.allclose(one[0], other[1])


def test_long_captions_are_cut(untrained: ImageBase) -> None:
    assert untrained.ids(["red box " * 9]).shape == (1, untrained.plan.tokens)


def test_a_new_denoiser_says_zero(untrained: ImageBase) -> None:
    (found,) = untrained.denoiser(
        torch.randn(2, 12, 1, 4, 4),
        timestep=torch.tensor([10.0, 900.0]),
        encoder_hidden_states=torch.randn(2, 6, 32),
        return_dict=False,
    )
    assert not found.any()


def test_it_survives_being_written(untrained: ImageBase, tmp_path: Path) -> None:
    untrained.save(tmp_path)
    again = ImageBase.load(tmp_path)
    assert again.plan == untrained.plan
    for name, value in untrained.networks().state_dict().items():
        assert torch.equal(again.networks().state_dict()[name], value), name
    assert torch.equal(again.code.basis, untrained.code.basis)
    assert torch.equal(again.ids(["red box"]), untrained.ids(["red box"]))


def test_packing_changes_little(untrained: ImageBase, tmp_path: Path) -> None:
    untrained.save(tmp_path / "whole")
    untrained.save(tmp_path / "packed", pack=True)
    sizes = [(tmp_path / n / "model.safetensors").stat().st_size for n in ("packed", "whole")]
    assert sizes[0] < 0.4 * sizes[1]
    told = [
        ImageBase.load(tmp_path / n).text_encoder(input_ids=untrained.ids(["red box"]))[0]
        for n in ("packed", "whole")
    ]
    assert float((told[0] - told[1]).detach().abs().max()) < 0.05


def test_a_folder_without_a_base_is_said_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="no image base in"):
        ImageBase.load(tmp_path)
