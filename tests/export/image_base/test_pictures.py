"""The linear code keeps what it says; the decoder starts as nothing and learns to mend."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from locavore.export.image_base.drawings import Drawings
from locavore.export.image_base.mend import MendPlan, mending_loss, train_decoder
from locavore.export.image_base.pictures import fit_patch_code, picture_tensor, pixels_of
from locavore.shared.image_networks import Decoder


def test_bytes_survive(shapes: Drawings) -> None:
    assert np.array_equal(pixels_of(picture_tensor(shapes.pixels)), shapes.pixels)


def test_a_code_is_orthonormal_and_even(shapes: Drawings) -> None:
    code = fit_patch_code(shapes.pixels, torch.ones(len(shapes)), 8)
    assert torch.allclose(code.basis @ code.basis.T, torch.eye(8), atol=1e-5)
    latents = code.latents(picture_tensor(shapes.pixels))
    assert latents.shape == (len(shapes), 8, 4, 4)
    assert float(latents.square().mean()) == pytest.approx(1, rel=0.05)


def test_more_channels_keep_more(shapes: Drawings) -> None:
    pictures = picture_tensor(shapes.pixels)
    errors = []
    for channels in (2, 8, 192):
        code = fit_patch_code(shapes.pixels, torch.ones(len(shapes)), channels)
        errors.append(float((code.pictures(code.latents(pictures)) - pictures).square().mean()))
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < 1e-6


def test_weights_say_which_patches_count(shapes: Drawings) -> None:
    weights = torch.zeros(len(shapes))
    weights[0] = 1
    code = fit_patch_code(shapes.pixels, weights, 4)
    alone = fit_patch_code(shapes.pixels[:1], torch.ones(1), 4)
    assert torch.allclose(code.mean, alone.mean, atol=1e-6)


def test_a_new_decoder_changes_nothing() -> None:
    pictures = torch.rand(2, 3, 32, 32)
    assert torch.equal(Decoder(8, 1)(pictures), pictures)


def test_a_decoder_learns_to_mend(shapes: Drawings) -> None:
    code = fit_patch_code(shapes.pixels, torch.ones(len(shapes)), 3)
    pictures, noise = picture_tensor(shapes.pixels), torch.zeros(len(shapes), 3, 4, 4)
    torch.manual_seed(0)
    decoder = Decoder(16, 1)
    before = float(mending_loss(decoder, code, pictures, noise, 0.5).detach())
    plan = MendPlan(steps=100, batch=8, rate=1e-2, noise=0.0)
    train_decoder(decoder, code, shapes.pixels, torch.ones(len(shapes)), plan)
    assert float(mending_loss(decoder, code, pictures, noise, 0.5).detach()) < 0.9 * before
