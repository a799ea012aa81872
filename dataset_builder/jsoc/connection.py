"""HTTP connections with limits: an answer must not be too slow or too long, and must not come from another host."""

import io
import time
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPHandler, HTTPRedirectHandler, HTTPSHandler, Request, build_opener

from solared_hf.errors import SolaredError

# The exceptions of a broken connection. URLError and its subclass HTTPError are OSErrors.
CONNECTION_ERRORS = (URLError, HTTPException, ConnectionError, TimeoutError)

# An answer may take twice the timeout, plus the time that its bytes take at this rate.
LEAST_BYTES_A_SECOND = 10_000
# A full image has at most 64 MB.
MOST_BYTES = 2**30

_USER_AGENT = "solared-hf"


def open_url(url: str, timeout_s: float, headers: dict[str, str] | None = None) -> HTTPResponse:
    """Return the response to a request for `url`, which the caller must read and close.

    Args:
        url: the address to request.
        timeout_s: seconds without data after which the connection counts as broken. The connection is also closed if
            the answer is slower than `LEAST_BYTES_A_SECOND` allows, or longer than `MOST_BYTES`.
        headers: headers of the request.

    Raises:
        SolaredError: If the server redirects to another host.
        HTTPError: If the server answers with an error.
        OSError, HTTPException: One of `CONNECTION_ERRORS`, also while the answer is read.
    """
    try:
        return _OPENER.open(Request(url, headers={"User-Agent": _USER_AGENT, **(headers or {})}), timeout=timeout_s)
    except HTTPError as error:
        if error.code // 100 != 3:
            raise
        # urllib stops after ten redirects and raises an error with the status of the last redirect.
        error.close()
        raise ConnectionError("the server redirects in a circle") from error


class _Received(io.RawIOBase):
    """Raw stream of an answer that raises an error if the bytes come too slowly or are too many."""

    def __init__(self, raw: io.RawIOBase, timeout_s: float):
        self._raw, self._timeout_s = raw, timeout_s
        self._begin, self._bytes = time.monotonic(), 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int | None:
        count = self._raw.readinto(buffer)
        self._bytes += count or 0
        elapsed = time.monotonic() - self._begin
        if elapsed > 2 * self._timeout_s + self._bytes / LEAST_BYTES_A_SECOND:
            raise TimeoutError(f"only {self._bytes:,} bytes arrived in {elapsed:.0f} s")
        if self._bytes > MOST_BYTES:
            raise ConnectionError(f"the answer is longer than {self._bytes:,} bytes")
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(HTTPResponse):
    """Response whose bytes, including the headers, are all read through `_Received`."""

    def __init__(self, sock, *args, **kwargs):
        super().__init__(sock, *args, **kwargs)
        self.fp.close()
        self.fp = io.BufferedReader(_Received(sock.makefile("rb", buffering=0), sock.gettimeout()))


class _Connection(HTTPConnection):
    response_class = _Response


class _SecureConnection(HTTPSConnection):
    response_class = _Response


class _Http(HTTPHandler):
    def http_open(self, request):
        return self.do_open(_Connection, request)


class _Https(HTTPSHandler):
    def https_open(self, request):
        return self.do_open(_SecureConnection, request)


class _SameHost(HTTPRedirectHandler):
    """Follows redirects within a host, such as from http to https, and rejects all others."""

    def redirect_request(self, request, response, code, message, headers, url):
        # urllib would read the whole text of the redirect.
        response.close()
        here, there = urlsplit(request.full_url).hostname, urlsplit(url).hostname
        if here != there:
            raise SolaredError(
                f"{here} redirects to {there}, but files are not downloaded from another host. Check the address of "
                "the server."
            )
        return super().redirect_request(request, response, code, message, headers, url)


_OPENER = build_opener(_SameHost, _Http, _Https)
