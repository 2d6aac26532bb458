"""The benchmarks' own parts, and a quick run of the text runtime's on the tiny base."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from locavore.shared.packages import Package

from .benchmarks import peers, text_runtime
from .benchmarks.__main__ import BENCHMARKS, main
from .benchmarks.equality import judge
from .benchmarks.report import Goal, Report, format_table
from .benchmarks.text_runtime import ADAPTED, LLAMA, TORCH, Figures
from .benchmarks.workers import Worker, WorkerError

if TYPE_CHECKING:
    from locavore.export.quantize import Precision

SPEED = Goal(name="decode", bound=5.0)
SIZE = Goal(name="size", bound=0.27, at_most=True)
DREAM = Goal(name="dream", bound=1.0, moonshot=True)


def report(ratios: dict[str, float], failures: tuple[str, ...] = ()) -> Report:
    return Report(
        benchmark="some",
        lines=["machine: this one"],
        columns=("variant", "tok/s"),
        rows=[["a", "1"], ["longer", "123.4"]],
        ratios=ratios,
        goals=(SPEED, SIZE, DREAM),
        failures=failures,
    )


def figures(decode: float, *, ours: bool = True, nbytes: int = 100) -> Figures:
    return Figures(
        ours=ours,
        prefill=decode * 10,
        decode=decode,
        swap=None,
        nbytes=nbytes,
        peak=None,
        answers=[1, 2],
    )


def test_every_benchmark_is_registered_under_its_modules_name() -> None:
    assert BENCHMARKS["text_runtime"] is text_runtime.run
    assert all(run.__module__.endswith(f".{name}") for name, run in BENCHMARKS.items())


@pytest.mark.parametrize(
    ("ratios", "holds"),
    [
        ({"decode": 5.0, "size": 0.27, "dream": 1.0}, True),
        ({"decode": 5.0, "size": 0.27, "dream": 0.1}, True),
        ({"decode": 5.0, "size": 0.27}, True),
        ({"decode": 4.99, "size": 0.2, "dream": 2.0}, False),
        ({"decode": 6.0, "size": 0.28, "dream": 2.0}, False),
        ({"size": 0.2}, False),
        ({}, False),
    ],
)
def test_a_report_holds_when_every_hard_goal_was_measured_and_met(
    ratios: dict[str, float], holds: bool
) -> None:
    assert report(ratios).holds is holds


def test_a_failure_is_no_success_whatever_the_goals() -> None:
    wrong = report({"decode": 9.0, "size": 0.1}, failures=("int4: token 3",))
    assert not wrong.holds
    assert "WRONG: int4: token 3" in wrong.text()


def test_the_json_line_and_the_sentences() -> None:
    found = report({"decode": 5.123456, "size": 0.3})
    assert json.loads(found.json_line()) == {
        "benchmark": "some",
        "ratios": {"decode": 5.1235, "size": 0.3},
        "goals": {"decode": 5.0, "size": 0.27, "dream": 1.0},
        "holds": False,
    }
    assert "decode: goal >= 5, measured 5.12: met" in found.text()
    assert "size: goal <= 0.27, measured 0.3: missed" in found.text()
    assert "dream: goal >= 1, not measured here" in found.text()


def test_a_table_is_aligned() -> None:
    assert format_table(("variant", "tok/s"), [["a", "1"], ["longer", "123.4"]]) == [
        "variant  tok/s",
        "-------  -----",
        "a            1",
        "longer   123.4",
    ]


def test_ratios_carry_the_names_of_the_goals() -> None:
    measured = {
        TORCH: figures(20, ours=False, nbytes=400),
        "int4": figures(120),
        f"int4{ADAPTED}": figures(110),
        LLAMA: figures(220, ours=False),
    }
    found = text_runtime.ratios(measured)
    assert {goal.name for goal in text_runtime.GOALS} <= set(found)
    assert found["int4 decode with adapter / torch fp32"] == 5.5
    assert found["int4 size / fp32"] == 0.25
    assert found["best prefill / torch fp32"] == 6.0  # of ours, not of the peers
    assert found["llama.cpp q4_0 decode (moonshot)"] == 0.5


def test_only_clear_winners_are_judged() -> None:
    logits = np.array([[0, 5, 1], [0, 5, 4.5], [5, 0, 1]], np.float32)
    assert judge(logits, [1, 2, 0], "bare").wrong == ()
    found = judge(logits, [1, 2, 1], "bare")
    assert (found.positions, found.clear) == (3, 2)
    assert found.wrong == ("bare, position 2: token 1, the twin's is 0",)


def test_a_worker_that_dies_is_told_with_its_last_words() -> None:
    with pytest.raises(WorkerError, match="no such"):
        Worker(["python3", "-c", "raise SystemExit('no such model')"])


def test_absent_peers_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(peers, "ENVIRONMENT", tmp_path)
    assert peers.genai_command(tmp_path / "tiny-float32", 1) is None
    assert peers.llama_command(tmp_path / "tiny-float32", 1) is None


def test_a_quick_run_on_the_tiny_base(
    packages: Callable[[Precision], Package],
    trusted: list[bytes],
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("torch", reason="needs the extra 'train'")
    keys = Path(os.environ["XDG_CONFIG_HOME"]) / "locavore" / "trusted"
    keys.mkdir(parents=True)
    (keys / "test.pub").write_text(trusted[0].hex())
    base = str(packages("int4").folder)
    assert main(["text_runtime", "--quick", "--base", base]) == 0
    *table, last = capsys.readouterr().out.splitlines()
    assert json.loads(last)["holds"] is True
    assert [line.split("  ")[0] for line in table if line.startswith("int4 ")] == [
        "int4",
        f"int4{ADAPTED}",
    ]


def test_an_unknown_base_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["text_runtime", "--quick", "--base", "nowhere"]) != 0
    assert capsys.readouterr().err.startswith("error: no base 'nowhere'")


@pytest.mark.parametrize("name", ["dp_correctness", "dp_step", "policies", "simulation"])
def test_training_agrees_with_its_references(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("opacus", reason="a development dependency")
    assert main([name, "--quick"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["benchmark"] == name


def test_the_vaults_benchmark_runs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["vault", "--quick"]) == 0
    printed = capsys.readouterr().out
    assert "plain sqlite3" in printed
    assert set(json.loads(printed.splitlines()[-1])["ratios"]) >= {"write", "read"}


def test_the_distributions_benchmark_runs(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("uvicorn", reason="needs the extra 'serve'")
    assert main(["distribution", "--quick"]) == 0
    ratios = json.loads(capsys.readouterr().out.splitlines()[-1])["ratios"]
    assert ratios["bytes of a patch / of the whole"] <= 0.05


def test_auditors_are_calibrated(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit_calibration", "--quick"]) == 0
    assert "Gaussian, known null" in capsys.readouterr().out


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # gradients that are made not finite
def test_planted_bugs_are_caught(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("flwr", reason="needs the extra 'federate'")
    pytest.importorskip("torch", reason="needs the extra 'train'")
    assert main(["planted_bugs", "--quick"]) == 0
    assert "NOT CAUGHT" not in capsys.readouterr().out


def test_forgetting_on_a_base(installed: str, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch", reason="needs the extra 'train'")
    assert main(["forgetting", "--quick", "--base", installed]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["ratios"] == {"equal slices": 3.0}
