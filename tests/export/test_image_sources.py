"""Where image bases and public pictures come from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("diffusers", reason="needs the extra 'export'")
pytest.importorskip("PIL", reason="needs the extra 'image'")

from locavore.export import image_sources
from locavore.export.image_sources import load_image_source, load_public
from locavore.export.sources import is_image_base
from locavore.shared.errors import BadInputError, PackageNotFoundError

from ..tiny_images import own_tiny_base, public_pictures


def test_the_built_in_base_comes_from_its_packed_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(image_sources, "_EMBEDDED", tmp_path)
    with pytest.raises(PackageNotFoundError, match="docs/base-image"):
        load_image_source("drawings-32")
    with pytest.raises(PackageNotFoundError, match="--public-text"):
        load_public()
    base = own_tiny_base()
    base.save(tmp_path, pack=True)
    pictures, captions = zip(*public_pictures(), strict=True)
    np.savez(
        tmp_path / "public.npz",
        pixels=np.stack([p.pixels for p in pictures]),
        captions=np.array(captions),
    )
    source = load_image_source("drawings-32")
    assert (source.latent, source.picture, source.tokens) == ((12, 4, 4), (32, 32), 6)
    for mine, its in zip(
        source.twin.denoiser.parameters(), base.denoiser.parameters(), strict=True
    ):
        assert (mine - its).norm() <= 0.02 * its.norm()
    assert [caption for _, caption in load_public()] == list(captions)


def test_public_pictures_lie_beside_their_captions(tmp_path: Path) -> None:
    for i, (picture, caption) in enumerate(public_pictures()):
        picture.save(tmp_path / f"{i}.png")
        if i != 2:
            (tmp_path / f"{i}.txt").write_text(caption + "\n")
    found = load_public(tmp_path)
    expected = [pair for i, pair in enumerate(public_pictures()) if i != 2]
    assert [caption for _, caption in found] == [caption for _, caption in expected]
    for (mine, _), (its, _) in zip(found, expected, strict=True):
        assert (mine.pixels == its.pixels).all()
    with pytest.raises(BadInputError, match="no picture with a"):
        load_public(tmp_path / "empty")


def test_a_base_says_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text("{}")
    assert is_image_base("drawings-32")
    assert is_image_base(str(tmp_path))
    assert not is_image_base("smollm2-135m-instruct")
    assert not is_image_base("nobody/no-such-model")  # the hub is not reached in tests
