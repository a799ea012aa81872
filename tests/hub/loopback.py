"""A small Hugging Face Hub on this machine, for the real clients: huggingface_hub, datasets and transformers.

It keeps repositories as the real one does, see `storage`, answers at the same addresses, see `answers`, and can be
told to fail. It knows nothing of the code that is tested, nor of the clients: it uses the standard library alone, for
it has to run before `huggingface_hub` is imported, which reads the Hub's address then.

Where it is also the proxy, it hears what clients ask of anybody else, and gives it to nobody.
"""

import re
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

from tests.hub.answers import Answer, Answers, Request, User, answer_of
from tests.hub.storage import Commit, RefusedError

TOKEN = "hf_writetokenofanastronomer"
READER_TOKEN = "hf_readonlytokenofareader"
USERS = {TOKEN: User("astronomer", ("solared-team",)), READER_TOKEN: User("reader", writes=False)}


class LoopbackHub:
    """The server and its faults; use it as a context, or call `start` and `stop`.

    Attributes:
        url: its address, which stays the same while it is down.
        requests: method, path with query, and token (None without) of all requests so far.
        before: called with method and path before a request has any effect; if it raises, the connection is dropped.
        after: called with method and path after an answer was sent.
        refusals: a regular expression that is found in "METHOD path", and the status, the Hub's code (or None) and the
            message with which such a request is refused; each works once.
        elsewhere: addresses of others that were asked for here.
    """

    def __init__(self):
        self.requests: list[tuple[str, str, str | None]] = []
        self.before: Callable[[str, str], None] | None = None
        self.after: Callable[[str, str], None] | None = None
        self.refusals: list[tuple[str, int, str | None, str]] = []
        self.elsewhere: list[str] = []
        self.answers = Answers(USERS)
        self._lock, self._connections, self._server = threading.Lock(), set(), None
        # Bound as long as the Hub lives, so that nobody else is given the port while the Hub is down.
        self._port = _bound(0)
        self.url = self.answers.url = f"http://127.0.0.1:{self._port.getsockname()[1]}"

    def __enter__(self):
        return self.start()

    def __exit__(self, *_):
        self.stop()

    def start(self) -> "LoopbackHub":
        self.down = False
        return self

    def stop(self) -> None:
        self.down = True
        self._port.close()

    def reset(self) -> None:
        """Ends all faults, and forgets the requests so far."""
        self.before = self.after = None
        self.refusals.clear()
        self.requests.clear()
        self.answers.private_owners.clear()
        self.down = False

    @property
    def down(self) -> bool:
        """Whether connections are refused; those that are open are dropped when it becomes true."""
        return self._server is None

    @down.setter
    def down(self, down: bool) -> None:
        if down and self._server:
            self._server.shutdown()
            # A process that was forked from this one holds the socket too: it has to be shut, not only closed.
            with suppress(OSError):
                self._server.socket.shutdown(socket.SHUT_RDWR)
            self._server.server_close()
            self._server = None
            with self._lock:
                for connection in self._connections:
                    drop(connection)
        elif not down and self._server is None:
            handler = type("Handler", (_Handler,), {"loopback": self})
            self._server = _Server(self._port.getsockname(), handler)
            threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def files(self, repo_id: str, repo_type: str = "model", revision: str = "main") -> dict[str, bytes]:
        """The files of a revision, .gitattributes among them.

        Raises:
            KeyError: there is no such repository.
        """
        tree = self.answers.repositories[repo_type, repo_id].at(revision).tree
        return {path: blob.data for path, blob in tree.items()}

    def commits(self, repo_id: str, repo_type: str = "model", revision: str = "main") -> list[Commit]:
        """The commits of a revision, newest first; the last made the repository.

        Raises:
            KeyError: there is no such repository.
        """
        repository = self.answers.repositories[repo_type, repo_id]
        return list(repository.history(repository.at(revision)))

    def connected(self, connection: socket.socket, here: bool) -> None:
        with self._lock:
            (self._connections.add if here else self._connections.discard)(connection)

    def refusal(self, method: str, path: str) -> RefusedError | None:
        """Takes the refusal that was ordered for a request."""
        with self._lock:
            for number, (pattern, status, code, message) in enumerate(self.refusals):
                if re.search(pattern, f"{method} {path}"):
                    del self.refusals[number]
                    return RefusedError(status, code, message)
        return None


def _bound(port: int) -> socket.socket:
    """A socket that is bound to a port of this machine, which it shares."""
    bound = socket.socket()
    for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
        bound.setsockopt(socket.SOL_SOCKET, option, 1)
    bound.bind(("127.0.0.1", port))
    return bound


def drop(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64

    def server_bind(self):
        self.socket.close()
        self.socket = _bound(self.server_address[1])

    def handle_error(self, request, client_address):
        # A client that goes away in the middle is no news.
        if not isinstance(sys.exception(), OSError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    loopback: LoopbackHub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = 2**16

    def log_message(self, *_):
        pass

    def setup(self):
        super().setup()
        self.loopback.connected(self.connection, True)

    def finish(self):
        self.loopback.connected(self.connection, False)
        super().finish()

    def _do(self):
        loopback, method, path = self.loopback, self.command, self.path
        token = self.headers.get("Authorization", "").removeprefix("Bearer ") or None
        loopback.requests.append((method, path, token))
        try:
            if loopback.before:
                loopback.before(method, path)
        except Exception:
            return self._drop()
        body = self._body()
        if body is None:
            return self._drop()
        try:
            refusal = loopback.refusal(method, path)
            if refusal:
                raise refusal
            parts = urlsplit(path)
            self._check_host(parts.netloc)
            user = loopback.answers.user(token)
            query = parse_qs(parts.query, keep_blank_values=True)
            answer = loopback.answers.answer(method, Request(parts.path, query, self.headers, body, user))
        except RefusedError as error:
            codes = {"X-Error-Code": error.code} if error.code else {}
            answer = answer_of({"error": error.message}, error.status)
            message = error.message.encode("ascii", "replace").decode()
            answer.headers |= {**codes, "X-Error-Message": message, **error.headers}
        except (KeyError, ValueError, StopIteration) as error:
            answer = answer_of({"error": f"Malformed request: {error!r}"}, 400)
        self._send(answer)
        if loopback.after:
            loopback.after(method, path)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = _do

    def do_CONNECT(self):
        self.loopback.elsewhere.append(self.path)
        self.send_error(502)

    def _check_host(self, asked: str) -> None:
        """Refuses what is asked of others."""
        here = urlsplit(self.loopback.url).netloc
        if asked == f"datasets-server.{here}":
            # `datasets` asks for the Hub's own conversions of every dataset, but does without.
            raise RefusedError(404, None, "The loopback Hub converts no datasets")
        if asked not in ("", here):
            self.loopback.elsewhere.append(asked)
            raise RefusedError(502, None, f"The loopback Hub leads to no {asked}")

    def _body(self) -> bytes | None:
        """What was sent with the request; None if it did not come whole."""
        assert "Transfer-Encoding" not in self.headers, "No client sends a body in chunks"
        size = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(size)
        return body if len(body) == size else None

    def _send(self, answer: Answer):
        self.send_response_only(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(answer.body)
        self.wfile.flush()

    def _drop(self):
        drop(self.connection)
        self.close_connection = True
