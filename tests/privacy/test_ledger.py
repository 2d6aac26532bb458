"""The ledger: it survives what kills a process, and refuses what is not true."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("dp_accounting", reason="accounting needs the extra 'train'")

from locavore.privacy.accounting import epsilon_of_dp_sgd
from locavore.privacy.ledger import Charge, FileJournal, Ledger
from locavore.shared.errors import PrivacyError

DELTA = 1e-5
ONE = Charge(
    purpose="text ab12",
    round=1,
    unit="record",
    relation="add-or-remove-one",
    noise_multiplier=1.0,
    sampling_rate=0.1,
)


def path_of(ledger: Ledger) -> Path:
    assert isinstance(ledger.journal, FileJournal)
    return ledger.journal.path


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    return Ledger(tmp_path / "deep" / "ledger.jsonl", delta=DELTA)


def test_an_empty_ledger_has_spent_nothing(ledger: Ledger) -> None:
    assert ledger.charges == []
    assert ledger.epsilon() == 0.0
    assert not path_of(ledger).exists()


def test_charges_are_kept_in_order_and_add_up(ledger: Ledger) -> None:
    charges = [replace(ONE, round=number, steps=number) for number in (1, 2, 3)]
    totals = [ledger.charge(charge) for charge in charges]
    assert Ledger(path_of(ledger), delta=DELTA).charges == charges
    assert totals == sorted(totals)
    expected = epsilon_of_dp_sgd(noise_multiplier=1.0, sampling_rate=0.1, steps=6, delta=DELTA)
    assert ledger.epsilon() == totals[-1] == pytest.approx(expected, rel=1e-6)


def test_tasks_and_modalities_compose(ledger: Ledger) -> None:
    ledger.charge(ONE)
    both = ledger.charge(replace(ONE, purpose="image cd34", noise_multiplier=2.0, steps=5))
    text = epsilon_of_dp_sgd(noise_multiplier=1.0, sampling_rate=0.1, steps=1, delta=DELTA)
    image = epsilon_of_dp_sgd(noise_multiplier=2.0, sampling_rate=0.1, steps=5, delta=DELTA)
    assert max(text, image) < both < text + image


# --- the budget ---------------------------------------------------------------------------------


def test_the_budget_is_kept_before_anything_is_spent(tmp_path: Path) -> None:
    budget = epsilon_of_dp_sgd(noise_multiplier=1.0, sampling_rate=0.1, steps=3, delta=DELTA)
    ledger = Ledger(tmp_path / "ledger", delta=DELTA, budgets={"record": budget + 1e-9})
    for number in (1, 2, 3):
        ledger.charge(replace(ONE, round=number))
    before = path_of(ledger).read_bytes()
    with pytest.raises(
        PrivacyError, match=r"round 4 of 'text ab12' would bring ε of a record .* above"
    ):
        ledger.charge(replace(ONE, round=4))
    assert path_of(ledger).read_bytes() == before
    ledger.charge(replace(ONE, noise_multiplier=1e5))  # what costs next to nothing still fits


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"budgets": {"record": -1.0}}, "budget must be at least 0, got -1.0"),
        ({"budgets": {"token": 1.0}}, "a budget is for record or user, got 'token'"),
        ({"delta": 0.0}, "delta must be .*got 0.0"),
        ({"delta": 1.0}, "delta must be .*got 1.0"),
    ],
)
def test_a_bad_budget_is_refused(settings: Any, reason: str, tmp_path: Path) -> None:
    with pytest.raises(PrivacyError, match=reason):
        Ledger(tmp_path / "ledger", **({"delta": DELTA} | settings))


# --- records and users --------------------------------------------------------------------------

USER = replace(ONE, unit="user", noise_multiplier=2.0, sampling_rate=1.0)


def alone(charge: Charge) -> float:
    return epsilon_of_dp_sgd(
        noise_multiplier=charge.noise_multiplier,
        sampling_rate=charge.sampling_rate,
        steps=charge.steps,
        delta=DELTA,
    )


def test_what_protects_a_user_protects_each_record(ledger: Ledger) -> None:
    assert ledger.charge(USER) == pytest.approx(alone(USER))
    assert ledger.epsilon("record") == ledger.epsilon("user")


def test_what_protects_records_alone_gives_a_user_nothing(ledger: Ledger) -> None:
    ledger.charge(USER)
    both = ledger.charge(ONE)
    assert max(alone(ONE), alone(USER)) < both < alone(ONE) + alone(USER)
    assert ledger.epsilon("user") == float("inf")


def test_a_use_that_protects_both_costs_each_its_own(ledger: Ledger) -> None:
    pair = [replace(one, composed=True) for one in (USER, ONE)]
    assert ledger.charge(*pair) == pytest.approx(alone(USER))
    assert ledger.epsilon("record") == pytest.approx(alone(ONE))
    assert ledger.charges == pair


def test_budgets_of_both_units_are_kept(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "ledger", delta=DELTA, budgets={"record": 50.0, "user": 2.5})
    with pytest.raises(PrivacyError, match="would bring ε of a user to inf"):
        ledger.charge(ONE)
    ledger.charge(USER)
    with pytest.raises(PrivacyError, match="would bring ε of a user to"):
        ledger.charge(replace(USER, round=2))
    assert ledger.charges == [USER]


def test_a_round_that_is_covered_needs_one_that_paid(ledger: Ledger) -> None:
    covered = replace(USER, round=5, steps=0)
    with pytest.raises(PrivacyError, match="claims to be covered by an earlier charge"):
        ledger.charge(covered)
    paid = ledger.charge(USER)
    with pytest.raises(PrivacyError, match="claims to be covered"):
        ledger.charge(replace(covered, purpose="image cd34"))
    assert ledger.charge(covered) == paid
    assert ledger.rounds(USER.purpose) == [1, 5]


def test_no_charges_write_nothing(ledger: Ledger) -> None:
    assert ledger.charge() == 0.0
    assert not path_of(ledger).exists()


# --- false claims -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"sampling": "shuffled"}, "'shuffled' batches are not a Poisson sample"),
        ({"relation": None}, "needs a neighbouring relation, got None"),
        ({"relation": ""}, "needs a neighbouring relation, got ''"),
        ({"unit": "token"}, "needs a unit, record or user, got 'token'"),
        ({"noise_multiplier": 0.0}, "a figure without noise may not leave the device"),
        ({"noise_multiplier": float("nan")}, "noise_multiplier must be above 0"),
        ({"noise_multiplier": float("inf")}, "noise_multiplier must be above 0"),
        ({"sampling_rate": 0.0}, r"sampling_rate must be in \(0, 1\]"),
        ({"sampling_rate": 1.5}, r"sampling_rate must be in \(0, 1\]"),
        ({"steps": -1}, "steps must be at least 0, got -1"),
        ({"round": 0}, "round must be at least 1, got 0"),
        ({"cohort": 9, "accounted_cohort": 10}, "noise of 9 contributions is less than .* by 10"),
        ({"accounted_cohort": 10}, "noise of 0 contributions is less than .* by 10"),
    ],
)
def test_a_false_claim_is_refused(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(PrivacyError, match=reason):
        replace(ONE, **changes)


def test_shuffled_batches_may_claim_what_they_give() -> None:
    assert replace(ONE, sampling="shuffled", sampling_rate=1.0).sampling_rate == 1.0


@pytest.mark.parametrize("changes", [{"relation": "replace-one"}])
def test_what_does_not_add_up_is_refused(changes: dict[str, Any], ledger: Ledger) -> None:
    ledger.charge(ONE)
    before = path_of(ledger).read_bytes()
    with pytest.raises(PrivacyError, match="do not add up to one ε"):
        ledger.charge(replace(ONE, **changes))
    assert path_of(ledger).read_bytes() == before


# --- the file -----------------------------------------------------------------------------------


def test_a_torn_line_was_never_spent(ledger: Ledger) -> None:
    for number in (1, 2):
        ledger.charge(replace(ONE, round=number))
    whole = path_of(ledger).read_bytes()
    for cut in (1, 20, len(whole.splitlines()[1])):
        path_of(ledger).write_bytes(whole[:-cut])
        assert [charge.round for charge in ledger.charges] == [1]
        ledger.charge(replace(ONE, round=7))
        assert [charge.round for charge in ledger.charges] == [1, 7]


def _lose(lines: list[bytes]) -> list[bytes]:
    return [lines[0], lines[2]]


def _swap(lines: list[bytes]) -> list[bytes]:
    return [lines[1], lines[0], lines[2]]


def _cheapen(lines: list[bytes]) -> list[bytes]:
    row = json.loads(lines[0]) | {"noise_multiplier": 9.0}
    return [json.dumps(row).encode() + b"\n", *lines[1:]]


def _scribble(lines: list[bytes]) -> list[bytes]:
    return [lines[0], b"{}\n", lines[2]]


def _noise(lines: list[bytes]) -> list[bytes]:
    return [lines[0], b"\xff\xfe\n", lines[2]]


@pytest.mark.parametrize("change", [_lose, _swap, _cheapen, _scribble, _noise])
def test_a_changed_ledger_stops_everything(change: Any, ledger: Ledger) -> None:
    for number in (1, 2, 3):
        ledger.charge(replace(ONE, round=number))
    changed = b"".join(change(path_of(ledger).read_bytes().splitlines(keepends=True)))
    path_of(ledger).write_bytes(changed)
    uses: list[Callable[[], float]] = [ledger.epsilon, lambda: ledger.charge(ONE)]
    for use in uses:
        with pytest.raises(PrivacyError, match=r"line \d: the ledger was changed or damaged"):
            use()
    assert path_of(ledger).read_bytes() == changed


def test_it_survives_kill_minus_nine(ledger: Ledger) -> None:
    """Every charge that was acknowledged is there, and the next one can be written."""
    code = f"""
from dataclasses import replace
from pathlib import Path
from locavore.privacy.ledger import Ledger
from tests.privacy.test_ledger import ONE
ledger = Ledger(Path({str(path_of(ledger))!r}), delta={DELTA})
for number in range(1, 10_000):
    ledger.charge(replace(ONE, round=number, noise_multiplier=50.0))
    print(number, flush=True)
"""
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdout is not None
        acknowledged = 0
        for line in process.stdout:
            acknowledged = int(line)
            if acknowledged == 12:
                process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    found = [charge.round for charge in ledger.charges]
    assert found == list(range(1, len(found) + 1))
    assert len(found) >= acknowledged >= 12
    ledger.charge(replace(ONE, round=99))
    assert ledger.charges[-1].round == 99


def test_writers_take_turns(ledger: Ledger) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: ledger.charge(replace(ONE, round=n)), range(1, 13)))
    assert sorted(charge.round for charge in ledger.charges) == list(range(1, 13))
