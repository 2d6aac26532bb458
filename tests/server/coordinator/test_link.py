"""Embedded nodes and the embedded link, over real HTTP on loopback."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("flwr", reason="the federation needs the extra 'federate'")

from locavore.server.checkpoint import latest

from ..summing import Fleet
from .deployed import Deployed, serving


def test_a_federation_over_http_finds_the_sum(tmp_path: Path) -> None:
    deployed = Deployed(Fleet(), tmp_path)
    with serving(deployed.link.fleet()) as port, deployed.nodes(port):
        deployed.run(rounds=2)
    found = latest(tmp_path / "checkpoints")
    assert found is not None
    fleet = deployed.fleet
    np.testing.assert_allclose(
        found.theta, fleet.total(1, range(5)) + fleet.total(2, range(5)), atol=4e-4
    )
    assert [report.averaged for report in fleet.reports] == [5, 5]
