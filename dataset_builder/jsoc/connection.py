"""HTTP connections that end: an answer neither trickles nor goes on for ever, and never comes from another host."""

import io
import time
from http.client import HTTPConnection, HTTPException, HTTPResponse, HTTPSConnection
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit
from urllib.request import HTTPHandler, HTTPRedirectHandler, HTTPSHandler, Request, build_opener

from solared_hf.errors import SolaredError

# What a broken connection raises; URLError and its HTTPError are OSErrors, named for the reader.
CONNECTION_ERRORS = (URLError, HTTPException, ConnectionError, TimeoutError)

# An answer may take twice the timeout, and the time that its bytes need at this rate.
LEAST_BYTES_A_SECOND = 10_000
# A full image has 64 MB at most.
MOST_BYTES = 2**30

_USER_AGENT = "solared-hf"


def open_url(url: str, timeout_s: float, headers: dict[str, str] | None = None) -> HTTPResponse:
    """Ask for `url`; the answer is to be read and closed by the caller.

    Args:
        url: what to ask for.
        timeout_s: silence after which the connection counts as broken. A server that sends a byte now and then is cut
            off as well, see `LEAST_BYTES_A_SECOND`; so is an answer of more than `MOST_BYTES`.
        headers: of the request.

    Raises:
        SolaredError: the server redirects to another host.
        HTTPError: the server answers with an error.
        OSError, HTTPException: one of `CONNECTION_ERRORS`, also while the answer is read.
    """
    try:
        return _OPENER.open(Request(url, headers={"User-Agent": _USER_AGENT, **(headers or {})}), timeout=timeout_s)
    except HTTPError as error:
        if error.code // 100 != 3:
            raise
        # urllib gives up after ten redirects, and says so with the status of the last.
        error.close()
        raise ConnectionError("it redirects in a circle") from error


class _Received(io.RawIOBase):
    """The bytes of an answer as they come, until there are too few or too many of them."""

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
            raise TimeoutError(f"only {self._bytes:,} bytes came in {elapsed:.0f} s")
        if self._bytes > MOST_BYTES:
            raise ConnectionError(f"the answer goes on after {self._bytes:,} bytes")
        return count

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Response(HTTPResponse):
    """An answer of which every byte, those of its head too, goes through `_Received`."""

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
    """Follows a redirect within a host, such as from http to https."""

    def redirect_request(self, request, response, code, message, headers, url):
        # urllib would read the text that comes with a redirect to its end.
        response.close()
        here, there = urlsplit(request.full_url).hostname, urlsplit(url).hostname
        if here != there:
            raise SolaredError(
                f"{here} sends us to {there} for its files and answers, and nothing is downloaded from another host; "
                "check the address of the server."
            )
        return super().redirect_request(request, response, code, message, headers, url)


_OPENER = build_opener(_SameHost, _Http, _Https)
