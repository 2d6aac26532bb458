"""The shared forms are linear, so the mean of vectors is the mean of adapters."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from locavore.shared.adapters import Array
from locavore.shared.errors import AdapterError, BadInputError
from locavore.shared.forms import Directions, FormName, SharedForm

SITES = {"one": (7, 5), "two": (4, 6)}
FORMS: tuple[FormName, ...] = ("core", "ffa")


def make(rank: int = 3) -> Directions:
    rng = np.random.default_rng(0)
    return Directions(
        {
            site: (
                rng.standard_normal((width_in, rank)).astype(np.float32),
                rng.standard_normal((rank, width_out)).astype(np.float32),
            )
            for site, (width_in, width_out) in SITES.items()
        }
    )


def products(form: SharedForm, theta: Array) -> dict[str, Array]:
    return {site: a @ b for site, (a, b) in form.to_adapter(theta).factors.items()}


@pytest.mark.parametrize(("name", "dim"), [("core", 2 * 9), ("ffa", 3 * 5 + 3 * 6)])
def test_dimension(name: FormName, dim: int) -> None:
    form = SharedForm(name, "base", make())
    assert form.dim == dim
    assert form.zero().shape == (dim,)
    assert not any(np.any(p) for p in products(form, form.zero()).values())


@pytest.mark.parametrize("name", FORMS)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(1, 5))
def test_the_mean_of_vectors_is_the_mean_of_adapters(name: FormName, seed: int, count: int) -> None:
    form = SharedForm(name, "base", make())
    thetas = np.random.default_rng(seed).standard_normal((count, form.dim)).astype(np.float32)
    of_mean = products(form, thetas.mean(axis=0))
    for site in SITES:
        mean = np.mean([products(form, theta)[site] for theta in thetas], axis=0)
        np.testing.assert_allclose(of_mean[site], mean, atol=1e-4)


def test_a_core_stands_between_its_directions() -> None:
    form = SharedForm("core", "base", make())
    theta = np.arange(form.dim, dtype=np.float32)
    a, b = form.directions.factors["two"]
    core = theta[9:].reshape(3, 3)
    np.testing.assert_allclose(products(form, theta)["two"], a @ core @ b, rtol=1e-4, atol=1e-4)


def test_ffa_trains_b_itself() -> None:
    form = SharedForm("ffa", "base", make())
    theta = np.arange(form.dim, dtype=np.float32)
    found_a, found_b = form.to_adapter(theta).factors["one"]
    np.testing.assert_array_equal(found_a, form.directions.factors["one"][0])
    np.testing.assert_array_equal(found_b, theta[:15].reshape(3, 5))


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("shape", [(0,), (17,), (19,), (1, 18)])
def test_another_length_is_refused(name: FormName, shape: tuple[int, ...]) -> None:
    form = SharedForm(name, "base", make())
    with pytest.raises(AdapterError, match="another base or rank"):
        form.to_adapter(np.zeros(shape, np.float32))


def test_the_adapter_carries_the_base() -> None:
    assert SharedForm("core", "base", make()).to_adapter(np.ones(18, np.float32)).base_id == "base"


def test_limited_takes_the_first_directions() -> None:
    whole, first = make(), make().limited(2)
    for site, (a, b) in first.factors.items():
        np.testing.assert_array_equal(a, whole.factors[site][0][:, :2])
        np.testing.assert_array_equal(b, whole.factors[site][1][:2])


@pytest.mark.parametrize("rank", [-1, 0, 4])
def test_a_rank_that_the_base_does_not_hold_is_refused(rank: int) -> None:
    with pytest.raises(BadInputError, match=rf"rank must be 1\.\.3 .*got {rank}"):
        make().limited(rank)


def test_directions_read_back_in_the_same_order(tmp_path: Path) -> None:
    make().save(tmp_path / "d.safetensors")
    back = Directions.load(tmp_path / "d.safetensors")
    assert back.factors.keys() == SITES.keys()
    for site in SITES:
        for found, expected in zip(back.factors[site], make().factors[site], strict=True):
            np.testing.assert_array_equal(found, expected)


# --- forms of two trained factors -------------------------------------------------------------


@pytest.mark.parametrize("name", ["lora", "share-a", "share-b"])
def test_two_factors_are_counted_from_public_ones(name: FormName) -> None:
    form = SharedForm(name, "base", make())
    assert form.main + form.kept_dim == len(form.start()) == 3 * (7 + 5) + 3 * (4 + 6)
    theta = np.arange(form.dim, dtype=np.float32)
    kept = np.full(form.kept_dim, 0.5, np.float32)
    for site, (a, b) in form.to_adapter(theta, kept).factors.items():
        public = form.directions.factors[site][0]
        parts = form.unpack(theta)
        expected_a = public + parts.get(f"{site}.A", np.full(public.shape, 0.5, np.float32))
        np.testing.assert_array_equal(a, expected_a)
        np.testing.assert_array_equal(b, parts.get(f"{site}.B", np.full(b.shape, 0.5, np.float32)))


def test_a_carried_adapter_is_added() -> None:
    plain = SharedForm("lora", "base", make())
    form = SharedForm("lora", "base", make(), carried=2)
    theta = np.random.default_rng(1).standard_normal(form.dim).astype(np.float32)
    carried = form.carry(theta)
    assert carried is not None
    assert form.dim == form.main + 2 * (7 + 5) + 2 * (4 + 6)
    own = products(plain, theta[: form.main])
    for site, (a, b) in carried.factors.items():
        np.testing.assert_allclose(products(form, theta)[site], own[site] + a @ b, atol=1e-4)
    assert plain.carry(theta) is None


def test_turns_share_half_of_the_vector_each() -> None:
    form = SharedForm("lora", "base", make(), turns="round")
    ups, downs = form.leaves(1), form.leaves(2)
    np.testing.assert_array_equal(form.leaves(3), ups)
    np.testing.assert_array_equal(np.sort(np.concatenate([ups, downs])), np.arange(form.dim))
    theta = form.zero()
    theta[ups] = 1
    parts = form.unpack(theta)
    assert all((part == name.endswith(".B")).all() for name, part in parts.items())


@pytest.mark.parametrize("change", [{"turns": "round"}, {"carried": 4}])
def test_turns_and_carried_adapters_are_of_two_factors(change: dict[str, object]) -> None:
    with pytest.raises(BadInputError, match="are of the form 'lora', got 'core'"):
        SharedForm("core", "base", make(), **change)  # type: ignore[arg-type]


def test_an_unknown_form_is_named() -> None:
    with pytest.raises(BadInputError, match=r"must be one of 'core', .* got 'dense'"):
        SharedForm("dense", "base", make())  # type: ignore[arg-type]
