"""HTTP for downloads: bounded in time, whole ranges or an error, every byte counted."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

import urllib3
from tuf.api.exceptions import DownloadError as TufDownloadError
from tuf.api.exceptions import DownloadHTTPError, SlowRetrievalError
from tuf.ngclient import FetcherInterface

from ...shared.errors import BadInputError, DownloadError
from .limits import Limits
from .spelling import require_one_spelling

__all__ = ["Http", "base_address"]

_PIECE = 1 << 16  # bytes
_HEADERS = {"Accept-Encoding": "identity", "User-Agent": "locavore"}


def base_address(url: str) -> str:
    """A repository's address, ending in ``/``.

    Raises:
        BadInputError: no HTTP address, or one with a query.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.query or parts.fragment:
        raise BadInputError(f"a repository's address is http(s)://host/path, got {url!r}")
    return url.rstrip("/") + "/"


class Http(FetcherInterface):
    """Fetches metadata for the TUF client, and ranges of packs for us.

    Args:
        clock: monotonic seconds.
        pause: waits so many seconds.
        certificates: PEM of the authorities to trust; None: those that the system trusts.
    """

    def __init__(
        self,
        limits: Limits,
        clock: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
        certificates: str | None = None,
    ) -> None:
        self._certificates = certificates
        self.received = 0  # bytes of bodies so far
        self.pause = pause
        self._limits, self._clock = limits, clock
        self._timeout = urllib3.Timeout(connect=limits.connect_seconds, read=limits.read_seconds)
        self._pools: dict[str | None, urllib3.PoolManager] = {}

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """Metadata for the TUF client; see :class:`FetcherInterface`."""
        raw: bytes = super().download_bytes(url, max_length)
        require_one_spelling(raw)
        return raw

    def _fetch(self, url: str) -> Iterator[bytes]:
        """For the TUF client, which bounds the length itself; see :class:`FetcherInterface`."""
        try:
            response = self._open(url, {})
        except DownloadError as error:
            raise TufDownloadError(str(error)) from error
        if response.status != 200:
            response.close()  # its body is not read, so the connection cannot be used again
            raise DownloadHTTPError(f"{url} answers {response.status}", response.status)
        return self._metadata(url, response)

    def _metadata(self, url: str, response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
        try:
            yield from self._body(url, response)
        except _TooSlow as error:
            raise SlowRetrievalError(str(error)) from error
        except DownloadError as error:
            raise TufDownloadError(str(error)) from error

    def range(self, url: str, start: int, stop: int) -> Iterator[bytes]:
        """Bytes ``start`` to ``stop - 1`` of a file, in pieces.

        A server that knows no ranges sends the whole file; what was not asked for is dropped.

        Raises:
            DownloadError: it cannot be reached, breaks off, is too slow, or sends another range.
        """
        response = self._open(url, {"Range": f"bytes={start}-{stop - 1}"})
        skip = start
        if response.status == 206:
            sent = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
            if sent is None or int(sent[1]) != start:
                response.close()
                raise DownloadError(f"{url} sent another range than bytes {start}-{stop - 1}")
            skip = 0
        elif response.status != 200:
            response.close()
            raise DownloadError(f"{url} answers {response.status} to bytes {start}-{stop - 1}")
        wanted = stop - start
        for piece in self._body(url, response):
            if not wanted:
                return  # it sends more than was asked for
            skipped = min(skip, len(piece))
            skip -= skipped
            taken = piece[skipped : skipped + wanted]
            wanted -= len(taken)
            if taken:
                yield taken
        if wanted:
            raise DownloadError(f"{url} broke off {wanted} bytes before the end of the range")

    def _open(self, url: str, headers: dict[str, str]) -> urllib3.BaseHTTPResponse:
        try:
            return self._pool(url).request(
                "GET",
                url,
                headers={**_HEADERS, **headers},
                preload_content=False,
                decode_content=False,
                timeout=self._timeout,
                retries=urllib3.Retry(total=None, connect=0, read=0, redirect=3, status=0, other=0),
            )
        except urllib3.exceptions.HTTPError as error:
            raise DownloadError(f"{url} cannot be reached: {_reason(error)}") from error

    def _body(self, url: str, response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
        begun, received, whole = self._clock(), 0, False
        try:
            while piece := response.read1(_PIECE):
                received += len(piece)
                self.received += len(piece)
                self._require_pace(url, received, self._clock() - begun)
                yield piece
            whole = True
        except urllib3.exceptions.TimeoutError as error:
            raise _TooSlow(f"{url} sent nothing for {self._limits.read_seconds:g} s") from error
        except (urllib3.exceptions.HTTPError, OSError) as error:
            raise DownloadError(f"{url} broke off: {_reason(error)}") from error
        finally:
            if whole:
                response.release_conn()
            else:
                response.close()

    def _require_pace(self, url: str, received: int, seconds: float) -> None:
        slowest = self._limits.slowest_bytes_per_second
        if seconds > self._limits.patience_seconds and received < slowest * seconds:
            raise _TooSlow(
                f"{url} sent {received} bytes in {seconds:.0f} s, less than {slowest:g} a second"
            )

    def _pool(self, url: str) -> urllib3.PoolManager:
        parts = urlsplit(url)
        bypassed = parts.hostname is None or proxy_bypass(parts.hostname)
        proxy = None if bypassed else getproxies().get(parts.scheme)
        if proxy not in self._pools:
            self._pools[proxy] = (
                urllib3.PoolManager(ca_cert_data=self._certificates)
                if proxy is None
                else urllib3.ProxyManager(proxy, ca_cert_data=self._certificates)
            )
        return self._pools[proxy]

    def close(self) -> None:
        """Close all connections."""
        for pool in self._pools.values():
            pool.clear()
        self._pools.clear()


class _TooSlow(DownloadError):
    """A server that sends, and not enough."""


def _reason(error: Exception) -> str:
    return str(getattr(error, "reason", None) or error)
