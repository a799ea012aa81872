"""A small JSOC on this machine, for drms's own client: it speaks over HTTP as Stanford's does, and can be told not to.

It holds 45 s images of HMI's three observables, see `images`, tells their keywords, takes orders for exports, makes
cutouts as JSOC's im_patch does, and serves FITS files. It knows nothing of the code that is tested.
"""

import json
import re
import socket
import threading
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, unquote_plus, urlsplit

from tests.dataset_builder.jsoc.images import (
    SEGMENTS,
    SIZE,
    file_name,
    fits_file,
    header_alone,
    slot_of,
    time_of,
)

UNIT_SIZE = 8

WEB_PAGE = b"<html><body>JSOC is down for maintenance</body></html>"


@dataclass
class Order:
    """An export: what was asked for, and how often its status was asked before it was ready."""

    series: str
    slots: list[int]
    process: dict[str, str]
    polls: int = 0
    expired: bool = False


@dataclass
class LoopbackJsoc:
    """The server and its faults; use it as a context.

    Args:
        slots: 45 s slots since 1993 that have records, in all series.
        quality: what QUALITY says, as text, by series in lower case and slot; 0x00000000 elsewhere.
        absent: series and slot without a record.
        sizes: whether it tells how large records are.
        errors: by stage, the JSON of its next answers, or a function that makes it of the query; at None it answers as
            it should.
        times: what T_REC says, as text, by series in lower case and slot.
        fails: called with each order when its status is asked; the message with which it fails, or None.
        pending_polls: how often an order is pending when asked; at 0 it is ready at once, None is always.
        hangs: called with each order when its status is asked; whether it is pending for ever.
        export_error: message with which every order fails.
        too_many: how many orders are refused because others are pending.
        undelivered: slots whose file an export lacks.
        without_image: series and slots whose file is a FITS header alone, as of a record without an image.
        makes_cutouts: if not, im_patch is passed over, and whole images are sent.
        web_page_at: stages (email, info, request, status, file) that answer with a web page.
        refusals: by stage, the HTTP statuses of its next answers; at 200 it answers as it should.
        forgets_orders: whether it says that it does not know an order that it has taken.
        files_at: what the path of an export's files begins with.
        sends_to: address of another server to which it redirects those who ask for files.
        circle_at: stages that redirect to themselves.
        silent_at: stages that take the question and say nothing.
        drips_at: by stage, the bytes of the answer that come at once; the others come one by one, ten a second.
        ranges: whether parts of files are given.
        cuts: how many connections are cut in the middle of a file; they are not counted down below 0.
        damage: by slot, what is done to a file's bytes, and how often.
        gone: how many files are not found.
        before_half: called in the middle of each file, with its slot.
    """

    slots: set[int]
    quality: dict[tuple[str, int], str] = field(default_factory=dict)
    absent: set[tuple[str, int]] = field(default_factory=set)
    sizes: bool = True
    errors: dict[str, object] = field(default_factory=dict)
    times: dict[tuple[str, int], str] = field(default_factory=dict)
    fails: object = None
    pending_polls: int | None = 0
    hangs: object = None
    export_error: str | None = None
    too_many: int = 0
    undelivered: set[int] = field(default_factory=set)
    without_image: set[tuple[str, int]] = field(default_factory=set)
    makes_cutouts: bool = True
    web_page_at: set[str] = field(default_factory=set)
    refusals: dict[str, list[int]] = field(default_factory=dict)
    forgets_orders: bool = False
    files_at: str = "/SUM1"
    sends_to: str | None = None
    circle_at: set[str] = field(default_factory=set)
    silent_at: set[str] = field(default_factory=set)
    drips_at: dict[str, int] = field(default_factory=dict)
    ranges: bool = True
    cuts: float = 0
    damage: dict[int, tuple] = field(default_factory=dict)
    gone: float = 0
    before_half: object = None

    registered: set[str] = field(default_factory=lambda: {"you@example.org"})
    orders: dict[str, Order] = field(default_factory=dict)
    asked: Counter = field(default_factory=Counter)  # by stage
    served: list[tuple[str, str | None]] = field(default_factory=list)  # names of files, and the Range asked for
    most_connections: int = 0

    def __enter__(self):
        self._turn, self._connections = threading.Condition(), 0
        handler = type("Handler", (_Handler,), {"jsoc": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def connected(self, by: int) -> None:
        with self._turn:
            if by > 0:
                # A client may have read an error's status and be back before we have counted the error as sent.
                self._turn.wait_for(lambda: not self._connections, timeout=5)
            self._connections += by
            self.most_connections = max(self.most_connections, self._connections)
            self._turn.notify_all()

    def records(self, record_set: str) -> tuple[str, list[int]]:
        """Series and slots of a query such as hmi.V_45s[2013.04.15_00:00:00_TAI/1d@1h,2013.04.16_TAI]{Dopplergram}."""
        series, times = re.fullmatch(r"([\w.]+)\[([^\]]*)\](?:\{\w+\})?", record_set).groups()
        series, slots = series.lower(), []
        for one in times.split(","):
            time, length, step = re.fullmatch(r"([^/@]+)(?:/(\w+))?(?:@(\w+))?", one).groups()
            first, length, step = slot_of(time), seconds(length or "45s"), seconds(step or "45s")
            slots += range(first, first + length // 45, step // 45)
        return series, [slot for slot in slots if slot in self.slots and (series, slot) not in self.absent]


class _Handler(BaseHTTPRequestHandler):
    jsoc: LoopbackJsoc

    def log_message(self, *_):
        pass

    def do_GET(self):
        # Counted until the last byte leaves: a client that waits for it never has two.
        self.jsoc.connected(+1)
        path, query = urlsplit(self.path).path, dict(parse_qsl(urlsplit(self.path).query))
        operation = query.get("op")
        if path == "/cgi-bin/ajax/checkAddress.sh":
            self._answer("email", self._check_address, query)
        elif path == "/cgi-bin/ajax/jsoc_info" and operation in ("series_struct", "rs_list"):
            self._answer("info", getattr(self, f"_{operation}"), query)
        elif path == "/cgi-bin/ajax/jsoc_fetch" and operation in ("exp_request", "exp_status"):
            self._answer(operation.removeprefix("exp_"), getattr(self, f"_{operation}"), query)
        elif path.startswith("/SUM1/"):
            self._file(*path.split("/")[2:])
        else:
            self._send(404, b"no such thing")

    def _answer(self, stage, function, query):
        self.jsoc.asked[stage] += 1
        if self._stalls(stage):
            return
        errors = self.jsoc.errors.get(stage)
        error = errors(query) if callable(errors) else errors.pop(0) if errors else None
        if error is not None:
            self._send(200, json.dumps(error).encode(), {"Content-Type": "application/json"})
            return
        refusals = self.jsoc.refusals.get(stage)
        status = refusals.pop(0) if refusals else 200
        if stage in self.jsoc.web_page_at or status != 200:
            self._send(status, WEB_PAGE, {"Content-Type": "text/html"})
        else:
            body = json.dumps(function(query)).encode()
            self._send(200, body, {"Content-Type": "application/json"}, drips=self.jsoc.drips_at.get(stage))

    def _stalls(self, stage):
        """Whether the question has been left without an answer."""
        if stage in self.jsoc.circle_at:
            self._send(302, b"", {"Location": self.path})
        elif stage in self.jsoc.silent_at:
            with suppress(ConnectionError):
                self.connection.recv(1)  # until the client has had enough
            self.jsoc.connected(-1)
            self.close_connection = True
        return stage in self.jsoc.circle_at | self.jsoc.silent_at

    def _check_address(self, query):
        # drms escapes the address twice, and JSOC takes it.
        known = unquote_plus(query["address"]) in self.jsoc.registered and query["checkonly"] == "1"
        return {"status": 2, "msg": "registered"} if known else {"status": 4, "msg": "not registered"}

    def _series_struct(self, query):
        def keyword(name, kind):
            return {"name": name, "type": kind, "recscope": "variable", "defval": "", "units": "", "note": ""}

        kinds = {"T_REC": "time", "CAMERA": "int", "QUALITY": "int", "CRLN_OBS": "double"}
        segment = {"name": SEGMENTS[query["ds"]], "type": "int", "units": "", "protocol": "fits", "note": ""}
        return {
            "status": 0,
            "unitsize": UNIT_SIZE,
            "primekeys": ["T_REC", "CAMERA"],
            "keywords": [keyword(*one) for one in kinds.items()],
            "links": [],
            "segments": [{**segment, "dims": f"{SIZE}x{SIZE}"}],
        }

    def _rs_list(self, query):
        series, slots = self.jsoc.records(query["ds"])
        if not slots:
            return {"count": 0, "runtime": 0.01, "status": 0}
        values = {
            "T_REC": (self.jsoc.times.get((series, slot), time_of(slot)) for slot in slots),
            "QUALITY": (self.jsoc.quality.get((series, slot), "0x00000000") for slot in slots),
            # Of the unit in which records are stored together.
            "*size*": ("16000000" if self.jsoc.sizes else "NA" for _ in slots),
        }
        keywords = [{"name": key, "values": list(values[key])} for key in query["key"].split(",")]
        return {"keywords": keywords, "segments": [], "links": [], "count": len(slots), "status": 0}

    def _exp_request(self, query):
        if self.jsoc.too_many:
            self.jsoc.too_many -= 1
            return {"status": 7, "error": "User has 1 pending export requests (JSOC_20110101_001); please wait."}
        if query["notify"] not in self.jsoc.registered:
            return {"status": 4, "error": f"email address {query['notify']} is not registered"}
        assert (query["method"], query["protocol"], query["format"]) == ("url", "fits", "json")
        identifier = f"JSOC_20130415_{len(self.jsoc.orders) + 1:03}"
        name, *parameters = query["process=n"].partition("|")[2].split(",")
        process = dict(one.split("=") for one in parameters)
        assert name in ("", "im_patch")
        series, slots = self.jsoc.records(query["ds"])
        # Bad records are exported as well, though no pixel of them was seen: nobody should ask for them.
        order = Order(series, slots, process)
        same = [key for key, old in self.jsoc.orders.items() if (old.slots, old.process) == (slots, process)]
        same = [key for key in same if self.jsoc.orders[key].series == series and not self.jsoc.orders[key].expired]
        identifier = same[0] if same else identifier
        self.jsoc.orders.setdefault(identifier, order)
        return self._status(identifier)

    def _exp_status(self, query):
        if query["requestid"] not in self.jsoc.orders or self.jsoc.forgets_orders:
            return {"status": 6, "error": f"Cant locate export request: jsoc.export[{query['requestid']}]"}
        self.jsoc.orders[query["requestid"]].polls += 1
        return self._status(query["requestid"])

    def _status(self, identifier):
        jsoc, order = self.jsoc, self.jsoc.orders[identifier]
        about = {"requestid": identifier, "method": "url", "protocol": "fits", "wait": 0}
        if order.expired:
            return {**about, "status": 5, "error": "Request was completed but is now deleted, 7 day limit exceeded"}
        hangs = jsoc.pending_polls is None or (jsoc.hangs and jsoc.hangs(order))
        if hangs or order.polls < jsoc.pending_polls:
            return {**about, "status": 2 if order.polls == 0 else 1, "rcount": len(order.slots), "size": 1}
        error = jsoc.export_error or (jsoc.fails and jsoc.fails(order))
        if error:
            return {**about, "status": 4, "error": error}
        series = order.series + ("_mod" if order.process else "")
        data = [
            {
                "record": f"{series}[{time_of(slot)}][2]",
                "filename": "NoDataFile" if slot in jsoc.undelivered else file_name(order.series, slot),
            }
            for slot in order.slots
        ]
        return {**about, "status": 0, "dir": f"{jsoc.files_at}/{identifier}", "count": len(data), "data": data}

    def _file(self, identifier, name):
        jsoc = self.jsoc
        asked = self.headers.get("Range")
        jsoc.served.append((name, asked))
        if self._stalls("file"):
            return None
        if jsoc.sends_to:
            return self._send(302, b"", {"Location": f"{jsoc.sends_to}{self.path}"})
        order = jsoc.orders[identifier]
        slot = next(slot for slot in order.slots if file_name(order.series, slot) == name)
        if jsoc.refusals.get("file"):
            return self._send(jsoc.refusals["file"].pop(0), b"")
        if "file" in jsoc.web_page_at:
            return self._send(200, WEB_PAGE, {"Content-Type": "text/html; charset=utf-8"})
        if jsoc.gone > 0 or order.expired:
            jsoc.gone -= 1
            return self._send(404, b"not here")
        body = fits_file(order.series, slot, tuple(sorted(order.process.items())) if jsoc.makes_cutouts else ())
        if (order.series, slot) in jsoc.without_image:
            body = header_alone(order.series, slot)
        spoil, times = jsoc.damage.get(slot, (None, 0))
        if times > 0:
            body = spoil(body)
            jsoc.damage[slot] = (spoil, times - 1)
        status, headers = 200, {"Content-Type": "application/fits"}
        if asked and jsoc.ranges:
            start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1])
            if start >= len(body):
                return self._send(416, b"", {"Content-Range": f"bytes */{len(body)}"})
            status, headers["Content-Range"] = 206, f"bytes {start}-{len(body) - 1}/{len(body)}"
            body = body[start:]
        return self._send(status, body, headers, slot, jsoc.drips_at.get("file"))

    def _send(self, status, body, headers=None, slot=None, drips=None):
        if drips is not None:
            self._drip(status, body, headers, drips)
            return
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        half = len(body) // 2
        if slot is not None and self.jsoc.cuts > 0:
            self.jsoc.cuts -= 1
            self.wfile.write(body[:half])
            self.wfile.flush()
            self.jsoc.connected(-1)
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        if slot is not None and self.jsoc.before_half:
            self.wfile.write(body[:half])
            self.wfile.flush()
            self.jsoc.before_half(slot)
            body = body[half:]
        try:
            self.wfile.write(body[:-1])
            self.wfile.flush()
        except ConnectionError:  # the client was killed
            body = b""
        self.jsoc.connected(-1)
        # A client that needs no more of an error than its status has closed the connection by now.
        with suppress(ConnectionError):
            self.wfile.write(body[-1:])

    def _drip(self, status, body, headers, at_once):
        """Send the head and the body, all but the first bytes of them one by one."""
        lines = [f"{name}: {value}" for name, value in {**(headers or {}), "Content-Length": len(body)}.items()]
        answer = "\r\n".join([f"HTTP/1.0 {status} OK", *lines, "", ""]).encode() + body
        with suppress(ConnectionError):
            self.wfile.write(answer[:at_once])
            for byte in answer[at_once:]:
                self.wfile.write(bytes([byte]))
                time.sleep(0.1)
        self.jsoc.connected(-1)
        self.close_connection = True


def seconds(text: str) -> int:
    """A duration such as 1d or 45s."""
    return int(text[:-1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[text[-1]]
