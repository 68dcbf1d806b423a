"""A server of one page for this machine's own browser, which draws the page anew when it is asked for.

Each client has a thread and a limit on its whole request, so that none can keep the others waiting, however slow it is
and however many there are.
"""

from __future__ import annotations

import contextlib
import math
import re
import socket
import threading
import time
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from autotune.core.errors import UserError

_HOST = "127.0.0.1"
# Another site that a browser has open may not read the page by a name of its own for this address.
_OWN_HOSTS = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?", re.IGNORECASE)
_LOG = re.compile(r"/trials/([0-9]{4,9})/log\.txt")
# A page that was drawn less than this many seconds ago is given out again.
FRESH_S = 5.0
# Seconds in which a whole request must have come, and in which its whole answer must have been taken.
REQUEST_S = 10.0
ANSWER_S = 60.0
# Most connections at a time; for one more, the one that has been slow for longest is closed.
MAX_CONNECTIONS = 100


class PageServer(ThreadingHTTPServer):
    """Serves one page at "/", and the logs of trials that it links to, to this machine only.

    Args:
        draw: Returns the page as HTML.
        port: Of 127.0.0.1; 0 takes a free one.
        read_log: Takes the name of a trial's folder, which is a number, and returns its log; None if there is none.

    Raises:
        UserError: If the port is taken or may not be used.
    """

    daemon_threads = True
    block_on_close = False
    request_queue_size = 128

    def __init__(
        self, draw: Callable[[], str], port: int, read_log: Callable[[str], bytes | None] = lambda trial: None
    ) -> None:
        self._draw = draw
        self.read_log = read_log
        self._page = b""
        self._drawn_s = -math.inf
        self._drawing = threading.Lock()
        # When each connection has to have come further, in the order in which they came.
        self._due_s: dict[socket.socket, float] = {}
        self._connections = threading.Lock()

        try:
            super().__init__((_HOST, port), _PageRequest)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise UserError(
                f"port {port} of {_HOST}: {reason}; choose another with --port, 0 takes a free one", 3
            ) from None

    @property
    def address(self) -> str:
        """Address of the page."""
        return f"http://{_HOST}:{self.server_port}/"

    def page(self) -> bytes:
        """Return the page, drawn anew unless that was a moment ago; the last one if it cannot be drawn now."""
        with self._drawing:
            if time.monotonic() - self._drawn_s < FRESH_S:
                return self._page

            try:
                self._page = self._draw().encode("utf-8", "replace")
            except Exception:
                # A database that is locked for a moment must not cost the reader the page that there was.
                if not self._page:
                    raise
            self._drawn_s = time.monotonic()

            return self._page

    # --- connections ---

    def process_request(self, request: Any, client_address: Any) -> None:
        """Give a client its thread; close the one that has been slow for longest if there are too many."""
        with self._connections:
            self._due_s[request] = time.monotonic() + REQUEST_S
            if len(self._due_s) > MAX_CONNECTIONS:
                # Those whose page is being drawn are not the ones that are slow.
                slowest = min(self._due_s, key=lambda connection: self._due_s[connection])
                self._give_up(slowest)

        super().process_request(request, client_address)

    def service_actions(self) -> None:
        """Close, about twice a second, the connections that have taken too long."""
        now_s = time.monotonic()
        with self._connections:
            for connection in [connection for connection, due_s in self._due_s.items() if due_s < now_s]:
                self._give_up(connection)

    def _give_up(self, connection: socket.socket) -> None:
        """End a connection, which its thread, waiting for it, then closes."""
        self._due_s.pop(connection, None)
        with contextlib.suppress(OSError):
            connection.shutdown(socket.SHUT_RDWR)

    def allow(self, connection: socket.socket, seconds: float) -> None:
        """Let a connection that is still open take some time from now.

        Args:
            connection: The client's.
            seconds: How much; infinite while it is the server that works.
        """
        with self._connections:
            if connection in self._due_s:
                self._due_s[connection] = time.monotonic() + seconds

    def shutdown_request(self, request: Any) -> None:
        """Close a connection that is done."""
        with self._connections:
            self._due_s.pop(request, None)
        super().shutdown_request(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of a client that has left, or was made to: the terminal is a person's."""


class _PageRequest(BaseHTTPRequestHandler):
    server: PageServer

    def do_GET(self) -> None:
        """Answer with the page."""
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        """Answer with the page's headers."""
        self._answer(with_body=False)

    def _answer(self, *, with_body: bool) -> None:
        hosts = self.headers.get_all("Host", [])
        if len(hosts) != 1 or not _OWN_HOSTS.fullmatch(hosts[0].strip()):
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST)
            return

        path = re.split(r"[?#]", self.path, maxsplit=1)[0]
        asked_log = _LOG.fullmatch(path)
        if asked_log is not None:
            self._answer_log(asked_log[1], with_body=with_body)
            return
        if path not in ("/", "/index.html"):
            self.send_error(HTTPStatus.NOT_FOUND)
            return

        self.server.allow(self.connection, math.inf)
        try:
            page = self.server.page()
        except Exception:  # noqa: BLE001 (a page that cannot be drawn has as many causes as a database has)
            self.server.allow(self.connection, ANSWER_S)
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE, "The page cannot be drawn now", "Try again in a moment.")
            return

        self.server.allow(self.connection, ANSWER_S)
        self._send_headers(len(page), "text/html")
        if with_body:
            self.wfile.write(page)

    def _answer_log(self, trial: str, *, with_body: bool) -> None:
        log = self.server.read_log(trial)
        if log is None:
            self.send_error(HTTPStatus.NOT_FOUND)
            return

        self.server.allow(self.connection, ANSWER_S)
        self._send_headers(len(log), "text/plain")
        if with_body:
            self.wfile.write(log)

    def _send_headers(self, length_bytes: int, kind: str) -> None:
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", f"{kind}; charset=utf-8")
        self.send_header("Content-Length", str(length_bytes))
        self.send_header("Cache-Control", "no-store")
        self.send_header("X-Content-Type-Options", "nosniff")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing: the terminal is a person's."""
