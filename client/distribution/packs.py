"""Reads chunks from packs on a server: few requests, and each continued where it broke."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from ...shared.chunk_index import pack_path
from ...shared.errors import DownloadError
from .http import Http
from .limits import Limits

__all__ = ["PackReader"]


class PackReader:
    """A position in a pack; reading on from there costs no new request.

    Args:
        url: the repository's address, ending in ``/``.
    """

    def __init__(self, http: Http, url: str, limits: Limits) -> None:
        self._http, self._url, self._limits = http, url, limits
        self._stream: Iterator[bytes] = iter(())
        self._buffer = bytearray()
        self._pack, self._at, self._stop = "", 0, 0

    def read(self, pack: str, offset: int, length: int, stop: int) -> bytes:
        """Bytes of a pack.

        Args:
            stop: where the request may end that has to be made for them.

        Raises:
            DownloadError: after so many attempts that did not bring them (see :class:`Limits`).
        """
        if (pack, offset) != (self._pack, self._at) or offset + length > self._stop:
            self._request(pack, offset, stop)
        failures, pause = 0, self._limits.pause_seconds
        while len(self._buffer) < length:
            try:
                for piece in self._stream:
                    self._buffer += piece
                    if len(self._buffer) >= length:
                        break
                else:
                    raise DownloadError(f"{self._url} ended before byte {offset + length}")
            except DownloadError:
                failures += 1
                if failures >= self._limits.attempts:
                    raise
                self._http.pause(pause)
                pause *= 2
                self._stream = self._open(pack, self._at + len(self._buffer), self._stop)
        taken = bytes(self._buffer[:length])
        del self._buffer[:length]
        self._at += length
        return taken

    def _request(self, pack: str, offset: int, stop: int) -> None:
        if self._at == self._stop:
            with suppress(DownloadError):
                next(self._stream, None)  # sees the end, so that the connection is used again
        self._buffer.clear()
        self._pack, self._at, self._stop = pack, offset, stop
        self._stream = self._open(pack, offset, stop)

    def _open(self, pack: str, start: int, stop: int) -> Iterator[bytes]:
        return self._http.range(self._url + pack_path(pack), start, stop)
