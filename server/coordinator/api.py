"""What devices reach beside Flower's Fleet API: terms, rosters, enrolment, leaving, health."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import BaseRoute, Route

from ...privacy.terms import Terms
from ...shared.admission import ADMISSION_PREFIX, Enrolment, Leave
from ...shared.errors import AdmissionError, FederationError
from .admission import Admission
from .link import Link

__all__ = ["admission_routes"]

_MOST_BYTES = 16_384  # of a request; a device sends two keys, a token and a signature


def admission_routes(terms: Terms, admission: Admission, link: Link) -> list[BaseRoute]:
    """Routes under ``/v1/locavore``.

    Args:
        terms: of the federation.
        admission: who is let in.
        link: where nodes are registered.
    """

    def show_terms(request: Request) -> Response:
        return Response(terms.to_json(), media_type="application/json")

    def show_roster(request: Request) -> Response:
        try:
            signed = admission.signed_roster(request.query_params.get("digest", ""))
        except AdmissionError as error:
            return JSONResponse({"error": str(error)}, 404)
        return Response(signed, media_type="application/json")

    def enrol(said: Any) -> dict[str, Any]:
        return {"node_id": admission.enrol(Enrolment.read(said), link.admit)}

    def leave(said: Any) -> dict[str, Any]:
        link.revoke(admission.leave(Leave.read(said)))
        return {}

    return [
        Route(f"{ADMISSION_PREFIX}/terms", show_terms),
        Route(f"{ADMISSION_PREFIX}/roster", show_roster),
        Route(f"{ADMISSION_PREFIX}/enrol", _answering(enrol), methods=["POST"]),
        Route(f"{ADMISSION_PREFIX}/leave", _answering(leave), methods=["POST"]),
        Route("/healthz", lambda _: PlainTextResponse("ok\n")),
    ]


def _answering(work: Callable[[Any], dict[str, Any]]) -> Callable[[Request], Any]:
    async def answer(request: Request) -> Response:
        raw = b""
        async for part in request.stream():
            raw += part
            if len(raw) > _MOST_BYTES:
                return JSONResponse({"error": f"at most {_MOST_BYTES} bytes"}, 413)
        try:
            said = json.loads(raw)
        except (ValueError, RecursionError):
            return JSONResponse({"error": "the request is no JSON"}, 400)
        try:
            return JSONResponse(await run_in_threadpool(work, said))
        except (FederationError, UnicodeError) as error:
            return JSONResponse({"error": str(error)}, 403)

    return answer
