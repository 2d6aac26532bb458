"""The operator's page in a real browser: what it shows, and that it follows."""

from __future__ import annotations

import re
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

pytest.importorskip("prometheus_client", reason="a coordinator needs the extra 'serve'")

from locavore.privacy.plan import UserPlan
from locavore.server.coordinator.admission import Admission
from locavore.server.coordinator.link import Link
from locavore.server.coordinator.status import Status, operator_app

from ...plans import user_plan
from ...privacy.test_terms import terms
from ..test_strategy import full
from .deployed import serving
from .test_serve import report

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")


def status_of(plan: UserPlan) -> Status:
    link = SimpleNamespace(online=lambda: 3, traffic=lambda: (12_345, 6_789_000))
    admission = SimpleNamespace(nodes=lambda: {1: True, 2: True, 3: True, 4: False})
    return Status(terms(plan=plan), cast(Link, link), cast(Admission, admission))


def rendered(url: str, folder: Path, *more: str) -> str:
    """The page's document as a browser has it after a moment."""
    assert BROWSER is not None
    done = subprocess.run(
        [
            BROWSER,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            f"--user-data-dir={folder / 'profile'}",
            "--virtual-time-budget=3000",
            *(more or ("--dump-dom",)),
            url,
        ],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return done.stdout


@pytest.mark.skipif(BROWSER is None, reason="needs a Chromium")
def test_a_browser_shows_rounds_devices_epsilon_and_losses(tmp_path: Path) -> None:
    plan = user_plan(rounds=4)
    status = status_of(plan)
    status.ended(report(1, full(1)))
    status.ended(replace(report(2, full(1)), applied=False, averaged=0, change_norm=0.0, silent=5))
    with serving(operator_app(status)) as port:
        page = rendered(f"http://127.0.0.1:{port}/", tmp_path)
    assert "<title>notes: round 2 of 4</title>" in page
    found = re.findall(r'<div class="card"><b>(.*?)</b><span>(.*?)</span>', page)
    cards = {label: value for value, label in found}
    assert cards["rounds"] == "2 / 4"
    assert cards["devices connected / let in"] == "3 / 3"
    assert (cards["from devices"], cards["to devices"]) == ("12.3 kB", "6.8 MB")
    assert cards["answers lost"] == "7"
    assert cards["trust"] == "central"
    said = f"ε of a user at most, of {plan.epsilon(1):.2f} in all (δ = 1e-5)"
    assert cards[said] == f"{plan.epsilon(1, 2):.2f}"
    rows = re.findall(r"<tr.*?</tr>", page.split("<tbody")[1])
    assert len(rows) == 2
    assert 'class="skipped"' in rows[0]
    assert "<td>applied</td>" in rows[1]
    assert len(re.findall(r'<rect x="\d', page)) == 2


@pytest.mark.skipif(BROWSER is None, reason="needs a Chromium")
def test_a_browser_makes_a_picture_of_it(tmp_path: Path) -> None:
    picture = tmp_path / "page.png"
    status = status_of(user_plan(rounds=4))
    with serving(operator_app(status)) as port:
        rendered(f"http://127.0.0.1:{port}/", tmp_path, f"--screenshot={picture}")
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 5000
