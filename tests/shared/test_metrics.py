import math
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from locavore.shared.errors import BadInputError, MissingExtraError
from locavore.shared.metrics import mean_and_worst, paired_bootstrap, perplexity, rouge_l

FIGURES = st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=30)


def test_rouge_l_is_the_f1_of_the_longest_common_subsequence() -> None:
    # "the cat sat" of 4 predicted and 6 reference words: P = 3/4, R = 3/6.
    score = rouge_l("the cat quietly sat", "the cat sat on the mat")
    assert score == pytest.approx(2 * 0.75 * 0.5 / 1.25)


def test_rouge_l_does_not_stem() -> None:
    assert rouge_l("cats", "cat") == 0.0


def test_rouge_l_of_nothing_is_zero() -> None:
    assert rouge_l("", "the cat") == 0.0


def test_a_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rouge_score.rouge_scorer", None)
    with pytest.raises(MissingExtraError, match=r"locavore\[simulate\]"):
        rouge_l("a", "a")


def test_importing_metrics_imports_nothing_heavy() -> None:
    program = (
        "import sys, locavore.shared.metrics\n"
        "print({'torch', 'sklearn', 'rouge_score'} & set(sys.modules))"
    )
    path = [entry for entry in sys.path if entry]
    result = subprocess.run(
        [sys.executable, "-c", program],
        env={"PYTHONPATH": ":".join(path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert result.stdout.strip() == "set()"


def test_perplexity() -> None:
    assert perplexity(math.log(50)) == pytest.approx(50)
    assert perplexity(1e6) == math.inf
    with pytest.raises(BadInputError, match="nan"):
        perplexity(math.nan)


@given(FIGURES, st.integers(0, 2**32))
def test_the_interval_is_around_plausible_means(figures: list[float], seed: int) -> None:
    zeros = [0.0] * len(figures)
    interval = paired_bootstrap(figures, zeros, seed=seed, resamples=200)
    slack = 1e-9 * max(map(abs, figures))
    assert interval.mean_difference == pytest.approx(float(np.mean(figures)))
    assert min(figures) - slack <= interval.low <= interval.high <= max(figures) + slack


def test_pairs_are_resampled_together() -> None:
    a = list(np.random.default_rng(0).normal(scale=100, size=50))
    interval = paired_bootstrap([x + 1 for x in a], a, seed=0)
    assert interval == pytest.approx((1.0, 1.0, 1.0))


def test_the_interval_has_its_coverage() -> None:
    generator = np.random.default_rng(1)
    covered = 0
    for seed in range(200):
        a = generator.normal(loc=0.5, size=40)
        interval = paired_bootstrap(a.tolist(), [0.0] * 40, seed=seed, resamples=500)
        covered += interval.low <= 0.5 <= interval.high
    assert 0.88 <= covered / 200 <= 0.99


def test_the_same_seed_gives_the_same_interval() -> None:
    a, b = [1.0, 2.0, 5.0], [0.0, 3.0, 1.0]
    assert paired_bootstrap(a, b, seed=3) == paired_bootstrap(a, b, seed=3)


def test_more_draws_than_fit_in_one_block() -> None:
    a = list(np.linspace(0, 1, 3000))
    interval = paired_bootstrap(a, [0.0] * 3000, seed=0, resamples=1000)
    assert interval.low < 0.5 < interval.high
    assert interval.high - interval.low == pytest.approx(2 * 1.96 * 0.2887 / 3000**0.5, rel=0.15)


def test_bad_figures_are_refused() -> None:
    with pytest.raises(BadInputError, match="got 1 and 2"):
        paired_bootstrap([1.0], [1.0, 2.0], seed=0)
    with pytest.raises(BadInputError, match="finite"):
        paired_bootstrap([math.nan], [1.0], seed=0)
    with pytest.raises(BadInputError, match=r"got 1\.0"):
        paired_bootstrap([1.0], [1.0], seed=0, confidence=1.0)


def test_the_worst_depends_on_the_direction() -> None:
    assert mean_and_worst([1.0, 2.0, 6.0]) == (3.0, 1.0)
    assert mean_and_worst([1.0, 2.0, 6.0], higher_is_better=False) == (3.0, 6.0)
    with pytest.raises(BadInputError):
        mean_and_worst([])
