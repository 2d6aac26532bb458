"""What is within the limits is let through, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("prometheus_client", reason="a coordinator needs the extra 'serve'")

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from locavore.server.coordinator.limits import Limited, Limits
from locavore.shared.errors import BadInputError


class World:
    """An app behind limits, with a clock that stands."""

    def __init__(self, **limits: float) -> None:
        self.now = 0.0
        self.bodies: list[int] = []

        async def take(request: Request) -> PlainTextResponse:
            self.bodies.append(len(await request.body()))
            return PlainTextResponse("taken")

        app = Starlette(routes=[Route("/{rest:path}", take, methods=["POST", "GET"])])
        self.limited = Limited(app, Limits(**limits), lambda: self.now)  # type: ignore[arg-type]
        self.client = TestClient(self.limited)

    def statuses(self, count: int, **options: Any) -> list[int]:
        path = options.pop("path", "/x")
        return [self.client.post(path, **options).status_code for _ in range(count)]


def test_an_oversized_request_is_refused_before_it_is_read() -> None:
    world = World(request_bytes=100)
    assert world.client.post("/x", content=b"a" * 100).status_code == 200
    refused = world.client.post("/x", content=b"a" * 101)
    assert refused.status_code == 413
    assert refused.json() == {"error": "a request has at most 100 bytes, this one 101"}
    assert world.bodies == [100]


def test_a_length_that_is_not_announced_is_counted() -> None:
    from starlette.requests import ClientDisconnect

    world = World(request_bytes=100)
    with pytest.raises(ClientDisconnect):
        world.client.post("/x", content=(b"a" * 60 for _ in range(3)))
    assert not world.bodies
    assert world.limited.refused == 1


def test_a_length_that_is_no_number_is_too_long() -> None:
    world = World(request_bytes=100)
    answer = world.client.post("/x", headers={"content-length": "many"}, content=b"")
    assert answer.status_code == 413


def test_an_address_has_a_rate_and_a_burst() -> None:
    world = World(address_requests_per_s=2, address_burst=3)
    assert world.statuses(5) == [200, 200, 200, 429, 429]
    world.now += 1
    assert world.statuses(3) == [200, 200, 429]
    assert world.limited.refused == 3


def test_a_node_is_counted_by_its_key() -> None:
    from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER as HEADER

    world = World(node_requests_per_s=1, node_burst=2)
    assert world.statuses(3, headers={HEADER: "a"}) == [200, 200, 429]
    assert world.statuses(3, headers={HEADER: "b"}) == [200, 200, 429]


def test_another_key_each_time_does_not_get_around_the_address() -> None:
    from flwr.supercore.constant import FLEET_HTTP_PUBLIC_KEY_HEADER as HEADER

    world = World(address_requests_per_s=1, address_burst=4)
    found = [world.statuses(1, headers={HEADER: str(i)})[0] for i in range(6)]
    assert found == [200] * 4 + [429] * 2


def test_guessing_invitations_is_slow() -> None:
    world = World(admission_per_minute=3)
    assert world.statuses(5, path="/v1/locavore/enrol") == [200, 200, 200, 429, 429]
    assert world.statuses(5) == [200] * 5
    world.now += 20
    assert world.statuses(2, path="/v1/locavore/enrol") == [200, 429]


def test_limits_are_above_zero() -> None:
    with pytest.raises(BadInputError, match="node_burst must be above 0, got 0"):
        Limits(node_burst=0)
