"""Accountants against each other on more than two hundred plans; see ``make_golden.py``."""

from __future__ import annotations

import csv
import random
from functools import cache
from typing import Any

import pytest

pytest.importorskip("dp_accounting", reason="accounting needs the extra 'train'")

from locavore.privacy.accounting import Relation, epsilon_of_dp_sgd, epsilon_of_gaussian
from locavore.shared.errors import PrivacyError

from .make_golden import COLUMNS, GOLDEN, convolved

PRV_ERROR = 0.01  # what Opacus adds to stay on the safe side
NUMBERS = ("noise_multiplier", "sampling_rate", "steps", "delta", "relation")


@cache
def table() -> list[tuple[dict[str, Any], dict[str, float | None]]]:
    with GOLDEN.open(newline="") as stream:
        head, *rows = csv.reader(stream)
    assert tuple(head) == COLUMNS
    read = []
    for sigma, rate, steps, delta, relation, *found in rows:
        values = (float(sigma), float(rate), int(steps), float(delta), relation)
        figures = [float(x) if x else None for x in found]
        read.append(
            (
                dict(zip(NUMBERS, values, strict=True)),
                dict(zip(COLUMNS[5:], figures, strict=True)),
            )
        )
    return read


def test_there_are_two_hundred_cells_of_both_relations() -> None:
    assert len(table()) >= 200
    assert {plan["relation"] for plan, _ in table()} == {"add-or-remove-one", "replace-one"}


def test_two_accountants_that_share_no_code_agree() -> None:
    for plan, found in table():
        assert found["pld"] == pytest.approx(found["convolution"], rel=1e-3, abs=1e-4), plan


def test_opacus_prv_is_its_own_error_above() -> None:
    for plan, found in table():
        if found["prv"] is not None:
            assert found["pld"] is not None
            assert 0 <= found["prv"] - found["pld"] <= 1.2 * PRV_ERROR + 1e-3 * found["pld"], plan


def test_without_sampling_it_is_the_closed_form() -> None:
    whole = [(plan, found) for plan, found in table() if found["exact"] is not None]
    assert len(whole) >= 20
    for plan, found in whole:
        assert found["pld"] == pytest.approx(found["exact"], abs=1e-4), plan


def test_more_noise_less_sampling_and_fewer_steps_cost_less() -> None:
    by_plan = {tuple(plan.values()): found["pld"] for plan, found in table()}
    compared = 0
    for plan, found in table():
        for name in ("noise_multiplier", "sampling_rate", "steps", "delta"):
            for other in {p[name] for p, _ in table()}:
                value = by_plan.get(tuple({**plan, name: other}.values()))
                if value is None or other == plan[name]:
                    continue
                assert found["pld"] is not None
                costlier = (
                    other > plan[name]
                    if name in ("sampling_rate", "steps")
                    else (other < plan[name])
                )
                assert (value >= found["pld"] - 1e-6) == costlier or value == found["pld"]
                compared += 1
    assert compared > 1000


def test_the_table_is_what_is_computed_today() -> None:
    for plan, found in random.Random(0).sample(table(), 8):
        assert epsilon_of_dp_sgd(**plan) == pytest.approx(found["pld"], abs=2e-6)
        assert convolved(plan) == pytest.approx(found["convolution"], abs=2e-6)


# --- relations and accountants ------------------------------------------------------------------


def epsilon(relation: Relation = "add-or-remove-one", **changes: Any) -> float:
    plan = {"noise_multiplier": 1.0, "sampling_rate": 0.1, "steps": 100, "delta": 1e-5}
    return epsilon_of_dp_sgd(**(plan | changes), relation=relation)


def test_replacing_costs_more_than_adding_and_zeroing_as_much() -> None:
    assert epsilon("replace-one") == pytest.approx(10.516, abs=1e-3)
    assert epsilon("zero-out") == epsilon() == pytest.approx(7.0466, abs=1e-3)


def test_replacing_everything_moves_a_sum_by_twice_the_norm() -> None:
    twice = epsilon_of_gaussian(noise_multiplier=0.5, steps=3, delta=1e-6)
    replaced = epsilon_of_gaussian(
        noise_multiplier=1.0, steps=3, delta=1e-6, relation="replace-one"
    )
    assert replaced == pytest.approx(twice)


def test_gdp_is_refused_because_it_under_reports() -> None:
    opacus = pytest.importorskip("opacus.accountants")
    with pytest.warns(UserWarning, match="can underestimate"):
        gdp = opacus.GaussianAccountant()
    gdp.history = [(1.0, 0.01, 1000)]
    true = epsilon(sampling_rate=0.01, steps=1000)
    assert gdp.get_epsilon(1e-5) < 0.9 * true
    with pytest.raises(PrivacyError, match="under-reports"):
        epsilon(accountant="gdp")


@pytest.mark.parametrize("accountant", ["rdp", "opacus-rdp"])
def test_renyi_bounds_from_above(accountant: str) -> None:
    assert epsilon() < epsilon(accountant=accountant) < 1.3 * epsilon()


@pytest.mark.parametrize("accountant", ["rdp", "opacus-prv", "opacus-rdp"])
def test_accountants_that_know_one_relation_refuse_the_other(accountant: str) -> None:
    with pytest.raises(PrivacyError, match=f"{accountant!r} does not know .*'replace-one'"):
        epsilon("replace-one", accountant=accountant)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(PrivacyError, match="accountant must be one of pld, rdp"):
        epsilon(accountant="moments")
    with pytest.raises(PrivacyError, match="relation must be add-or-remove-one"):
        epsilon("shuffled")  # type: ignore[arg-type]


def test_nothing_is_claimed_for_a_gaussian_without_noise() -> None:
    with pytest.raises(PrivacyError, match=r"no ε can be claimed for noise_multiplier=0\.0"):
        epsilon_of_gaussian(noise_multiplier=0.0, steps=1, delta=1e-5)


def test_enough_noise_costs_nothing() -> None:
    assert epsilon_of_gaussian(noise_multiplier=1e6, steps=1, delta=0.1) == 0.0
