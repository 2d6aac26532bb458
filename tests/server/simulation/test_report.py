"""The report: one file, nothing from outside, nothing unescaped, whatever the run looks like."""

from __future__ import annotations

import itertools
import json
import math
import re
import sys
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("matplotlib", reason="the report needs the extra 'simulate'")

from locavore.server.simulation import plots
from locavore.server.simulation.report import write_report
from locavore.shared.errors import BadInputError, MissingExtraError

MakeResult = Callable[..., dict[str, Any]]

VOID = {"meta", "br", "hr", "link", "img", "input"}
ATTACK = "<script>alert('x')</script>\"><img src=x onerror=y>"


class Page(HTMLParser):
    """What a browser would see: elements, ids, headings, text."""

    def __init__(self, source: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: list[str] = []
        self.feed(source)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    @property
    def tags(self) -> list[str]:
        return [tag for tag, _ in self.elements]

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.texts).split())


def page_of(result: dict[str, Any], folder: Path) -> Page:
    path = folder / "report.html"
    write_report(result, path)
    page = Page(path.read_text(encoding="utf-8"))
    assert not page.open
    return page


def poisoned(value: Any) -> Any:
    """``value`` with markup in every string that comes from the data."""
    if isinstance(value, dict):
        return {key: poisoned(item) for key, item in value.items()}
    if isinstance(value, list):
        return [poisoned(item) for item in value]
    return f"{value}{ATTACK}" if isinstance(value, str) else value


def test_the_file_asks_nothing_of_the_network(make_result: MakeResult, tmp_path: Path) -> None:
    page = page_of(make_result(), tmp_path)
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "://" not in source
    assert "@import" not in source
    assert not {"script", "link", "img", "iframe", "object", "base"} & set(page.tags)
    for _, attributes in page.elements:
        assert "src" not in attributes
        assert str(attributes.get("href", "#")).startswith("#")
    assert all(target.startswith("#") for target in re.findall(r"url\((.)", source))


def test_every_string_of_the_data_is_escaped(make_result: MakeResult, tmp_path: Path) -> None:
    clean = page_of(make_result(), tmp_path)
    result = poisoned(make_result((f"a{ATTACK}", f"b{ATTACK}")))
    result["arms"] = make_result()["arms"]
    page = page_of(result, tmp_path)
    assert set(page.tags) == set(clean.tags)
    assert not any("onerror" in attributes for _, attributes in page.elements)
    assert "alert('x')" in page.text


def test_arm_names_are_escaped(make_result: MakeResult, tmp_path: Path) -> None:
    result = json.loads(json.dumps(make_result()).replace("shared + private", "<script>p"))
    assert "script" not in page_of(result, tmp_path).tags


def test_the_same_run_gives_the_same_bytes(make_result: MakeResult, tmp_path: Path) -> None:
    write_report(make_result(), tmp_path / "a.html")
    write_report(make_result(), tmp_path / "b.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_drawing_leaves_matplotlib_as_it_was(
    make_result: MakeResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import matplotlib

    monkeypatch.delitem(sys.modules, "matplotlib.pyplot", raising=False)
    before = matplotlib.rcParams.copy()
    write_report(make_result(), tmp_path / "report.html")
    assert "matplotlib.pyplot" not in sys.modules
    assert matplotlib.rcParams.copy() == before


def test_ids_are_unique_and_references_resolve(make_result: MakeResult, tmp_path: Path) -> None:
    page = page_of(make_result(), tmp_path)
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    used = {a["href"] for _, a in page.elements if "href" in a}
    used |= {f"#{a['aria-labelledby']}" for _, a in page.elements if "aria-labelledby" in a}
    clipped = (str(a.get("clip-path", "")) for _, a in page.elements)
    used |= {value[4:-1] for value in clipped if value}
    assert used <= {f"#{name}" for name in ids}


def test_headings_descend_and_plots_have_titles(make_result: MakeResult, tmp_path: Path) -> None:
    page = page_of(make_result(), tmp_path)
    levels = [int(tag[1]) for tag in page.tags if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    drawn = [attributes for tag, attributes in page.elements if tag == "svg"]
    assert len(drawn) == 5
    assert all(a["role"] == "img" and a["aria-labelledby"] for a in drawn)


def test_plots_follow_the_theme(make_result: MakeResult, tmp_path: Path) -> None:
    result = make_result()
    for draw in (plots.loss_by_arm, plots.loss_by_device, plots.epsilon_by_device):
        svg = draw(result)
        assert set(re.findall(r"#[0-9a-f]{6}\b", svg)) == set()
        assert "var(--ink)" in svg
    write_report(result, tmp_path / "report.html")
    source = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "prefers-color-scheme: dark" in source
    for variable in set(re.findall(r"var\((--\w+)\)", source)):
        assert source.count(f"{variable}: ") == 2, f"{variable} needs a light and a dark value"


def test_what_the_reader_is_told(make_result: MakeResult, tmp_path: Path) -> None:
    result = make_result(retrieval_only=("harry_s_truman",))
    said = page_of(result, tmp_path).text
    for part in (
        "Personalization helps here",
        "no clear help",
        "δ = 1e-05",
        "one record",
        "largest possible averaged update is 1.56 times as long",
        "Before: base",
        "After: shared + private + retrieval",
        "What it really was",
        "thomas_jefferson/1804/12",
        "only 12 records: too few to train on",
        "Not in the federation: harry_s_truman.",
        "What Author P means.",
        "Every held-out passage is later",
    ):
        assert part in said


def test_a_plan_below_its_noise_says_so(make_result: MakeResult, tmp_path: Path) -> None:
    result = make_result()
    result["plan"]["signal_to_noise"] = 0.4
    assert "the shared adapter is mostly noise" in page_of(result, tmp_path).text


@pytest.mark.parametrize("count", [1, 2, 50])
def test_any_number_of_devices_is_named(
    make_result: MakeResult, tmp_path: Path, count: int
) -> None:
    names = [f"author_{i:02d}" for i in range(count)]
    page = page_of(make_result(names), tmp_path)
    for name in names:
        assert page.texts.count(name) >= 5  # in every plot by device, and in tables


def test_names_in_any_script_survive(make_result: MakeResult, tmp_path: Path) -> None:
    names = [
        "夏目漱石",
        "Лев Толстой",
        "محمد إقبال",
        "ಕುವೆಂಪು",
        "$x^2$",
        "a\x00b\nc",
        "🦊",
        "\ud800",
    ]
    page = page_of(make_result(names), tmp_path)
    for name in names[:5]:
        assert page.texts.count(name) >= 5


def test_infinite_missing_and_empty_figures(make_result: MakeResult, tmp_path: Path) -> None:
    result = make_result(("first", "second"))
    result["epsilon"] = {"first": math.inf, "second": None}
    result["plan"] |= {"signal_to_noise": math.inf, "noise_multiplier": 0.0}
    result["wire"]["first"] = {"down": 0, "up": 0}
    result["summary"]["base"] |= {"perplexity": math.inf, "rouge_l": None, "authorship": None}
    del result["rounds"][1]["loss"]["second"]
    said = page_of(result, tmp_path).text
    assert "infinite on 2 of 2 devices" in said
    assert "∞" in said
    assert "hides nothing" not in said  # there is no claim to take back


def test_a_run_with_almost_nothing_in_it(make_result: MakeResult, tmp_path: Path) -> None:
    result = make_result(("only",), retrieval_only=("only",))
    empty: dict[str, Any] = {"rounds": [], "samples": [], "notes": [], "checks": {}, "seconds": {}}
    said = page_of(result | empty, tmp_path).text
    assert "No round was measured." in said
    assert "No adapter travelled." in said
    nothing: dict[str, Any] = {arm: {} for arm in result["arms"]}
    result |= empty | {"scores": nothing, "items": nothing, "summary": {}}
    assert "No device had anything held out." in page_of(result, tmp_path).text


def test_a_run_read_back_from_its_file(make_result: MakeResult, tmp_path: Path) -> None:
    result = make_result()
    write_report(json.loads(json.dumps(result)), tmp_path / "b.html")
    write_report(result, tmp_path / "a.html")
    assert (tmp_path / "a.html").read_bytes() == (tmp_path / "b.html").read_bytes()


def test_another_version_is_refused(make_result: MakeResult, tmp_path: Path) -> None:
    with pytest.raises(BadInputError, match="version 1, got None"):
        write_report({}, tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()


def test_without_matplotlib_the_extra_is_named(
    make_result: MakeResult, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=re.escape("locavore[simulate]")):
        write_report(make_result(), tmp_path / "report.html")
