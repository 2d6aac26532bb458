"""A run in words: what is claimed follows from the figures, and nothing is dressed up."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console

from locavore.server.simulation.table import (
    best_arm,
    headline,
    label,
    number,
    privacy_line,
    result_table,
    size,
    spread,
    summary_lines,
    unhelpful_line,
    verdict,
)
from locavore.shared.errors import BadInputError

MakeResult = Callable[..., dict[str, Any]]


def rendered(result: dict[str, Any], width: int = 100) -> str:
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(result_table(result))
    return console.export_text()


def set_gains(result: dict[str, Any], mean: float, low: float, high: float) -> None:
    for summary in result["summary"].values():
        if summary["gain"] is not None:
            summary["gain"] = {"mean": mean, "low": low, "high": high}


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (0.01, 0.02, "helps"),
        (0.0, 0.02, "no clear help"),
        (-0.01, 0.02, "no clear help"),
        (-0.01, 0.0, "no clear help"),
        (-0.02, -0.01, "hurts"),
        (math.nan, math.nan, "no clear help"),
    ],
)
def test_an_arm_helps_only_with_its_whole_interval_above_zero(
    low: float, high: float, said: str
) -> None:
    assert verdict({"mean": (low + high) / 2, "low": low, "high": high}) == said


def test_the_base_has_no_verdict() -> None:
    assert verdict(None) == ""


def test_headline_of_a_run_that_helps(make_result: MakeResult) -> None:
    said = headline(make_result())
    assert said.startswith("Personalization helps here")
    assert "shared + private + retrieval" in said
    assert "8 of 8 devices improve" in said


def test_headline_compares_the_devices_that_have_the_arm(make_result: MakeResult) -> None:
    result = make_result(("first", "second", "third"), retrieval_only=("third",))
    base = result["scores"]["base"]
    mean = (base["first"]["loss"] + base["second"]["loss"]) / 2
    assert f"from {mean:.3f} (base)" in headline(result)
    assert "2 of 2 devices with this arm improve" in headline(result)


def test_headline_of_a_run_that_does_not_help(make_result: MakeResult) -> None:
    result = make_result()
    set_gains(result, 0.01, -0.01, 0.03)
    assert headline(result).startswith("Personalization is not shown to help here")
    assert "95 % interval -0.010 to 0.030" in headline(result)
    assert unhelpful_line(result) == "No arm is shown to be better than the base."


def test_headline_of_a_run_that_hurts(make_result: MakeResult) -> None:
    result = make_result()
    set_gains(result, -0.02, -0.03, -0.01)
    assert headline(result).startswith("Personalization makes it worse here")


def test_headline_without_any_other_arm(make_result: MakeResult) -> None:
    result = make_result()
    result["arms"] = ["base"]
    assert "only the base" in headline(result)
    assert summary_lines(result)


def test_the_reference_arm_is_never_the_best(make_result: MakeResult) -> None:
    result = make_result()
    result["summary"]["shared without DP"]["gain"] = {"mean": 1.0, "low": 0.9, "high": 1.1}
    assert best_arm(result) == "shared + private + retrieval"


def test_a_proven_gain_beats_a_larger_unproven_one(make_result: MakeResult) -> None:
    result = make_result()
    set_gains(result, 0.5, -0.1, 1.1)
    result["summary"]["shared"]["gain"] = {"mean": 0.02, "low": 0.01, "high": 0.03}
    assert best_arm(result) == "shared"


def test_arms_that_do_not_help_are_named(make_result: MakeResult) -> None:
    assert unhelpful_line(make_result()) == (
        "Not shown to be better than the base: shared, +0.008 (95 % interval -0.004 to 0.019)."
    )


def test_epsilon_comes_with_everything_it_depends_on(make_result: MakeResult) -> None:
    said = privacy_line(make_result())
    for part in ("2.10 to 2.59", "δ = 1e-05", "one record", "add-or-remove-one", "local, nobody"):
        assert part in said


@pytest.mark.parametrize("infinite", [math.inf, None])
def test_infinite_epsilon_claims_nothing(make_result: MakeResult, infinite: float | None) -> None:
    result = make_result(("first", "second"))
    result["epsilon"]["second"] = infinite
    assert "infinite on 1 of 2 devices, where no privacy is claimed" in privacy_line(result)
    assert "elsewhere it is 2.10" in privacy_line(result)
    result["epsilon"] = {"first": infinite, "second": infinite}
    assert "elsewhere" not in privacy_line(result)


def test_nobody_in_the_federation_spends_nothing(make_result: MakeResult) -> None:
    result = make_result(("first",), retrieval_only=("first",))
    assert "no ε is spent" in privacy_line(result)
    assert any("No adapter travelled" in line for line in summary_lines(result))


def test_seeded_noise_is_owned_up_to(make_result: MakeResult) -> None:
    result = make_result()
    assert any("this run itself hides nothing" in line for line in summary_lines(result))
    result["plan"]["noise_source"] = "operating system"
    assert not any("hides nothing" in line for line in summary_lines(result))


def test_summary_lines_tell_bytes_and_the_worst_device(make_result: MakeResult) -> None:
    said = "\n".join(summary_lines(make_result()))
    assert "downloads 12 kB to 12.1 kB and uploads 10.8 kB" in said
    assert "193 MB" in said
    assert "Worst served is " in said


@pytest.mark.parametrize("names", [("one",), tuple(f"a_rather_long_name_{i}" for i in range(50))])
def test_table_fits_a_hundred_columns(make_result: MakeResult, names: tuple[str, ...]) -> None:
    text = rendered(make_result(names))
    assert max(cell_len(line.rstrip()) for line in text.splitlines()) <= 100
    assert "+0.008 no clear help" in text
    assert "-0.004 to 0.019" in text


def test_table_shows_dashes_and_markup_as_they_are(make_result: MakeResult) -> None:
    result = make_result(("[red]x[/]",))
    result["summary"]["base"] |= {"rouge_l": None, "authorship": None, "perplexity": math.inf}
    text = rendered(result)
    assert "[red]x[/]" in text
    assert "∞" in text


def test_another_version_is_refused(make_result: MakeResult) -> None:
    with pytest.raises(BadInputError, match="version 1, got 2"):
        result_table(make_result() | {"version": 2})


def test_missing_parts_are_all_named(make_result: MakeResult) -> None:
    result = make_result()
    del result["wire"], result["plan"]
    with pytest.raises(BadInputError, match="lacks plan, wire"):
        summary_lines(result)


@given(st.text(), st.integers(4, 40))
def test_labels_fit_and_are_printable(name: str, cells: int) -> None:
    shown = label(name, cells)
    assert cell_len(shown) <= cells
    assert shown.isprintable()


def test_long_labels_keep_the_end_that_tells_them_apart() -> None:
    names = [f"an_author_with_a_very_long_name_{i}" for i in range(3)]
    assert len({label(name, 20) for name in names}) == 3


@pytest.mark.parametrize(
    ("value", "said"),
    [(None, "–"), (math.nan, "–"), (math.inf, "∞"), (-math.inf, "-∞"), (1234.5, "1,234.500")],
)
def test_numbers(value: float | None, said: str) -> None:
    assert number(value) == said


@pytest.mark.parametrize(
    ("count", "said"),
    [(0, "0 B"), (999, "999 B"), (10_830, "10.8 kB"), (192_990_797, "193 MB"), (2.5e9, "2.5 GB")],
)
def test_sizes(count: float, said: str) -> None:
    assert size(count) == said


def test_spread_of_one_value_is_the_value() -> None:
    assert spread([2.0, 2.001]) == "2.00"
    assert spread([1000, 2000], "bytes") == "1 kB to 2 kB"
