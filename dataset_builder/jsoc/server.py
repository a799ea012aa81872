"""Requests to JSOC through drms: check an e-mail address, find records, and order exports.

JSOC asks for one request at a time, so each request uses a new connection. Every unexpected answer becomes one
sentence.
"""

import json
import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import partial
from http.client import HTTPException
from types import SimpleNamespace
from typing import TypeVar
from urllib.error import HTTPError, URLError
from urllib.parse import urlsplit

import drms
import numpy as np
from drms.config import ServerConfig
from drms.json import HttpJsonClient

from dataset_builder.fits.quality import is_bad
from dataset_builder.fits.times import SLOT_SECONDS, format_time, parse_time, slot_of, slot_time
from dataset_builder.jsoc.connection import open_url
from dataset_builder.jsoc.failures import RegionFailed
from dataset_builder.jsoc.transfer import DEFAULT_PATIENCE, Patience, status_text
from solared_hf.errors import SolaredError

# drms logs to the terminal, in the middle of our progress bar.
logging.getLogger("drms").setLevel(logging.WARNING)

PUBLIC_SERVER = "http://jsoc.stanford.edu"
REGISTRATION_PAGE = f"{PUBLIC_SERVER}/ajax/register_email.html"

# Series and segment of each observable.
SERIES = {
    "dopplergram": ("hmi.V_45s", "Dopplergram"),
    "magnetogram": ("hmi.M_45s", "magnetogram"),
    "continuum": ("hmi.Ic_45s", "continuum"),
}

# One day of 45 s frames: about 30 GB of full images. JSOC exports at most 100 GB at a time.
FRAMES_AN_EXPORT = 1920
# JSOC reads queries of about 4,000 characters. A range of times takes up to 40 characters.
RANGES_AN_EXPORT = 50

_RECORDS_A_QUERY = 1920
# Of an export request, in JSOC's jsoc_fetch.
_DELETED, _NOT_FOUND, _TOO_MANY_PENDING = 5, 6, 7
_RECORD_TIME = re.compile(r"\[(\d{4}\.\d\d\.\d\d_\d\d:\d\d:\d\d(?:\.\d+)?_TAI)\]")

Answer = TypeVar("Answer")


class ExportFailed(Exception):
    """JSOC does not deliver an export; the message is that of JSOC."""


class Refused(RegionFailed):
    """JSOC answered every attempt of one request with an error; it may answer other requests."""


class NotReady(RegionFailed):
    """An export was not ready in time."""


class Jsoc:
    """A JSOC server.

    Args:
        server: address of the server, without `cgi-bin/ajax`.
        patience: how long to wait and how often to try.

    Raises:
        SolaredError: If the address is not an HTTP address.
    """

    def __init__(self, server: str = PUBLIC_SERVER, patience: Patience = DEFAULT_PATIENCE):
        if urlsplit(server).scheme not in ("http", "https") or not urlsplit(server).netloc:
            raise SolaredError(f"{server} is not the address of a server. Use one such as {PUBLIC_SERVER}.")
        self.address = server.rstrip("/")
        self.patience = patience
        config = ServerConfig(
            name=self.address,
            cgi_baseurl=f"{self.address}/cgi-bin/ajax/",
            cgi_jsoc_info="jsoc_info",
            cgi_jsoc_fetch="jsoc_fetch",
            cgi_check_address="checkAddress.sh",
            http_download_baseurl=f"{self.address}/",
        )
        self._client = drms.Client(server=config)
        self._client._json = _Questions(config, patience.timeout_s)
        self._has_answered = False
        self._bytes: dict[str, float] = {}

    def check_email(self, email: str) -> None:
        """Check that an e-mail address may order exports.

        Raises:
            SolaredError: If the address is not registered, or the server does not answer.
        """
        if not self._ask(lambda: self._is_registered(email)):
            raise SolaredError(
                f"{email} is not registered at JSOC, which exports only to registered addresses. Register it at "
                f"{REGISTRATION_PAGE}, answer the e-mail from JSOC, and run the same command again."
            )

    def _is_registered(self, email: str) -> bool:
        answer = self._client._json.check_address(email)
        # 2 means registered, 4 means not registered, -2 means not an address.
        status = str(answer["status"])
        if status not in ("2", "4", "-2"):
            raise drms.DrmsQueryError(_error_text(answer))
        return status == "2"

    def records(self, observable: str, slots: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the slots that have a good frame and the slots that have a bad frame.

        Args:
            observable: one of `SERIES`.
            slots: (n,) int64, ascending.

        Returns:
            The slots with a good frame, and the slots whose frame is bad by QUALITY or whose QUALITY is not a number,
            such as MISSING and Invalid KeyLink, both as ascending int64. The other slots do not have a record.

        Raises:
            Refused: If the server answers with an error.
            SolaredError: If the server does not answer, or answers in another form.
        """
        found: dict[int, bool] = {}
        for chunk in chunks(slots, _RECORDS_A_QUERY):
            query = record_set(observable, chunk)
            # With pandas>=3, the number conversion of drms turns QUALITY, which is hexadecimal, into NaN.
            table = self._ask(
                partial(self._client.query, query, key=["T_REC", "QUALITY"], convert_numeric=False),
            )
            try:
                rows = list(zip(table.get("T_REC", ()), table.get("QUALITY", ()), strict=True))
            except ValueError as error:
                raise self._odd_answer(error) from error
            chunk_found = {}
            for t_rec, quality in rows:
                # A record without a time cannot be assigned to a slot.
                with suppress(SolaredError):
                    chunk_found[slot_of(parse_time(t_rec))] = _is_good(quality)
            if rows and not chunk_found:
                raise self._odd_answer(ValueError(f"T_REC {rows[0][0]}"))
            found |= chunk_found
        states = [found.get(slot) for slot in slots.tolist()]
        return slots[[state is True for state in states]], slots[[state is False for state in states]]

    def bytes_a_frame(self, observable: str, slots: np.ndarray) -> float | None:
        """Return the size of full images in JSOC's storage from a few records, or None if the server does not know it.

        The server states the size of a storage unit, which several records share. The result is cached for each
        observable.

        Args:
            observable: one of `SERIES`.
            slots: (n,) int64, slots that have a frame.

        Raises:
            SolaredError: If the server does not answer, or answers in another form.
        """
        if observable in self._bytes:
            return self._bytes[observable]
        query = record_set(observable, slots[:8])
        try:
            table = self._ask(lambda: self._client.query(query, key=["*size*"], convert_numeric=False))
        except Refused:
            return None
        sizes = [int(size) for size in table.get("*size*", ()) if str(size).isdecimal() and int(size)]
        if not sizes:
            return None
        try:
            sharing = self._ask(lambda: int(self._client.info(SERIES[observable][0]).unitsize))
        except Refused:
            return None
        self._bytes[observable] = float(np.median(sizes)) / max(sharing, 1)
        return self._bytes[observable]

    def request(self, observable: str, slots: np.ndarray, email: str, process: Mapping | None) -> drms.ExportRequest:
        """Order an export of the frames of some slots, and wait while too many other exports of the user are pending.

        Args:
            observable: one of `SERIES`.
            slots: (n,) int64, one of the `chunks`.
            email: a registered address.
            process: the process that the server applies to the images, in the form of drms, or None.

        Raises:
            ExportFailed: If the server refuses the order.
            NotReady: If other exports stay pending.
            SolaredError: If the server does not answer.
        """
        query = f"{record_set(observable, slots)}{{{SERIES[observable][1]}}}"
        deadline = time.monotonic() + self.patience.wait_s
        while True:
            # An order that is repeated within hours gets the identifier of the first order.
            request = self._ask(
                lambda: self._checked(
                    self._client.export(query, method="url", protocol="fits", email=email, process=process)
                )
            )
            if request.status != _TOO_MANY_PENDING:
                return request
            if time.monotonic() > deadline:
                raise NotReady(
                    f"{self.address} could not export {slots.size:,} records of {SERIES[observable][0]}, because it "
                    f"has not finished your other exports in {self.patience.wait_s / 3600:g} h. Run the same command "
                    "again later."
                )
            time.sleep(self.patience.poll_s)

    def _checked(self, request: drms.ExportRequest) -> drms.ExportRequest:
        """Return the request, or raise if the server reports an error that may be temporary."""
        failed = request.has_failed(skip_update=True) and request.status not in (_DELETED, _TOO_MANY_PENDING)
        # Without an identifier, 1 and 2 are errors; a pending order has an identifier.
        if failed or (request.id is None and request.status in (1, 2)):
            raise drms.DrmsExportError(_error_text(self._client._json.answer))
        return request

    def request_of(self, identifier: str) -> drms.ExportRequest:
        """Return an export that was ordered before.

        Raises:
            ExportFailed: If the server does not know the export.
            SolaredError: If the server does not answer.
        """
        request = self._ask(lambda: self._client.export_from_id(identifier))
        if request.id is None:
            raise ExportFailed(f"there is no export {identifier}")
        return request

    def files(self, request: drms.ExportRequest) -> dict[int, str]:
        """Wait until an export is ready, and return the address of the file of each slot.

        Raises:
            ExportFailed: If the export failed or was deleted.
            NotReady: If the export is not ready in time.
            SolaredError: If the files are on another server, or the server does not answer.
        """
        request = self._finished(request)
        try:
            rows = zip(request.urls.record, request.urls.url, strict=True)
            times = ((_RECORD_TIME.search(record), url) for record, url in rows)
            urls = {slot_of(parse_time(match[1])): url for match, url in times if match}
        except drms.DrmsExportError as error:
            raise ExportFailed(str(error).rstrip(".")) from error
        except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
            raise self._odd_answer(error) from error
        # Scheme and host.
        elsewhere = next((url for url in urls.values() if urlsplit(url)[:2] != urlsplit(self.address)[:2]), None)
        if elsewhere:
            raise SolaredError(
                f"{self.address} names files of the export {request.id} on another server, such as {elsewhere}, which "
                "are not downloaded. Check the address of the server."
            )
        return urls

    def _finished(self, request: drms.ExportRequest) -> drms.ExportRequest:
        """Poll an export until it is ready or has failed; each poll has all attempts."""
        deadline, not_found, identifier = time.monotonic() + self.patience.wait_s, 0, request.id
        while not request.has_finished(skip_update=True):
            if time.monotonic() + self.patience.poll_s > deadline:
                raise NotReady(
                    f"{self.address} has not finished the export {identifier} in {self.patience.wait_s / 3600:g} h. "
                    "Run the same command again later to wait for the same export."
                )
            time.sleep(self.patience.poll_s)
            request = self._ask(lambda: self._checked(self._client.export_from_id(identifier)))
            # The server may need some time to find a new order.
            not_found += request.status == _NOT_FOUND
            if not_found == self.patience.attempts:
                raise ExportFailed(f"there is no export {identifier}")
        return request

    def _ask(self, question: Callable[[], Answer]) -> Answer:
        """Return the answer to a question, with several attempts if the server has answered before.

        An error in an answer is retried like a missing answer, because both may be temporary.
        """
        attempt = 0
        while attempt < (self.patience.attempts if self._has_answered else 1):
            self.patience.rest(attempt)
            attempt += 1
            try:
                answer = question()
            except (drms.DrmsQueryError, drms.DrmsExportError) as error:
                self._has_answered = True  # the error has the form of JSOC
                cause, trouble = error, None
            except (json.JSONDecodeError, UnicodeDecodeError) as error:
                cause, trouble = error, "answers with a web page or other text instead of data"
            except HTTPError as error:
                # Do not show the error text, because it contains the whole address with the e-mail.
                with error:
                    cause, trouble = error, f"answers {status_text(error.code)}"
            except (URLError, ConnectionError, TimeoutError) as error:
                cause, trouble = error, f"does not answer ({getattr(error, 'reason', None) or error})"
            except HTTPException as error:
                cause, trouble = error, f"breaks its answer off, or does not speak HTTP ({type(error).__name__})"
            except SolaredError:
                raise
            except (KeyError, TypeError, AttributeError, ValueError, IndexError) as error:
                cause, trouble = error, f"answers in another form than JSOC does ({type(error).__name__}: {error})"
            else:
                self._has_answered = True
                return answer
        if isinstance(cause, drms.DrmsExportError):
            raise ExportFailed(str(cause).rstrip(".")) from cause
        if trouble is None:
            raise Refused(
                f"{self.address} refuses a request: {str(cause).rstrip('.')}. Check the server, or run the same "
                "command again later; finished files are kept."
            ) from cause
        raise SolaredError(
            f"{self.address} {trouble}. Check the connection and the address, or run the same command again later if "
            "the server is down for maintenance; finished files are kept."
        ) from cause

    def _odd_answer(self, error: Exception) -> SolaredError:
        return SolaredError(
            f"{self.address} answers in another form than JSOC does ({type(error).__name__}: {error}). Check the "
            "address, or run the same command again later."
        )


def chunks(slots: np.ndarray, most: int = FRAMES_AN_EXPORT) -> Iterator[np.ndarray]:
    """Split slots, (n,) int64 ascending, into chunks of at most `most` slots that fit into one query, in order."""
    chunk: list[int] = []
    ranges = 0
    for first, count, stride in _ranges(slots):
        times = first + stride * np.arange(count)
        while times.size:
            if len(chunk) == most or ranges == RANGES_AN_EXPORT:
                yield np.array(chunk)
                chunk, ranges = [], 0
            taken = times[: most - len(chunk)]
            chunk += taken.tolist()
            times = times[taken.size :]
            ranges += 1
    if chunk:
        yield np.array(chunk)


def record_set(observable: str, slots: np.ndarray) -> str:
    """Return the query for exactly these slots, as a JSOC record set.

    Args:
        observable: one of `SERIES`.
        slots: (n,) int64, ascending.

    >>> record_set("magnetogram", np.array([0, 80, 160, 161]))
    'hmi.M_45s[1993.01.01_00:00:00_TAI/10800s@3600s,1993.01.01_02:00:45_TAI]'
    """
    return f"{SERIES[observable][0]}[{','.join(_range_query(*run) for run in _ranges(slots))}]"


def _range_query(first: int, count: int, stride: int) -> str:
    query = format_time(slot_time(first))
    if count > 1:
        query += f"/{count * stride * SLOT_SECONDS}s"
    if stride > 1 and count > 1:
        query += f"@{stride * SLOT_SECONDS}s"
    return query


def _ranges(slot_array: np.ndarray) -> Iterator[tuple[int, int, int]]:
    """Yield the evenly spaced runs of slots: first, count and stride."""
    slots = slot_array.tolist()
    start = 0
    while start < len(slots):
        stop = start + 1
        stride = slots[stop] - slots[start] if stop < len(slots) else 1
        while stop < len(slots) and slots[stop] - slots[stop - 1] == stride:
            stop += 1
        yield slots[start], stop - start, stride
        start = stop


def _is_good(quality: str) -> bool:
    """Return True if QUALITY is a number that does not mark the record as bad."""
    try:
        return not is_bad(quality)
    except (ValueError, TypeError):
        return False


def _error_text(answer: Mapping) -> str:
    return f"{answer.get('error') or answer.get('msg') or 'an error without words'} [status={answer.get('status')}]"


class _Questions(HttpJsonClient):
    """JSON client of drms that uses connections with limits; `answer` is the last answer."""

    def __init__(self, server: ServerConfig, timeout_s: float):
        super().__init__(server)
        self._timeout_s = timeout_s
        self.answer: Mapping = {}

    def _json_request(self, url: str) -> SimpleNamespace:
        with open_url(url, self._timeout_s) as response:
            answer = json.loads(response.read().decode(self.server.encoding))
        if isinstance(answer, dict):
            self.answer = answer
            if "error" in answer and "status" not in answer:
                raise drms.DrmsQueryError(_error_text(answer))
        return SimpleNamespace(data=answer)
