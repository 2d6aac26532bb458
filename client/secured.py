"""HTTP to a federation's server: whom to trust, and how much to read."""

from __future__ import annotations

import ssl
from collections.abc import Iterator

import httpx

from ..shared.errors import BadInputError, WireError

__all__ = ["secured"]

MAX_ANSWER_BYTES = 64 << 20
TIMEOUT_S = 30.0


def secured(
    certificates: str | None, *, most: int = MAX_ANSWER_BYTES, timeout_s: float = TIMEOUT_S
) -> httpx.Client:
    """A client that trusts these authorities alone and reads no more than it should.

    Args:
        certificates: PEM of authorities; None: those that the system trusts.
        most: bytes of an answer at most; it raises ``WireError`` where there are more.
        timeout_s: seconds that a request may take.

    Raises:
        BadInputError: the certificates cannot be read.
    """
    trusted: ssl.SSLContext | bool = True
    if certificates is not None:
        trusted = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        try:
            trusted.load_verify_locations(cadata=certificates)
        except (ssl.SSLError, ValueError) as error:
            raise BadInputError(f"the server's authorities cannot be read: {error}") from None
    return httpx.Client(transport=_Bounded(most, trusted), timeout=timeout_s)


class _Bounded(httpx.HTTPTransport):
    """Stops reading an answer that is too large, packed or not."""

    def __init__(self, most: int, trusted: ssl.SSLContext | bool) -> None:
        super().__init__(verify=trusted)
        self._most = most

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        response = super().handle_request(request)
        response.headers.pop("content-encoding", None)  # nobody was asked to pack anything
        assert isinstance(response.stream, httpx.SyncByteStream)
        response.stream = _BoundedStream(response.stream, self._most)
        return response


class _BoundedStream(httpx.SyncByteStream):
    def __init__(self, stream: httpx.SyncByteStream, most: int) -> None:
        self._stream, self._most = stream, most

    def __iter__(self) -> Iterator[bytes]:
        left = self._most
        for block in self._stream:
            left -= len(block)
            if left < 0:
                raise WireError(f"the server's answer has more than {self._most} bytes")
            yield block

    def close(self) -> None:
        self._stream.close()
