"""A repository's public folder over HTTP, as an ASGI app: mount it, or run it alone.

Serves GET and HEAD with ranges and entity tags. It lists no folders, leaves no path out of the
folder, follows no links out of it, and shows no file that is still being written.
"""

from __future__ import annotations

from pathlib import Path

from ...shared.errors import BadInputError, MissingExtraError

try:
    from starlette.applications import Starlette
    from starlette.exceptions import HTTPException
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse, Response
    from starlette.routing import Mount
    from starlette.staticfiles import StaticFiles
    from starlette.types import Scope
except ImportError:
    raise MissingExtraError("serve", "serving a repository") from None

__all__ = ["repository_app"]

_FOR_EVER = "public, max-age=31536000, immutable"
_FRESH = "no-cache"  # may be kept, and must be asked for again
_CHANGING = ("timestamp.json", "root.json")
_PARTS = ("metadata", "targets", "packs")


class _PublicFiles(StaticFiles):
    async def get_response(self, path: str, scope: Scope) -> Response:
        parts = Path(path).parts or ("",)
        if parts[0] not in _PARTS or any(part.startswith(".") for part in parts):
            raise HTTPException(404)
        if scope["method"] not in ("GET", "HEAD"):
            raise HTTPException(405, headers={"Allow": "GET, HEAD"})
        try:
            response = await super().get_response(path, scope)
        except OSError:
            raise HTTPException(404) from None
        response.headers["Cache-Control"] = _FRESH if parts[-1] in _CHANGING else _FOR_EVER
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response


def repository_app(folder: Path) -> Starlette:
    """Serve a repository's public folder.

    Args:
        folder: the repository; only ``public`` in it is served.

    Raises:
        BadInputError: there is no repository.
    """
    public = folder / "public"
    if not (public / "metadata").is_dir():
        raise BadInputError(f"no repository in {folder}; begin one with 'locavore repo init'")
    return Starlette(
        routes=[Mount("/", _PublicFiles(directory=public))],
        exception_handlers={HTTPException: _plain},
    )


async def _plain(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return PlainTextResponse(error.detail, error.status_code, headers=dict(error.headers or {}))
